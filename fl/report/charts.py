"""Draw the page's charts with matplotlib, as SVG that the page's style sheet colors.

The page takes outlines, dots and texts of matplotlib's SVG, with CSS classes in place of styles, ids and links: equal
charts are equal bytes, any number of them fits on a page, and light, dark and print differ in the style sheet alone.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fl.report.extras import PersonalizedMethod

NumberFormat = Callable[[float], str]

_WIDTH, _HEIGHT = 560, 300
# Around the axes: wide enough for the larger letters that the style sheet gives a small screen.
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 50
# Above these counts dots shrink, then dots and hints go: a page of megabytes would show no more.
_MOST_DOTS, _MOST_HINTS = 60, 400
_WIDEST_BAR = 60
_STYLES: Final = 8
_SVG = "{http://www.w3.org/2000/svg}"
# Marks the artists that the page takes; the rest of the id is their CSS class.
_TAKEN = "page:"
_DECIMALS = re.compile(r"\d+\.\d+")
_ANCHOR = re.compile(r"text-anchor: (\w+)")
_STYLE = {
    "axes.axisbelow": True,
    "axes.labelpad": 6,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.ymargin": 0,
    "font.size": 13,
    "svg.fonttype": "none",
    "svg.hashsalt": "secagg",
    "text.parse_math": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 7,
    "ytick.major.pad": 7,
}
_drawing = matplotlib.style.context(["default", _STYLE])


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One line of a legend: the CSS class of its swatch, a name, a figure and a remark."""

    style: str
    name: str
    value: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A titled picture with its legend; ``kind``, ``line`` or ``area``, is the form of the legend's swatches."""

    title: str
    svg: Markup
    legend: tuple[LegendEntry, ...]
    kind: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """One series of (round, value) in order. None or not finite is a gap; a single point is a level line."""

    name: str
    points: tuple[tuple[int, float | None], ...]
    note: str = ""

    @property
    def finite(self) -> list[tuple[int, float]]:
        """Return the points that can be drawn."""
        return [(round_, value) for round_, value in self.points if value is not None and math.isfinite(value)]


@dataclass(frozen=True, slots=True)
class Layer:
    """One part of every bar: its CSS class, its name, and one value per round."""

    style: str
    name: str
    values: tuple[float, ...]


class _Canvas:
    """One pair of axes to draw on, and its SVG for the page."""

    def __init__(self, x_label: str, tick: NumberFormat) -> None:
        self._hints: dict[str, list[str]] = {}
        # matplotlib's SVG has 72 units to the inch.
        self._figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
        left, bottom = _LEFT / _WIDTH, _BOTTOM / _HEIGHT
        self.axes = self._figure.add_axes(
            (left, bottom, 1 - left - _RIGHT / _WIDTH, 1 - bottom - _TOP / _HEIGHT), xlabel=x_label
        )
        self.axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        self.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        self.axes.grid(axis="y", gid=self.taken("grid"))
        self.axes.spines["bottom"].set_gid(self.taken("axis"))

    def taken(self, style: str, hints: Sequence[str] = ()) -> str:
        """Return the id of artists that the page takes; their outlines or dots get ``hints``, in this order."""
        self._hints[style] = list(hints)
        return _TAKEN + style

    def svg(self, title: str, description: str) -> Markup:
        """Return the picture, which a screen reader reads as its title and description."""
        # From a round number to a round number: the curves lie between the lowest and the highest line.
        marks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(*self.axes.get_ylim())
        self.axes.set_ylim(marks[0], marks[-1])
        self.axes.set_yticks(marks)
        file = io.BytesIO()
        self._figure.savefig(file, format="svg", metadata={"Date": None})
        attributes = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "role": "img", "aria-label": f"{title}. {description}"}
        picture = ElementTree.Element("svg", attributes)
        hints = {style: iter(hints) for style, hints in self._hints.items()}
        for style, drawn in _artists(ElementTree.fromstring(file.getvalue()), ""):  # noqa: S314 - made above
            element = ElementTree.SubElement(picture, *_page_element(style, drawn, len(self._hints.get(style, ()))))
            element.text = drawn.text
            if hint := next(hints.get(style, iter(())), ""):
                ElementTree.SubElement(element, "title").text = hint
        # ElementTree escapes all texts and attributes.
        return Markup(ElementTree.tostring(picture, encoding="unicode"))  # noqa: S704


def _artists(element: ElementTree.Element, style: str) -> Iterator[tuple[str, ElementTree.Element]]:
    """Yield all texts, and the outlines and dots of the artists that the page takes, each with its CSS class."""
    for child in element:
        name = child.get("id", "")
        inner = name.removeprefix(_TAKEN) if name.startswith(_TAKEN) else style
        if child.tag == f"{_SVG}g":
            yield from _artists(child, inner)
        elif child.tag == f"{_SVG}text" or (style and child.tag in (f"{_SVG}path", f"{_SVG}use")):
            yield style, child


def _page_element(style: str, drawn: ElementTree.Element, dots: int) -> tuple[str, dict[str, str]]:
    """Return the name and attributes of what the page shows for one element of matplotlib's SVG."""
    x, y, outline = (
        _DECIMALS.sub(lambda found: f"{float(found[0]):.1f}", drawn.get(name, "")) for name in ("x", "y", "d")
    )
    if drawn.tag == f"{_SVG}text":
        anchor = _ANCHOR.search(drawn.get("style", ""))
        return "text", {"x": x, "y": y, "text-anchor": anchor[1] if anchor else "start"}
    if drawn.tag == f"{_SVG}use":
        return "circle", {"class": style, "cx": x, "cy": y, "r": "3.2" if dots <= _MOST_DOTS else "0.8"}
    return "path", {"class": style, "d": " ".join(outline.split())}


