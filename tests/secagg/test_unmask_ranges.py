"""The server's heavy work, split by ranges of coordinates: the same masks, and a missing range is noticed."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest

from secagg import LocalProtocolError, UnmaskJob
from secagg.primitives import agreement
from secagg.primitives.prg import CHUNK_BYTES
from secagg.unmask_job import MaskSum, RecoveredMaskKey

CHUNK = CHUNK_BYTES // 4
LENGTH = 8 * CHUNK + 5


def make_job(num_masks: int = 2, num_agreements: int = 2, length: int = LENGTH) -> UnmaskJob:
    keys = tuple(agreement.public_key(os.urandom(32)) for _ in range(num_agreements))
    recovered = (RecoveredMaskKey(99, os.urandom(16), tuple(range(num_agreements)), keys),) if keys else ()
    seeds = tuple((i, os.urandom(16)) for i in range(num_masks))
    return UnmaskJob(os.urandom(32), 30, length, seeds, recovered)


def is_by_ranges(parts: tuple[UnmaskJob, ...]) -> bool:
    return all(part.num_masks == parts[0].num_masks for part in parts) and parts[-1].first > 0


@pytest.fixture(scope="module")
def job() -> UnmaskJob:
    return make_job()


@pytest.fixture(scope="module")
def expected(job: UnmaskJob) -> MaskSum:
    return job.run()


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 9, 10, 50])
def test_ranges_give_the_same_masks(job: UnmaskJob, expected: MaskSum, parts: int) -> None:
    split = job._by_ranges(parts)
    assert len(split) == min(parts, 9)
    assert [part.first for part in split[1:]] == [part.first + part.vector_length for part in split[:-1]]
    assert np.array_equal(job.combine(reversed([part.run() for part in split])).vector, expected.vector)


def test_few_long_masks_are_split_by_ranges_and_many_by_masks() -> None:
    """Three masks keep three workers busy, and eight chunks eight; a thousand agreements are not made twice."""
    assert is_by_ranges(make_job().split(4))
    assert is_by_ranges(make_job(num_masks=40, num_agreements=0, length=8 * CHUNK).split(2))
    assert not is_by_ranges(make_job(num_agreements=1000).split(4))
    assert not is_by_ranges(make_job(num_masks=40, length=CHUNK).split(4))
    assert not is_by_ranges(make_job(num_masks=400, num_agreements=0, length=CHUNK + 1).split(2))


def test_parts_of_parts_of_either_kind(job: UnmaskJob, expected: MaskSum) -> None:
    by_ranges = [part.run() for half in job._by_ranges(2) for part in half._by_masks(3)]
    by_masks = [part.run() for some in job._by_masks(3) for part in some._by_ranges(2)]
    nested = [half.combine([part.run() for part in half._by_ranges(3)]) for half in job._by_ranges(2)]
    for results in (by_ranges, by_masks, nested):
        assert np.array_equal(job.combine(results).vector, expected.vector)


def test_threads_take_ranges_too(job: UnmaskJob, expected: MaskSum) -> None:
    assert np.array_equal(job.run(workers=3).vector, expected.vector)


def test_missing_and_repeated_ranges_are_noticed(job: UnmaskJob) -> None:
    """This holds also if the numbers of masks and elements are right: one range twice, an equal one missing."""
    results = [part.run() for part in job._by_ranges(8)]
    first, second, *others = results
    for wrong in ([], results[1:], results[:-1], [first, *results], [first, first, *others], [second, second, *others]):
        with pytest.raises(LocalProtocolError, match="masks of each element"):
            job.combine(wrong)
    some, rest = (part.run() for part in job._by_masks(2))
    with pytest.raises(LocalProtocolError, match="masks of each element"):
        job.combine([some, *results[:4]])
    assert job.combine([some, rest]).num_masks == job.num_masks


@pytest.mark.parametrize("first", [-CHUNK, 8 * CHUNK + 1, LENGTH])
def test_a_range_outside_the_job_is_refused(job: UnmaskJob, first: int) -> None:
    result = job._by_ranges(9)[-1].run()
    with pytest.raises(LocalProtocolError, match="range of the job"):
        job.combine([replace(result, first=first)])


@pytest.mark.parametrize("vector", [None, np.zeros((2, 2), dtype="<u4"), np.zeros(3), np.zeros(3, dtype="<u2")])
def test_vectors_outside_the_ring_are_refused(job: UnmaskJob, vector: object) -> None:
    with pytest.raises(LocalProtocolError, match="range of the job"):
        job.combine([MaskSum(job.session_id, job.num_masks, vector)])


def test_ranges_can_be_pickled_and_show_no_seed(job: UnmaskJob) -> None:
    part = job._by_ranges(2)[1]
    assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301 - our own bytes
    assert job.self_mask_seeds[0][1].hex() not in repr(part)
