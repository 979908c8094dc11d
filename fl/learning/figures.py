"""The figures of a task that clients report, its loss and metrics, as totals with a public range; known without torch.

A figure is a numerator over a denominator: the sum of the losses over the number of examples, or true positives over
positives. Numerators and denominators of all clients are summed, and divided once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

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


def ratio(total: Total) -> float:
    """Return the value of a figure; nan without a denominator."""
    numerator, denominator = total
    return numerator / denominator if denominator else math.nan
