"""A case: a piece of the library beside the least that its work could cost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.interleave import Comparison, Work, compare, spread
from benchmarks.results import Entry

Pair = tuple[Work, Work]
"""The library's piece, and the reference."""


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes:
        name, params: what it is called in the results.
        of: what the ratio is of, in words.
        build: makes the two functions: the library's piece, and the reference.
        goal: the ratio to reach, or None.
        costs: the ratio is time over the reference's time (less is better), not speed over its speed.
        num_bytes: how many bytes a call makes or moves, for the throughput; None: that says nothing here.
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
        """Return name and parameters in a row."""
        return "-".join([self.name, *(f"{name}={value}" for name, value in self.params.items())])

    def measure(self) -> Comparison:
        """Build both and time them by turns."""
        return compare(*self.build(), rounds=self.rounds)

    def value(self, comparison: Comparison) -> float:
        """Return the ratio."""
        return comparison.cost if self.costs else comparison.speed

    def entry(self, comparison: Comparison) -> Entry:
        """Return what goes to the results."""
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
