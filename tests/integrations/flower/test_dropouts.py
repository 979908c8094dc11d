"""Nodes that vanish, in every round and in every way, and the strategy's input then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.serverapp.strategy import FedAdam, FedAvg

from fl.integrations.flower import RoundAbortedError, SecAggGrid, secagg_mod
from secagg import Adversary, GraphKind, Round
from tests.integrations.flower import apps
from tests.integrations.flower.apps import change, examples_of, initial_arrays, make_app, train_messages
from tests.integrations.flower.loopback import Fault, LoopbackGrid

NODES = 6
STEPS = {
    0: Round.ADVERTISE_KEYS,
    1: Round.SHARE_KEYS,
    2: Round.MASKED_INPUT_COLLECTION,
    3: Round.UNMASKING,
}


def average(numbers: list[int]) -> dict[str, np.ndarray]:
    """Return the plain federated average over these nodes."""
    total = sum(map(examples_of, numbers))
    return {
        name: sum(change(array.numpy(), number) * (examples_of(number) / total) for number in numbers)
        for name, array in initial_arrays().items()
    }


def aggregated(faults: Callable[[int, int], Fault | None], **settings: Any) -> tuple[list[Any], SecAggGrid]:
    """Run one round with these faults; a node's wait is short, since nobody answers late here."""
    loopback = LoopbackGrid(make_app(secagg_mod()), NODES, faults=faults)
    grid = SecAggGrid(loopback, clip=1.0, max_examples=100, round_timeout=0.02, poll_seconds=0.005, **settings)
    return list(grid.send_and_receive(train_messages(grid), timeout=0.02)), grid


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("step", STEPS)
def test_a_node_vanishes(step: int, fault: Fault) -> None:
    replies, grid = aggregated(lambda node, at: fault if (node, at) == (2, step) else None)
    (reply,) = replies
    # The update of a node that vanishes in the last round is already in the sum.
    expected = [number for number in range(NODES) if number != 2 or step == 3]
    assert reply.content["metrics"]["num-examples"] == sum(map(examples_of, expected))
    for name, array in average(expected).items():
        np.testing.assert_allclose(reply.content["arrays"][name].numpy(), array, atol=1e-5)
    (report,) = grid.reports
    assert report.included == tuple(1000 + number for number in expected)
    (round_, reason) = report.dropped[1002]
    assert round_ is STEPS[step]
    assert ("tired" in reason) == (fault is Fault.ERROR)


def test_different_nodes_vanish_in_every_round() -> None:
    """Six nodes with a threshold of four: one leaves in each of two rounds."""
    replies, grid = aggregated(lambda node, at: Fault.SILENT if (node, at) in ((0, 1), (1, 3)) else None)
    assert replies[0].content["metrics"]["num-examples"] == sum(map(examples_of, range(1, NODES)))
    assert {node: round_ for node, (round_, _) in grid.reports[0].dropped.items()} == {
        1000: Round.SHARE_KEYS,
        1001: Round.UNMASKING,
    }


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("gone", [3, NODES])
def test_too_few_are_left(step: int, gone: int, caplog: pytest.LogCaptureFixture) -> None:
    replies, grid = aggregated(lambda node, at: Fault.ERROR if node < gone and at == step else None)
    assert replies == []
    aborted = grid.reports[0].aborted
    assert aborted is not None
    assert aborted.round is STEPS[step]
    assert "the model stays as it was" in caplog.text


def test_the_app_can_ask_to_hear_of_it() -> None:
    with pytest.raises(RoundAbortedError, match="fewer clients than the threshold"):
        aggregated(lambda node, at: Fault.SILENT, on_abort="raise")


@pytest.mark.parametrize("make", [FedAvg, FedAdam])
def test_a_strategy_continues_after_an_aborted_round(make: Any) -> None:
    """The second of three rounds has no result: the strategy keeps its model, and trains on in the third."""
    sessions = []

    def faults(node: int, step: int) -> Fault | None:
        if (node, step) == (0, 0):
            sessions.append(node)
        return Fault.ERROR if len(sessions) == 2 and step == 2 else None

    loopback = LoopbackGrid(make_app(secagg_mod()), 4, faults=faults)
    grid = SecAggGrid(loopback, clip=1.0, max_examples=100)
    # One call a round: evaluation would count as a session for the faults.
    strategy = make(fraction_evaluate=0.0)
    result = strategy.start(grid=grid, initial_arrays=initial_arrays(), num_rounds=3, timeout=5)
    assert sorted(result.train_metrics_clientapp) == [1, 3]
    assert [report.aborted is not None for report in grid.reports] == [False, True, False]


@pytest.mark.parametrize("step", range(5))
def test_a_node_vanishes_in_malicious_mode(step: int, tmp_path: Path) -> None:
    from secagg import Identity

    identities = [Identity.generate() for _ in range(NODES)]
    keys = [identity.public_key for identity in identities]
    app = make_app(
        secagg_mod(identity=lambda context: identities[apps.number_of(context)], enrolled=keys, claims=tmp_path)
    )
    loopback = LoopbackGrid(app, NODES, faults=lambda node, at: Fault.ERROR if (node, at) == (3, step) else None)
    grid = SecAggGrid(loopback, adversary=Adversary.MALICIOUS, enrolled=keys, clip=1.0, max_examples=100)
    (reply,) = grid.send_and_receive(train_messages(grid), timeout=5)
    expected = [number for number in range(NODES) if number != 3 or step > 2]
    assert reply.content["metrics"]["num-examples"] == sum(map(examples_of, expected))


@pytest.mark.parametrize("corrupt", [0, 0.1])
def test_a_sparse_graph_with_as_many_dropouts_as_it_was_planned_for(corrupt: float) -> None:
    """Default clients, which trust the server: the thresholds are the planner's for that mode."""
    nodes = 60
    gone = dict(zip(range(0, nodes, 6), [0, 1, 2, 3] * nodes, strict=False))
    loopback = LoopbackGrid(
        make_app(secagg_mod()), nodes, faults=lambda node, step: Fault.SILENT if gone.get(node) == step else None
    )
    grid = SecAggGrid(
        loopback,
        graph=GraphKind.SPARSE,
        dropout=0.3,
        corrupt=corrupt,
        max_examples=1000,
        round_timeout=0.02,
        poll_seconds=0.005,
    )
    (reply,) = grid.send_and_receive(train_messages(grid), timeout=0.02)
    expected = [number for number in range(nodes) if gone.get(number) in (None, 3)]
    assert grid.reports[0].included == tuple(1000 + number for number in expected)
    assert reply.content["metrics"]["num-examples"] == sum(map(examples_of, expected))
    for name, array in average(expected).items():
        np.testing.assert_allclose(reply.content["arrays"][name].numpy(), array, atol=1e-4)
