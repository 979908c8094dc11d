"""The server's heavy work, split and spread: every way to run it gives the same masks."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from secagg import Completed, LocalProtocolError, ServerPhase, UnmaskJob
from secagg._client.neighborhood import split
from tests import reference
from tests.secagg.machines import Script, numbers_of
from tests.support.sessions import BEFORE_INPUT, BEFORE_UNMASKING, make_params, random_inputs


@cache
def long_script() -> Script:
    """Return a session of seven clients, over several chunks: two vanished, and one more does not answer.

    The masks are 5 self masks and 2 x 5 pairwise ones, of which 2 x 4 by keys that survivors handed over.
    """
    params = make_params(7, 3, vector_length=2**17 + 3, value_bits=10)
    vanish = {2: BEFORE_INPUT, 5: BEFORE_INPUT, 3: BEFORE_UNMASKING}
    return Script(params, random_inputs(params, seed=31), vanish, seed="unmask")


NUM_MASKS = 5 + 2 * 5


@pytest.fixture
def server():
    return long_script().server_in(ServerPhase.RECOVERY)


@pytest.fixture
def job(server) -> UnmaskJob:
    job = long_script().job
    assert job is not None
    return job


@cache
def expected_masks() -> list[int]:
    """Return the masks to remove: each survivor's self mask, and its pairwise masks with the vanished clients."""
    recorded = long_script()
    models = {
        i: reference.Client(numbers_of(recorded.params), recorded.session_id, i, entropy.draws)
        for i, entropy in recorded.entropy.items()
    }
    survivors = [models[i] for i in range(7) if i not in (2, 5)]
    masks = [survivor.self_mask() for survivor in survivors]
    masks += [survivor.pairwise_mask(models[i]) for survivor in survivors for i in (2, 5)]
    return reference.ring_sum(masks, recorded.params.ring_bits)


@pytest.mark.slow
def test_the_job_is_the_masks_that_are_left_in_the_sum(job):
    assert job.num_masks == NUM_MASKS
    assert job.run().vector.tolist() == expected_masks()


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 15, 40])
def test_any_number_of_threads_gives_the_same_masks(job, workers):
    masks = job.run(workers=workers)
    assert masks.num_masks == NUM_MASKS
    assert masks.vector.dtype == np.uint16
    assert masks.vector.tolist() == expected_masks()


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5, 6, 7, 10, 14, 15, 16, 100])
def test_any_split_gives_the_same_masks_in_parts_of_equal_work(job, parts):
    split = job.split(parts)
    assert len(split) == min(parts, NUM_MASKS)
    sizes = [part.num_masks for part in split]
    assert sum(sizes) == NUM_MASKS
    assert max(sizes) - min(sizes) <= 1
    assert job.combine([part.run() for part in split]).vector.tolist() == expected_masks()


def test_parts_may_be_split_again(job):
    results = [part.run() for half in job.split(2) for part in half.split(3)]
    assert job.combine(results).vector.tolist() == expected_masks()


def test_a_part_carries_only_the_seeds_that_it_needs(job):
    parts = job.split(NUM_MASKS)
    assert [len(part.self_mask_seeds) for part in parts] == [1] * 5 + [0] * 10
    keys = [len(part.added_keys) + len(part.subtracted_keys) for part in parts]
    assert keys == [0] * 5 + [16] * 8 + [0] * 2
    assert [len(part.recovered) for part in parts] == [0] * 5 + [0] * 8 + [1] * 2
    assert all(len(key.peer_ids) == len(key.peer_public_keys) == 1 for part in parts for key in part.recovered)


def test_results_come_in_any_order(job):
    results = [part.run() for part in job.split(4)]
    assert job.combine(results[::-1]).vector.tolist() == expected_masks()


def test_parts_can_be_pickled(job):
    for part in (job, *job.split(4)):
        assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301 - our own bytes


def test_parts_run_in_other_processes(job):
    parts = job.split(3)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(UnmaskJob.run, parts))
    assert job.combine(results).vector.tolist() == expected_masks()


def test_parts_run_in_an_executor_of_the_host(job):
    with ThreadPoolExecutor(2) as pool:
        assert job.combine(list(pool.map(UnmaskJob.run, job.split(5)))).vector.tolist() == expected_masks()


@pytest.mark.parametrize("number", [0, -1, 1.0, "2", None, True])
def test_a_number_of_workers_or_parts_must_be_positive(job, number):
    for call in (job.run, job.split):
        with pytest.raises(LocalProtocolError):
            call(number)


def test_parts_are_only_combined_if_they_are_all_there(job):
    """A part that was lost or came twice would give a wrong sum that nobody notices."""
    first, second, third = (part.run() for part in job.split(3))
    for wrong in ([], [first, second], [first, second, third, third], [first, None, third], [first.vector], [job]):
        with pytest.raises(LocalProtocolError):
            job.combine(wrong)
    assert job.combine([first, second, third]).vector.tolist() == expected_masks()


