"""Every round that `secagg serve` plans is one that `secagg join` takes part in, both with their defaults."""

import json
import re
from itertools import product
from pathlib import Path

import pytest

from fl.config.run_config import RunConfig
from fl.config.served import NetworkSettings, settle
from fl.network.policy import Policy
from secagg import Adversary, GraphKind, PlanError
from tests.fl.runs import invoke

pytestmark = pytest.mark.slow


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
    """Both sides have to agree explicitly on sums of two clients."""
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


SERVE = ("serve", "--plaintext", "--dataset", "digits", "--model", "logistic", "--listen", "127.0.0.1:0", "--give-up",
         0.1, "--join-seconds", 0.1, "--retries", 0)  # fmt: skip


def test_the_graph_is_chosen_once_for_the_clients_that_a_round_asks_and_every_size_has_a_plan() -> None:
    """Rounds of fewer clients keep the kind of graph, and clients of the same threat take them all."""
    config = RunConfig.of(clients=1000, sample=200, value_bits=16, dropout=0.1)
    settings = settle(config, min_clients=None, max_examples=None, over_select=1.3)
    assert settings.graph is GraphKind.SPARSE
    plans = settings.plans(config, (48, 3))
    assert plans.plan(260).why == plans.plan(260).reasons[0]
    assert "graph sparse:" in plans.plan(260).reasons[0]
    for count in range(settings.min_clients, 261, 7):
        params = plans.plan(count).parameters
        assert not params.is_complete
        Policy(adversary=Adversary.HONEST_BUT_CURIOUS).check(params)
    # A process that continues with the stored settings plans the same.
    stored = settings.of_run(config)
    assert stored.protocol.graph == "sparse"
    again = settle(stored, min_clients=None, max_examples=None, over_select=1.3)
    assert again == settings
    assert again.plans(stored, (48, 3)).plan(230) == plans.plan(230)


def test_against_a_server_that_lies_the_graph_is_complete_since_clients_decline_the_other() -> None:
    config = RunConfig.of(clients=300, adversary="malicious")
    settings = settle(config, min_clients=None, max_examples=None)
    assert settings.graph is GraphKind.COMPLETE
    Policy().check(settings.plans(config, (48, 3)).plan(300).parameters)


def test_serve_prints_and_stores_its_adversary_and_graph(tmp_path: Path) -> None:
    result = invoke(*SERVE, "--clients", 100, "--out", tmp_path / "auto")
    said = " ".join(result.stdout.split())
    planned = re.search(
        r"secure aggregation, honest-but-curious server, sparse graph: threshold (\d+) of a client's", said
    )
    assert planned is not None
    assert int(planned[1]) > 2
    assert "graph sparse:" in said
    for name in ("config", "network"):
        stored = json.loads((tmp_path / "auto" / f"{name}.json").read_text())
        assert (stored["graph"], stored["adversary"]) == ("sparse", "honest-but-curious")
    resumed = invoke("serve", *SERVE[1:2], *SERVE[6:10], "--resume", tmp_path / "auto")
    assert "honest-but-curious server, sparse graph" in resumed.stdout
    complete = invoke(*SERVE, "--clients", 100, "--graph", "complete", "--out", tmp_path / "complete")
    assert "complete graph: threshold 51 of 100" in complete.stdout
    assert "graph sparse" not in complete.stdout


def test_serve_names_the_sparse_graph_where_too_many_vanish(tmp_path: Path) -> None:
    options = (*SERVE, "--clients", 60, "--min-clients", 60, "--dropout", 0.5)
    refused = invoke(*options, "--graph", "complete", "--out", tmp_path / "complete")
    assert refused.exit_code == 1
    assert "fewer than the threshold 31; a sparse graph allows it" in refused.stderr
    taken = invoke(*options, "--out", tmp_path / "auto")
    assert "the complete graph has no plan (30 of 60 clients" in taken.stdout


def test_a_settings_file_has_them_in_its_protocol_section(tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text('graph = "complete"\n[data]\nclients = 100\n')
    misplaced = invoke(*SERVE, "--config", tmp_path / "serve.toml", "--out", tmp_path / "run")
    assert "did you mean graph in [protocol]?" in misplaced.stderr
    (tmp_path / "serve.toml").write_text(
        '[data]\nclients = 20\n[protocol]\ngraph = "sparse"\nadversary = "semi-malicious"\nthreshold = 8\n'
    )
    result = invoke(*SERVE, "--config", tmp_path / "serve.toml", "--out", tmp_path / "run")
    assert "semi-malicious server, sparse graph" in result.stdout, result.stderr
