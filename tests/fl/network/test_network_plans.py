"""Every round that `secagg serve` plans is one that `secagg join` takes part in, both as they are by default."""

from itertools import product
from pathlib import Path

import pytest

from fl.config.run_config import RunConfig
from fl.config.served import NetworkSettings
from fl.network.policy import Policy
from secagg import Adversary, PlanError
from tests.fl.runs import invoke


@pytest.mark.parametrize("min_inputs", [2, 3, 5])
@pytest.mark.parametrize("adversary", Adversary, ids=lambda mode: mode.value)
def test_every_plan_is_one_that_a_client_takes(adversary: Adversary, min_inputs: int) -> None:
    made = 0
    for clients, corrupt in product((2, 3, 4, 5, 10, 30), (0, 0.1, 0.33)):
        for min_clients in range(2, clients + 1):
            settings = NetworkSettings(
                min_clients=min_clients, adversary=adversary, max_examples=10, min_inputs=min_inputs
            )
            config = RunConfig.of(clients=clients, corrupt=corrupt, value_bits=16)
            try:
                params = settings.plan(config, (48, 3)).parameters
            except PlanError:
                continue
            Policy(adversary=adversary, min_inputs=min_inputs).check(params)
            made += 1
    assert made > 30


def test_a_server_does_not_start_whose_clients_would_decline(tmp_path: Path) -> None:
    """Two clients have to agree on sums of two, on both sides."""
    serve: tuple[object, ...] = (
        "serve",
        "--clients",
        2,
        "--plaintext",
        "--dataset",
        "digits",
        "--listen",
        "127.0.0.1:0",
        "--give-up",
        0.1,
    )
    serve = (*serve, "--join-seconds", 0.1, "--retries", 0, "--out")
    refused = invoke(*serve, tmp_path / "a")
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert line.endswith("fewer than the threshold 3: clients ask for sums of at least 3 inputs (min_inputs)")
    agreed = invoke(*serve, tmp_path / "b", "--min-inputs", 2)
    assert "listening on" in agreed.stdout
    assert "round 1 was not begun: 0 of 2 clients" in agreed.stderr
    below = invoke(*serve, tmp_path / "c", "--min-inputs", 1)
    assert "min-inputs must be at least 2, not 1" in below.stderr
