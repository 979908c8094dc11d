"""Sessions over the in-process network: for every fault, the exact sum of the included clients, or Aborted."""

import time
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import (
    Aborted,
    AbortReason,
    Adversary,
    Completed,
    DropReason,
    LocalProtocolError,
    Parameters,
    RemoteProtocolError,
    Round,
    rounds_of,
)
from tests.support.sessions import SeededEntropy, exact_sum, make_params, random_inputs
from tests.support.strategies import thresholds
from transport import Deadlines, Direction, Fault, FaultSchedule, FrameError, SessionReport, run_session
from transport.faults import ROUNDS_OF_EVERY_SESSION

UP, DOWN = Direction.UP, Direction.DOWN
LOST_BEFORE_THE_SUM = (Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION)


def check_exact(params: Parameters, inputs: dict[int, np.ndarray], report: SessionReport) -> None:
    """Assert that the sum is exact over the included clients, or that there is none."""
    if isinstance(report.outcome, Completed):
        expected = exact_sum(params, [inputs[i] for i in report.outcome.included])
        assert report.outcome.sum.tolist() == expected
    else:
        assert isinstance(report.outcome, Aborted)


def run_with(
    fault: Fault,
    round_: Round,
    direction: Direction,
    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS,
    client_id: int = 2,
) -> SessionReport:
    params = make_params(6, 4, adversary=adversary)
    inputs = random_inputs(params, seed=0)
    report = run_session(params, inputs, faults=FaultSchedule({(client_id, round_, direction): fault}))
    check_exact(params, inputs, report)
    assert isinstance(report.outcome, Completed)
    return report


EVERY_ROUND = [
    *((Adversary.HONEST_BUT_CURIOUS, round_) for round_ in ROUNDS_OF_EVERY_SESSION),
    *((Adversary.MALICIOUS, round_) for round_ in Round),
]
each_round = pytest.mark.parametrize(("adversary", "round_"), EVERY_ROUND)


@each_round
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.VANISH, DropReason.DEADLINE),
        (Fault.DISCONNECT, DropReason.DISCONNECTED),
        (Fault.DELAY, DropReason.DEADLINE),
        (Fault.CORRUPT, DropReason.MALFORMED),
    ],
)
def test_a_message_that_is_lost_up_costs_its_sender_alone(
    fault: Fault, reason: DropReason, adversary: Adversary, round_: Round
) -> None:
    report = run_with(fault, round_, UP, adversary)
    assert {i: (drop.reason, drop.round) for i, drop in report.dropped.items()} == {2: (reason, round_)}
    expected = (0, 1, 3, 4, 5) if round_ in LOST_BEFORE_THE_SUM else (0, 1, 2, 3, 4, 5)
    assert report.outcome.included == expected


@each_round
def test_a_message_that_comes_last_is_as_good_as_any(adversary: Adversary, round_: Round) -> None:
    report = run_with(Fault.REORDER, round_, UP, adversary)
    assert report.dropped == {}
    assert report.outcome.included == (0, 1, 2, 3, 4, 5)


@each_round
def test_a_second_copy_of_a_message_ends_its_senders_part(adversary: Adversary, round_: Round) -> None:
    report = run_with(Fault.DUPLICATE, round_, UP, adversary)
    # The copy may come when the next round is already open, if its sender was the last one awaited.
    assert set(report.dropped) <= {2}
    assert all(drop.reason in (DropReason.DUPLICATE, DropReason.UNEXPECTED_MESSAGE) for drop in report.dropped.values())


@pytest.mark.parametrize(("adversary", "round_"), [(a, r) for a, r in EVERY_ROUND if r is not Round.ADVERTISE_KEYS])
@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault.CORRUPT, FrameError), (Fault.DISCONNECT, type(None)), (Fault.DUPLICATE, RemoteProtocolError)],
)
def test_a_message_that_is_spoiled_down_costs_its_receiver_alone(
    fault: Fault, error: type[Exception], adversary: Adversary, round_: Round
) -> None:
    report = run_with(fault, round_, DOWN, adversary)
    assert set(report.dropped) <= {2}
    assert isinstance(report.clients[2].error, error)
    if fault is not Fault.DUPLICATE:
        assert report.dropped[2].reason is DropReason.DISCONNECTED
    had_sent_its_input = round_ in (Round.CONSISTENCY_CHECK, Round.UNMASKING)
    included = (0, 1, 2, 3, 4, 5) if had_sent_its_input else (0, 1, 3, 4, 5)
    if fault is not Fault.DUPLICATE:
        assert report.outcome.included == included


