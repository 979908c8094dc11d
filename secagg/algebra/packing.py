"""Ring vectors as bit strings of exactly b bits an element.

Element i fills bits [i*b, (i+1)*b) of the string, least significant bit first, in bytes least significant bit
first; the last byte is padded with zero bits.  Both directions work on whole groups: g = 64/gcd(b, 64) elements
are b/gcd(b, 64) 64-bit words, so one array operation serves the same element of every group.
"""

from math import gcd

import numpy as np
import numpy.typing as npt

from secagg.algebra.ring import RingVector, word_dtype

_WORD = np.dtype("<u8")

# Elements that are in flight at a time: the temporaries (8 bytes an element) stay in the second-level cache.
_BLOCK_ELEMENTS = 1 << 14


def packed_size(length: int, ring_bits: int) -> int:
    """Bytes of ``length`` elements of ``ring_bits`` bits."""
    return (length * ring_bits + 7) // 8


def pack(vector: RingVector, ring_bits: int) -> npt.NDArray[np.uint8]:
    """The bit string of a reduced vector (shape (m,), its ring's dtype): uint8, shape (packed_size(m, b),)."""
    if vector.dtype != word_dtype(ring_bits):
        raise ValueError(f"a ring of {ring_bits} bits has dtype {word_dtype(ring_bits)}, not {vector.dtype}")
    itemsize = vector.dtype.itemsize
    octets = np.ascontiguousarray(vector).view(np.uint8)
    if ring_bits % 8 == 0:
        return np.ascontiguousarray(octets.reshape(-1, itemsize)[:, : ring_bits // 8]).reshape(-1)
    packed = np.empty(packed_size(len(vector), ring_bits), dtype=np.uint8)
    for start in range(0, len(vector), _BLOCK_ELEMENTS):
        block = vector[start : start + _BLOCK_ELEMENTS]
        first = start * ring_bits // 8
        size = packed_size(len(block), ring_bits)
        packed[first : first + size] = _pack_block(block, ring_bits).view(np.uint8)[:size]
    return packed


def unpack(packed: npt.NDArray[np.uint8], length: int, ring_bits: int) -> RingVector:
    """The vector of ``length`` elements in a bit string; the padding bits are ignored (see `padding_is_zero`)."""
    if packed.shape != (packed_size(length, ring_bits),):
        raise ValueError(f"{length} elements of {ring_bits} bits are {packed_size(length, ring_bits)} bytes")
    dtype = word_dtype(ring_bits)
    if ring_bits % 8 == 0:
        octets = np.zeros((length, dtype.itemsize), dtype=np.uint8)
        octets[:, : ring_bits // 8] = packed.reshape(length, ring_bits // 8)
        return octets.reshape(-1).view(dtype)
    vector = np.empty(length, dtype=dtype)
    for start in range(0, length, _BLOCK_ELEMENTS):
        count = min(_BLOCK_ELEMENTS, length - start)
        first = start * ring_bits // 8
        block = packed[first : first + packed_size(count, ring_bits)]
        vector[start : start + count] = _unpack_block(block, count, ring_bits)
    return vector


def padding_is_zero(packed: npt.NDArray[np.uint8], length: int, ring_bits: int) -> bool:
    """Whether the bits after the last element are zero, as `pack` leaves them."""
    used = length * ring_bits % 8
    return used == 0 or int(packed[-1]) >> used == 0


def _pack_block(block: RingVector, ring_bits: int) -> npt.NDArray[np.uint64]:
    common = gcd(ring_bits, 64)
    group, words = 64 // common, ring_bits // common
    groups = -(-len(block) // group)
    # One row an element's place in its group: the rows are contiguous, so every step below is too.
    elements = np.zeros((group, groups), dtype=_WORD)
    whole = len(block) // group
    elements[:, :whole] = block[: whole * group].reshape(whole, group).T
    elements[: len(block) - whole * group, whole:] = block[whole * group :, None]
    packed = np.zeros((words, groups), dtype=_WORD)
    spill = np.empty(groups, dtype=_WORD)
    for place in range(group):
        word, shift = divmod(place * ring_bits, 64)
        np.left_shift(elements[place], np.uint64(shift), out=spill)
        packed[word] |= spill
        if shift + ring_bits > 64:
            np.right_shift(elements[place], np.uint64(64 - shift), out=spill)
            packed[word + 1] |= spill
    return np.ascontiguousarray(packed.T).reshape(-1)


def _unpack_block(block: npt.NDArray[np.uint8], count: int, ring_bits: int) -> npt.NDArray[np.uint64]:
    common = gcd(ring_bits, 64)
    group, words = 64 // common, ring_bits // common
    groups = -(-count // group)
    octets = np.zeros(groups * words * 8, dtype=np.uint8)
    octets[: len(block)] = block
    packed = np.ascontiguousarray(octets.view(_WORD).reshape(groups, words).T)
    elements = np.empty((group, groups), dtype=_WORD)
    spill = np.empty(groups, dtype=_WORD)
    mask = np.uint64((1 << ring_bits) - 1)
    for place in range(group):
        word, shift = divmod(place * ring_bits, 64)
        row = elements[place]
        np.right_shift(packed[word], np.uint64(shift), out=row)
        if shift + ring_bits > 64:
            np.left_shift(packed[word + 1], np.uint64(64 - shift), out=spill)
            row |= spill
        row &= mask
    return elements.T.reshape(-1)[:count]
