"""Stacked bars by round: of how many clients, or seconds, each part has how much."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from fl.report.figures import Figure, LegendEntry
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
_MOST_HINTS = 400
_WIDEST = 60


@dataclass(frozen=True, slots=True)
class Layer:
    """One part of every bar: its CSS class, its name, and a value a round."""

    style: str
    name: str
    values: tuple[float, ...]


def bars_figure(
    title: str,
    rounds: list[int],
    layers: list[Layer],
    *,
    y_label: str,
    show: NumberFormat,
    tick: NumberFormat,
    caption: str = "",
) -> Figure:
    """A bar for each of ``rounds``, one at least, the first layer at the bottom; layers of zeros are left out."""
    layers = [layer for layer in layers if any(layer.values)]
    tallest = max((sum(heights) for heights in zip(*(layer.values for layer in layers), strict=True)), default=0)
    marks = ticks(0, tallest, 5)
    bottom = _HEIGHT - BOTTOM
    slot = (WIDTH - LEFT - RIGHT) / (rounds[-1] - rounds[0] + 1)
    x = Scale(rounds[0] - 0.5, rounds[-1] + 0.5, LEFT, WIDTH - RIGHT)
    y = Scale(0, marks[-1], bottom, TOP)
    drawn: list[Markup] = y_axis(y, marks, tick)
    width = min(slot * (0.8 if slot > 4 else 1.0), _WIDEST)
    with_hints = len(rounds) * len(layers) <= _MOST_HINTS
    base = [0.0] * len(rounds)
    for layer in layers:
        for index, (round_, value) in enumerate(zip(rounds, layer.values, strict=True)):
            if not value:
                continue
            base[index] += value
            place = {
                "x": number(x(round_) - width / 2),
                "y": number(y(base[index])),
                "width": number(width),
                "height": f"{y(base[index] - value) - y(base[index]):.2f}",
            }
            hint = (element("title", {}, f"round {round_}, {layer.name}: {show(value)}"),) if with_hints else ()
            drawn.append(element("rect", {"class": f"bar {layer.style}", **place}, *hint))
    drawn.extend(x_axis(x, round_marks(rounds[0], rounds[-1]), bottom, "communication round"))
    legend = tuple(
        LegendEntry(layer.style, layer.name, f"{show(sum(layer.values) / len(rounds))} a round") for layer in layers
    )
    description = f"{y_label} by communication round; on average " + ", ".join(
        f"{entry.name} {entry.value}" for entry in legend
    )
    return Figure(title, picture(_HEIGHT, title, description, *drawn), legend, "area", caption)
