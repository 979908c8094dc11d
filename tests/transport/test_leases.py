"""Which front has which client, move by move; and the sums that fronts hold and hand over."""

import numpy as np
import pytest

from tests.support.sessions import make_params
from transport.durable.partial_sums import PartialSum
from transport.fronts.held_inputs import HeldInputs
from transport.fronts.leases import MOST_MOVES, RELEASE_SECONDS, Lease, Leases

UP = ("a", "b")


def test_a_client_that_returns_to_its_front_keeps_its_lease() -> None:
    leases = Leases()
    first = leases.claim(7, "a", 0, UP, 0.0)
    assert first == (Lease(7, "a", 1), None)
    assert leases.claim(7, "a", 0, UP, 1.0) == first


def test_a_client_that_moves_is_granted_once_its_front_has_released_it() -> None:
    leases = Leases()
    (held, _) = leases.claim(7, "a", 0, UP, 0.0)
    assert leases.claim(7, "b", 0, UP, 1.0) == (None, held)
    assert leases.holds(7, "a", 1)
    assert leases.released(7, "a", 1) == Lease(7, "b", 2)
    assert not leases.holds(7, "a", 1)
    # What the first front says afterwards counts for nothing.
    assert leases.released(7, "a", 1) is None
    assert leases.holds(7, "b", 2)


def test_a_client_that_returns_before_the_release_is_granted_to_its_first_front_anew() -> None:
    leases = Leases()
    leases.claim(7, "a", 0, UP, 0.0)
    leases.claim(7, "b", 0, UP, 1.0)
    assert leases.claim(7, "a", 0, UP, 1.5) == (None, None)
    assert leases.released(7, "a", 1) == Lease(7, "a", 2)


def test_a_front_that_does_not_release_in_time_loses_the_client() -> None:
    leases = Leases()
    leases.claim(7, "a", 0, UP, 0.0)
    leases.claim(7, "b", 0, UP, 1.0)
    assert leases.deadline == 1.0 + RELEASE_SECONDS
    assert leases.overdue(leases.deadline - 0.1) == []
    assert leases.overdue(leases.deadline) == [Lease(7, "b", 2)]
    assert leases.deadline is None
    assert not leases.holds(7, "a", 1)


def test_a_front_that_cannot_be_reached_is_not_asked() -> None:
    leases = Leases()
    leases.claim(7, "a", 0, UP, 0.0)
    assert leases.claim(7, "b", 0, ("b",), 1.0) == (Lease(7, "b", 2), None)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_after_a_crash_of_the_coordinator_the_newest_lease_holds_whoever_comes_first(order: tuple[str, str]) -> None:
    number = {"a": 3, "b": 5}
    leases = Leases()
    answers = [leases.claim(7, front, number[front], UP, 0.0) for front in order]
    assert leases.of(7) == Lease(7, "b", 5)
    assert [revoked for _, revoked in answers if revoked is not None] == [Lease(7, "a", 3)]
    # Later ones are newer than those of the coordinator before.
    assert leases.claim(8, "a", 0, UP, 0.0)[0] == Lease(8, "a", 6)


def test_a_client_that_moves_again_and_again_counts_as_two_processes() -> None:
    leases, at = Leases(), "a"
    leases.claim(7, at, 0, UP, 0.0)
    for moves in range(MOST_MOVES + 1):
        assert not leases.is_restless(7), moves
        (_, revoked), at = leases.claim(7, {"a": "b", "b": "a"}[at], 0, UP, 0.0), {"a": "b", "b": "a"}[at]
        leases.released(7, revoked.front, revoked.number)
    assert leases.is_restless(7)
    assert not leases.is_restless(8)


def test_a_front_that_asks_again_on_a_new_channel_hears_again_that_its_client_moved() -> None:
    leases = Leases()
    leases.claim(7, "a", 0, UP, 0.0)
    leases.claim(7, "b", 0, UP, 1.0)
    assert leases.claim(7, "a", 1, UP, 1.5) == (None, Lease(7, "a", 1))


def test_the_clients_of_a_lost_front_are_free_and_those_that_moved_are_granted() -> None:
    leases = Leases()
    for client_id in (1, 2):
        leases.claim(client_id, "a", 0, UP, 0.0)
    leases.claim(2, "b", 0, UP, 1.0)
    assert leases.lost("a") == [Lease(2, "b", 3)]
    assert leases.of(1) is None
    assert leases.deadline is None


def test_a_client_whose_next_front_is_lost_is_free_once_it_is_released() -> None:
    leases = Leases()
    leases.claim(7, "a", 0, UP, 0.0)
    leases.claim(7, "b", 0, UP, 1.0)
    assert leases.lost("b") == []
    assert leases.released(7, "a", 1) is None
    assert leases.of(7) is None


def test_held_inputs_are_added_and_handed_over_as_one_vector() -> None:
    params = make_params(4, 2, vector_length=5, ring_bits=12)
    held = HeldInputs(params)
    assert held.hand_over() is None
    assert held.deadline is None
    vectors = np.random.default_rng(1).integers(0, 1 << 12, (3, 5)).astype(np.uint16)
    for client_id, vector in enumerate(vectors):
        held.add(client_id, 10 + client_id, bytes(32), vector, now=5.0 + client_id)
    assert held.deadline == 5.1
    partial = held.hand_over()
    assert partial.vector.tolist() == vectors.sum(axis=0, dtype=np.uint16).tolist()
    assert partial.clients == {i: (10 + i, bytes(32)) for i in range(3)}
    assert (len(held), held.has(0), held.hand_over()) == (3, False, None)
    held.add(3, 20, bytes(32), vectors[0], now=9.0)
    assert held.hand_over().number == partial.number + 1
    # What was handed over is not touched by later inputs.
    assert partial.vector.tolist() == vectors.sum(axis=0, dtype=np.uint16).tolist()


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_a_partial_sum_is_the_same_after_the_journal(bits: int) -> None:
    params = make_params(4, 2, vector_length=5, value_bits=4, ring_bits=bits)
    vector = np.random.default_rng(1).integers(0, 256, 5).astype(f"u{bits // 8}")
    partial = PartialSum({3: b"a" * 32, 1: b"b" * 32}, vector)
    again = PartialSum.from_bytes(partial.to_bytes(), params)
    assert again.digests == partial.digests
    assert again.client_ids == (3, 1)
    assert (again.vector.tolist(), again.vector.dtype) == (vector.tolist(), vector.dtype)
    for damaged in (b"", partial.to_bytes()[:-1], partial.to_bytes() + b"x", b"\xff" * 4 + partial.to_bytes()[4:]):
        with pytest.raises(ValueError, match="bytes for"):
            PartialSum.from_bytes(damaged, params)
    twice = partial.to_bytes()[:4] + partial.to_bytes()[4:40] * 2 + vector.tobytes()
    with pytest.raises(ValueError, match="twice"):
        PartialSum.from_bytes(twice, params)
