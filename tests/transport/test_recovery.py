"""The recovery pool: the same masks on any number of processes, also when some of them die."""

import os
import signal

import numpy as np
import pytest

from secagg import LocalProtocolError, UnmaskJob
from secagg.primitives import agreement
from secagg.unmask_job import RecoveredMaskKey
from transport import RecoveryPool, recovery


def job_of(num_recovered: int, num_peers: int, vector_length: int = 50) -> UnmaskJob:
    keys = tuple(agreement.public_key(os.urandom(32)) for _ in range(num_peers))
    return UnmaskJob(
        session_id=os.urandom(32),
        ring_bits=20,
        vector_length=vector_length,
        self_mask_seeds=tuple((i, os.urandom(16)) for i in range(num_peers)),
        recovered=tuple(
            RecoveredMaskKey(1000 + i, os.urandom(16), tuple(range(num_peers)), keys) for i in range(num_recovered)
        ),
    )


@pytest.fixture
def eager(monkeypatch):
    """Let jobs of any size go to the children."""
    monkeypatch.setattr(recovery, "_WORTH_STARTING", 1)
    monkeypatch.setattr(recovery, "_WORTH_SENDING", 1)


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.live
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_children_give_the_same_masks_again_and_again(eager, workers):
    with RecoveryPool(workers) as pool:
        for job in (job_of(2, 9), job_of(3, 5), job_of(1, 1)):
            masks = pool.run(job)
            assert masks.num_masks == job.num_masks
            assert np.array_equal(masks.vector, job.run().vector)
        assert len(pool.process_ids) == workers - 1


def test_a_small_job_starts_no_process():
    with RecoveryPool(2) as pool:
        job = job_of(2, 10)
        assert np.array_equal(pool.run(job).vector, job.run().vector)
        assert pool.process_ids == ()


def test_a_job_without_agreements_needs_no_process(eager):
    with RecoveryPool(2) as pool:
        job = job_of(0, 30)
        assert np.array_equal(pool.run(job).vector, job.run().vector)
        assert pool.process_ids == ()


@pytest.mark.live
def test_the_part_of_a_child_that_was_killed_is_done_here(eager):
    job = job_of(3, 20)
    with RecoveryPool(3) as pool:
        pool.start()
        first, _ = pool.process_ids
        os.kill(first, signal.SIGKILL)
        assert np.array_equal(pool.run(job).vector, job.run().vector)
        # The next job finds all places filled again.
        assert np.array_equal(pool.run(job).vector, job.run().vector)
        assert len(pool.process_ids) == 2
        assert first not in pool.process_ids


def test_a_child_that_cannot_be_started_leaves_the_work_to_threads(eager, monkeypatch):
    monkeypatch.setattr("sys.executable", "no-such-interpreter")
    job = job_of(2, 5)
    with RecoveryPool(2) as pool:
        assert np.array_equal(pool.run(job).vector, job.run().vector)
        assert pool.process_ids == ()


@pytest.mark.live
def test_no_child_outlives_its_pool(eager):
    with RecoveryPool(3) as pool:
        pool.run(job_of(2, 5))
        children = pool.process_ids
        assert len(children) == 2
        assert all(map(alive, children))
    assert not any(map(alive, children))
    pool.close()


def test_a_closed_pool_says_so():
    pool = RecoveryPool(2)
    pool.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        pool.run(job_of(1, 1))
    with pytest.raises(LocalProtocolError, match="closed"):
        pool.start()


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_a_number_of_workers_must_be_positive(workers):
    with pytest.raises(LocalProtocolError, match="positive int"):
        RecoveryPool(workers)


def test_by_default_it_takes_the_cores_that_it_may_use():
    with RecoveryPool() as pool:
        assert pool._workers == len(os.sched_getaffinity(0))
