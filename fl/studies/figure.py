"""Draw a grid's results as small multiples: a panel for each value of some axes, a line for each of another."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from fl.errors import ConfigError
from fl.studies.grid import Cell, Study, label, shown
from fl.studies.tables import Row, columns_of, save_bytes

Center = Callable[[Sequence[float]], float]

_PANEL_COLUMNS = 4
_PANEL_INCHES = (3.4, 2.8)
_LEGEND_INCHES = 1.7
_MOST_MARKED = 20
_FEW_LINES = 10
# If the largest value is at least this many times the smallest, the axis has a logarithmic scale.
_WIDE = 10
_ROUND = "round"
# Names of models and data sets are the user's: a dollar sign in them is no formula.
_drawing = matplotlib.rc_context({"text.parse_math": False})


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of a grid's axes in a figure; axes with one value have none.

    Attributes:
        x: the horizontal axis.
        lines: the axis with a line for each value; None: one line.
        panels: the axes with a panel for each combination of values.
    """

    x: str
    lines: str | None
    panels: tuple[str, ...]

    @classmethod
    def of(cls, axes: Mapping[str, Sequence[Any]], x: str | None = None) -> Layout | None:
        """Return the layout for these axes, with ``x`` or else the first axis of numbers across; None without one."""
        names = [name for name, values in axes.items() if len(values) > 1 and name != x]
        if x is None:
            if not names:
                return None
            x = next((name for name in names if _is_numeric(axes[name])), names[0])
            names.remove(x)
        return cls(x, names[0] if names else None, tuple(names[1:]))


@dataclass(frozen=True, slots=True)
class Curves:
    """One measure of a figure: its rows' column, its label, and the factor that gives the label's unit."""

    column: str
    label: str
    factor: float = 1.0


def save_figures(folder: Path, study: Study, runs: Sequence[Row], rounds: Sequence[Row]) -> None:
    """Write a study's figures: accuracy, or else loss, over its axes and over rounds; ConfigError if that fails."""
    measure = _main_measure(runs)
    ended = [row for row in runs if row.get(measure.column) is not None]
    missing = len(runs) - len(ended)
    note = f"mean and range of {len(study.seeds)} seeds" if len(study.seeds) > 1 else f"seed {study.seeds[0]}"
    note += f"; {missing} of {len(runs)} runs have no result" if missing else ""
    if ended and (layout := Layout.of(study.axes)) is not None:
        save_multiples(folder / "final.png", layout, [measure], ended, title=f"After the last round: {note}")
    if rounds and (layout := Layout.of(study.axes, _ROUND)) is not None:
        save_multiples(folder / "rounds.png", layout, [measure], rounds, title=f"By round: {note}")


def _main_measure(runs: Sequence[Row]) -> Curves:
    """Return accuracy if a run has it, else the task's first metric, else the loss."""
    if any(row["accuracy"] is not None for row in runs):
        return Curves("accuracy", "test accuracy (%)", 100)
    column = next((name for name in columns_of(runs) if name.startswith("metrics.")), "loss")
    return Curves(column, f"test {column.removeprefix('metrics.')}")


@_drawing
def save_multiples(
    path: Path,
    layout: Layout,
    measures: Sequence[Curves],
    rows: Sequence[Row],
    *,
    title: str,
    center: Center = mean,
    logarithmic: bool = False,
) -> None:
    """Write a figure with a panel for each measure and each cell of the layout's panels.

    A point is the ``center`` of the rows that share its place; the band around it has all of them. The suffix of the
    path chooses the format. Where the values across are of several magnitudes, their scale is logarithmic, and with
    ``logarithmic`` that of the measures too.

    Raises:
        ConfigError: the file cannot be written, or its format is unknown.
    """
    cells = _distinct([{name: row[name] for name in layout.panels} for row in rows])
    panels = [(measure, cell) for cell in cells for measure in measures]
    columns = len(measures)
    if columns == 1:
        last = len(_distinct([cell[layout.panels[-1]] for cell in cells])) if layout.panels else 1
        columns = last if 1 < last <= _PANEL_COLUMNS else min(len(panels), _PANEL_COLUMNS)
    height = -(-len(panels) // columns)
    width, tall = _PANEL_INCHES
    figure = Figure(figsize=(width * columns + _LEGEND_INCHES, tall * height + 0.5), layout="constrained")
    share: Literal["all", "col"] = "all" if len(measures) == 1 else "col"
    grid = figure.subplots(height, columns, squeeze=False, sharex="all", sharey=share).ravel()
    lines = [None] if layout.lines is None else _distinct([row[layout.lines] for row in rows])
    places = _distinct([row[layout.x] for row in rows])
    is_wide = layout.x != _ROUND and _is_numeric(places) and max(places) >= _WIDE * min(places) > 0
    for axes, (measure, cell) in zip(grid, panels, strict=False):
        axes.set_title(label(cell) if cell else "", size="medium")
        for value, color in zip(lines, _colors(lines), strict=True):
            chosen = [row for row in rows if _is_in(row, cell) and (layout.lines is None or row[layout.lines] == value)]
            _draw(axes, layout.x, measure, chosen, places, center, color, shown(value))
        axes.set_xlabel(layout.x.replace("_", " "))
        axes.set_ylabel(measure.label)
        axes.label_outer()
        if len(measures) > 1:
            axes.set_ylabel(measure.label)
            axes.tick_params(labelleft=True)
        axes.grid(alpha=0.3)
        if not _is_numeric(places):
            axes.set_xticks(range(len(places)), [shown(place) for place in places])
        elif is_wide:
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{place:,}" for place in places])
            axes.xaxis.set_minor_locator(NullLocator())
        elif all(isinstance(place, int) for place in places):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if is_wide and logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            # By default the numbers are formulas, which are not drawn here.
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    if layout.lines is not None:
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, title=layout.lines.replace("_", " "), loc="outside right upper")
    figure.suptitle(title, size="medium")
    file = io.BytesIO()
    try:
        figure.savefig(file, format=path.suffix.removeprefix(".") or "png", dpi=150)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    save_bytes(path, file.getvalue())


def _draw(
    axes: Any, x: str, measure: Curves, rows: Sequence[Row], places: list[Any], center: Center, color: Any, name: str
) -> None:
    points = []
    for place, value in enumerate(places):
        found = [row[measure.column] for row in rows if row[x] == value and row.get(measure.column) is not None]
        if found:
            points.append((value if _is_numeric(places) else place, [measure.factor * one for one in found]))
    points.sort(key=lambda point: point[0])
    across = [point[0] for point in points]
    marker = "o" if len(points) <= _MOST_MARKED else ""
    axes.plot(across, [center(found) for _, found in points], marker=marker, markersize=4, color=color, label=name)
    axes.fill_between(
        across, [min(found) for _, found in points], [max(found) for _, found in points], color=color, alpha=0.15, lw=0
    )


def _colors(lines: Sequence[Any]) -> list[Any]:
    if len(lines) > _FEW_LINES or (len(lines) > 2 and _is_numeric(lines)):
        shades = matplotlib.colormaps["viridis"]
        return [shades(0.9 * place / (len(lines) - 1)) for place in range(len(lines))]
    return [f"C{place}" for place in range(len(lines))]


def _is_in(row: Row, cell: Cell) -> bool:
    return all(row[name] == value for name, value in cell.items())


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Return each value once, in order; values may be lists or dictionaries."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
