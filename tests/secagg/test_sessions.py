"""Whole sessions: an exact sum over exactly the clients that belong in it, or the reason for an abort."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import Aborted, AbortReason, Adversary, Completed, DropReason, Round
from secagg.algebra import ring
from tests import reference
from tests.secagg.machines import numbers_of
from tests.support.sessions import (
    BEFORE_CONSISTENCY,
    BEFORE_INPUT,
    BEFORE_KEYS,
    BEFORE_SHARES,
    BEFORE_UNMASKING,
    NEVER,
    Cohort,
    exact_sum,
    make_params,
    random_inputs,
)
from tests.support.strategies import Scenario, scenarios, sparse_parameters


@dataclass(frozen=True)
class Verdict:
    """The required end: with the sum over ``included``, or for ``reason`` in ``round`` with ``had`` left."""

    included: tuple[int, ...] = ()
    reason: AbortReason | None = None
    round: Round | None = None
    had: int = 0


def expected_verdict(scenario: Scenario) -> Verdict:
    """Return the paper's sets U1 >= U2 >= U3 >= U4 >= U5, from the schedule alone."""
    threshold, is_signed = scenario.params.threshold, scenario.params.is_signed

    def last_round(client_id: int) -> int:
        stage = scenario.missing_from.get(client_id, NEVER)
        # Without a ConsistencyCheck, a client that would vanish there vanishes before Unmasking.
        return BEFORE_UNMASKING if stage == BEFORE_CONSISTENCY and not is_signed else stage

    def stays(client_id: int, stage: int) -> bool:
        """Return whether the server still counts the client when it closes the round before ``stage``."""
        return last_round(client_id) > stage or (
            last_round(client_id) == stage and client_id not in scenario.disconnects
        )

    advertised = {i for i in scenario.inputs if last_round(i) > BEFORE_KEYS and stays(i, BEFORE_SHARES)}
    if len(advertised) < threshold:
        return Verdict(reason=AbortReason.TOO_FEW_CLIENTS, round=Round.ADVERTISE_KEYS, had=len(advertised))
    shared = {i for i in advertised if last_round(i) > BEFORE_SHARES and stays(i, BEFORE_INPUT)}
    if len(shared) < threshold:
        return Verdict(reason=AbortReason.TOO_FEW_CLIENTS, round=Round.SHARE_KEYS, had=len(shared))
    survivors = {i for i in shared if last_round(i) > BEFORE_INPUT}
    alive = {i for i in survivors if stays(i, BEFORE_CONSISTENCY if is_signed else BEFORE_UNMASKING)}
    if len(alive) < threshold:
        return Verdict(reason=AbortReason.TOO_FEW_CLIENTS, round=Round.MASKED_INPUT_COLLECTION, had=len(alive))
    if is_signed:
        alive = {i for i in alive if last_round(i) > BEFORE_CONSISTENCY and stays(i, BEFORE_UNMASKING)}
        if len(alive) < threshold:
            return Verdict(reason=AbortReason.TOO_FEW_CLIENTS, round=Round.CONSISTENCY_CHECK, had=len(alive))
    answering = {i for i in alive if last_round(i) > BEFORE_UNMASKING}
    if len(answering) < threshold:
        return Verdict(reason=AbortReason.TOO_FEW_SHARES, round=Round.UNMASKING, had=len(answering))
    return Verdict(included=tuple(sorted(survivors)))


