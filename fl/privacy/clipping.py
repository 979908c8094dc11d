"""Adaptive clipping: the clip follows a quantile of the norms of updates, by a noisy count (Andrew et al. 2021).

Clients say in one bit whether their update was within the clip C; the bit travels behind the update and shares its
noise.  With b the noisy share of clients that were, and q the quantile to find,

    C <- C exp(-rate (b - q)).

The clip moves by the same factor whatever its size, so it finds updates of unknown size from any start.  A round costs
the same privacy with any clip: noise and step grow with it (`Mechanism.with_clip`).
"""

import math
from typing import Any

RATE = 0.2
"""The factor in the exponent, as in the paper."""

# After this many powers of two away from its start, a clip is an accident.
_FURTHEST = 2.0**40


class Clipping:
    """The present clip of a private run.

    Args:
        clip: the first clip.
        quantile: the share of updates that should be within the clip; None for a clip that stays.
        rate: the speed with which the clip follows.

    Attributes:
        clip: the clip of the next round.
    """

    def __init__(self, clip: float, quantile: float | None = None, rate: float = RATE) -> None:
        self.clip = self._first = clip
        self.quantile = quantile
        self.rate = rate

    def follow(self, within: float) -> None:
        """Move the clip after a round in which about this share of the updates was within it."""
        if self.quantile is None:
            return
        moved = self.clip * math.exp(-self.rate * (min(max(within, 0.0), 1.0) - self.quantile))
        self.clip = min(max(moved, self._first / _FURTHEST), self._first * _FURTHEST)

    def to_json(self) -> float:
        """Return the state."""
        return self.clip

    def restore(self, stored: Any) -> None:
        """Go on from a stored state; None, of a run without one, changes nothing. ValueError: it is not a clip."""
        if stored is None:
            return
        clip = float(stored)
        if not (math.isfinite(clip) and clip > 0):
            raise ValueError(f"a clip of {stored}")
        self.clip = clip
