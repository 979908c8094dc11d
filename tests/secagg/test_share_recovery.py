"""From shares to secrets: despite liars, a secret is correct or missing, and the liars are named."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg._server.share_recovery import RecoveredSecrets, explain, recover_secrets
from secagg.algebra.field import PRIME
from secagg.graph import CompleteGraph, HararyGraph
from secagg.sharing import LIMBS, share_seeds
from tests.support.sessions import SeededEntropy


@dataclass
class Shares:
    """Shares of some owners, with a record of which are wrong."""

    members: np.ndarray
    threshold: int
    held: np.ndarray
    shares: np.ndarray
    seeds: list[bytes]
    rows: np.ndarray
    wrong: set[tuple[int, int]]
    inconsistent: set[int]
    seed: str

    def spare(self, row: int) -> int:
        return int(self.held[row].sum()) - self.threshold

    def within_bound(self, row: int) -> bool:
        return 2 * len([place for owner, place in self.wrong if owner == row]) <= self.spare(row)

    def recover(self) -> RecoveredSecrets:
        return recover_secrets(
            self.rows,
            self.members,
            self.held,
            self.shares,
            self.threshold,
            lambda row, seed: seed == self.seeds[row],
            SeededEntropy(f"{self.seed}/recovery"),
        )


def deal(members: np.ndarray, threshold: int, held: np.ndarray, rows, inconsistent, seed: str) -> Shares:
    """Return honest shares; an inconsistent owner shared another seed than its known one."""
    entropy = SeededEntropy(seed)
    num_nodes, num_places = members.shape
    seeds = [entropy(16) for _ in range(num_nodes)]
    dealt = [entropy(16) if node in inconsistent else seeds[node] for node in range(num_nodes)]
    shares = np.stack([share_seeds((of,), threshold, num_places, entropy)[:, 0] for of in dealt])
    # Values that are not held may be anything.
    shares[~held] = np.random.default_rng(1).integers(0, PRIME, (int((~held).sum()), LIMBS))
    return Shares(members, threshold, held, shares, seeds, np.array(sorted(rows)), set(), set(inconsistent), seed)


def spoil(shares: Shares, row: int, place: int, limbs, by: int) -> None:
    """Replace a share that is held and not yet spoiled."""
    if shares.held[row, place] and (row, place) not in shares.wrong:
        for limb in limbs:
            shares.shares[row, place, limb] = (int(shares.shares[row, place, limb]) + by) % PRIME
        if row in shares.rows:
            shares.wrong.add((row, place))


some_limbs = st.sets(st.integers(0, LIMBS - 1), min_size=1) | st.just(set(range(LIMBS)))


@st.composite
def dealt(draw) -> Shares:
    """Draw owners on either graph: some hold less, some are not asked for, and some lie."""
    seed = f"shares {draw(st.integers(0, 10**6))}"
    num_nodes = draw(st.integers(3, 14))
    degree = 2 * draw(st.integers(1, max(1, (num_nodes - 2) // 2)))
    if draw(st.booleans()) and degree < num_nodes - 1:
        members = HararyGraph(num_nodes, degree, SeededEntropy(seed)).members
    else:
        members = CompleteGraph(num_nodes).members
    places = members.shape[1]
    threshold = draw(st.integers(2, places))
    held = np.ones(members.shape, dtype=bool)
    for row in range(num_nodes):
        held[row, draw(st.permutations(range(places)))[: draw(st.integers(0, places - threshold))]] = False
    nodes = st.sets(st.integers(0, num_nodes - 1), max_size=num_nodes)
    rows = draw(nodes | st.just(set(range(num_nodes))))
    shares = deal(members, threshold, held, rows, draw(nodes | st.just(set())) if draw(st.booleans()) else (), seed)
    # Errors without a structure: errors of colluding liars may cancel out where the bound is exceeded.
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    for holder in draw(st.sets(st.integers(0, num_nodes - 1), max_size=3)):
        always = draw(st.booleans())
        for row in range(num_nodes):
            for place in np.flatnonzero(members[row] == holder).tolist():
                if always or draw(st.booleans()):
                    spoil(shares, row, place, draw(some_limbs), int(rng.integers(1, PRIME)))
    for dealer in draw(st.sets(st.integers(0, num_nodes - 1), max_size=2)):
        for place in draw(st.sets(st.integers(0, places - 1), max_size=3)):
            spoil(shares, dealer, place, draw(some_limbs), int(rng.integers(1, PRIME)))
    return shares


@pytest.mark.slow
@settings(max_examples=400)
@given(dealt())
def test_a_secret_is_the_right_one_or_none_and_wrong_shares_are_named(shares):
    before = shares.shares.copy(), shares.held.copy()
    result = shares.recover()
    assert np.array_equal(shares.shares, before[0])
    assert np.array_equal(shares.held, before[1])
    assert set(result.seeds) == set(shares.rows.tolist())
    assert result.wrong == sorted(set(result.wrong))
    for row, seed in result.seeds.items():
        assert seed in (shares.seeds[row], None), "never a wrong secret"
        named = {dispute for dispute in result.wrong if dispute[0] == row}
        truth = {dispute for dispute in shares.wrong if dispute[0] == row}
        assert named <= truth, "no right share is called wrong"
        if shares.within_bound(row):
            assert (seed is None) == (row in shares.inconsistent)
            # An owner that dealt another secret is named if more holders would be needed to explain it.
            clear = row not in shares.inconsistent or 2 * len(truth) < shares.spare(row)
            assert named == (truth if clear else set())
            assert (row in result.inconsistent) == (row in shares.inconsistent and clear)
        if seed is not None:
            assert named == truth, "a recovered secret shows every wrong share"
        if not truth and row not in shares.inconsistent:
            assert seed is not None
            assert row not in result.inconsistent


def test_a_share_that_is_wrong_in_any_one_limb_is_found():
    for limb in range(LIMBS):
        for by in (1, PRIME - 1, 32768):
            shares = honest(num_nodes=6, threshold=4)
            spoil(shares, 2, 5, {limb}, by)
            result = shares.recover()
            assert result.wrong == [(2, 5)]
            assert result.seeds == dict(enumerate(shares.seeds))


@pytest.mark.parametrize("alpha", range(1, LIMBS + 1))
def test_a_wrong_share_that_hides_from_one_combination_of_its_limbs_is_found_by_another(alpha):
    """Errors (alpha, -1, 0, ...) add up to zero in sum limb_i alpha^i; similar errors hide from more combinations."""
    shares = honest(num_nodes=7, threshold=3)
    for place, (first, second) in ((1, (alpha, PRIME - 1)), (4, (PRIME - alpha, 1))):
        spoil(shares, 0, place, {0}, first)
        shares.wrong.discard((0, place))
        spoil(shares, 0, place, {1}, second)
    result = shares.recover()
    assert result.wrong == [(0, 1), (0, 4)]
    assert result.seeds[0] == shares.seeds[0]


def test_wrong_shares_that_hide_from_all_but_one_combination_are_found():
    """The error's limbs are the coefficients of (x - 1)(x - 2)...(x - 8): zero at all alphas but the last."""
    coefficients = [1]
    for root in range(1, LIMBS):
        shifted = [0, *coefficients]
        coefficients = [(a - root * b) % PRIME for a, b in zip(shifted, [*coefficients, 0], strict=True)]
    shares = honest(num_nodes=7, threshold=3)
    for place in (2, 3):
        error = np.array(coefficients, dtype=np.uint32)
        shares.shares[0, place] = (shares.shares[0, place] + error) % PRIME
    assert shares.recover().wrong == [(0, 2), (0, 3)]


