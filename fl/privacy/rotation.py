"""The randomised Hadamard rotation, which spreads an update evenly over its coordinates.

With D a power of two, H the Walsh-Hadamard matrix and s random signs, y = (1/sqrt D) H diag(s) x has the length of x,
and each coordinate is sub-Gaussian with variance |x|^2 / D.  So the coordinates of a sum are small, and a narrow ring
holds them.  The signs are public: they help accuracy alone, and privacy does not depend on them.

All is float64: its rounding is below 2^-45 of |x|, far below a step of the encoding for every |x| up to 2^31 steps.
In float32 it would be a step already at 2^17 or so.  Privacy does not depend on it: the length of the *integers* is
checked after they are rounded.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from secagg.primitives.prg import KeystreamReader

FloatVector = npt.NDArray[np.float64]

# A pass multiplies by the Hadamard matrix of this order, whose elements are powers of two. A product of matrices of
# this size is faster than the four passes of additions that it replaces, each of which would be bound by memory.
_RADIX_BITS = 4
_RADIX = 1 << _RADIX_BITS

# All passes over at most 2^16 elements that lie together are made while they are in the processor's cache.
_NEAR_BITS = 16

# Of elements that lie apart, a pass takes this many columns at a time.
_COLUMNS = 1 << 10

# The signs that each byte stands for. A block of them stays in the processor's cache.
_SIGNS = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1)
_BLOCK = 1 << 11


def padded_length(length: int) -> int:
    """Return the smallest power of two that is at least ``length`` >= 1."""
    return 1 << (length - 1).bit_length()


def rotate(vector: npt.NDArray[np.floating], seed: bytes, scale: float = 1.0) -> FloatVector:
    """Return a vector of shape (length,), scaled and rotated by a public seed, float64, shape (padded_length,)."""
    rotated = np.zeros(padded_length(len(vector)))
    np.multiply(vector, scale, out=rotated[: len(vector)])
    rotate_in_place(rotated, seed)
    return rotated


def rotate_in_place(vector: FloatVector, seed: bytes) -> None:
    """Rotate a vector by a public seed; its length is a power of two."""
    _flip(vector, seed)
    hadamard(vector)


def rotate_back(rotated: FloatVector, length: int, seed: bytes) -> FloatVector:
    """Undo `rotate` in place, and return the first ``length`` elements."""
    hadamard(rotated)
    _flip(rotated, seed)
    return rotated[:length]


def hadamard(vector: FloatVector) -> None:
    """Replace a vector, whose length D is a power of two, by (1/sqrt D) H vector: O(D log D), no memory beside it."""
    size = len(vector)
    if size & (size - 1):
        raise ValueError(f"the length of a Hadamard transform is a power of two, not {size}")
    # As many that the passes over the others are all of the whole radix.
    bits = size.bit_length() - 1
    inner = 1 << (bits if bits <= _NEAR_BITS else _NEAR_BITS - (_NEAR_BITS - bits) % _RADIX_BITS)
    spare = np.empty(max(inner, _RADIX * _COLUMNS))
    for near in vector.reshape(-1, inner):
        _transform_near(near, spare[:inner])
    product = spare[: _RADIX * _COLUMNS].reshape(_RADIX, -1)
    while inner < size:
        matrix = _matrix(_RADIX)
        for rows in vector.reshape(-1, _RADIX, inner):
            for start in range(0, inner, _COLUMNS):
                columns = rows[:, start : start + _COLUMNS]
                np.matmul(matrix, columns, out=product)
                columns[:] = product
        inner *= _RADIX


def _transform_near(vector: FloatVector, spare: FloatVector) -> None:
    """Transform a vector in place; ``spare`` has its length."""
    source, target, inner = vector, spare, 1
    while inner < len(vector):
        radix = min(_RADIX, len(vector) // inner)
        matrix, shape = _matrix(radix), (-1, radix, inner)
        if inner == 1:
            np.matmul(source.reshape(-1, radix), matrix, out=target.reshape(-1, radix))
        else:
            np.matmul(matrix, source.reshape(shape), out=target.reshape(shape))
        source, target = target, source
        inner *= radix
    if source is not vector:
        vector[:] = source


def _flip(vector: FloatVector, seed: bytes) -> None:
    """Multiply by random signs, one for each bit of the seed's keystream."""
    stream = np.frombuffer(KeystreamReader(seed)(-(-len(vector) // 8)), dtype=np.uint8)
    signs = np.empty((min(_BLOCK, len(stream)), 8))
    for start in range(0, len(stream), _BLOCK):
        chosen, part = stream[start : start + _BLOCK], vector[8 * start : 8 * (start + _BLOCK)]
        # All indices are valid; other modes than "raise" write into the buffer without a copy.
        np.take(_SIGNS, chosen, axis=0, out=signs[: len(chosen)], mode="clip")
        part *= signs.ravel()[: len(part)]


@lru_cache(maxsize=8)
def _matrix(order: int) -> FloatVector:
    """Return the orthonormal Hadamard matrix of this order, a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix /= np.sqrt(order)
    matrix.flags.writeable = False
    return matrix
