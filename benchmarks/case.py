"""A case: a piece of the library, compared with the least cost of its work."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.interleave import Comparison, Work, compare, spread
from benchmarks.results import Entry

Pair = tuple[Work, Work]
"""Two functions: the library's piece, and the reference."""


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes:
        name, params: its name and parameters in the results.
        of: a description of the ratio.
        build: returns the library's piece and the reference.
        goal: the ratio to reach, or None.
        costs: True if the ratio is time over the reference's time (less is better), False for speed over speed.
        num_bytes: bytes that a call makes or moves, for the throughput; None: no throughput.
        rounds: see `interleave.compare`.
    """

    name: str
    params: dict[str, Any]
    of: str
    build: Callable[[], Pair] = field(repr=False)
    goal: float | None = None
    costs: bool = False
    num_bytes: int | None = None
    rounds: int = 15

    @property
    def id(self) -> str:
        """Return name and parameters as one text."""
        return "-".join([self.name, *(f"{name}={value}" for name, value in self.params.items())])

    def measure(self) -> Comparison:
        """Build both functions, and time them in turn."""
        return compare(*self.build(), rounds=self.rounds)

    def value(self, comparison: Comparison) -> float:
        """Return the ratio."""
        return comparison.cost if self.costs else comparison.speed

    def entry(self, comparison: Comparison) -> Entry:
        """Return the entry for the results."""
        seconds = spread(comparison.candidate)
        entry: Entry = {
            "group": "micro",
            "name": self.name,
            "params": self.params,
            "seconds": seconds,
            "reference_seconds": spread(comparison.reference),
            "ratio": {
                "value": self.value(comparison),
                "of": self.of,
                "goal": self.goal,
                "higher_is_better": not self.costs,
            },
        }
        if self.num_bytes is not None:
            entry["gigabytes_per_second"] = self.num_bytes / seconds["median"] / 1e9
        return entry