def test_results_of_another_session_are_not_combined(job):
    first, second = (part.run() for part in job.split(2))
    with pytest.raises(LocalProtocolError):
        job.combine([first, replace(second, session_id=bytes(32))])


@pytest.mark.parametrize("size", [0, 1, 5])
def test_results_of_another_shape_are_not_combined(job, size):
    """numpy would spread a vector of one element over all the others."""
    first, second = (part.run() for part in job.split(2))
    with pytest.raises(LocalProtocolError):
        job.combine([first, replace(second, vector=np.zeros(size, dtype=np.uint16))])


@pytest.mark.parametrize("dtype", ["u4", "i2", "f8"])
def test_results_of_another_dtype_are_not_combined(job, dtype):
    first, second = (part.run() for part in job.split(2))
    with pytest.raises(LocalProtocolError):
        job.combine([first, replace(second, vector=second.vector.astype(dtype))])


def test_a_job_does_not_show_its_seeds(job):
    shown = repr(job) + "".join(map(repr, job.split(3))) + "".join(map(repr, job.recovered)) + repr(job.run())
    keys = split(job.added_keys + job.subtracted_keys, 16)
    for seed in [seed for _, seed in job.self_mask_seeds] + [key.seed for key in job.recovered] + keys:
        assert seed.hex() not in shown
        assert repr(seed) not in shown


# --- The server takes the result -------------------------------------------------------------------------------------


WRONG_RESULTS = {
    "None": lambda masks: None,
    "the bare vector": lambda masks: masks.vector,
    "a list": lambda masks: masks.vector.tolist(),
    "a mask too few": lambda masks: replace(masks, num_masks=masks.num_masks - 1),
    "another session's": lambda masks: replace(masks, session_id=bytes(32)),
    "too short": lambda masks: replace(masks, vector=masks.vector[:-1]),
    "too long": lambda masks: replace(masks, vector=np.append(masks.vector, masks.vector[:1])),
    "another dtype": lambda masks: replace(masks, vector=masks.vector.astype(np.uint32)),
    "signed": lambda masks: replace(masks, vector=masks.vector.astype(np.int16)),
    "floats": lambda masks: replace(masks, vector=masks.vector.astype(float)),
    "two dimensions": lambda masks: replace(masks, vector=masks.vector[None, :]),
    "a scalar": lambda masks: replace(masks, vector=masks.vector[0]),
    "None inside": lambda masks: replace(masks, vector=None),
}


@pytest.mark.parametrize("spoil", WRONG_RESULTS.values(), ids=WRONG_RESULTS)
def test_a_wrong_result_is_refused_and_the_right_one_still_taken(server, job, spoil):
    masks = job.run()
    with pytest.raises(LocalProtocolError):
        server.finish(spoil(masks))
    assert server.phase is ServerPhase.RECOVERY
    (end,) = server.finish(masks)
    assert isinstance(end, Completed)
    assert np.array_equal(end.sum, long_script().end.sum)
    assert server.phase is ServerPhase.COMPLETED


def test_a_part_is_not_taken_for_the_whole(server, job):
    part, _ = job.split(2)
    with pytest.raises(LocalProtocolError):
        server.finish(part.run())


def test_a_session_is_finished_once(server, job):
    masks = job.run()
    server.finish(masks)
    with pytest.raises(LocalProtocolError, match="COMPLETED"):
        server.finish(masks)


def test_finishing_leaves_the_result_unchanged(server, job):
    masks = job.run()
    before = masks.vector.copy()
    (end,) = server.finish(masks)
    assert np.array_equal(masks.vector, before)
    assert not np.shares_memory(end.sum, masks.vector)


def test_keys_are_agreed_on_only_with_survivors_that_did_not_answer(job):
    assert job.num_agreements == 2
    assert {(key.client_id, key.peer_ids) for key in job.recovered} == {(2, (3,)), (5, (3,))}
    recorded = long_script()
    added = {
        recorded.secrets(low)[f"pairwise mask key with {high}"]
        for low, high in [(0, 2), (1, 2), *((i, 5) for i in (0, 1, 4))]
    }
    subtracted = {recorded.secrets(high)[f"pairwise mask key with {low}"] for low, high in [(2, 4), (2, 6), (5, 6)]}
    assert set(split(job.added_keys, 16)) == added
    assert set(split(job.subtracted_keys, 16)) == subtracted


def test_without_dropouts_there_are_only_self_masks():
    params = make_params(4, 2)
    recorded = Script(params, random_inputs(params, seed=32), {}, seed="nobody vanishes")
    assert recorded.job.num_masks == 4
    assert recorded.job.recovered == ()


@pytest.mark.parametrize("parts", [1, 3])
def test_a_job_without_masks_gives_zeros(parts):
    empty = UnmaskJob(session_id=bytes(32), ring_bits=9, vector_length=4, self_mask_seeds=(), recovered=())
    assert empty.combine([part.run() for part in empty.split(parts)]).vector.tolist() == [0] * 4
    assert empty.run(workers=parts).vector.tolist() == [0] * 4
