"""Invitations: drawn from the present clients, as many as there is a plan for, and no excluded client."""

from __future__ import annotations

from collections import Counter
from math import comb
from pathlib import Path
from typing import Any, cast

import pytest

from fl.aggregation.planning import SessionPlans
from fl.network.errors import RoundFailedError
from fl.network.invitations import Invitations, ServingRules
from secagg import Adversary, GraphKind
from tests.transport.test_exclusion import later
from transport import Deadlines
from transport.certificates.exclusion import Exclusions

ENROLLED = tuple(range(20))


class Lobby:
    """Present clients, and the waits that were made."""

    def __init__(self, *present: int) -> None:
        self.present = present
        self.asked: list[tuple[int, float]] = []

    def wait_for_clients(self, count: int, seconds: float) -> tuple[int, ...]:
        self.asked.append((count, seconds))
        return self.present


def invitations(lobby: Lobby, exclusions: Exclusions | None = None, **rules: Any) -> Invitations:
    given = {"min_clients": 3, "give_up": 0.01, "deadlines": Deadlines(advertise_keys=7.0)} | rules
    plans = SessionPlans(sizes=(3,), value_bits=16, goal=given.get("goal") or given["min_clients"])
    return Invitations(plans, cast("Any", lobby), ENROLLED, ServingRules(**given), lambda _: None, exclusions)


def test_a_sample_is_drawn_evenly_from_the_present_clients() -> None:
    lobby = Lobby(9, 2, 14, 5, 11, 3)
    inviting = invitations(lobby, invited=4, goal=4)
    drawn = [inviting.next(1) for _ in range(600)]
    assert {len(set(chosen)) for chosen in drawn} == {4}
    assert all(list(chosen) == sorted(chosen) for chosen in drawn)
    counts = Counter(client_id for chosen in drawn for client_id in chosen)
    assert counts.keys() == set(lobby.present)
    # Each is expected 400 times, with a standard deviation of 11.5.
    assert all(300 < count < 500 for count in counts.values())
    assert set(lobby.asked) == {(3, 0.01)}


def test_with_fewer_it_waits_for_as_long_as_clients_may_join_and_no_longer() -> None:
    lobby = Lobby(1, 2, 3)
    assert invitations(lobby, invited=5, goal=5).next(1) == (1, 2, 3)
    assert lobby.asked == [(3, 0.01), (5, 7.0)]


def test_too_few_clients_are_not_a_round() -> None:
    with pytest.raises(RoundFailedError, match=r"round 4 was not begun: 2 of 3 clients were there after 0\.01 s"):
        invitations(Lobby(1, 2), invited=5).next(4)


def test_without_a_sample_all_enrolled_clients_not_on_the_list_are_invited(tmp_path: Path) -> None:
    listed = tmp_path / "excluded"
    listed.write_text("4\n7\n")
    exclusions = Exclusions(listed=listed, clock=later)
    asked = invitations(Lobby(*range(15)), exclusions, min_clients=14).next(1)
    assert asked == tuple(client_id for client_id in ENROLLED if client_id not in (4, 7))
    # With that few, no session has a large enough threshold.
    listed.write_text("".join(f"{client_id}\n" for client_id in range(19)))
    with pytest.raises(RoundFailedError, match="too few for a safe session after 0"):
        invitations(Lobby(*range(15)), exclusions, min_clients=14).next(1)


def test_a_number_of_clients_without_a_plan_is_not_asked() -> None:
    """Four of ten, of nine or of eight are not more than half; of seven they are."""
    inviting = invitations(Lobby(*range(10)), invited=10, min_clients=2, goal=4)
    assert len(inviting.next(1)) == 7


def test_each_number_of_clients_is_planned_once_and_vanishing_ones_come_on_top() -> None:
    plans = SessionPlans(sizes=(3, 4), value_bits=16, goal=10, dropout=0.2)
    assert plans.plan(13) is plans.plan(13)
    assert [plans.plan(n).expected_dropouts for n in (5, 10, 13)] == [1, 2, 5]
    encoding = plans.encoding(13, None)
    assert plans.parameters(encoding).vector_length == encoding.vector_length
    sparse = SessionPlans(
        sizes=(3,), value_bits=16, goal=300, adversary=Adversary.SEMI_MALICIOUS, graph=GraphKind.SPARSE, dropout=0.05
    )
    params = sparse.plan(390).parameters
    assert not params.is_complete
    assert params.adversary is Adversary.SEMI_MALICIOUS


def test_in_private_rounds_each_present_client_is_asked_on_its_own() -> None:
    """A Poisson sample: its size varies as the binomial distribution says, and nobody's place depends on another's."""
    lobby = Lobby(9, 2, 14, 5, 11, 3)
    inviting = invitations(lobby, sampling_rate=0.25, min_clients=6)
    drawn = [inviting.next(1) for _ in range(4000)]
    assert all(list(chosen) == sorted(chosen) for chosen in drawn)
    counts = Counter(client_id for chosen in drawn for client_id in chosen)
    # Each is expected 1000 times, with a standard deviation of 27.
    assert all(860 < counts[client_id] < 1140 for client_id in lobby.present)
    together = sum({2, 3} <= set(chosen) for chosen in drawn)
    # Expected 250 times, with a deviation of 15: two clients are drawn independently of each other.
    assert 170 < together < 330
    sizes = Counter(map(len, drawn))
    for size in range(7):
        expected = 4000 * comb(6, size) * 0.25**size * 0.75 ** (6 - size)
        assert abs(sizes[size] - expected) < 6 * expected**0.5 + 3, size


def test_a_private_sample_that_is_too_small_is_not_drawn_again() -> None:
    """Otherwise a client would be asked more often than the accounting says."""
    inviting = invitations(Lobby(1, 2, 3), sampling_rate=1e-9, min_clients=3)
    assert [inviting.next(number) for number in range(1, 30)] == [()] * 29


def test_a_private_sample_waits_for_all_and_is_of_those_who_are_there() -> None:
    lobby = Lobby(1, 2, 3)
    assert invitations(lobby, sampling_rate=1.0, min_clients=3).next(1) == (1, 2, 3)
    assert lobby.asked == [(3, 0.01), (20, 7.0)]
    with pytest.raises(RoundFailedError, match="2 of 3 clients were there"):
        invitations(Lobby(1, 2), sampling_rate=1.0).next(4)
