"""SVG as text that is escaped where it is made: elements, axes, and the scale from data to the picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

WIDTH: Final = 560
"""Of every figure, in its own units; on a page it is as wide as its place."""

LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 50
"""Around the plot: wide enough for the larger letters that a small screen gets."""

NumberFormat = Callable[[float], str]


def element(name: str, attributes: dict[str, object] | None = None, *children: object) -> Markup:
    """One element. Attributes and text are escaped; children that are `Markup` are elements already."""
    opening = "".join(f' {key}="{escape(value)}"' for key, value in (attributes or {}).items() if value is not None)
    inside = "".join(str(escape(child)) for child in children)
    return Markup(f"<{name}{opening}>{inside}</{name}>")  # noqa: S704 - every part of it is escaped above


def number(value: float) -> str:
    """A coordinate; a tenth of a unit is less than a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def picture(height: int, title: str, description: str, *children: object) -> Markup:
    """A whole figure, which a screen reader reads as its title and description."""
    attributes: dict[str, object] = {
        "viewBox": f"0 0 {WIDTH} {height}",
        "role": "img",
        "aria-label": f"{title}. {description}",
    }
    return element("svg", attributes, *children)


@dataclass(frozen=True, slots=True)
class Scale:
    """Takes data in low..high to coordinates in start..end (SVG's y runs down, so end may be less than start)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate; a scale of one value puts it in the middle."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About ``count`` round numbers from at most ``low`` to at least ``high``, 1, 2 or 5 times a power of ten apart."""
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-200):
        # One value, or as good as one: it goes into the middle.
        around = 1 if whole else 0.05 * abs(low) or 0.5
        low, high = low - around, high + around
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def x_axis(scale: Scale, marks: Sequence[float], y: float, label: str) -> list[Markup]:
    """Numbers under the plot, and what they are."""
    below = [
        element("text", {"x": number(scale(mark)), "y": number(y + 18), "text-anchor": "middle"}, f"{mark:g}")
        for mark in marks
    ]
    middle = number((scale.start + scale.end) / 2)
    axis = {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": number(y), "y2": number(y)}
    return [
        element("line", dict(axis)),
        *below,
        element("text", {"x": middle, "y": number(y + 40), "text-anchor": "middle", "class": "label"}, label),
    ]


def y_axis(scale: Scale, marks: Sequence[float], show: NumberFormat) -> list[Markup]:
    """Lines across the plot, with their numbers on the left."""
    drawn = []
    for mark in marks:
        y = number(scale(mark))
        drawn.append(element("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y}))
        text = {"x": LEFT - 7, "y": number(scale(mark) + 4.5), "text-anchor": "end"}
        drawn.append(element("text", dict(text), show(mark)))
    return drawn


def round_marks(first: int, last: int) -> list[float]:
    """The rounds that are named under a plot: whole numbers, few enough for a small screen."""
    if last - first <= 6:
        return [float(value) for value in range(first, last + 1)]
    inner = [mark for mark in ticks(first, last, 5, whole=True) if first <= mark <= last]
    # The first round is named too, unless the next name would touch it.
    return inner if inner[0] - first <= (last - first) / 15 else [float(first), *inner]
