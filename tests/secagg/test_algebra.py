"""Shamir's scheme against Python's integers, up to the limits of float64's exactness."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.algebra import shamir
from secagg.algebra.field import PRIME
from secagg.sharing import LIMBS, InvalidSharesError, reconstruct_seeds, share_seeds, shares_from_bytes, shares_to_bytes
from tests import reference
from tests.support.sessions import SeededEntropy

elements = st.integers(0, PRIME - 1)
seeds = st.binary(min_size=16, max_size=16) | st.sampled_from([bytes(16), b"\xff" * 16])


# --- Shamir ----------------------------------------------------------------------------------------------------------


def random_elements(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, PRIME, shape, dtype=np.uint16)


@pytest.mark.parametrize(("num_holders", "threshold"), [(2, 2), (5, 1), (5, 2), (5, 3), (5, 5), (6, 4)])
def test_any_threshold_of_shares_give_the_secrets(num_holders, threshold):
    secrets = random_elements(4, seed=1)
    shares = shamir.share(secrets, random_elements(threshold - 1, 4, seed=2), num_holders)
    for places in itertools.combinations(range(num_holders), threshold):
        chosen = np.array(places)
        assert np.array_equal(shamir.reconstruct(chosen, shares[chosen]), secrets)
        shuffled = chosen[::-1]
        assert np.array_equal(shamir.reconstruct(shuffled, shares[shuffled]), secrets)


@settings(max_examples=100)
@given(st.data(), st.integers(1, 8), st.integers(1, 4))
def test_shares_are_the_values_of_the_polynomial(data, threshold, num_secrets):
    num_holders = data.draw(st.integers(threshold, 12))
    secrets = data.draw(st.lists(elements, min_size=num_secrets, max_size=num_secrets))
    rows = data.draw(
        st.lists(
            st.lists(elements, min_size=num_secrets, max_size=num_secrets),
            min_size=threshold - 1,
            max_size=threshold - 1,
        )
    )
    coefficients = np.array(rows, dtype=np.uint16).reshape(threshold - 1, num_secrets)
    shares = shamir.share(np.array(secrets, dtype=np.uint16), coefficients, num_holders)
    assert shares.tolist() == [
        [
            reference.evaluate([secret, *(row[column] for row in rows)], place + 1)
            for column, secret in enumerate(secrets)
        ]
        for place in range(num_holders)
    ]


@st.composite
def patterns(draw, most_patterns: int = 3) -> np.ndarray:
    """Return which holders have a share, for a few owners."""
    holders = draw(st.integers(1, 20))
    row = st.lists(st.booleans(), min_size=holders, max_size=holders).filter(any)
    return np.array(draw(st.lists(row, min_size=1, max_size=most_patterns)))


def places_of(held: np.ndarray) -> list[int]:
    return np.flatnonzero(held).tolist()


@settings(max_examples=150)
@given(patterns())
def test_dual_weights_are_those_of_the_formula(held):
    weights = shamir.dual_weights(held)
    assert weights.shape == held.shape
    for row, flags in zip(weights.tolist(), held, strict=True):
        for i, weight in enumerate(row):
            expected = 1 if flags[i] else 0
            for j in places_of(flags):
                if i != j:
                    expected = expected * pow(i - j, -1, PRIME) % PRIME
            assert weight == expected


@settings(max_examples=150)
@given(patterns(), st.data())
def test_dual_weights_cancel_every_product_of_a_low_degree(held, data):
    """sum v_i q(x_i) f(x_i) = 0 whenever deg q + deg f < r - 1; and not for the next degree."""
    (weights, *_), (flags, *_) = shamir.dual_weights(held).tolist(), held
    places = places_of(flags)

    def weighted(values):
        return sum(weights[place] * value for place, value in zip(places, values, strict=True)) % PRIME

    coefficients = data.draw(st.lists(elements, min_size=len(places), max_size=len(places)))
    assert weighted(reference.evaluate(coefficients[:-1], place + 1) for place in places) == 0
    # The weights give the highest coefficient of the polynomial through all points.
    assert weighted(reference.evaluate(coefficients, place + 1) for place in places) == coefficients[-1]


@settings(max_examples=100)
@given(patterns(), st.data())
def test_dual_weights_of_any_points_are_those_of_the_formula(held, data):
    holders = held.shape[1]
    points = data.draw(st.lists(elements, min_size=holders, max_size=holders, unique=True))
    weights = shamir.dual_weights(held, np.array(points, dtype=np.uint64))
    for row, flags in zip(weights.tolist(), held, strict=True):
        for i, weight in enumerate(row):
            expected = 1 if flags[i] else 0
            for j in places_of(flags):
                if i != j:
                    expected = expected * pow(points[i] - points[j], -1, PRIME) % PRIME
            assert weight == expected


@pytest.mark.parametrize("block", [1, 25, shamir._BLOCK_ELEMENTS])
def test_dual_weights_are_the_same_in_blocks_of_any_size(block, monkeypatch):
    """There are more holders than fit in one block."""
    held = np.random.default_rng(7).random((3, 40)) < 0.7
    expected = shamir.dual_weights(held)
    monkeypatch.setattr(shamir, "_BLOCK_ELEMENTS", block)
    assert np.array_equal(shamir.dual_weights(held), expected)


@settings(max_examples=150)
@given(patterns(), st.integers(0, 25))
def test_lagrange_weights_are_those_of_the_formula(held, point):
    if 1 <= point <= held.shape[1]:
        held[:, point - 1] = False
    weights = shamir.lagrange_weights(held, point)
    assert weights.shape == held.shape
    assert point or np.array_equal(weights, shamir.lagrange_weights(held))
    for row, flags in zip(weights.tolist(), held, strict=True):
        for i, weight in enumerate(row):
            expected = 1 if flags[i] else 0
            for j in places_of(flags):
                if i != j:
                    expected = expected * (point - 1 - j) * pow(i - j, -1, PRIME) % PRIME
            assert weight == expected


@settings(max_examples=100)
@given(patterns(), st.integers(0, 25), st.data())
def test_lagrange_weights_give_the_polynomials_value_anywhere(held, point, data):
    if 1 <= point <= held.shape[1]:
        held[:, point - 1] = False
    weights = shamir.lagrange_weights(held, point)
    for row, flags in zip(weights.tolist(), held, strict=True):
        places = places_of(flags)
        polynomial = data.draw(st.lists(elements, min_size=len(places), max_size=len(places)))
        total = sum(row[place] * reference.evaluate(polynomial, place + 1) for place in places) % PRIME
        assert total == reference.evaluate(polynomial, point)


@settings(max_examples=100)
@given(patterns(), st.integers(1, 3), st.data())
def test_shares_that_are_not_held_follow_from_those_that_are(held, width, data):
    places = np.array(sorted(data.draw(st.sets(st.integers(0, held.shape[1] - 1)))), dtype=np.intp)
    polynomials = [
        [data.draw(st.lists(elements, min_size=len(held_places), max_size=len(held_places))) for _ in range(width)]
        for held_places in map(places_of, held)
    ]
    expected = np.array(
        [[[reference.evaluate(f, x + 1) for f in of_owner] for x in range(held.shape[1])] for of_owner in polynomials]
    )
    # Values that are not held may be anything.
    shares = np.where(held[:, :, None], expected, data.draw(elements)).astype(np.uint16)
    values = shamir.evaluate(held, shares, places)
    assert values.shape == (len(held), len(places), width)
    wanted = ~held[:, places]
    assert np.array_equal(values[wanted], expected[:, places][wanted])


@settings(max_examples=100)
@given(st.data(), st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_combinations_are_weighted_sums(data, owners, holders, width, one_for_all):
    def array(*shape):
        flat = data.draw(st.lists(elements, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return np.array(flat, dtype=np.uint64).reshape(shape)

    weights, shares = array(1 if one_for_all else owners, holders), array(owners, holders, width).astype(np.uint16)
    combined = shamir.combine(weights, shares)
    assert combined.dtype == np.uint16
    assert combined.tolist() == [
        [
            sum(
                int(weights[0 if one_for_all else owner, holder]) * int(shares[owner, holder, column])
                for holder in range(holders)
            )
            % PRIME
            for column in range(width)
        ]
        for owner in range(owners)
    ]


def test_combinations_of_more_owners_than_one_block_holds_are_exact():
    """The largest possible sums, in blocks of which the last is not full."""
    shares = np.full((700, 1000, 3), PRIME - 1, dtype=np.uint16)
    weights = np.full((700, 1000), PRIME - 1, dtype=np.uint64)
    assert np.array_equal(shamir.combine(weights, shares), np.full((700, 3), 1000))
    weights[:, 0] = np.arange(700)
    assert shamir.combine(weights, shares)[:, 0].tolist() == [(999 - row) % PRIME for row in range(700)]


@settings(max_examples=100)
@given(st.data(), st.integers(2, 6), elements)
def test_fewer_shares_than_the_threshold_fit_every_secret(data, threshold, other_secret):
    """Perfect secrecy: for t - 1 shares and any secret, a polynomial goes through them."""
    secret = data.draw(elements)
    coefficients = data.draw(st.lists(elements, min_size=threshold - 1, max_size=threshold - 1))
    known = data.draw(st.lists(st.integers(0, 9), min_size=threshold - 1, max_size=threshold - 1, unique=True))
    shares = shamir.share(
        np.array([secret], dtype=np.uint16), np.array(coefficients, dtype=np.uint16)[:, None], num_holders=10
    )[:, 0].tolist()
    # This point completes the polynomial through the known shares and (0, other_secret).
    through = [(0, other_secret), *((place + 1, shares[place]) for place in known)]
    new_place = next(place for place in range(10) if place not in known)
    value = _interpolate(through, new_place + 1)
    places = np.array([*known, new_place])
    forged = np.array([[shares[place]] for place in known] + [[value]], dtype=np.uint16)
    assert shamir.reconstruct(places, forged).tolist() == [other_secret]


def _interpolate(points, at):
    """Return f(at) through the points: shifted, so that the reference's interpolation at zero gives it."""
    return reference.interpolate_at_zero([((x - at) % PRIME, y) for x, y in points])