def run_and_check(scenario: Scenario, **options) -> Completed | Aborted:
    params = scenario.params
    cohort = Cohort(params, scenario.inputs, scenario.missing_from, disconnects=scenario.disconnects, **options)
    outcome = cohort.run()
    assert not outcome.refused, "no honest message may be refused"
    assert outcome.disputed is None, "no honest share may be disputed"
    verdict = expected_verdict(scenario)
    match outcome.end:
        case Completed() as end:
            assert verdict.reason is None, verdict
            assert end.included == verdict.included
            assert end.culprits == ()
            assert end.sum.dtype == ring.word_dtype(params.ring_bits)
            assert end.sum.tolist() == exact_sum(params, [scenario.inputs[i] for i in end.included])
            removed = reference.removed_components(numbers_of(params), len(end.included))
            assert end.noise_keys == {
                component: {i: outcome.noise_keys[i][component - 1] for i in end.included} for component in removed
            }
        case Aborted() as end:
            assert (end.reason, end.round, end.had) == (verdict.reason, verdict.round, verdict.had)
            assert end.needed == params.threshold
            assert end.had < end.needed
            assert end.missing
            assert not end.culprits, "a client that only vanished is not a culprit"
    assert outcome.end is not None
    return outcome.end


@settings(max_examples=500)
@given(
    scenario=scenarios(),
    suspend=st.booleans(),
    workers=st.integers(1, 3),
    parts=st.integers(0, 9),
)
@pytest.mark.slow
def test_any_session_gives_the_exact_sum_or_aborts(scenario, suspend, workers, parts):
    run_and_check(scenario, suspend=suspend, workers=workers, parts=parts)


@pytest.mark.slow
@settings(max_examples=200)
@given(scenario=scenarios(sparse_parameters()), seed=st.integers(0, 1000), suspend=st.booleans())
def test_any_session_on_a_sparse_graph_gives_the_exact_sum_or_aborts(scenario, seed, suspend):
    """Whether enough neighbours remain depends on the graph that was drawn; the clients in the sum do not.

    Included must be exactly the clients that shared keys and sent their input, less those that learned from the server
    before their input that too few of their neighbours were left.
    """
    params, inputs = scenario.params, scenario.inputs
    cohort = Cohort(
        params,
        inputs,
        scenario.missing_from,
        disconnects=scenario.disconnects,
        entropy_seed=f"sparse {seed}",
        suspend=suspend,
    )
    outcome = cohort.run()
    assert not outcome.refused, "no honest message may be refused"
    assert outcome.disputed is None, "no honest share may be disputed"
    if isinstance(outcome.end, Aborted):
        assert scenario.missing_from or len(inputs) <= params.threshold, "without dropouts nothing is missing"
        return
    lonely = {
        i
        for i, drop in outcome.dropped.items()
        if drop.reason is DropReason.TOO_FEW_NEIGHBORS and drop.round is Round.SHARE_KEYS
    }
    expected = {i for i in inputs if scenario.missing_from.get(i, NEVER) > BEFORE_INPUT} - lonely
    assert outcome.end.included == tuple(sorted(expected))
    assert outcome.end.sum.tolist() == exact_sum(params, [inputs[i] for i in expected])


def test_an_aborted_session_had_less_than_it_needed_on_a_sparse_graph_too():
    """Three clients are on a ring of four whose fourth is gone: two of them have one neighbour where two are needed."""
    params = make_params(4, 2, degree=2)
    end = Cohort(params, random_inputs(params, seed=9), {3: BEFORE_SHARES}).run().end
    assert (end.reason, end.round) == (AbortReason.TOO_FEW_CLIENTS, Round.SHARE_KEYS)
    assert end.had < end.needed


# 256 KiB of keystream are 2^18 elements of one byte each, down to 2^15 of eight bytes.
@pytest.mark.parametrize(
    ("ring_bits", "vector_length"),
    [
        (7, 2**18 + 1),
        (16, 2**17),
        (32, 2**16 + 1),
        (23, 2**17 + 3),
        (64, 2**15 - 1),
        (64, 2**15),
        (63, 2**15 + 1),
        (41, 3 * 2**15 + 5),
    ],
)
def test_vectors_around_the_chunk_size_sum_exactly(ring_bits, vector_length):
    params = make_params(4, 2, vector_length, value_bits=ring_bits, ring_bits=ring_bits, modular=True)
    scenario = Scenario(params, random_inputs(params, seed=1), {0: BEFORE_INPUT, 2: BEFORE_UNMASKING}, frozenset())
    end = run_and_check(scenario, workers=2)
    assert end.included == (1, 2, 3)


