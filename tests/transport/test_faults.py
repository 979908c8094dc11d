"""Schedules of faults: as often as asked, where asked, and the same for the same seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import Round
from transport import Direction, Fault, FaultSchedule
from transport.faults import ROUNDS_OF_EVERY_SESSION


@given(st.integers(1, 200), st.integers(0, 100), st.integers(0, 2**32))
def test_exactly_the_planned_number_of_clients_vanish(num_clients: int, percent: int, seed: int) -> None:
    schedule = FaultSchedule.dropouts(range(num_clients), percent / 100, seed=seed)
    assert len({client for client, _, _ in schedule.faults}) == num_clients * percent // 100
    assert {direction for _, _, direction in schedule.faults} <= {Direction.UP}
    assert set(schedule.faults.values()) <= {Fault.VANISH, Fault.DISCONNECT}


def test_dropouts_happen_in_the_rounds_asked_for_and_in_all_of_them() -> None:
    schedule = FaultSchedule.dropouts(range(1000), 0.5, seed=3, rounds=(Round.SHARE_KEYS, Round.UNMASKING))
    assert {round_ for _, round_, _ in schedule.faults} == {Round.SHARE_KEYS, Round.UNMASKING}
    everywhere = FaultSchedule.dropouts(range(1000), 0.5, seed=3)
    assert {round_ for _, round_, _ in everywhere.faults} == set(ROUNDS_OF_EVERY_SESSION)
    malicious = FaultSchedule.dropouts(range(1000), 0.5, seed=3, rounds=tuple(Round))
    assert {round_ for _, round_, _ in malicious.faults} == set(Round)


def test_the_seed_decides() -> None:
    assert FaultSchedule.dropouts(range(50), 0.3, seed=1) == FaultSchedule.dropouts(range(50), 0.3, seed=1)
    assert FaultSchedule.dropouts(range(50), 0.3, seed=1) != FaultSchedule.dropouts(range(50), 0.3, seed=2)
    assert FaultSchedule.random(range(50), 0.1, seed=1) == FaultSchedule.random(range(50), 0.1, seed=1)


def test_random_faults_are_about_as_frequent_as_asked_and_of_every_kind() -> None:
    faults = FaultSchedule.random(range(2000), 0.1, seed=0).faults
    # 2,000 clients with 4 messages up and 3 down; VANISH affects only those up.
    assert 1100 < len(faults) < 1500
    assert set(faults.values()) == set(Fault)


@pytest.mark.parametrize(("round_", "fault"), [(Round.ADVERTISE_KEYS, Fault.CORRUPT), (Round.UNMASKING, Fault.VANISH)])
def test_impossible_faults_are_refused(round_: Round, fault: Fault) -> None:
    with pytest.raises(ValueError, match="cannot happen to a message down"):
        FaultSchedule({(0, round_, Direction.DOWN): fault})


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_fraction_is_between_zero_and_one(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        FaultSchedule.dropouts(range(3), fraction, seed=0)


def test_each_round_loses_its_own_part_and_nobody_vanishes_twice() -> None:
    fractions = {Round.SHARE_KEYS: 0.1, Round.MASKED_INPUT_COLLECTION: 0.29}
    schedule = FaultSchedule.dropouts_by_round(range(100), fractions, seed=2)
    rounds = [round_ for _, round_, _ in schedule.faults]
    assert (rounds.count(Round.SHARE_KEYS), rounds.count(Round.MASKED_INPUT_COLLECTION)) == (10, 29)
    assert len({client for client, _, _ in schedule.faults}) == 39
    with pytest.raises(ValueError, match="120 clients are to vanish, but there are 100"):
        FaultSchedule.dropouts_by_round(range(100), {Round.SHARE_KEYS: 0.6, Round.UNMASKING: 0.6}, seed=2)


def test_faults_cannot_be_given_by_name() -> None:
    with pytest.raises(TypeError, match="not their names"):
        FaultSchedule({(0, Round.UNMASKING, Direction.UP): "VANISH"})  # type: ignore[dict-item]


def test_a_schedule_needs_a_round_and_a_way() -> None:
    with pytest.raises(ValueError, match="at least one of each"):
        FaultSchedule.dropouts(range(3), 0.5, seed=0, rounds=())
    with pytest.raises(ValueError, match="between 0 and 1"):
        FaultSchedule.random(range(3), 7, seed=0)
