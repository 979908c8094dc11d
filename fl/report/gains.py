"""What a model of its own gives each client: all gains in order, so that those who lose are seen too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from fl.report.extras import PersonalizedMethod
from fl.report.figures import STYLES, Figure, LegendEntry
from fl.report.svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Scale, element, number, picture, ticks, x_axis, y_axis

_HEIGHT = 320


@dataclass(frozen=True, slots=True)
class GainSummary:
    """A method's gains, in percentage points of accuracy on each client's own held-out examples; shares in 0..1."""

    name: str
    note: str
    clients: int
    examples: int
    global_accuracy: float
    personal_accuracy: float
    mean: float
    tenth: float
    median: float
    ninetieth: float
    better: float
    worse: float


def summarize_gains(method: PersonalizedMethod) -> GainSummary:
    """Means and percentiles over clients, each counted once, however many examples it has."""
    gains = method.gains
    tenth, median, ninetieth = np.percentile(gains, [10, 50, 90])
    return GainSummary(
        name=method.name,
        note=method.note,
        clients=len(gains),
        examples=sum(client.examples for client in method.clients),
        global_accuracy=float(np.mean([client.global_accuracy for client in method.clients])),
        personal_accuracy=float(np.mean([client.personal_accuracy for client in method.clients])),
        mean=float(gains.mean()),
        tenth=float(tenth),
        median=float(median),
        ninetieth=float(ninetieth),
        better=float((gains > 0).mean()),
        worse=float((gains < 0).mean()),
    )


def gains_figure(methods: tuple[PersonalizedMethod, ...], what: str) -> Figure:
    """Each method's gains from the smallest to the largest, over the share of clients."""
    ordered = [np.sort(method.gains) for method in methods]
    marks = ticks(min(0.0, *(gains[0] for gains in ordered)), max(0.0, *(gains[-1] for gains in ordered)), 6)
    bottom = _HEIGHT - BOTTOM
    x = Scale(0, 100, LEFT, WIDTH - RIGHT)
    y = Scale(marks[0], marks[-1], bottom, TOP)
    zero = {"class": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": number(y(0)), "y2": number(y(0))}
    drawn: list[Markup] = [
        *y_axis(y, marks, lambda value: f"{value:+g}" if value else "0"),
        *x_axis(x, [0, 10, 50, 90, 100], bottom, f"{what}s, from the smallest gain to the largest (%)"),
        element("line", dict(zero)),
    ]
    for style, gains in enumerate(ordered):
        # A step a client: nobody's gain is between two others'.
        share = 100 / len(gains)
        path = [f"M{number(x(0))} {number(y(float(gains[0])))}"]
        for index, gain in enumerate(gains):
            path.append(f"V{number(y(float(gain)))}H{number(x((index + 1) * share))}")
        drawn.append(element("path", {"class": f"curve s{style % STYLES}", "d": "".join(path)}))
    legend = tuple(
        LegendEntry(f"s{index % STYLES}", method.name, f"median {np.median(method.gains):+.1f} points", method.note)
        for index, method in enumerate(methods)
    )
    title = f"Gain of each {what}'s own model over the global one"
    description = "percentage points of accuracy; " + ", ".join(f"{entry.name} {entry.value}" for entry in legend)
    caption = f"In percentage points, on examples that the {what} held out; above 0 its own model is the better one."
    return Figure(title, picture(_HEIGHT, title, description, *drawn), legend, "line", caption)
