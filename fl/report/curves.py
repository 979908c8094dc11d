"""Curves by round."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from fl.report.figures import STYLES, Figure, LegendEntry
from fl.report.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    NumberFormat,
    Scale,
    element,
    number,
    picture,
    round_marks,
    ticks,
    x_axis,
    y_axis,
)

_HEIGHT = 300
# More dots than that are a line by themselves, and a page of megabytes.
_MOST_DOTS = 60
_MOST_HINTS = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """One series: (round, value) in order. None or not finite is a gap; one point is a level line among curves."""

    name: str
    points: tuple[tuple[int, float | None], ...]
    note: str = ""

    @property
    def finite(self) -> list[tuple[int, float]]:
        """The points that can be drawn."""
        return [(round_, value) for round_, value in self.points if value is not None and math.isfinite(value)]


def curves_figure(
    title: str, curves: list[Curve], *, y_label: str, show: NumberFormat, tick: NumberFormat, caption: str = ""
) -> Figure | None:
    """The figure of all curves, in the order of the legend; None if there is not a point to draw.

    ``show`` writes a value in full, ``tick`` at the axis.
    """
    curves = [curve for curve in curves if curve.finite]
    if not curves:
        return None
    values = [value for curve in curves for _, value in curve.finite]
    rounds = [round_ for curve in curves for round_, _ in curve.finite]
    first, last = min(rounds), max(rounds)
    marks = ticks(min(values), max(values), 5)
    bottom = _HEIGHT - BOTTOM
    x = Scale(first, last, LEFT + 10, WIDTH - RIGHT - 10)
    y = Scale(marks[0], marks[-1], bottom, TOP)
    drawn: list[Markup] = [*y_axis(y, marks, tick), *x_axis(x, round_marks(first, last), bottom, "communication round")]
    # The first is the run's own, and a whole line: where others run along it, their dashes show on top.
    for style, curve in enumerate(curves):
        drawn.extend(_drawn(curve, style % STYLES, x, y, show))
    legend = tuple(
        LegendEntry(f"s{index % STYLES}", curve.name, show(curve.finite[-1][1]), curve.note)
        for index, curve in enumerate(curves)
    )
    description = f"{y_label} by communication round {first} to {last}; at the end " + ", ".join(
        f"{entry.name} {entry.value}" for entry in legend
    )
    return Figure(title, picture(_HEIGHT, title, description, *drawn), legend, "line", caption)


def _drawn(curve: Curve, style: int, x: Scale, y: Scale, show: NumberFormat) -> list[Markup]:
    if len(curve.points) == 1 and x.low < x.high:
        level = curve.finite[0][1]
        ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": number(y(level)), "y2": number(y(level))}
        hint = element("title", {}, f"{curve.name}: {show(level)}")
        return [element("line", {"class": f"curve s{style}", **ends}, hint)]
    parts: list[list[tuple[int, float]]] = [[]]
    for round_, value in curve.points:
        if value is None or not math.isfinite(value):
            parts.append([])
        else:
            parts[-1].append((round_, value))
    drawn = []
    for part in filter(None, parts):
        path = "M" + "L".join(f"{number(x(round_))} {number(y(value))}" for round_, value in part)
        drawn.append(element("path", {"class": f"curve s{style}", "d": path}))
    if len(curve.points) <= _MOST_HINTS:
        radius = 3.2 if len(curve.points) <= _MOST_DOTS else 0.8
        drawn.extend(
            element(
                "circle",
                {"class": f"dot s{style}", "cx": number(x(round_)), "cy": number(y(value)), "r": radius},
                element("title", {}, f"{curve.name}, round {round_}: {show(value)}"),
            )
            for round_, value in curve.finite
        )
    return drawn