@settings(max_examples=60)
@given(
    num_clients=st.integers(2, 9),
    rate=st.sampled_from([0.0, 0.05, 0.15, 0.4]),
    seed=st.integers(0, 2**32),
    adversary=st.sampled_from(Adversary),
    data=st.data(),
)
def test_any_fault_gives_the_exact_sum_or_an_abort(
    num_clients: int, rate: float, seed: int, adversary: Adversary, data: st.DataObject
) -> None:
    threshold = data.draw(thresholds(adversary, num_clients))
    params = make_params(num_clients, threshold, vector_length=7, value_bits=5, adversary=adversary)
    inputs = random_inputs(params, seed)
    faults = FaultSchedule.random(range(num_clients), rate, seed=seed, rounds=rounds_of(params))
    report = run_session(params, inputs, faults=faults, seed=seed)
    check_exact(params, inputs, report)
    if not faults.faults:
        assert report.outcome.included == tuple(range(num_clients))


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        make_params(40, 21, vector_length=50, adversary=Adversary.MALICIOUS),
        make_params(120, 26, vector_length=50, degree=50, adversary=Adversary.MALICIOUS),
    ],
    ids=["complete", "sparse"],
)
def test_a_malicious_session_with_every_fault_in_every_round_sums_exactly(params: Parameters) -> None:
    """Each fault hits one client, in one round and one direction: together a quarter of the clients."""
    kinds = [(fault, round_, UP) for round_ in Round for fault in Fault]
    kinds += [
        (fault, round_, DOWN)
        for round_ in Round
        for fault in Fault
        if fault is not Fault.VANISH and round_ is not Round.ADVERTISE_KEYS
    ]
    inputs = random_inputs(params, seed=7)
    seen, num_faults = set(), params.num_clients // 4
    upcoming = cycle(kinds)
    for seed in range(-(-len(kinds) // num_faults)):
        chosen = [next(upcoming) for _ in range(num_faults)]
        faults = FaultSchedule({(4 * i, round_, way): fault for i, (fault, round_, way) in enumerate(chosen)})
        report = run_session(params, inputs, faults=faults, seed=seed)
        check_exact(params, inputs, report)
        assert isinstance(report.outcome, Completed)
        assert report.outcome.culprits == ()
        untouched = {i for i in inputs if i % 4}
        assert untouched <= set(report.outcome.included)
        assert not untouched & set(report.dropped)
        seen.update(chosen)
    assert seen == set(kinds)


def test_the_consistency_check_has_its_own_deadline() -> None:
    params = make_params(5, 3, adversary=Adversary.MALICIOUS)
    inputs = random_inputs(params, 0)
    faults = FaultSchedule({(1, Round.CONSISTENCY_CHECK, UP): Fault.VANISH})
    report = run_session(params, inputs, faults=faults, deadlines=Deadlines(consistency_check=77777))
    assert report.dropped[1].round is Round.CONSISTENCY_CHECK
    assert 77777 <= report.virtual_seconds < 80000
    assert report.outcome.included == (0, 1, 2, 3, 4)
    check_exact(params, inputs, report)


def test_too_many_losses_abort_and_say_what_was_missing() -> None:
    params = make_params(5, 4)
    faults = FaultSchedule({(i, Round.MASKED_INPUT_COLLECTION, UP): Fault.VANISH for i in (1, 3)})
    report = run_session(params, random_inputs(params, 0), faults=faults)
    assert report.outcome == Aborted(
        AbortReason.TOO_FEW_CLIENTS, Round.MASKED_INPUT_COLLECTION, needed=4, had=3, missing=(1, 3)
    )


@pytest.mark.slow
def test_hundreds_of_clients_that_time_out_take_virtual_time_only() -> None:
    params = make_params(200, 101, vector_length=20)
    hours = Deadlines(advertise_keys=3600, share_keys=3600, masked_input_collection=36000, unmasking=3600)
    faults = FaultSchedule.dropouts(range(200), 0.3, seed=5, kinds=(Fault.VANISH,))
    inputs = random_inputs(params, 0)
    started = time.perf_counter()
    report = run_session(params, inputs, faults=faults, deadlines=hours)
    assert report.virtual_seconds == 46800
    assert time.perf_counter() - started < report.virtual_seconds / 100
    check_exact(params, inputs, report)
    assert isinstance(report.outcome, Completed)


def test_the_seed_and_the_entropy_repeat_a_session() -> None:
    params = make_params(8, 5)
    inputs = random_inputs(params, 0)
    faults = FaultSchedule.random(range(8), 0.1, seed=9)
    first, second = (
        run_session(params, inputs, faults=faults, seed=4, entropy=SeededEntropy("repeat")) for _ in range(2)
    )
    assert first.dropped == second.dropped
    assert first.virtual_seconds == second.virtual_seconds
    assert (first.bytes_up, first.bytes_down) == (second.bytes_up, second.bytes_down)
    assert str(first.outcome) == str(second.outcome)


def test_inputs_are_made_when_due_and_only_for_clients_that_reach_the_round() -> None:
    params = make_params(5, 3)
    inputs = random_inputs(params, 0)
    made: list[int] = []

    def make(client_id: int) -> np.ndarray:
        made.append(client_id)
        return inputs[client_id]

    faults = FaultSchedule(
        {(1, Round.SHARE_KEYS, UP): Fault.VANISH, (4, Round.MASKED_INPUT_COLLECTION, UP): Fault.VANISH}
    )
    report = run_session(params, make, faults=faults)
    assert sorted(made) == [0, 2, 3]
    check_exact(params, inputs, report)


def test_a_callers_bad_input_is_the_callers_error() -> None:
    params = make_params(3, 2)
    with pytest.raises(LocalProtocolError, match="integer dtype"):
        run_session(params, lambda client_id: np.zeros(10))  # type: ignore[return-value]


def test_any_ids_are_accepted() -> None:
    params = make_params(3, 2)
    inputs = dict(zip((7, 4_000_000_000, 12), random_inputs(params, 0).values(), strict=True))
    report = run_session(params, inputs, client_ids=inputs)
    assert report.outcome.included == (7, 12, 4_000_000_000)
    check_exact(params, inputs, report)


@pytest.mark.parametrize(
    ("inputs_of", "client_ids", "said"),
    [
        (range(5), None, "there is an input, but no place in the session, for clients 4; by default they are 0 to 3"),
        (range(3), None, "there is no input for clients 3; by default they are 0 to 3: pass others as client_ids="),
        (
            (7, 8, 9, 2**31),
            None,
            "there is no input for clients 0, 1, 2, 3; there is an input, but no place in the session, for clients "
            "2147483648, 7, 8, 9; by default they are 0 to 3: pass others as client_ids=",
        ),
        ((*range(4), 9), range(4), "there is an input, but no place in the session, for clients 9"),
        ((*range(4), "0"), None, "for clients 0"),
    ],
)
def test_inputs_must_match_the_clients(inputs_of: Any, client_ids: Any, said: str) -> None:
    """An input that is silently left out makes a wrong sum."""
    params = make_params(4, 3)
    inputs = dict.fromkeys(inputs_of, np.full(params.vector_length, 3, np.uint64))
    with pytest.raises(LocalProtocolError) as refusal:
        run_session(params, inputs, client_ids=client_ids)
    assert said in str(refusal.value)
    assert ("client_ids=" in str(refusal.value)) == (client_ids is None)
    # There may be fewer inputs than places.
    fewer = {i: inputs[i] for i in list(inputs_of)[:3]}
    report = run_session(params, fewer, client_ids=fewer)
    assert report.outcome.sum.tolist() == [9] * params.vector_length


def test_bytes_are_counted_on_both_ways_by_round() -> None:
    params = make_params(4, 3, vector_length=1000, value_bits=14)
    report = run_session(params, random_inputs(params, 0))
    client = report.clients[1]
    assert set(client.bytes_up) == set(ROUNDS_OF_EVERY_SESSION)
    assert set(client.bytes_down) == set(ROUNDS_OF_EVERY_SESSION) - {Round.ADVERTISE_KEYS}
    # 1,000 elements of 16 bits, and at most a hundred bytes of frame, session id and headers.
    assert 2000 < client.bytes_up[Round.MASKED_INPUT_COLLECTION] < 2100
    assert report.bytes_up == sum(sum(c.bytes_up.values()) for c in report.clients.values())


@pytest.mark.parametrize("adversary", Adversary)
def test_the_observer_sees_every_round_open_and_fill(adversary: Adversary) -> None:
    seen: list[tuple[Round, int, int]] = []
    params = make_params(4, 3, adversary=adversary)
    run_session(params, random_inputs(params, 0), observer=lambda *state: seen.append(state))
    assert {round_ for round_, _, _ in seen} == set(rounds_of(params))
    assert (Round.SHARE_KEYS, 3, 4) in seen
