"""An experiment's part of the page: Markdown and figures, made from its results only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fl.formatting import percent


@dataclass(frozen=True, slots=True)
class Section:
    """The Markdown below the experiment's heading, and its figures, by file name without ``.png``.

    The Markdown shows a figure by ``![description](experiments/NAME.png)``.
    """

    markdown: str
    figures: dict[str, Figure] = field(default_factory=dict)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column is text, the others right-aligned figures."""
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def new_figure(*, width: float = 9, height: float = 5) -> Figure:
    """Return an empty figure that needs no display, of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def published(fraction: float, *, about: bool = False) -> str:
    """Return the accuracy of a source in words."""
    return f"{'about ' if about else ''}{percent(fraction)}"
