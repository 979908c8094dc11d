"""Vectors over Z_{2^b}, 1 <= b <= 64.

A vector is held in the smallest unsigned little-endian word w >= b bits.  Sums wrap modulo 2^w, and since
2^b divides 2^w, the low b bits are always right: one reduction at the end is enough.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Word: TypeAlias = np.unsignedinteger[Any]
RingVector: TypeAlias = npt.NDArray[Word]

MIN_RING_BITS = 1
MAX_RING_BITS = 64


def word_dtype(ring_bits: int) -> np.dtype[Word]:
    """Return the dtype of an element: uint8, uint16, uint32 or uint64, little-endian on all machines."""
    if not MIN_RING_BITS <= ring_bits <= MAX_RING_BITS:
        raise ValueError(f"ring_bits must be between {MIN_RING_BITS} and {MAX_RING_BITS}, not {ring_bits}")
    for bits in (8, 16, 32):
        if ring_bits <= bits:
            return np.dtype(f"<u{bits // 8}")
    return np.dtype("<u8")


def zeros(length: int, ring_bits: int) -> RingVector:
    """Return the zero vector, shape (length,)."""
    return np.zeros(length, dtype=word_dtype(ring_bits))


def is_vector(value: object, length: int, ring_bits: int) -> bool:
    """Return whether ``value`` is an array of shape (length,) with the dtype of the ring."""
    return isinstance(value, np.ndarray) and value.shape == (length,) and value.dtype == word_dtype(ring_bits)


def reduce_in_place(vector: RingVector, ring_bits: int) -> None:
    """Clear all bits above the low ``ring_bits`` bits."""
    if ring_bits < 8 * vector.dtype.itemsize:
        np.bitwise_and(vector, vector.dtype.type((1 << ring_bits) - 1), out=vector)


def is_reduced(vector: RingVector, ring_bits: int) -> bool:
    """Return whether all elements are below 2^ring_bits."""
    return vector.size == 0 or ring_bits == 8 * vector.dtype.itemsize or int(vector.max()) >> ring_bits == 0


def centered_lift(vector: RingVector, ring_bits: int) -> npt.NDArray[np.int64]:
    """Return the representative of each element in [-2^(b-1), 2^(b-1)), same shape, int64."""
    shift = np.int64(64 - ring_bits)
    # Moving the sign bit to bit 63 and back lets the arithmetic shift extend it.
    return (vector.astype(np.uint64) << np.uint64(shift)).view(np.int64) >> shift