def test_a_hundred_clients_with_dropouts_in_every_round():
    params = make_params(100, 51, vector_length=33, value_bits=20)
    stages = (BEFORE_KEYS, BEFORE_SHARES, BEFORE_INPUT, BEFORE_UNMASKING)
    missing_from = {client_id: stages[client_id // 2 % 4] for client_id in range(0, 98, 2)}
    end = run_and_check(Scenario(params, random_inputs(params, seed=2), missing_from, frozenset()))
    assert len(end.included) == 63


EVERY_STAGE = [
    *((Adversary.HONEST_BUT_CURIOUS, stage) for stage in (BEFORE_KEYS, BEFORE_SHARES, BEFORE_INPUT, BEFORE_UNMASKING)),
    *((Adversary.MALICIOUS, stage) for stage in range(BEFORE_KEYS, NEVER)),
]


@pytest.mark.parametrize(("adversary", "stage"), EVERY_STAGE)
@pytest.mark.parametrize("disconnect", [False, True])
@pytest.mark.parametrize("num_left", [3, 4, 5])
def test_the_threshold_is_exact_in_every_round(adversary, stage, disconnect, num_left):
    params = make_params(6, 4, adversary=adversary)
    missing_from = dict.fromkeys(range(6 - num_left), stage)
    disconnects = frozenset(missing_from) if disconnect else frozenset()
    end = run_and_check(Scenario(params, random_inputs(params, seed=3), missing_from, disconnects))
    assert isinstance(end, Completed) == (num_left >= 4)


@pytest.mark.slow
def test_a_hundred_clients_of_a_malicious_session_with_dropouts_in_every_round():
    params = make_params(100, 51, vector_length=7, value_bits=20, adversary=Adversary.MALICIOUS)
    missing_from = {client_id: client_id // 2 % 5 for client_id in range(0, 98, 2)}
    end = run_and_check(Scenario(params, random_inputs(params, seed=2), missing_from, frozenset()))
    assert len(end.included) == 100 - 3 * 10


def test_fewer_clients_than_the_parameters_allow_may_take_part():
    params = make_params(10, 3)
    inputs = {client_id: random_inputs(params, seed=4)[client_id] for client_id in (9, 2, 5)}
    assert run_and_check(Scenario(params, inputs, {}, frozenset())).included == (2, 5, 9)


@pytest.mark.parametrize("adversary", Adversary, ids=lambda adversary: adversary.value)
def test_clients_with_another_context_are_left_out_of_the_sum(adversary):
    """Pasquini et al.: a server that gives one client a different model must not get that client's input."""
    params = make_params(5, 3, adversary=adversary)
    inputs = random_inputs(params, seed=5)
    outcome = Cohort(params, inputs, client_contexts={3: b"another model"}).run()
    assert outcome.end.included == (0, 1, 2, 4)
    assert outcome.end.sum.tolist() == exact_sum(params, [inputs[i] for i in (0, 1, 2, 4)])


@pytest.mark.parametrize("dtype", ["int8", "uint8", ">i4", "int64", ">u8"])
def test_inputs_of_any_integer_dtype_and_layout_are_taken_and_left_unchanged(dtype):
    params = make_params(3, 2, vector_length=5, value_bits=6)
    backing = {i: np.arange(10 * (i + 1), 10 * (i + 1) + 10).astype(dtype) for i in range(3)}
    inputs = {i: vector[::-2] for i, vector in backing.items()}
    before = {i: vector.copy() for i, vector in backing.items()}
    end = run_and_check(Scenario(params, inputs, {1: BEFORE_INPUT}, frozenset()))
    assert end.included == (0, 2)
    assert all(np.array_equal(backing[i], before[i]) and backing[i].dtype == before[i].dtype for i in range(3))
