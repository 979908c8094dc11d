"""Every round that `secagg serve` plans is one that `secagg join` takes part in, both as they are by default."""

import json
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
                params = settings.plans(config, (48, 3)).plan(settings.invited(config)).parameters
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


def test_a_threshold_that_is_not_safe_is_refused_with_the_planners_reason(tmp_path: Path) -> None:
    serve: tuple[object, ...] = (
        "serve",
        "--clients",
        100,
        "--sample",
        10,
        "--plaintext",
        "--dataset",
        "digits",
        "--give-up",
        0.1,
    )
    serve = (*serve, "--listen", "127.0.0.1:0", "--join-seconds", 0.1, "--min-clients", 10, "--out")
    refused = invoke(*serve, tmp_path / "a", "--threshold", 5)
    assert refused.exit_code == 1
    assert "threshold 5 is below the 6 that is safe here (floor(n/2) + 1, the server alone)" in refused.stderr
    assert not (tmp_path / "a").exists()
    taken = invoke(*serve, tmp_path / "b", "--threshold", 9)
    assert "threshold 9 of 10" in taken.stdout
    assert "round 1 was not begun: 0 of 10 clients were there" in taken.stderr
    assert json.loads((tmp_path / "b" / "network.json").read_text())["threshold"] == 9
    many = invoke(*serve, tmp_path / "c", "--threshold", 11, "--over-select", 1.3)
    assert "10 to remain, 1 fewer than the threshold 11" in many.stderr
    alone = invoke(*serve, tmp_path / "d", "--sample", 1)
    assert "sample must be at least 2, not 1" in alone.stderr
