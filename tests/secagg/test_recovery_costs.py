"""The server's work when clients lie: no more than necessary, with the same result as brute force."""

import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import Completed
from secagg._server import share_recovery, unmasking
from secagg._server.share_recovery import RecoveredSecrets, explain, recover_secrets
from secagg.algebra import reed_solomon, shamir
from secagg.algebra.field import PRIME
from secagg.graph import CompleteGraph, HararyGraph
from secagg.sharing import LIMBS, share_seeds
from tests import reference
from tests.secagg.test_wrong_shares import Liars
from tests.support.sessions import SeededEntropy, make_params, random_inputs


class Dealt:
    """Shares of every node's seed; ``spoil`` makes some of them wrong."""

    def __init__(self, members: np.ndarray, threshold: int, seed: str, inconsistent=()) -> None:
        self.entropy = SeededEntropy(seed)
        self.members, self.threshold = members, threshold
        self.seeds = [self.entropy(16) for _ in members]
        shared = [self.entropy(16) if row in inconsistent else of for row, of in enumerate(self.seeds)]
        self.shares = np.stack([share_seeds((of,), threshold, members.shape[1], self.entropy)[:, 0] for of in shared])
        self.held = np.ones(members.shape, dtype=bool)

    def spoil(self, row: int, place: int) -> None:
        self.shares[row, place] = np.frombuffer(self.entropy(2 * LIMBS), dtype=np.uint16) % PRIME

    def recover(self) -> RecoveredSecrets:
        def is_right(row: int, seed: bytes) -> bool:
            return seed == self.seeds[row]

        rows = np.arange(len(self.members))
        return recover_secrets(rows, self.members, self.held, self.shares, self.threshold, is_right, self.entropy)


# --- Against brute force ----------------------------------------------------------------------------------------------


def polynomial_of_most(shares: Dealt, row: int, places: list[int]) -> tuple[list[list[int]], list[int]] | None:
    """Return the polynomials of all but (r - t) // 2 of these shares, as values from 0 on, and the other shares."""
    t, values = shares.threshold, shares.shares[row].astype(int).tolist()
    for chosen in combinations(places, t):
        at = {}
        for place in (-1, *range(shares.members.shape[1])):
            points = [((i - place) % PRIME, values[i]) for i in chosen]
            at[place] = [
                reference.interpolate_at_zero([(x, share[limb]) for x, share in points]) for limb in range(LIMBS)
            ]
        bad = [place for place in places if at[place] != values[place]]
        if 2 * len(bad) <= len(places) - t:
            return [at[place] for place in sorted(at)], bad
    return None


def by_brute_force(shares: Dealt) -> RecoveredSecrets:
    """Return the closure: owners whose shares decode, with or without the clients shown to lie."""
    result, suspects = RecoveredSecrets(), set()
    of_all: dict[int, list[int] | None] = {}
    grew = True
    while grew:
        grew = False
        for row, members in enumerate(shares.members.tolist()):
            if row in result.seeds:
                continue
            held = np.flatnonzero(shares.held[row]).tolist()
            usable = [place for place in held if members[place] not in suspects]
            for places in (usable, held) if len(usable) >= shares.threshold else (held,):
                decoded = polynomial_of_most(shares, row, places)
                if places == held:
                    of_all[row] = None if decoded is None else decoded[1]
                if decoded is None or limbs_of(shares.seeds[row]) != decoded[0][0]:
                    continue
                values = shares.shares[row].astype(int).tolist()
                wrong = [place for place in held if values[place] != decoded[0][place + 1]]
                result.seeds[row] = shares.seeds[row]
                result.wrong += [(row, place) for place in wrong]
                suspects |= {members[place] for place in wrong}
                grew = True
                break
    for row in set(range(len(shares.members))) - set(result.seeds):
        result.seeds[row] = None
        bad = of_all[row]
        if bad is not None and 2 * len(bad) < shares.held[row].sum() - shares.threshold:
            result.inconsistent.append(row)
            result.wrong += [(row, place) for place in bad]
    result.wrong.sort()
    result.inconsistent.sort()
    return result


def limbs_of(seed: bytes) -> list[int]:
    number = int.from_bytes(seed, "big")
    return [number >> 15 * limb & 0x7FFF for limb in range(LIMBS)]


@st.composite
def dealt(draw) -> Dealt:
    """Return shares with liars who lie about everybody, so that the order in which they are found does not matter."""
    seed = f"dealt {draw(st.integers(0, 10**6))}"
    num_nodes = draw(st.integers(4, 8))
    members = CompleteGraph(num_nodes).members
    if num_nodes > 6 and draw(st.booleans()):
        members = HararyGraph(num_nodes, 4, SeededEntropy(seed)).members
    places = members.shape[1]
    shares = Dealt(members, draw(st.integers(2, min(places, 4))), seed, draw(st.sets(st.integers(0, num_nodes - 1))))
    for row in range(num_nodes):
        most = places - shares.threshold
        shares.held[row, draw(st.permutations(range(places)))[: draw(st.integers(0, most))]] = False
    for liar in draw(st.sets(st.integers(0, num_nodes - 1), max_size=4)):
        for row, place in np.argwhere(members == liar).tolist():
            shares.spoil(row, place)
    return shares


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(dealt())
def test_the_same_is_recovered_and_named_as_by_brute_force(shares):
    assert shares.recover() == by_brute_force(shares)


# --- How much is computed ---------------------------------------------------------------------------------------------


