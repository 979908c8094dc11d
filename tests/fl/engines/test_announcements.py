"""Engines learn ahead and in order which clients will be asked: without this they could not train ahead."""

from __future__ import annotations

import numpy as np

import secagg
from secagg import Completed, MaskSum, UnmaskJob
from transport import FaultSchedule, RecoveryPool, run_session

PARAMS = secagg.plan(num_clients=30, vector_length=4, value_bits=8, dropout=0.3).parameters


class Recording:
    """A recovery that keeps its jobs."""

    def __init__(self) -> None:
        self.jobs: list[UnmaskJob] = []

    def run(self, job: UnmaskJob) -> MaskSum:
        self.jobs.append(job)
        return job.run()


def test_clients_are_announced_before_they_are_asked_and_in_order() -> None:
    announced: dict[int, float] = {}
    asked: list[int] = []
    ahead = []

    def make_input(client_id: int) -> np.ndarray:
        assert client_id in announced
        asked.append(client_id)
        ahead.append(len(announced) - len(asked))
        return np.full(4, client_id)

    faults = FaultSchedule.dropouts(range(30), 0.3, seed=5)
    report = run_session(PARAMS, make_input, faults=faults, seed=9, announce=announced.__setitem__)
    assert isinstance(report.outcome, Completed)
    assert len(asked) > 20
    assert asked == sorted(asked, key=announced.__getitem__)
    # A client that is announced and then lost is not asked.
    assert set(asked) <= set(announced)
    assert np.median(ahead) >= 3, "an engine that learns it so late cannot train ahead"


def test_masks_are_recovered_where_the_host_says() -> None:
    inputs = {i: np.full(4, i) for i in range(30)}
    recovery = Recording()
    for _ in range(2):
        report = run_session(PARAMS, inputs, recovery=recovery)
        assert isinstance(report.outcome, Completed)
        assert report.outcome.sum.tolist() == [sum(range(30))] * 4
    assert len(recovery.jobs) == 2


def test_a_pool_that_is_given_stays_open() -> None:
    inputs = {i: np.full(4, i) for i in range(30)}
    with RecoveryPool(2) as pool:
        for _ in range(2):
            assert isinstance(run_session(PARAMS, inputs, recovery=pool).outcome, Completed)