def honest(num_nodes: int, threshold: int, inconsistent=()) -> Shares:
    members = CompleteGraph(num_nodes).members
    held = np.ones(members.shape, dtype=bool)
    return deal(members, threshold, held, range(num_nodes), inconsistent, "honest")


def test_an_owner_that_shared_another_secret_is_named_among_honest_ones():
    result = honest(6, 4, inconsistent={3}).recover()
    assert result.inconsistent == [3]
    assert result.wrong == []
    assert [row for row, seed in result.seeds.items() if seed is None] == [3]


def test_an_owner_is_not_blamed_for_shares_that_nothing_had_to_agree_with():
    """Exactly a threshold of shares is always on one polynomial: one holder could frame the owner."""
    shares = honest(6, 4)
    shares.held[0] = [True, True, True, True, False, False]
    spoil(shares, 0, 2, {0}, 1)
    result = shares.recover()
    assert result.seeds[0] is None
    assert result.wrong == []
    assert result.inconsistent == []


def test_a_liar_about_one_secret_is_left_out_of_the_others():
    """Two liars are too many for the secret of 0, whose bound is one; the secrets of 1 and 2 expose both."""
    shares = honest(6, 4)
    for row, place in [(0, 1), (0, 2), (1, 1), (2, 2)]:
        spoil(shares, row, place, {4}, 7 * place)
    result = shares.recover()
    assert result.seeds == dict(enumerate(shares.seeds))
    assert result.wrong == [(0, 1), (0, 2), (1, 1), (2, 2)]