def test_every_value_of_a_share_is_equally_likely():
    """With t = 2 the slope alone decides: over all slopes each share value comes up exactly once."""
    coefficients = np.arange(PRIME, dtype=np.uint16)[None, :]
    for secret in (0, 1, PRIME - 1):
        shares = shamir.share(np.full(PRIME, secret, dtype=np.uint16), coefficients, num_holders=3)
        for holder in range(3):
            assert np.array_equal(np.sort(shares[holder]), np.arange(PRIME))


def largest_everywhere(threshold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return secrets and coefficients of p - 1: the largest sums in the matrix product."""
    return np.full(3, PRIME - 1, dtype=np.uint16), np.full((threshold - 1, 3), PRIME - 1, dtype=np.uint16)


@pytest.mark.parametrize("values", ["largest", "random"])
@pytest.mark.parametrize(("num_holders", "threshold"), [(2000, 2000), (2000, 1334), (1500, 751)])
def test_large_numbers_of_holders_are_exact(num_holders, threshold, values):
    if values == "largest":
        secrets, coefficients = largest_everywhere(threshold)
    else:
        secrets, coefficients = random_elements(3, seed=5), random_elements(threshold - 1, 3, seed=6)
    shares = shamir.share(secrets, coefficients, num_holders)
    for place in (0, 1, num_holders // 2, num_holders - 1):
        for column in range(3):
            polynomial = [int(secrets[column]), *coefficients[:, column].tolist()]
            assert int(shares[place, column]) == reference.evaluate(polynomial, place + 1)
    places = np.random.default_rng(7).permutation(num_holders)[:threshold]
    assert np.array_equal(shamir.reconstruct(places, shares[places]), secrets)


@pytest.mark.slow
def test_the_last_holders_of_the_field_are_exact():
    secrets, coefficients = random_elements(2, seed=8), random_elements(2, 2, seed=9)
    shares = shamir.share(secrets, coefficients, shamir.MAX_HOLDERS)
    places = np.array([shamir.MAX_HOLDERS - 1, 0, shamir.MAX_HOLDERS - 2])
    assert np.array_equal(shamir.reconstruct(places, shares[places]), secrets)


def test_many_secrets_at_once_are_exact():
    """There are more columns than fit in one block of the reconstruction."""
    secrets, coefficients = random_elements(300_000, seed=10), random_elements(1, 300_000, seed=11)
    shares = shamir.share(secrets, coefficients, 3)
    assert np.array_equal(shamir.reconstruct(np.array([2, 0]), shares[[2, 0]]), secrets)


@pytest.mark.parametrize("num_holders", [2, PRIME, PRIME + 1])
def test_impossible_numbers_of_holders_are_refused(num_holders):
    """There are fewer holders than the threshold, or so many that a point would be 0, where the secret lies."""
    with pytest.raises(ValueError, match="num_holders"):
        shamir.share(random_elements(1), random_elements(2, 1), num_holders)


# --- Seeds as secrets ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(seeds, min_size=1, max_size=3), st.integers(1, 5), st.data())
def test_any_seeds_come_back_from_any_threshold_of_shares(secret_seeds, threshold, data):
    num_holders = data.draw(st.integers(threshold, 8))
    shares = share_seeds(tuple(secret_seeds), threshold, num_holders, SeededEntropy(data.draw(st.text(max_size=4))))
    assert shares.shape == (num_holders, len(secret_seeds), LIMBS)
    places = data.draw(st.permutations(range(num_holders)))[:threshold]
    assert reconstruct_seeds(np.array(places), shares[places]) == secret_seeds
    assert reference.reconstruct_seed([(place, shares[place, 0].tolist()) for place in places]) == secret_seeds[0]


def test_limbs_of_an_impossible_seed_give_none():
    """Nine limbs of 15 bits hold 135 bits: a seed has no limb that is too large, and at most 128 bits."""

    def from_limbs(*limbs):
        return reconstruct_seeds(np.array([0]), np.array([[limbs]], dtype=np.uint16))[0]

    assert from_limbs(*[2**15 - 1] * 8, 2**8 - 1) == b"\xff" * 16
    assert from_limbs(*[2**15 - 1] * 8, 2**8) is None
    assert from_limbs(2**15, *[0] * 8) is None
    assert from_limbs(*[0] * 8, PRIME - 1) is None
    assert from_limbs(*[0] * 9) == bytes(16)


def test_words_outside_the_field_are_never_used_as_coefficients():
    """Words that encode p or more come before, between and after good ones; shares must not depend on them."""
    threshold, num_holders = 4, 6
    refused = [0xFFFF, PRIME, PRIME + 1, 0xFFF8]
    good = [(7919 * number) % PRIME for number in range(3 * 2 * LIMBS)]
    stream = bytearray()
    for number, word in enumerate(good):
        stream += refused[number % 4].to_bytes(2, "big") * (1 + number % 3) + word.to_bytes(2, "big")

    def entropy(size):
        """Return the stream piece by piece, then only words that must be refused."""
        drawn = bytes(stream[:size]).ljust(size, b"\xff")
        del stream[:size]
        return drawn

    own_seeds = (b"\x01" * 16, b"\xfe" * 16)
    shares = share_seeds(own_seeds, threshold, num_holders, entropy)
    columns = reference.seed_to_limbs(own_seeds[0]) + reference.seed_to_limbs(own_seeds[1])
    rows = [good[at : at + len(columns)] for at in range(0, len(good), len(columns))]
    for place in range(num_holders):
        expected = [
            reference.evaluate([limb, *(row[column] for row in rows)], place + 1) for column, limb in enumerate(columns)
        ]
        assert shares[place].reshape(-1).tolist() == expected


@pytest.mark.slow
def test_coefficients_are_uniform_over_the_field():
    """With t = 2 a share is limb + coefficient: all residues must come up, the small ones not more often.

    Taking words mod p would give the residues 0 to 14 twice as often; 15 cells of 65521 are tested against the rest.
    """
    draws = SeededEntropy("uniform")
    num_limbs = 1500 * LIMBS
    shares = share_seeds((bytes(16),) * 1500, 2, 2, draws)[0].reshape(-1)
    for _ in range(99):
        shares = np.concatenate([shares, share_seeds((bytes(16),) * 1500, 2, 2, draws)[0].reshape(-1)])
    assert len(shares) == 100 * num_limbs
    small = int((shares < 15).sum())
    expected = len(shares) * 15 / PRIME
    assert abs(small - expected) < 5 * expected**0.5, "biased words would give twice as many"
    counts = np.bincount(shares // 1024, minlength=64)[:63]
    statistic = float(((counts - len(shares) * 1024 / PRIME) ** 2 / (len(shares) * 1024 / PRIME)).sum())
    assert abs(statistic - 63) < 5 * (2 * 63) ** 0.5


@given(st.lists(st.lists(elements, min_size=LIMBS, max_size=LIMBS), max_size=5))
def test_shares_travel_as_big_endian_limbs(rows):
    shares = np.array(rows, dtype=np.uint16).reshape(-1, LIMBS)
    data = shares_to_bytes(shares)
    assert data == b"".join(limb.to_bytes(2, "big") for row in rows for limb in row)
    assert np.array_equal(shares_from_bytes(data), shares)


@pytest.mark.parametrize("limb", [PRIME, PRIME + 1, 0xFFFF])
@pytest.mark.parametrize("position", [0, 8, 17])
def test_limbs_outside_the_field_are_not_a_share(limb, position):
    data = bytearray(4 * LIMBS)
    data[2 * position : 2 * position + 2] = limb.to_bytes(2, "big")
    with pytest.raises(InvalidSharesError):
        shares_from_bytes(bytes(data))
    data[2 * position : 2 * position + 2] = (PRIME - 1).to_bytes(2, "big")
    assert shares_from_bytes(bytes(data)).shape == (2, LIMBS)
