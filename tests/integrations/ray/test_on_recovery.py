"""The masks, recovered on a cluster: the same as here, also when processes are killed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import secagg
from fl.engines.ray import recovery
from fl.engines.ray.cluster import RayCluster
from fl.engines.ray.recovery import RayRecovery
from secagg import Completed, MaskSum, Round, UnmaskJob
from secagg.primitives import agreement
from secagg.unmask_job import RecoveredMaskKey
from transport import FaultSchedule, run_session

CHUNK = 1 << 18


def make_job(num_masks: int, num_agreements: int, length: int) -> UnmaskJob:
    keys = tuple(agreement.public_key(os.urandom(32)) for _ in range(num_agreements))
    recovered = (RecoveredMaskKey(99, os.urandom(16), tuple(range(num_agreements)), keys),) if keys else ()
    return UnmaskJob(os.urandom(32), 30, length, tuple((i, os.urandom(16)) for i in range(num_masks)), recovered)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs of any size go to the cluster."""
    monkeypatch.setattr(recovery, "_WORTH_SENDING", 0.0)


@pytest.mark.parametrize("shape", [(5, 300, 100), (3, 1, 8 * CHUNK + 7), (1, 0, 1)], ids=str)
def test_the_masks_equal_those_of_one_machine(cluster: RayCluster, eager: None, shape: tuple[int, int, int]) -> None:
    """Split by masks, by ranges of coordinates, and not at all."""
    job = make_job(*shape)
    seen: list[tuple[int, int]] = []
    result = RayRecovery(cluster, lambda *state: seen.append(state)).run(job)
    assert result.num_masks == job.num_masks
    assert np.array_equal(result.vector, job.run().vector)
    parts = len(job.split(cluster.cores))
    assert seen == [(i, parts) for i in range(1, parts + 1)]


def test_a_small_job_stays_here(monkeypatch: pytest.MonkeyPatch, cluster: RayCluster) -> None:
    pool = RayRecovery(cluster, lambda *state: pytest.fail("it went to the cluster"))
    job = make_job(3, 2, 100)
    assert np.array_equal(pool.run(job).vector, job.run().vector)


def test_a_session_gets_its_sum_from_the_cluster(cluster: RayCluster, eager: None) -> None:
    params = secagg.plan(num_clients=12, vector_length=50, value_bits=16, dropout=0.25).parameters
    inputs = {i: np.full(50, i) for i in range(12)}
    faults = FaultSchedule.dropouts(inputs, 0.25, seed=1, rounds=(Round.MASKED_INPUT_COLLECTION,))
    seen: list[Any] = []
    report = run_session(
        params, inputs, faults=faults, recovery=RayRecovery(cluster, lambda *state: seen.append(state))
    )
    assert isinstance(report.outcome, Completed)
    assert report.outcome.sum.tolist() == [sum(report.outcome.included)] * 50
    assert len(seen) == 2


def test_a_part_that_is_lost_again_and_again_is_done_here(
    cluster: RayCluster, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "recover_part", _die)
    monkeypatch.setattr(recovery, "ATTEMPTS", 1)
    job = make_job(5, 30, 100)
    result = RayRecovery(cluster).run(job)
    assert np.array_equal(result.vector, job.run().vector)


def _die(part: UnmaskJob) -> MaskSum:
    os._exit(7)
