"""Search for wrong shares, against an oracle that tries all subsets, up to the size of a large session."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.algebra.field import PRIME
from secagg.algebra.reed_solomon import find_errors
from tests import reference

elements = st.integers(0, PRIME - 1)


def found(points, values, dimension) -> list[int] | None:
    xs, ys = np.array(points, dtype=np.uint64), np.array(values, dtype=np.uint64)
    (errors,), (is_found,) = find_errors(xs, np.ones((1, len(xs)), dtype=bool), ys[None], dimension)
    assert is_found or not errors.any()
    return np.flatnonzero(errors).tolist() if is_found else None


def interpolate(points, at: int) -> int:
    """Return f(at) through the points, by the reference's interpolation at zero."""
    return reference.interpolate_at_zero([((x - at) % PRIME, y) for x, y in points])


def by_brute_force(points, values, dimension) -> list[int] | None:
    """Return the errors relative to the polynomial that all but (r - t) // 2 values are on; there is at most one."""
    bound = (len(points) - dimension) // 2
    claims = []
    for chosen in combinations(range(len(points)), dimension):
        through = [(points[i], values[i]) for i in chosen]
        errors = [i for i, x in enumerate(points) if interpolate(through, x) != values[i]]
        if len(errors) <= bound and errors not in claims:
            claims.append(errors)
    assert len(claims) <= 1, "two code words are never that near to one word"
    return claims[0] if claims else None


@st.composite
def words(draw, most: int):
    """Draw points, a threshold, and a code word."""
    xs = draw(st.lists(elements, min_size=1, max_size=most, unique=True))
    dimension = draw(st.integers(1, len(xs)))
    polynomial = draw(st.lists(elements, min_size=dimension, max_size=dimension))
    return xs, dimension, [reference.evaluate(polynomial, x) for x in xs]


def spoil(values, places, by) -> list[int]:
    return [(y + by[i]) % PRIME if i in places else y for i, y in enumerate(values)]


@pytest.mark.slow
@settings(max_examples=300)
@given(words(24), st.data())
def test_errors_up_to_half_of_the_spare_shares_are_found_exactly(word, data):
    points, dimension, values = word
    bound = (len(points) - dimension) // 2
    wrong = sorted(data.draw(st.sets(st.integers(0, len(points) - 1), max_size=bound)))
    by = data.draw(st.lists(st.integers(1, PRIME - 1), min_size=len(points), max_size=len(points)))
    assert found(points, spoil(values, wrong, by), dimension) == wrong


@pytest.mark.slow
@settings(max_examples=300)
@given(words(7), st.data())
def test_any_number_of_errors_gives_what_brute_force_gives(word, data):
    points, dimension, values = word
    wrong = data.draw(st.sets(st.integers(0, len(points) - 1)))
    by = data.draw(st.lists(st.integers(1, PRIME - 1), min_size=len(points), max_size=len(points)))
    spoiled = spoil(values, wrong, by)
    assert found(points, spoiled, dimension) == by_brute_force(points, spoiled, dimension)


@pytest.mark.slow
@settings(max_examples=300)
@given(words(7), st.data())
def test_a_word_between_two_polynomials_gives_what_brute_force_gives(word, data):
    """The hardest case: liars that agree on another polynomial, which is near the first."""
    points, dimension, values = word
    other = data.draw(st.lists(elements, min_size=dimension, max_size=dimension))
    # It shares some values with the first.
    common = data.draw(st.sets(st.integers(0, len(points) - 1), max_size=dimension - 1))
    shift = [reference.evaluate(other, x) for x in points]
    for place in common:
        shift = [y * (x - points[place]) % PRIME for x, y in zip(points, shift, strict=True)]
    liars = data.draw(st.sets(st.integers(0, len(points) - 1)))
    spoiled = spoil(values, liars, shift)
    assert found(points, spoiled, dimension) == by_brute_force(points, spoiled, dimension)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data(), st.integers(1, 7))
def test_any_values_give_what_brute_force_gives(data, count):
    points = data.draw(st.lists(elements, min_size=count, max_size=count, unique=True))
    # There are few different values, so that some of them are on one polynomial by chance.
    values = data.draw(st.lists(st.integers(0, 2) | elements, min_size=count, max_size=count))
    dimension = data.draw(st.integers(1, count))
    assert found(points, values, dimension) == by_brute_force(points, values, dimension)


@pytest.mark.parametrize("value", [0, 1, PRIME - 1])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_constant_words_have_no_errors(value, count):
    for dimension in range(1, count + 1):
        assert found(range(1, count + 1), [value] * count, dimension) == []


@pytest.mark.parametrize(("num_points", "dimension"), [(63, 20), (64, 43), (65, 43), (300, 201), (300, 2), (1000, 667)])
def test_many_shares_with_as_many_errors_as_can_be_found(num_points, dimension):
    """Up to the size of a large session, where nothing may overflow."""
    rng = np.random.default_rng([num_points, dimension])
    points = rng.permutation(2 * num_points)[:num_points].astype(np.uint64) + np.uint64(1)
    polynomial = rng.integers(0, PRIME, dimension, dtype=np.uint64)
    values = np.zeros(num_points, dtype=np.uint64)
    for coefficient in polynomial[::-1]:
        values = (values * points + coefficient) % np.uint64(PRIME)
    bound = (num_points - dimension) // 2
    for count in (0, 1, bound - 1, bound):
        wrong = np.sort(rng.permutation(num_points)[:count])
        spoiled = values.copy()
        spoiled[wrong] = (spoiled[wrong] + rng.integers(1, PRIME, count, dtype=np.uint64)) % np.uint64(PRIME)
        assert found(points, spoiled, dimension) == wrong.tolist()
    wrong = rng.permutation(num_points)[: bound + 1]
    values[wrong] = (values[wrong] + rng.integers(1, PRIME, bound + 1, dtype=np.uint64)) % np.uint64(PRIME)
    assert found(points, values, dimension) is None


@pytest.mark.slow
@settings(max_examples=200)
@given(words(12), st.data())
def test_words_with_different_holders_give_the_same_together_as_one_by_one(word, data):
    points, dimension, values = word
    count = data.draw(st.integers(0, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    held, given = np.ones((count, len(points)), dtype=bool), np.tile(np.array(values, dtype=np.uint64), (count, 1))
    for row in range(count):
        held[row, rng.permutation(len(points))[: rng.integers(0, len(points) - dimension + 1)]] = False
        given[row, ~held[row]] = rng.integers(0, PRIME, np.count_nonzero(~held[row]))
        for place in rng.permutation(np.flatnonzero(held[row]))[: rng.integers(0, len(points))]:
            given[row, place] = rng.integers(0, PRIME)
    errors, is_found = find_errors(np.array(points, dtype=np.uint64), held, given, dimension)
    for row in range(count):
        places = np.flatnonzero(held[row])
        alone = found([points[place] for place in places], given[row, places], dimension)
        assert (np.flatnonzero(errors[row]).tolist() if is_found[row] else None) == (
            None if alone is None else places[alone].tolist()
        )


def test_the_arguments_are_left_as_they_were():
    points, values = np.arange(1, 8, dtype=np.uint64), np.array([[5, 5, 5, 9, 5, 5, 5]], dtype=np.uint64)
    held = np.ones((1, 7), dtype=bool)
    before = points.copy(), held.copy(), values.copy()
    errors, is_found = find_errors(points, held, values, 2)
    assert (np.flatnonzero(errors).tolist(), is_found.tolist()) == ([3], [True])
    for argument, copy in zip((points, held, values), before, strict=True):
        assert np.array_equal(argument, copy)