def test_a_secret_that_needs_a_suspects_share_is_recovered_with_it():
    """Client 5 lies only about the secret of 0; the secret of 1 has just a threshold of shares, with client 5's."""
    shares = honest(6, 4)
    shares.held[1] = [False, False, True, True, True, True]
    spoil(shares, 0, 5, {0}, 1)
    result = shares.recover()
    assert result.seeds == dict(enumerate(shares.seeds))
    assert result.wrong == [(0, 5)]


def test_too_many_wrong_shares_give_no_secret():
    shares = honest(6, 4)
    for place in (1, 2):
        spoil(shares, 0, place, {4}, 7 * place)
    result = shares.recover()
    assert result.seeds[0] is None
    assert [seed for row, seed in result.seeds.items() if row] == shares.seeds[1:]
    assert result.wrong == []
    assert result.inconsistent == []


def test_nobody_to_recover_gives_nothing():
    shares = honest(4, 3)
    shares.rows = np.zeros(0, dtype=np.intp)
    result = shares.recover()
    assert (result.seeds, result.wrong, result.inconsistent) == ({}, [], [])


# --- Who is to blame -------------------------------------------------------------------------------------------------

parties = st.integers(0, 9)
disputes = st.lists(st.tuples(parties, parties).filter(lambda pair: pair[0] != pair[1]), max_size=25)


@given(disputes)
def test_the_named_parties_explain_every_dispute(pairs):
    named = explain(pairs)
    assert named == sorted(set(named))
    assert all(first in named or second in named for first, second in pairs)
    assert set(named) <= {party for pair in pairs for party in pair}


@pytest.mark.slow
@given(st.sets(parties, min_size=1, max_size=4), st.data())
def test_liars_with_more_disputes_than_there_are_liars_are_named_and_nobody_else(liars, data):
    """Each liar has disputes with more parties than there are liars; an honest party has disputes only with liars."""
    others = range(10, 20)
    pairs = []
    for liar in sorted(liars):
        for victim in data.draw(st.sets(st.sampled_from(others), min_size=len(liars) + 1)):
            pairs.append(data.draw(st.sampled_from([(liar, victim), (victim, liar)])))
    assert explain(data.draw(st.permutations(pairs))) == sorted(liars)


def test_the_first_of_two_parties_with_one_dispute_is_named():
    assert explain([(3, 1)]) == [3]
    assert explain([(1, 3)]) == [1]
    assert explain([]) == []
