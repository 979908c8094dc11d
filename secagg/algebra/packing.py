"""Pack ring vectors into bit strings of exactly b bits for each element.

Element i fills bits [i*b, (i+1)*b) of the string, least significant bit first, in bytes least significant bit
first; the last byte is padded with zero bits.

Eight elements fill b bytes exactly, so the elements r, r+8, r+16, ... all begin at the same bit of a byte, b bytes
apart: one array operation on unaligned 64-bit words with a stride of b bytes moves them all.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from secagg.algebra.ring import RingVector, Word, word_dtype
from secagg.native.packing import GROUP, PackingCode, packing_code

Octets = npt.NDArray[np.uint8]

_WORD = np.dtype("<u8")
_WORD_BYTES = 8

# A word that starts in the last byte extends this far beyond it, and one byte further if it is not byte-aligned.
_SLACK = _WORD_BYTES + 1

# Elements processed at a time, a multiple of all group sizes; bounds the temporary arrays.
_BLOCK_ELEMENTS = 1 << 18

# Shorter vectors take numpy less time than LLVM needs to compile the code, a tenth of a second.
_WORTH_COMPILING = 1 << 14


def packed_size(length: int, ring_bits: int) -> int:
    """Return the number of bytes of ``length`` elements of ``ring_bits`` bits."""
    return (length * ring_bits + 7) // 8


def pack(vector: RingVector, ring_bits: int) -> Octets:
    """Return the bit string of a reduced vector (shape (m,), dtype of its ring): uint8, shape (packed_size(m, b),)."""
    if vector.dtype != word_dtype(ring_bits):
        raise ValueError(f"a ring of {ring_bits} bits has dtype {word_dtype(ring_bits)}, not {vector.dtype}")
    if ring_bits == 8 * vector.dtype.itemsize:
        return np.ascontiguousarray(vector).view(np.uint8)
    packed = np.zeros(packed_size(len(vector), ring_bits) + _SLACK, dtype=np.uint8)
    done = 0
    if len(vector) >= _WORTH_COMPILING and vector.flags.c_contiguous and (code := _machine_code(ring_bits)):
        done = code.pack(packed, vector)
    _pack_from(done, vector, ring_bits, packed)
    return packed[:-_SLACK]


def unpack(packed: Octets, length: int, ring_bits: int) -> RingVector:
    """Return the vector of ``length`` elements of a bit string; padding bits are ignored (see `padding_is_zero`)."""
    if packed.shape != (packed_size(length, ring_bits),):
        raise ValueError(f"{length} elements of {ring_bits} bits are {packed_size(length, ring_bits)} bytes")
    dtype = word_dtype(ring_bits)
    if ring_bits == 8 * dtype.itemsize:
        return packed.copy().view(dtype)
    vector = np.empty(length, dtype=dtype)
    done = 0
    if length >= _WORTH_COMPILING and packed.flags.c_contiguous and (code := _machine_code(ring_bits)):
        done = code.unpack(packed, vector)
    _unpack_from(done, packed, ring_bits, vector)
    return vector


def padding_is_zero(packed: Octets, length: int, ring_bits: int) -> bool:
    """Return whether the bits after the last element are zero, as `pack` leaves them."""
    used = length * ring_bits % 8
    return used == 0 or int(packed[-1]) >> used == 0


@cache
def _machine_code(ring_bits: int) -> PackingCode | None:
    """Return machine code for this ring, if it can be had and gives the same as numpy."""
    code = packing_code(ring_bits, 8 * word_dtype(ring_bits).itemsize)
    if code is None:
        return None
    vector = np.arange(1, 2 * GROUP + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - ring_bits)
    vector = vector.astype(word_dtype(ring_bits))
    expected = np.zeros(packed_size(len(vector), ring_bits) + _SLACK, dtype=np.uint8)
    _pack_from(0, vector, ring_bits, expected)
    packed, unpacked = np.zeros_like(expected), np.zeros_like(vector)
    code.pack(packed, vector)
    code.unpack(packed, unpacked)
    return code if np.array_equal(packed, expected) and np.array_equal(unpacked, vector) else None


def _pack_from(first: int, vector: RingVector, ring_bits: int, packed: Octets) -> None:
    """Pack the elements from ``first`` on, a multiple of 8, with numpy."""
    for start in range(first, len(vector), _BLOCK_ELEMENTS):
        _pack_block(vector[start : start + _BLOCK_ELEMENTS], ring_bits, packed[start * ring_bits // 8 :])


def _unpack_from(first: int, packed: Octets, ring_bits: int, vector: RingVector) -> None:
    """Unpack the elements from ``first`` on, a multiple of 8, with numpy."""
    length = len(vector)
    padded = np.zeros(packed_size(min(length - first, _BLOCK_ELEMENTS), ring_bits) + _SLACK, dtype=np.uint8)
    for start in range(first, length, _BLOCK_ELEMENTS):
        block = vector[start : start + _BLOCK_ELEMENTS]
        place = start * ring_bits // 8
        source = packed[place : place + packed_size(len(block), ring_bits)]
        padded[: len(source)] = source
        _unpack_block(padded, ring_bits, block)


def _pack_block(block: RingVector, ring_bits: int, packed: Octets) -> None:
    # A pass must not write a byte twice, so narrow elements are taken in larger groups, whose words do not overlap.
    group = 8 * -(-_WORD_BYTES // ring_bits)
    shifted = np.empty(-(-len(block) // group), dtype=_WORD)
    for place in range(min(group, len(block))):
        elements = block[place::group]
        first, shift = divmod(place * ring_bits, 8)
        bits = shifted[: len(elements)]
        np.left_shift(elements, np.uint64(shift), out=bits, dtype=_WORD, casting="unsafe")
        words = _every(packed, first, len(elements), group * ring_bits // 8, _WORD)
        np.bitwise_or(words, bits, out=words)
        if shift + ring_bits > 64:
            np.right_shift(elements, np.uint64(64 - shift), out=bits, dtype=_WORD, casting="unsafe")
            rest = _every(packed, first + _WORD_BYTES, len(elements), group * ring_bits // 8, np.dtype(np.uint8))
            np.bitwise_or(rest, bits.astype(np.uint8), out=rest)


def _unpack_block(padded: Octets, ring_bits: int, block: RingVector) -> None:
    bits = np.empty(-(-len(block) // 8), dtype=_WORD)
    for place in range(min(8, len(block))):
        elements = block[place::8]
        first, shift = divmod(place * ring_bits, 8)
        value = bits[: len(elements)]
        np.right_shift(_every(padded, first, len(elements), ring_bits, _WORD), np.uint64(shift), out=value)
        if shift + ring_bits > 64:
            rest = _every(padded, first + _WORD_BYTES, len(elements), ring_bits, np.dtype(np.uint8))
            value |= rest.astype(_WORD) << np.uint64(64 - shift)
        np.bitwise_and(value, np.uint64((1 << ring_bits) - 1), out=value)
        elements[:] = value


def _every(octets: Octets, first: int, count: int, stride: int, dtype: np.dtype[Word]) -> npt.NDArray[Word]:
    """Return a view of ``count`` words, the first at byte ``first``, ``stride`` bytes apart."""
    return np.ndarray((count,), dtype=dtype, buffer=octets.data, offset=first, strides=(stride,))