@_drawing
def curves_chart(
    title: str, curves: list[Curve], *, y_label: str, show: NumberFormat, tick: NumberFormat, caption: str = ""
) -> Chart | None:
    """Draw all curves, in the order of the legend; return None if there is no point to draw.

    ``show`` writes a value in full, ``tick`` at the axis.
    """
    curves = [curve for curve in curves if curve.finite]
    if not curves:
        return None
    rounds = [round_ for curve in curves for round_, _ in curve.finite]
    first, last = min(rounds), max(rounds)
    canvas = _Canvas("communication round", tick)
    around = (last - first) / 50 or 0.5
    canvas.axes.set_xlim(first - around, last + around)
    legend = []
    # The first is the run's own, and a whole line: where others run along it, their dashes show on top.
    for index, curve in enumerate(curves):
        style = f"s{index % _STYLES}"
        legend.append(LegendEntry(style, curve.name, show(curve.finite[-1][1]), curve.note))
        if len(curve.points) == 1 and first < last:
            level = curve.finite[0][1]
            canvas.axes.axhline(level, gid=canvas.taken(f"curve {style}", [f"{curve.name}: {show(level)}"]))
            continue
        values = [math.nan if value is None else value for _, value in curve.points]
        canvas.axes.plot([round_ for round_, _ in curve.points], values, gid=canvas.taken(f"curve {style}"))
        if len(curve.points) <= _MOST_HINTS:
            hints = [f"{curve.name}, round {round_}: {show(value)}" for round_, value in curve.finite]
            canvas.axes.plot(*zip(*curve.finite, strict=True), "o", gid=canvas.taken(f"dot {style}", hints))
    ends = ", ".join(f"{entry.name} {entry.value}" for entry in legend)
    description = f"{y_label} by communication round {first} to {last}; at the end {ends}"
    return Chart(title, canvas.svg(title, description), tuple(legend), "line", caption)


@_drawing
def bars_chart(
    title: str,
    rounds: list[int],
    layers: list[Layer],
    *,
    y_label: str,
    show: NumberFormat,
    tick: NumberFormat,
    caption: str = "",
) -> Chart:
    """Draw a bar for each of the consecutive ``rounds``, the first layer at the bottom; leave layers of zeros out."""
    layers = [layer for layer in layers if any(layer.values)]
    canvas = _Canvas("communication round", tick)
    canvas.axes.set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)
    width = min(0.8, _WIDEST_BAR * len(rounds) / (_WIDTH - _LEFT - _RIGHT))
    base = np.zeros(len(rounds))
    for layer in layers:
        top = base + layer.values
        style = f"bar {layer.style}"
        if len(rounds) * len(layers) <= _MOST_HINTS:
            seen = [index for index, value in enumerate(layer.values) if value]
            hints = [f"round {rounds[index]}, {layer.name}: {show(layer.values[index])}" for index in seen]
            heights = (top - base)[seen]
            canvas.axes.bar(np.array(rounds)[seen], heights, width, base[seen], gid=canvas.taken(style, hints))
        else:
            edges = np.arange(rounds[0] - 0.5, rounds[-1] + 1)
            canvas.axes.stairs(top, edges, baseline=base, fill=True, gid=canvas.taken(style))
        base = top
    canvas.axes.set_ylim(bottom=0)
    legend = tuple(
        LegendEntry(layer.style, layer.name, f"{show(sum(layer.values) / len(rounds))} a round") for layer in layers
    )
    averages = ", ".join(f"{entry.name} {entry.value}" for entry in legend)
    description = f"{y_label} by communication round; on average {averages}"
    return Chart(title, canvas.svg(title, description), legend, "area", caption)


@_drawing
def gains_chart(methods: tuple[PersonalizedMethod, ...], what: str) -> Chart:
    """Draw each method's gains from the smallest to the largest, over the share of clients."""
    canvas = _Canvas(
        f"{what}s, from the smallest gain to the largest (%)", lambda value: f"{value:+g}" if value else "0"
    )
    canvas.axes.set_xlim(0, 100)
    canvas.axes.set_xticks([0, 10, 50, 90, 100])
    canvas.axes.axhline(0, gid=canvas.taken("axis"))
    legend = []
    for index, method in enumerate(methods):
        style = f"s{index % _STYLES}"
        # One step per client: no gain lies between those of two clients.
        edges = np.linspace(0, 100, len(method.clients) + 1)
        canvas.axes.stairs(np.sort(method.gains), edges, baseline=None, gid=canvas.taken(f"curve {style}"))
        legend.append(LegendEntry(style, method.name, f"median {np.median(method.gains):+.1f} points", method.note))
    title = f"Gain of each {what}'s own model over the global one"
    description = "percentage points of accuracy; " + ", ".join(f"{entry.name} {entry.value}" for entry in legend)
    caption = f"In percentage points, on examples that the {what} held out; above 0 its own model is the better one."
    return Chart(title, canvas.svg(title, description), tuple(legend), "line", caption)
