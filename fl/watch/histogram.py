"""Durations by how long they took, as Prometheus counts them."""

from bisect import bisect_left
from dataclasses import dataclass

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Seconds. From a phase on loopback to the longest that slow clients are waited for."""


@dataclass(frozen=True, slots=True)
class Durations:
    """Immutable, so that a reader needs no lock.

    Attributes:
        counts: durations up to each of `BOUNDS` and above the one before it; the last: above all of them.
        total: of all durations, in seconds.
    """

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0

    def with_one(self, seconds: float) -> "Durations":
        """These and one more."""
        place = bisect_left(BOUNDS, seconds)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return Durations(counts, self.total + seconds)

    def cumulative(self) -> list[tuple[str, int]]:
        """For each bound, and for "+Inf", how many durations are not above it."""
        so_far, result = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            so_far += count
            result.append((bound, so_far))
        return result
