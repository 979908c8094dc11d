"""Figures of clients, such as loss and accuracy, as bounded numbers behind a private update.

Each client sends its own mean of a figure, so every client counts once.  A value f in [low, high] travels as

    (2 f - low - high) / (high - low)   in [-1, 1],

so that the middle of the range has length 0 and the vector is no longer than the planner knows (`Mechanism.norm`).  The
mean over n clients has noise of standard deviation  (high - low)/2 * sqrt(n (v + 1/4)) gamma / (n w c).

A value beyond its range counts as the nearest end, one that is not a number as the high end (a diverged loss), and one
that the client does not have as the middle: it must send something, since who has no such value is private too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fl.privacy.rotation import FloatVector

WITHIN_CLIP = "within_clip"
"""The name of the figure that is 1 if a client's update was within the clip, else 0."""


@dataclass(frozen=True, slots=True)
class BoundedFigure:
    """A figure's name and public range."""

    name: str
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.high - self.low) and self.low < self.high):
            raise ValueError(f"the range of {self.name} is {self.low} to {self.high}, but must be finite and rising")

    def centred(self, value: float | None) -> float:
        """Return a client's value as a number in [-1, 1]."""
        if value is None:
            return 0.0
        if math.isnan(value):
            return 1.0
        # In this order nothing overflows, however large a range a server states.
        return 2 * ((min(max(value, self.low), self.high) - self.low) / (self.high - self.low)) - 1

    def mean(self, centred: float) -> float:
        """Return the mean of values whose centred numbers have this mean, within the range."""
        return self.low + (min(max(centred, -1.0), 1.0) + 1) / 2 * (self.high - self.low)


def centred(figures: Sequence[BoundedFigure], values: Mapping[str, float | None]) -> FloatVector:
    """Return a client's figures as `Mechanism.encode` takes them; what ``values`` lacks counts as the middle."""
    return np.array([one.centred(values.get(one.name)) for one in figures], dtype=np.float64)


def means(figures: Sequence[BoundedFigure], sums: FloatVector, clients: float) -> dict[str, float]:
    """Return the figures' noisy means, by name, from the noisy sums of this many clients' numbers in [-1, 1]."""
    return {one.name: one.mean(float(total) / clients) for one, total in zip(figures, sums, strict=True)}


def stddevs(figures: Sequence[BoundedFigure], figure_stddev: float) -> dict[str, float]:
    """Return the noise's standard deviation in each mean, by name, from `Mechanism.figure_stddev`."""
    return {one.name: (one.high - one.low) / 2 * figure_stddev for one in figures}
