"""The protocol's part of a run's settings: each graph and adversary gives the plain sum, and is stored with the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import transport.memory
from fl.aggregation.secure import SecureAggregator
from fl.config.run_config import Protocol, RunConfig
from fl.report.command_line import train_command
from fl.runs.checkpoint import RunFolder
from fl.runs.rounds import FederatedRun
from secagg import Adversary, GraphKind, Identity
from tests.fl.runs import invoke, tiny_config, tiny_dataset

pytestmark = pytest.mark.slow

DATASET = tiny_dataset()
MANY = {"clients": 80, "batch_size": 4, "dropout": 0.2}


def make_run(**changes: Any) -> FederatedRun:
    return FederatedRun(tiny_config(**changes), DATASET, "secure")


@pytest.mark.parametrize("adversary", [mode.value for mode in Adversary])
@pytest.mark.parametrize("graph", ["auto", "complete", "sparse"])
def test_each_graph_and_adversary_gives_the_plain_sum(graph: str, adversary: str) -> None:
    run = make_run(clients=12, dropout=0.1, compare=True, holdout=0.2, graph=graph, adversary=adversary)
    record = run.run_round()
    assert record.aborted is None
    assert record.ring_difference == 0
    assert record.held_out_aborted is None
    assert record.held_out_examples > 0
    assert run.plan is not None
    assert run._evaluation is not None
    for plan in (run.plan, run._evaluation.plan):
        assert plan.parameters.is_complete == (graph != "sparse")
        assert plan.parameters.adversary.value == adversary
    assert ("ConsistencyCheck" in record.phases) == (adversary != "honest-but-curious")


@pytest.mark.slow
def test_many_clients_train_on_the_sparse_graph_by_default() -> None:
    auto, complete = (make_run(compare=True, graph=graph, **MANY) for graph in ("auto", "complete"))
    assert auto.plan is not None
    assert not auto.plan.parameters.is_complete
    assert auto.plan.why is not None
    first, second = auto.run_round(), complete.run_round()
    assert first.ring_difference == second.ring_difference == 0
    assert first.accuracy == second.accuracy
    assert first.bytes_up < second.bytes_up


def test_more_than_half_may_vanish_if_the_sparse_graph_allows_it() -> None:
    run = make_run(clients=20, dropout=0.6, compare=True)
    record = run.run_round()
    assert record.aborted is None
    assert len(record.included) >= 8
    assert record.ring_difference == 0


def test_identities_are_made_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    whole = transport.memory.run_session

    def noted(*arguments: Any, identities: Any, **others: Any) -> Any:
        given.append(identities)
        return whole(*arguments, identities=identities, **others)

    monkeypatch.setattr("fl.aggregation.secure.run_session", noted)
    monkeypatch.setattr("fl.aggregation.totals_session.run_session", noted)
    made = []
    generate = Identity.generate
    monkeypatch.setattr(Identity, "generate", lambda *entropy: made.append(1) or generate(*entropy))
    run = make_run(clients=8, sample=5, holdout=0.2, adversary="malicious")
    for _ in range(2):
        assert run.run_round().aborted is None
    assert len(given) >= 4
    assert all(one is given[0] for one in given)
    assert set(given[0]) == set(range(8))
    assert len(made) == 8


def test_a_chosen_threshold_is_the_plans() -> None:
    run = make_run(clients=10, threshold=8)
    assert run.plan is not None
    assert run.plan.parameters.threshold == 8


def test_enums_are_names_too() -> None:
    assert Protocol(graph=GraphKind.SPARSE, adversary=Adversary.MALICIOUS) == Protocol(  # type: ignore[arg-type]
        graph="sparse", adversary="malicious"
    )


def test_the_choice_of_auto_is_stored_and_plans_the_same() -> None:
    config = RunConfig.of(clients=300)
    settled = config.settled()
    assert config.protocol.graph == "auto"
    assert settled.protocol.graph == "sparse"
    assert settled.protocol.adversary == "honest-but-curious"
    runs = [
        FederatedRun(one, DATASET, "secure") for one in (tiny_config(clients=200), tiny_config(clients=200).settled())
    ]
    plans = [run.plan for run in runs]
    assert plans[0] == plans[1]
    assert "--graph" not in train_command(config)
    assert "--graph complete" in train_command(RunConfig.of(clients=300, graph="complete"))


@pytest.mark.slow
def test_a_resumed_run_keeps_graph_and_adversary(tmp_path: Path) -> None:
    options = ("train", "--clients", 8, "--epochs", 1, "--model", "logistic", "--json", "--dataset", "digits")
    mode = ("--adversary", "semi-malicious", "--graph", "sparse", "--dropout", 0.1)
    begun = invoke(*options, *mode, "--rounds", 1, "--out", tmp_path / "run")
    assert begun.exit_code == 0, begun.stderr
    assert "semi-malicious server, sparse graph" in begun.stderr
    config, _ = RunFolder(tmp_path / "run").load_config()
    assert (config.graph, config.adversary) == (GraphKind.SPARSE, Adversary.SEMI_MALICIOUS)
    ended = invoke("train", "--resume", tmp_path / "run", "--rounds", 2, "--json")
    first, second = (json.loads(result.stdout)["plan"] for result in (begun, ended))
    assert first == second
    assert (first["graph"], first["adversary"]) == ("sparse", "semi-malicious")
    refused = invoke("train", "--resume", tmp_path / "run", "--graph", "complete")
    assert "leave out --graph" in refused.stderr


def test_the_choice_is_printed_and_in_the_json() -> None:
    result = invoke(
        "train", "--clients", 60, "--epochs", 1, "--model", "logistic", "--dataset", "digits", "--rounds", 1, "--json"
    )
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)["plan"]
    assert plan["graph"] == "sparse"
    assert plan["why"] == plan["reasons"][0]
    assert plan["why"] in result.stderr.splitlines()


def test_a_refusal_names_the_sparse_graph() -> None:
    for command in (("train", "--dataset", "digits"), ("plan",), ("simulate",)):
        result = invoke(*command, "--clients", 50, "--dropout", 0.5, "--graph", "complete")
        assert result.exit_code == 1
        assert "1 fewer than the threshold 26; a sparse graph allows it" in result.stderr


@pytest.mark.parametrize("graph", ["auto", "sparse", "complete"])
def test_plan_and_simulate_plan_as_train_does(graph: str) -> None:
    """A sparse graph with a reserve, though no client vanishes."""
    options = ("--clients", 60, "--value-bits", 24, "--graph", graph)
    planned = json.loads(invoke("plan", *options, "--length", 650, "--json").stdout)
    simulated = json.loads(invoke("simulate", *options, "--length", 650, "--json").stdout)
    assert simulated["exact"]
    run = make_run(clients=60, batch_size=4, graph=graph)
    assert isinstance(run.aggregator, SecureAggregator)
    trained = run.aggregator.plan
    for name in ("threshold", "degree"):
        assert planned[name] == simulated["plan"][name] == getattr(trained.parameters, name)
    assert planned["reasons"][-2:] == list(trained.reasons[-2:])
    assert planned["expected_dropouts"] == (0 if graph == "complete" else 3)
