"""Bit packing: exactly b bits for each element, as in one big integer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.algebra.packing import _BLOCK_ELEMENTS, pack, packed_size, padding_is_zero, unpack
from secagg.algebra.ring import word_dtype
from tests import reference


def random_vector(length: int, ring_bits: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng([seed, length, ring_bits])
    largest = (1 << ring_bits) - 1
    return rng.integers(0, largest, length, dtype=np.uint64, endpoint=True).astype(word_dtype(ring_bits))


def check(vector: np.ndarray, ring_bits: int) -> None:
    packed = pack(vector, ring_bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (packed_size(len(vector), ring_bits),)
    assert packed.tobytes() == reference.pack(vector.tolist(), ring_bits)
    assert padding_is_zero(packed, len(vector), ring_bits)
    unpacked = unpack(packed, len(vector), ring_bits)
    assert unpacked.dtype == word_dtype(ring_bits)
    assert np.array_equal(unpacked, vector)


@pytest.mark.parametrize("ring_bits", range(1, 65))
def test_packing_is_one_big_integer_at_every_width(ring_bits):
    for length in (1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 129, 1000):
        check(random_vector(length, ring_bits), ring_bits)


@pytest.mark.parametrize("ring_bits", [1, 3, 12, 13, 24, 33, 61, 63])
@pytest.mark.parametrize("length", [_BLOCK_ELEMENTS - 1, _BLOCK_ELEMENTS + 1, 2 * _BLOCK_ELEMENTS + 65])
def test_packing_across_its_blocks(ring_bits, length):
    """Packing works in blocks of elements: no element may be lost or changed where a block ends."""
    vector = random_vector(length, ring_bits)
    packed = pack(vector, ring_bits)
    assert np.array_equal(unpack(packed, length, ring_bits), vector)
    for start in range(0, length, _BLOCK_ELEMENTS):
        # Eight elements fill whole bytes, so the bytes around a multiple of eight elements can be taken separately.
        first = max(0, start - 800)
        part = vector[first : start + 800]
        expected = reference.pack(part.tolist(), ring_bits)
        whole = len(part) // 8 * ring_bits
        assert packed[first // 8 * ring_bits :][:whole].tobytes() == expected[:whole]


@pytest.mark.parametrize("ring_bits", range(1, 65))
@pytest.mark.parametrize("fill", ["zeros", "ones"])
def test_extreme_vectors(ring_bits, fill):
    value = 0 if fill == "zeros" else (1 << ring_bits) - 1
    check(np.full(131, value, dtype=word_dtype(ring_bits)), ring_bits)


@settings(max_examples=200)
@given(st.integers(1, 64), st.integers(1, 300), st.integers(0, 2**32))
def test_packing_at_any_width_and_length(ring_bits, length, seed):
    check(random_vector(length, ring_bits, seed), ring_bits)


@settings(max_examples=200)
@given(st.data(), st.integers(1, 64), st.integers(1, 40))
def test_any_bits_unpack_to_what_packs_to_them(data, ring_bits, length):
    size = packed_size(length, ring_bits)
    packed = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype=np.uint8)
    again = pack(unpack(packed, length, ring_bits), ring_bits)
    assert padding_is_zero(packed, length, ring_bits) == np.array_equal(again, packed)


@pytest.mark.parametrize("ring_bits", [1, 7, 8, 13, 64])
def test_vectors_that_are_not_contiguous(ring_bits):
    vector = random_vector(200, ring_bits)
    assert np.array_equal(pack(vector[::-2], ring_bits), pack(vector[::-2].copy(), ring_bits))


@pytest.mark.parametrize("ring_bits", [1, 7, 8, 13, 32, 63])
@pytest.mark.parametrize("change", [-1, 1])
def test_bit_strings_of_another_size_are_refused(ring_bits, change):
    size = packed_size(21, ring_bits) + change
    with pytest.raises(ValueError, match="21 elements"):
        unpack(np.zeros(size, dtype=np.uint8), 21, ring_bits)


@pytest.mark.parametrize("ring_bits", [1, 8, 9, 33])
def test_bit_strings_of_another_shape_are_refused(ring_bits):
    with pytest.raises(ValueError, match="8 elements"):
        unpack(np.zeros((1, packed_size(8, ring_bits)), dtype=np.uint8), 8, ring_bits)


@pytest.mark.parametrize(("ring_bits", "dtype"), [(8, "u2"), (9, "u1"), (17, "i4"), (64, "f8"), (33, ">u8")])
def test_vectors_of_another_dtype_are_refused(ring_bits, dtype):
    with pytest.raises(ValueError, match="dtype"):
        pack(np.zeros(4, dtype=dtype), ring_bits)


@pytest.mark.parametrize("ring_bits", [1, 3, 9, 63])
def test_every_padding_bit_is_seen(ring_bits):
    length = 3
    packed = pack(random_vector(length, ring_bits), ring_bits)
    for bit in range(length * ring_bits % 8, 8):
        dirty = packed.copy()
        dirty[-1] |= np.uint8(1 << bit)
        assert not padding_is_zero(dirty, length, ring_bits)
        assert np.array_equal(unpack(dirty, length, ring_bits), unpack(packed, length, ring_bits))


@pytest.mark.parametrize(("length", "ring_bits", "size"), [(1, 1, 1), (8, 1, 1), (9, 1, 2), (5, 13, 9), (2, 64, 16)])
def test_sizes(length, ring_bits, size):
    assert packed_size(length, ring_bits) == size
