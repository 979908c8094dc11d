"""The figures of a task that clients report, its loss and metrics, as totals with a public range; known without torch.

A figure is a numerator over a denominator: the sum of the losses over the number of examples, or true positives over
positives. Numerators and denominators of all clients are summed, and divided once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fl.errors import ConfigError

Total: TypeAlias = tuple[float, float]
"""A figure's numerator and denominator."""

LOSS_STEPS = 1 << 16
MAX_LOSS = 256
"""Cross-entropies are sent in steps of 2^-16, up to 256 nats per example (the true class at probability e^-256)."""

MOST_PER_EXAMPLE = 1 << 32
"""The largest denominator of a figure per example: pixels, tokens or outputs."""

_LARGEST = 2.0**64
_FRACTION_BITS = 40


@dataclass(frozen=True, slots=True)
class FigureRange:
    """The range and resolution of a figure, in which secure aggregation sums it.

    Attributes:
        name: the figure's name.
        low, high: the smallest and the largest value.
        fraction_bits: bits after the point of numerator and denominator.
        clips: whether a larger value counts as `high`; otherwise the client sends no update.
    """

    name: str
    low: float = -_LARGEST
    high: float = _LARGEST
    fraction_bits: int = _FRACTION_BITS
    clips: bool = False


CROSS_ENTROPY = FigureRange("loss", 0.0, MAX_LOSS, 16, clips=True)
ACCURACY = FigureRange("accuracy", 0.0, 1.0, 0)
"""The share of correct answers: both counts are whole numbers."""

CLASSIFICATION_FIGURES = (CROSS_ENTROPY, ACCURACY)


def private_ranges(
    figures: Sequence[FigureRange], stated: Mapping[str, tuple[float, float]], num_classes: int
) -> dict[str, tuple[float, float]]:
    """Return the ranges in which private runs report a client's mean figures, by name.

    A range that was stated counts first. A cross-entropy has 0 to twice that of guessing among the classes, and a share
    0 to 1; other figures have none, and are not reported.

    Raises:
        ConfigError: a range is stated for a figure that there is not.
    """
    if unknown := stated.keys() - {one.name for one in figures}:
        known = ", ".join(one.name for one in figures)
        raise ConfigError(f"figure_ranges names {', '.join(sorted(unknown))}, but this task has {known}")
    found = {}
    for one in figures:
        if one.name in stated:
            found[one.name] = stated[one.name]
        elif one.high == CROSS_ENTROPY.high and one.clips and num_classes > 1:
            found[one.name] = (0.0, 2 * math.log(num_classes))
        elif (one.low, one.high) == (ACCURACY.low, ACCURACY.high):
            found[one.name] = (one.low, one.high)
    return found


def ratio(total: Total) -> float:
    """Return the value of a figure; nan without a denominator."""
    numerator, denominator = total
    return numerator / denominator if denominator else math.nan


@dataclass(frozen=True)
class Evaluation:
    """The mean loss over `num_examples` examples, and each metric's numerator and denominator by its name."""

    loss: float
    totals: Mapping[str, Total]
    num_examples: int

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics' values; nan without a denominator."""
        return {name: ratio(total) for name, total in self.totals.items()}

    @property
    def accuracy(self) -> float:
        """The share of correct answers, 0 to 1; nan if the task does not measure it."""
        return self.metrics.get("accuracy", math.nan)
