"""A training without results ends with an exception that says why."""

from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from flwr.serverapp.strategy import FedAvg

from fl.integrations.flower import RoundAbortedError, SecAggGrid, secagg_mod
from tests.integrations.flower.apps import initial_arrays, make_app, train_messages
from tests.integrations.flower.loopback import Fault, LoopbackGrid


def grid_that_fails_in(failing: set[int], **settings: Any) -> tuple[SecAggGrid, list[int]]:
    """Return a grid that aborts the sessions of these numbers, from 1; and the numbers of the sessions that began."""
    sessions: list[int] = []

    def faults(node: int, step: int) -> Fault | None:
        if (node, step) == (0, 0):
            sessions.append(len(sessions) + 1)
        return Fault.ERROR if step == 2 and sessions[-1] in failing else None

    loopback = LoopbackGrid(make_app(secagg_mod()), 3, faults=faults)
    return SecAggGrid(loopback, clip=1.0, max_examples=64, poll_seconds=0.005, **settings), sessions


def start(grid: SecAggGrid, rounds: int) -> Any:
    strategy = FedAvg(fraction_evaluate=0.0)
    return strategy.start(grid=grid, initial_arrays=initial_arrays(), num_rounds=rounds, timeout=5)


def rounds_in_words(failed: int) -> str:
    return f"{failed} rounds in a row" if failed > 1 else "a round"


@pytest.mark.parametrize(("rounds", "failed"), [(1, 1), (2, 2), (3, 3), (20, 3)])
def test_no_round_has_a_result(rounds: int, failed: int) -> None:
    grid, sessions = grid_that_fails_in(set(range(1, 21)))
    with pytest.raises(
        RoundAbortedError, match=f"^{rounds_in_words(failed)} without a result; the last: aborted.*the node is tired"
    ):
        start(grid, rounds)
    assert len(sessions) == failed


def test_too_many_failures_in_a_row_end_the_training() -> None:
    grid, sessions = grid_that_fails_in({2, 3, 5, 6, 7, 8})
    with pytest.raises(RoundAbortedError, match="3 rounds in a row"):
        start(grid, 10)
    assert sessions == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("most", "failing"), [(2, {1, 2, 4, 5}), (0, set()), (4, {1, 2, 3, 4})])
def test_a_training_continues_after_fewer_failures(most: int, failing: set[int]) -> None:
    grid, _ = grid_that_fails_in(failing, max_failed_rounds=most)
    assert sorted(start(grid, 5).train_metrics_clientapp) == [round_ for round_ in range(1, 6) if round_ not in failing]


def test_none_at_all() -> None:
    grid, _ = grid_that_fails_in({2}, max_failed_rounds=0)
    with pytest.raises(RoundAbortedError, match=r"^a round without a result"):
        start(grid, 5)


def test_a_custom_loop_counts_too() -> None:
    grid, _ = grid_that_fails_in({1, 2, 3})
    for _ in range(2):
        assert list(grid.send_and_receive(train_messages(grid), timeout=5)) == []
    with pytest.raises(RoundAbortedError, match="3 rounds in a row"):
        grid.send_and_receive(train_messages(grid), timeout=5)
    assert len(list(grid.send_and_receive(train_messages(grid), timeout=5))) == 1