@pytest.fixture
def work(monkeypatch) -> Counter:
    """Return how many owners were decoded, had their shares checked, and their secrets reconstructed."""
    counted: Counter = Counter()

    def count(module, name: str, argument: int) -> None:
        original = getattr(module, name)

        def counting(*arguments):
            counted[name] += len(arguments[argument])
            counted[f"calls of {name}"] += 1
            return original(*arguments)

        monkeypatch.setattr(module, name, counting)

    count(reed_solomon, "find_errors", 2)
    count(shamir, "combine", 1)
    count(shamir, "dual_weights", 0)
    return counted


def test_without_liars_nothing_is_decoded(work):
    shares = Dealt(CompleteGraph(60).members, 41, "honest")
    assert shares.recover().seeds == dict(enumerate(shares.seeds))
    assert work["find_errors"] == 0
    assert work["combine"] == 60


def test_liars_about_everybody_are_found_by_decoding_few(work):
    shares = Dealt(CompleteGraph(60).members, 41, "few")
    for row in range(60):
        for place in range(9):
            shares.spoil(row, place)
    result = shares.recover()
    assert result.seeds == dict(enumerate(shares.seeds))
    assert result.wrong == [(row, place) for row in range(60) for place in range(9)]
    assert work["find_errors"] < 10


@pytest.mark.parametrize("liars", [10, 19])
def test_owners_that_cannot_be_decoded_are_each_tried_once(liars, work):
    """One error more than can be corrected, and as many as a third: no attempt gives a secret."""
    shares = Dealt(CompleteGraph(60).members, 41, "too many")
    for row in range(60):
        for place in range(liars):
            shares.spoil(row, place)
    result = shares.recover()
    assert set(result.seeds.values()) == {None}
    assert (result.wrong, result.inconsistent) == ([], [])
    assert work["combine"] == 0
    assert work["find_errors"] == 60
    assert work["calls of find_errors"] < 6


def chained(num_nodes: int, threshold: int) -> tuple[Dealt, dict[int, int]]:
    """Return shares of which each can be decoded only after those before, and how many lie about each."""
    spare = num_nodes - threshold
    shares, known, chain = Dealt(CompleteGraph(num_nodes).members, threshold, "chain"), 0, {}
    # From the last owner on, so that each result comes too late for the owners before it.
    for row in range(num_nodes - 1, -1, -1):
        if spare - known >= 2:
            chain[row] = known = known + (spare - known) // 2
        for place in range(chain.get(row, spare)):
            shares.spoil(row, place)
    return shares, chain


def test_owners_of_whom_each_shows_the_next_liars_are_tried_a_logarithmic_number_of_times(work):
    """This is the worst that liars who lie about everybody can arrange."""
    shares, chain = chained(120, 81)
    result = shares.recover()
    assert {row for row, seed in result.seeds.items() if seed} == chain.keys()
    assert len(chain) == 6
    assert work["find_errors"] <= 120 * (1 + 2 * len(chain))
    assert work["combine"] <= 120


def test_liars_cannot_make_the_server_try_owners_forever(work, monkeypatch):
    monkeypatch.setattr(share_recovery, "_LOOKS", 2)
    shares, chain = chained(120, 81)
    result = shares.recover()
    found = {row for row, seed in result.seeds.items() if seed}
    assert found
    assert found < chain.keys()
    assert all(result.seeds[row] == shares.seeds[row] for row in found)
    assert result.seeds.keys() == set(range(120))
    assert work["find_errors"] <= 120 * 5


# --- Who is to blame --------------------------------------------------------------------------------------------------


def explain_one_by_one(disputes) -> list[int]:
    """Return the greedy choice, as `explain` is defined: everything is counted again after each name."""
    left, named = set(disputes), []
    while left:
        parts = Counter(party for dispute in left for party in dispute)
        firsts = Counter(first for first, _ in left)
        named.append(max(parts, key=lambda party: (parts[party], firsts[party], -party)))
        left = {dispute for dispute in left if named[-1] not in dispute}
    return sorted(named)


parties = st.integers(0, 9) | st.integers(2**32 - 4, 2**32 - 1)


@settings(max_examples=300)
@given(st.lists(st.tuples(parties, parties), max_size=40))
def test_the_disputes_are_explained_by_the_greedy_choice(disputes):
    assert explain(disputes) == explain_one_by_one(disputes)


def test_the_greedy_choice_among_many_disputes():
    rng = np.random.default_rng(11)
    for num_parties, num_disputes in ((5, 12), (40, 60), (40, 900), (300, 3000)):
        disputes = [(int(a), int(b)) for a, b in rng.integers(0, num_parties, (num_disputes, 2))]
        assert explain(disputes) == explain_one_by_one(disputes)


def test_the_steps_of_an_explanation_grow_with_the_named_parties_and_not_with_their_disputes():
    """A third of the clients say that they could open nothing: this costs no step."""

    def steps_of(num_clients: int, num_liars: int) -> int:
        disputes = [(owner, liar) for liar in range(num_liars) for owner in range(num_clients) if owner != liar]
        steps = 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        # Calls and returns of Python functions and of C functions.
        sys.setprofile(count)
        try:
            named = explain(disputes)
        finally:
            sys.setprofile(None)
        assert named == list(range(num_liars))
        return steps

    assert steps_of(400, 20) < 1.1 * steps_of(100, 20)


@pytest.mark.parametrize("holders", [(1,), (1, 2, 3, 4)], ids=["a sum", "no sum"])
def test_disputes_are_explained_once_a_session(holders, monkeypatch):
    calls = []

    def counting(disputes):
        calls.append(len(disputes))
        return explain(disputes)

    monkeypatch.setattr(unmasking, "explain", counting)
    params = make_params(7, 4)
    outcome = Liars(params, random_inputs(params, seed=1), given_back=[(0, holder) for holder in holders]).run()
    assert isinstance(outcome.end, Completed) == (len(holders) == 1)
    assert len(calls) == 1
