"""Time functions in turn, so that changes in the machine's speed affect both sides of a comparison."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

Work = Callable[[], object]

MIN_ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of a candidate and of its reference, round by round; the two times of a round were taken in sequence."""

    candidate: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def speed(self) -> float:
        """Return the candidate's speed over the reference's: the median of the rounds' ratios."""
        return median(r / c for c, r in zip(self.candidate, self.reference, strict=True))

    @property
    def cost(self) -> float:
        """Return the candidate's time over the reference's: the median of the rounds' ratios."""
        return median(c / r for c, r in zip(self.candidate, self.reference, strict=True))


def compare(candidate: Work, reference: Work, *, rounds: int = MIN_ROUNDS, sample_seconds: float = 0.01) -> Comparison:
    """Time two functions in turn.

    Args:
        candidate, reference: the functions to time.
        rounds: the number of rounds, at least MIN_ROUNDS.
        sample_seconds: a faster function is repeated within a round for about this time.
    """
    candidate_seconds, reference_seconds = by_turns(
        [candidate, reference], rounds=max(rounds, MIN_ROUNDS), sample_seconds=sample_seconds
    )
    return Comparison(candidate_seconds, reference_seconds)


def by_turns(works: Sequence[Work], *, rounds: int, sample_seconds: float = 0.01) -> list[tuple[float, ...]]:
    """Return each function's seconds per call in each round; every second round runs them in reverse order."""
    calls = [_calls_for(work, sample_seconds) for work in works]
    seconds: list[list[float]] = [[] for _ in works]
    order = list(range(len(works)))
    collects = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for index in order:
                seconds[index].append(_time(works[index], calls[index]))
            order.reverse()
    finally:
        if collects:
            gc.enable()
    return [tuple(row) for row in seconds]


def spread(seconds: tuple[float, ...]) -> dict[str, Any]:
    """Return median, least, most and the number of rounds: the "seconds" of a result."""
    return {"median": median(seconds), "min": min(seconds), "max": max(seconds), "rounds": len(seconds)}


def _calls_for(work: Work, sample_seconds: float) -> int:
    work()  # fills caches and lazily loaded modules
    once = _time(work, 1)
    return max(1, min(100_000, round(sample_seconds / max(once, 1e-9))))


def _time(work: Work, calls: int) -> float:
    repeats = range(calls)
    started = perf_counter()
    for _ in repeats:
        work()
    return (perf_counter() - started) / calls
