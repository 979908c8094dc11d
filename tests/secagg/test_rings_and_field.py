"""Rings and the field against Python's integers, up to the limits of float64's exactness."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.algebra import field, ring
from secagg.algebra.field import MAX_INNER_DIMENSION, PRIME
from tests import reference

elements = st.integers(0, PRIME - 1)


@pytest.mark.parametrize("ring_bits", range(1, 65))
def test_a_ring_has_the_smallest_word_that_holds_it(ring_bits):
    dtype = ring.word_dtype(ring_bits)
    assert 8 * dtype.itemsize == reference.word_bits(ring_bits)
    assert dtype.kind == "u"
    assert dtype == dtype.newbyteorder("<"), "little-endian on every machine"


@pytest.mark.parametrize("ring_bits", [0, 65, -1])
def test_a_ring_has_at_most_64_bits(ring_bits):
    with pytest.raises(ValueError, match="between 1 and 64"):
        ring.word_dtype(ring_bits)


@given(st.integers(1, 64), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_reduction_keeps_the_low_bits(ring_bits, values):
    word = reference.word_bits(ring_bits)
    vector = np.array([value % 2**word for value in values], dtype=ring.word_dtype(ring_bits))
    assert ring.is_reduced(vector, ring_bits) == all(value % 2**word < 2**ring_bits for value in values)
    ring.reduce_in_place(vector, ring_bits)
    assert vector.tolist() == [value % 2**ring_bits for value in values]
    assert ring.is_reduced(vector, ring_bits)


@given(st.integers(1, 64), st.data())
def test_the_centered_lift_is_the_representative_nearest_zero(ring_bits, data):
    half = 2 ** (ring_bits - 1)
    wanted = data.draw(st.lists(st.integers(-half, half - 1), min_size=1, max_size=20))
    vector = np.array([value % 2**ring_bits for value in wanted], dtype=ring.word_dtype(ring_bits))
    lifted = ring.centered_lift(vector, ring_bits)
    assert lifted.dtype == np.int64
    assert lifted.tolist() == wanted


@pytest.mark.parametrize("ring_bits", range(1, 65))
def test_the_centered_lift_at_its_edges(ring_bits):
    half = 2 ** (ring_bits - 1)
    vector = np.array([0, half - 1, half, 2**ring_bits - 1], dtype=ring.word_dtype(ring_bits))
    assert ring.centered_lift(vector, ring_bits).tolist() == [0, half - 1, -half, -1]


def test_zeros():
    vector = ring.zeros(5, 17)
    assert vector.dtype == np.uint32
    assert vector.tolist() == [0] * 5


def test_the_prime_is_the_largest_below_2_to_16():
    def is_prime(number):
        return all(number % divisor for divisor in range(2, int(number**0.5) + 1))

    assert PRIME == reference.PRIME == max(number for number in range(65000, 2**16) if is_prime(number))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_reduce_is_mod_p(values):
    assert field.reduce(np.array(values, dtype=np.uint64)).tolist() == [value % PRIME for value in values]


@given(st.lists(elements, min_size=1, max_size=8), st.lists(elements, min_size=1, max_size=8))
def test_multiplication_broadcasts(left, right):
    product = field.multiply(np.array(left, dtype=np.uint64)[:, None], np.array(right, dtype=np.uint64))
    assert product.tolist() == [[a * b % PRIME for b in right] for a in left]


def test_every_element_but_zero_has_its_inverse():
    everything = np.arange(PRIME, dtype=np.uint64)
    inverses = field.inverse(everything)
    assert int(inverses[0]) == 0
    assert np.array_equal(field.multiply(everything, inverses)[1:], np.ones(PRIME - 1))


def test_float64_is_exact_up_to_the_largest_inner_dimension():
    """Every product is the largest possible, (p-1)^2 = 1 mod p, and the number of summands is the largest allowed."""
    assert MAX_INNER_DIMENSION * PRIME**2 <= 2**53 < (MAX_INNER_DIMENSION + 1) * PRIME**2
    for inner in (1, 2, 1000, 2**20 + 1, MAX_INNER_DIMENSION):
        largest = np.full(inner, PRIME - 1, dtype=np.float64)
        assert int(field.matmul(largest[None, :], largest[:, None])[0, 0]) == inner * (PRIME - 1) ** 2 % PRIME


def test_beyond_it_the_product_is_refused():
    ones = np.ones(MAX_INNER_DIMENSION + 1)
    with pytest.raises(ValueError, match="not exact"):
        field.matmul(ones[None, :], ones[:, None])
