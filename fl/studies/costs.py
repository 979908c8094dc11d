"""The cost of sessions of the protocol over a grid of their parameters; no torch, which would be most of the memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from fl.runs.simulation import SimulationResult
from fl.studies.figure import Curves, Layout, save_multiples
from fl.studies.grid import Cell, shown
from fl.studies.tables import Row
from secagg import Completed, Plan, Round

FIGURES = {
    "seconds": "seconds of the session for all clients and the server",
    "client_seconds": "seconds of the median client in all rounds",
    "masking_seconds": "seconds of the median client to mask its input",
    "server_seconds": "seconds of the server in all rounds",
    "unmasking_seconds": "seconds of the server to unmask the sum",
    "client_bytes_up": "bytes that the median client sends",
    "client_bytes_down": "bytes that the median client receives",
}
"""The figures of a session, and what they hold."""

HEADINGS = {
    "masking_seconds": ("client\nmasks (ms)", 1000.0),
    "unmasking_seconds": ("server\nunmasks (s)", 1.0),
    "client_bytes_up": ("client\nsends (kB)", 0.001),
    "client_bytes_down": ("receives\n(kB)", 0.001),
}
"""The figures of a table's line, their headings, and the factors that give the headings' units."""

_TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "\n": " ",
}


@dataclass(frozen=True, slots=True)
class CostSpread:
    """The median and the range of a figure over the sessions of one cell."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> CostSpread:
        """Return the spread of at least one value."""
        return cls(float(median(values)), float(min(values)), float(max(values)))


def session_row(cell: Cell, seed: int, plan: Plan, result: SimulationResult) -> Row:
    """Return a session's parameters and figures; without a sum, its figures are None."""
    outcome = result.report.outcome
    costs = result.rounds
    figures = {
        "seconds": result.seconds,
        "client_seconds": sum(cost.client_seconds for cost in costs.values()),
        "masking_seconds": costs[Round.MASKED_INPUT_COLLECTION].client_seconds,
        "server_seconds": sum(cost.server_seconds for cost in costs.values()),
        "unmasking_seconds": costs[Round.UNMASKING].server_seconds,
        "client_bytes_up": sum(cost.client_bytes_up for cost in costs.values()),
        "client_bytes_down": sum(cost.client_bytes_down for cost in costs.values()),
    }
    return {
        **cell,
        "seed": seed,
        "threshold_used": plan.parameters.threshold,
        "degree": plan.parameters.degree,
        "exact": result.exact,
        "included": len(outcome.included) if isinstance(outcome, Completed) else 0,
        **(figures if result.exact else dict.fromkeys(figures)),
    }


def spreads_of(rows: Sequence[Row], cell: Cell) -> dict[str, CostSpread]:
    """Return the spread of each figure over the cell's sessions that gave a sum; empty if none did."""
    own = [row for row in rows if row["exact"] and all(row[name] == value for name, value in cell.items())]
    return {name: CostSpread.of([row[name] for row in own]) for name in FIGURES} if own else {}


def table_of(axes: Mapping[str, Sequence[object]], rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the lines of the cells that have sessions: median, and the range if it is known."""
    varied = [name for name, values in axes.items() if len(values) > 1]
    lines, cells = [], []
    for row in rows:
        cell = {name: row[name] for name in axes}
        if cell in cells:
            continue
        cells.append(cell)
        spreads = spreads_of(rows, cell)
        figures = [_shown(spreads[name], factor) if spreads else "no sum" for name, (_, factor) in HEADINGS.items()]
        lines.append([*(shown(cell[name]) for name in varied), *figures])
    return [*varied, *(heading for heading, _ in HEADINGS.values())], lines


def latex_of(headings: Sequence[str], lines: Sequence[Sequence[str]], *, note: str) -> str:
    """Return the table for LaTeX with the package booktabs; ``note`` is a comment above it."""
    first = len(headings) - len(HEADINGS)
    return "\n".join(
        [
            f"% {note}",
            f"\\begin{{tabular}}{{{'l' * first}{'r' * len(HEADINGS)}}}",
            r"\toprule",
            " & ".join(map(_tex, headings)) + r" \\",
            r"\midrule",
            *(" & ".join(map(_tex, line)) + r" \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def save_cost_figure(path: Path, axes: Mapping[str, Sequence[object]], rows: Sequence[Row]) -> None:
    """Write masking and unmasking over the axes; errors as in `save_multiples`."""
    layout = Layout.of(axes) or Layout("clients", None, ())
    measures = [
        Curves("masking_seconds", "masking, a client (ms)", 1000),
        Curves("unmasking_seconds", "unmasking, server (s)"),
    ]
    save_multiples(
        path,
        layout,
        measures,
        rows,
        title="median and range of the sessions",
        center=median,
        logarithmic=True,
    )


def _shown(spread: CostSpread, factor: float) -> str:
    middle, *ends = (_digits(factor * value) for value in (spread.median, spread.least, spread.most))
    return middle if ends[0] == ends[1] else f"{middle}\n({ends[0]}–{ends[1]})"


def _digits(value: float) -> str:
    """Return three digits, without an exponent."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
