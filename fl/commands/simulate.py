"""`secagg simulate`: run simulated sessions and print the table of their costs."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fl.commands.output import check_is_file_to_be, open_console
from fl.config.run_config import DROPOUT_POINTS
from fl.errors import ConfigError
from fl.formatting import format_bytes
from fl.runs.plan_json import graph_of, plan_to_json
from fl.runs.simulation import SimulationResult, simulate, to_json
from fl.studies.costs import HEADINGS, latex_of, save_cost_figure, session_row, table_of
from fl.studies.grid import Cell, cells_of, label, refused_cells
from fl.studies.tables import Row, csv_of, save_bytes
from secagg import Completed, Plan, PlanError, Round, rounds_of
from transport import FaultSchedule, Observer

_KINDS: dict[str, Callable[[str], Any]] = {
    "clients": int,
    "length": int,
    "bits": int,
    "corrupt": float,
    "threshold": int,
}
_WIDE = 200
_PLAN_NAMES = {"clients": "num_clients", "length": "vector_length", "bits": "value_bits"}


def parse_dropouts(options: list[str]) -> dict[Round, float]:
    """Parse ``0.1`` (spread evenly over the rounds) or ``masked-input-collection=0.1``; each round at most once."""
    fractions: dict[Round, float] = {}
    for option in options:
        point, separator, number = option.rpartition("=")
        rounds = DROPOUT_POINTS.get(point if separator else "any")
        if rounds is None:
            raise ConfigError(f"unknown round {point!r} in --dropout {option}; known are {', '.join(DROPOUT_POINTS)}")
        try:
            fraction = float(number)
        except ValueError:
            raise ConfigError(f"--dropout {option}: {number!r} is not a number") from None
        if not 0 <= fraction < 1:
            raise ConfigError(f"--dropout {option}: the fraction must be at least 0 and below 1")
        for round_ in rounds:
            if round_ in fractions:
                raise ConfigError(f"--dropout {option}: {round_.value} has a fraction already; give each round once")
            fractions[round_] = fraction / len(rounds)
    if sum(fractions.values()) >= 1:
        raise ConfigError(f"the fractions of --dropout add up to {sum(fractions.values()):g}: no client would be left")
    return fractions


def parse_axes(*, dropout: list[str], **options: list[str] | None) -> dict[str, list[Any]]:
    """Return the values of each option, which the user separates by commas or gives in several options.

    An option that was not given has the value None. Several ``--dropout`` are parts of one value, so that their
    alternatives are combined.

    Raises:
        ConfigError: a value has the wrong type, or is given twice.
    """
    axes: dict[str, list[Any]] = {}
    for name, given in options.items():
        kind = _KINDS.get(name, str)
        axes[name] = [None] if given is None else []
        for text in (part.strip() for option in given or () for part in option.split(",")):
            try:
                value = kind(text)
            except ValueError:
                raise ConfigError(f"--{name} {text!r} is not a {'whole ' if kind is int else ''}number") from None
            if value in axes[name]:
                raise ConfigError(f"--{name} has {text} twice")
            axes[name].append(value)
    parts = [[part.strip() for part in option.split(",")] for option in dropout]
    axes["dropout"] = [*dict.fromkeys(_number_or_text("+".join(chosen)) for chosen in itertools.product(*parts))]
    return axes


def _number_or_text(text: str) -> float | str:
    try:
        return float(text or 0)
    except ValueError:
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationRequest:
    """The command's options.

    Attributes:
        axes: the values of the options that may have several (`parse_axes`).
        repeat: the number of sessions of each cell, with the seeds ``seed``, ``seed + 1``, ...
        skip_impossible: leave out cells that are refused.
        csv, latex, figure: files for the results.
    """

    axes: Mapping[str, Sequence[Any]]
    seed: int
    workers: int | None
    repeat: int = 1
    skip_impossible: bool = False
    csv: Path | None = None
    latex: Path | None = None
    figure: Path | None = None

    def __post_init__(self) -> None:
        if self.seed < 0 or (self.workers is not None and self.workers < 1) or self.repeat < 1:
            raise ConfigError("seed must not be negative, and workers and repeat must be at least 1")
        for option, path in (("--csv", self.csv), ("--latex", self.latex), ("--figure", self.figure)):
            if path is not None:
                check_is_file_to_be(path, option)

    @property
    def is_single(self) -> bool:
        """Return whether it is one session, whose rounds are shown."""
        is_one = self.repeat == 1 and all(len(values) == 1 for values in self.axes.values())
        return is_one and not (self.csv or self.latex or self.figure)


@dataclass(frozen=True, slots=True)
class PlannedSessions:
    """A cell that is possible: its parameters, and the dropouts of its sessions by round."""

    cell: Cell
    plan: Plan
    dropouts: dict[Round, float]


@dataclass(frozen=True, slots=True)
class FinishedSimulation:
    """What ``--json`` prints, the reason of a failure, and whether the user interrupted the command."""

    as_object: dict[str, Any]
    failure: str | None
    interrupted: bool = False


def run_simulations(request: SimulationRequest, make_plan: Callable[..., Plan], console: Console) -> FinishedSimulation:
    """Run the sessions, and print their costs: of one session by round, of several in a line for each cell.

    Raises:
        PlanError, ConfigError: parameters are impossible; nothing has run then.
    """
    cells = _planned(request, make_plan)
    if request.is_single:
        return _run_single(cells[0], request, console)
    rows: list[Row] = []
    interrupted = False
    try:
        for row in _sessions(cells, request):
            rows.append(row)
            if request.csv is not None:
                save_bytes(request.csv, csv_of(rows))
    except KeyboardInterrupt:
        interrupted = True
    return _report(request, rows, console, interrupted)


def _planned(request: SimulationRequest, make_plan: Callable[..., Plan]) -> list[PlannedSessions]:
    planned, refused = [], []
    for cell in cells_of(request.axes):
        try:
            planned.append(_planned_cell(cell, make_plan))
        except (ConfigError, PlanError) as error:
            if request.is_single:
                raise
            varied = {name: value for name, value in cell.items() if len(request.axes[name]) > 1}
            refused.append((varied, str(error)))
    if refused and not (request.skip_impossible and planned):
        raise refused_cells(
            refused,
            remedy="change the lists, or leave such cells out with --skip-impossible"
            if planned
            else "change the options: no session is possible",
        )
    if refused:
        open_console(stderr=True).print(f"impossible and left out: {len(refused)} of {len(refused) + len(planned)}")
    return planned


def _planned_cell(cell: Cell, make_plan: Callable[..., Plan]) -> PlannedSessions:
    dropouts = parse_dropouts(str(cell["dropout"]).split("+") if cell["dropout"] else [])
    numbers = {_PLAN_NAMES.get(name, name): value for name, value in cell.items()}
    plan = make_plan(**{**numbers, "dropout": sum(dropouts.values())})
    for round_ in dropouts:
        if round_ not in rounds_of(plan.parameters):
            raise ConfigError(
                f"--dropout {round_.value}: --adversary honest-but-curious has no such round; leave it out"
            )
    return PlannedSessions(cell, plan, dropouts)


def _run_single(cell: PlannedSessions, request: SimulationRequest, console: Console) -> FinishedSimulation:
    params = cell.plan.parameters
    with _progress(console, "{task.description:22}") as progress:
        task = progress.add_task("", total=params.num_clients)

        begun: list[Round] = []

        def observe(round_: Round, answered: int, awaited: int) -> None:
            if round_ not in begun:
                begun.append(round_)
                if not console.is_terminal:
                    open_console(stderr=True).print(round_.value, highlight=False)
            progress.update(task, description=round_.value, completed=answered, total=max(1, awaited))

        result = _run(cell, request.seed, request, observe)
    plan = cell.plan
    _print(console, plan, result)
    as_object = to_json(plan_to_json(plan), result)
    if result.exact:
        return FinishedSimulation(as_object, None)
    return FinishedSimulation({**as_object, "error": _failure(result)}, _failure(result))


def _sessions(cells: Sequence[PlannedSessions], request: SimulationRequest) -> Iterator[Row]:
    """Yield the row of each session, with a bar on stderr, or a line for each cell if stderr is no terminal."""
    console = open_console(stderr=True)
    with _progress(console, "{task.description}") as progress:
        task = progress.add_task("sessions", total=len(cells) * request.repeat)
        for number, cell in enumerate(cells, 1):
            seconds = 0.0
            for seed in range(request.seed, request.seed + request.repeat):
                result = _run(cell, seed, request)
                seconds += result.seconds
                progress.advance(task)
                yield session_row(cell.cell, seed, cell.plan, result)
            if not console.is_terminal:
                varied = {name: value for name, value in cell.cell.items() if len(request.axes[name]) > 1}
                line = f"{number}/{len(cells)}  {label(varied)}: {seconds:.1f} s"
                console.print(line, highlight=False, markup=False, soft_wrap=True)


def _run(
    cell: PlannedSessions, seed: int, request: SimulationRequest, observe: Observer | None = None
) -> SimulationResult:
    faults = FaultSchedule.dropouts_by_round(range(cell.plan.parameters.num_clients), cell.dropouts, seed=seed)
    return simulate(cell.plan, faults, seed=seed, workers=request.workers or os.cpu_count() or 1, observer=observe)


def _report(request: SimulationRequest, rows: list[Row], console: Console, interrupted: bool) -> FinishedSimulation:
    """Print the table of all cells, and write the files."""
    headings, lines = table_of(request.axes, rows)
    title = "median of the sessions (and range)" if request.repeat > 1 else None
    fixed = label({name: values[0] for name, values in request.axes.items() if len(values) == 1})
    table = Table(title=title, caption=escape(fixed), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, name in enumerate(headings):
        justify: Literal["left", "right"] = "left" if place < len(headings) - len(HEADINGS) else "right"
        table.add_column(name, justify=justify, no_wrap=True, overflow="fold")
    for line in lines:
        table.add_row(*line)
    if not console.is_terminal:
        # A file or a pipe has no width.
        console.width = max(console.width, _WIDE)
    console.print(table)
    files = [path for path in (request.csv, request.latex) if path is not None]
    if request.latex is not None:
        note = f"secagg simulate: {fixed}"
        note += f"; median (range) of {request.repeat} sessions" if request.repeat > 1 else ""
        save_bytes(request.latex, latex_of(headings, lines, note=note).encode())
    if request.figure is not None and any(row["exact"] for row in rows):
        save_cost_figure(request.figure, request.axes, rows)
        files.append(request.figure)
    wrong = [row for row in rows if not row["exact"]]
    console.print(f"the sums of {len(rows) - len(wrong)} of {len(rows)} sessions are exact", highlight=False)
    if files:
        console.print(escape(f"results {', '.join(map(str, files))}"), highlight=False, soft_wrap=True)
    failure = f"{len(wrong)} of {len(rows)} sessions came to no sum, or to a wrong one" if wrong else None
    if interrupted:
        console.print("[yellow]interrupted[/yellow]", soft_wrap=True)
    as_object = {"sessions": rows, "interrupted": interrupted, **({"error": failure} if failure else {})}
    return FinishedSimulation(as_object, failure, interrupted)


def _progress(console: Console, description: str) -> Progress:
    return Progress(
        TextColumn(description),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _failure(result: SimulationResult) -> str:
    outcome = result.report.outcome
    return "the sum is wrong" if isinstance(outcome, Completed) else f"the session came to no sum: {outcome}"


def _print(console: Console, plan: Plan, result: SimulationResult) -> None:
    params = plan.parameters
    table = Table(
        title=f"{params.num_clients:,} clients, {params.vector_length:,} values of {params.value_bits} bits, "
        f"{params.adversary.value} server, {graph_of(params).value} graph: degree {params.degree:,}, "
        f"threshold {params.threshold:,}",
        caption="a client's figures are medians",
    )
    for name in ("round", "server", "a client", "it sends", "it receives"):
        table.add_column(name, justify="left" if name == "round" else "right")
    for round_, cost in result.rounds.items():
        table.add_row(
            round_.value,
            f"{cost.server_seconds:.3f} s",
            f"{1000 * cost.client_seconds:.2f} ms",
            format_bytes(cost.client_bytes_up),
            format_bytes(cost.client_bytes_down),
        )
    console.print(table)
    if plan.why is not None:
        console.print(plan.why, highlight=False, soft_wrap=True)
    outcome = result.report.outcome
    if isinstance(outcome, Completed):
        verdict = "[green]exact[/green]" if result.exact else "[bold red]WRONG[/bold red]"
        console.print(f"the sum of {len(outcome.included):,} of {params.num_clients:,} clients is {verdict}")
    console.print(
        f"{result.seconds:.1f} s for all clients and the server, peak memory {format_bytes(result.peak_rss_bytes)}",
        highlight=False,
    )
