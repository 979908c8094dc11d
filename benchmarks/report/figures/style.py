"""How all figures look: readable on white and on black paper, and the same bytes each time they are drawn."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

BLUE, ORANGE, GREEN, RED, GREY = "#3b82c4", "#e08a1e", "#2a9d6f", "#d1495b", "#8a8f98"

# The text's colour; in the page it becomes the page's own.
INK = "#1f2328"

_STYLE = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.titlesize": "large",
    "font.family": ["DejaVu Sans"],
    "grid.alpha": 0.4,
    "grid.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "svg.fonttype": "path",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@contextmanager
def styled() -> Iterator[None]:
    """Figures made inside look like those of the report."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def new_figure(title: str, width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Title, labels with their units, and a grid."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(which="major")


def plain_numbers(axis: Axis) -> None:
    """Numbers as they are read, instead of powers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def lay_out(figure: Figure) -> None:
    """Find everything's place once, instead of anew for each file."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save_png(figure: Figure, path: Path) -> None:
    """On white."""
    figure.savefig(path, dpi=110, facecolor="white")


def to_svg(figure: Figure, name: str) -> str:
    """An <svg> element without a background; its ids begin with ``name``, so that a page can hold several."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", facecolor="none", metadata=_METADATA)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg).strip()


def as_file(svg: str) -> str:
    """The element as a file of its own, on white."""
    opening, rest = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{opening}><rect width="100%" height="100%" fill="white"/>{rest}\n'


def for_page(svg: str) -> str:
    """The element as wide as the page makes it, in the colour of the text around it."""
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f"{opening}>{rest}".replace(INK, "currentColor")
