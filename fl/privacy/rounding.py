"""Clipping and conditional stochastic rounding (Kairouz, Liu, Steinke 2021, section 4): integers of a bounded length.

An update x with |x| <= c, rotated and divided by the granularity gamma, becomes y with |y| <= s c, s = 1/gamma, in R^D.
Each element is rounded up with the probability of its fraction, so E[r] = y.  Rounding can lengthen a vector: always

    |r| <= |y| + sqrt D,

since no element moves by 1 or more.  Mostly it lengthens it by less: |r|^2 has mean at most |y|^2 + D/4, and its
deviation above the mean is sub-Gaussian, so that with probability at least 1 - beta

    |r|^2 <= |y|^2 + D/4 + sqrt(2 ln(1/beta)) (|y| + sqrt(D)/2).

The rounding is drawn again until |r|^2 is at most the smaller of the two bounds, D2^2 (beta = e^(-1/2), as in both
papers: at most 1/(1 - e^(-1/2)) < 2.6 draws on average).  For integers |r|_1 <= |r|^2, and always |r|_1 <= sqrt(D) |r|,
so D1 = D2 min(sqrt D, D2).

Privacy needs only the bounds: they hold for every rounding, so its randomness need not be secret.  It is 32 bits for
each element, so E[r] = y to 2^-32.
"""

import math

import numpy as np
import numpy.typing as npt

from fl.privacy.rotation import FloatVector
from secagg.primitives.prg import KEY_BYTES, Keystream, chunk_buffer

# One of this many draws is accepted except with probability 2^-184, for any vector within the bound.
_MOST_DRAWS = 256

# Of elements; small enough for the processor's cache.
_BLOCK = 1 << 14

_EXACT = 1 << 53

# Squares of elements this small can vanish.
_SMALLEST = 1e-200


def clip_factor(vector: FloatVector, clip: float) -> float:
    """Return the factor, at most 1, that scales a vector down to the L2 norm ``clip``.

    Raises:
        ValueError: an element is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squared = float(np.dot(vector, vector))
    if not _SMALLEST < squared < math.inf:
        # Divided by the largest element, no square overflows, and few vanish.
        largest = float(np.abs(vector).max(initial=0.0))
        if not math.isfinite(largest):
            raise ValueError("an update that is not finite cannot be clipped")
        if not largest:
            return 1.0
        scaled = vector / largest
        return min(1.0, clip / largest / math.sqrt(float(np.dot(scaled, scaled))))
    return min(1.0, clip / math.sqrt(squared))


def squared_bound(scaled_clip: float, dimension: int) -> int:
    """Return D2^2, rounded down, for vectors of L2 norm ``scaled_clip`` = c/gamma in ``dimension`` dimensions."""
    always = (scaled_clip + math.sqrt(dimension)) ** 2
    # sqrt(2 ln(1/beta)) is 1 for beta = e^(-1/2).
    mostly = scaled_clip**2 + dimension / 4 + scaled_clip + math.sqrt(dimension) / 2
    return math.floor(min(always, mostly))


def l1_bound(squared_l2: int, dimension: int) -> float:
    """Return D1, the bound on the L1 norm of integers of squared L2 norm at most ``squared_l2``."""
    return math.sqrt(squared_l2) * min(math.sqrt(dimension), math.sqrt(squared_l2))


def round_within(vector: FloatVector, bound: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the vector rounded at random to integers whose squared L2 norm is at most ``bound``, int64, same shape.

    Raises:
        ValueError: the vector is too long for the bound.
    """
    rounded, moved = np.empty(len(vector), dtype=np.int64), np.empty(min(len(vector), _BLOCK))
    buffer = chunk_buffer(4 * len(moved))
    for _ in range(_MOST_DRAWS):
        keystream, squared = Keystream(rng.bytes(KEY_BYTES)), 0
        for number, start in enumerate(range(0, len(vector), _BLOCK)):
            part, whole = vector[start : start + _BLOCK], rounded[start : start + _BLOCK]
            near = moved[: len(part)]
            keystream.chunk_into(number, memoryview(buffer), 4 * len(part))
            np.multiply(np.frombuffer(buffer, dtype="<u4", count=len(part)), 2.0**-32, out=near)
            near += part
            np.floor(near, out=near)
            whole[:] = near
            # Sums of squares below 2^53 are exact in floats, and larger ones stay above.
            squared += int(np.dot(near, near)) if bound < _EXACT else int(np.dot(whole, whole))
        if squared <= bound:
            return rounded
    raise ValueError("the vector is longer than the bound on rounded vectors allows")
