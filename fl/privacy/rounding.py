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

Privacy needs only the bounds: they hold for every rounding, so its randomness need not be secret.
"""

import math

import numpy as np
import numpy.typing as npt

from fl.privacy.rotation import FloatVector

# One of so many draws is accepted except with probability 2^-184, for any vector within the bound.
_MOST_DRAWS = 256


def clip_to(vector: FloatVector, clip: float) -> bool:
    """Scale a vector in place to the L2 norm ``clip``, if it is longer; return whether it was.

    Raises:
        ValueError: an element is not finite.
    """
    largest = float(np.abs(vector).max(initial=0.0))
    if not math.isfinite(largest):
        raise ValueError("an update that is not finite cannot be clipped")
    # Divided by the largest element, no square overflows.
    norm = largest * float(np.linalg.norm(vector / largest)) if largest else 0.0
    if norm <= clip:
        return False
    vector *= clip / norm
    return True


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
    for _ in range(_MOST_DRAWS):
        moved = rng.random(len(vector))
        moved += vector
        rounded = np.floor(moved, out=moved).astype(np.int64)
        if int(np.dot(rounded, rounded)) <= bound:
            return rounded
    raise ValueError("the vector is longer than the bound on rounded vectors allows")
