"""`secagg simulate`: run a simulated session and print the table of its costs."""

import os
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fl.config.run_config import DROPOUT_POINTS
from fl.errors import AbortedError, ConfigError
from fl.formatting import format_bytes
from fl.runs.plan_json import graph_of, plan_to_json
from fl.runs.simulation import SimulationResult, simulate, to_json
from secagg import Completed, Plan, Round, rounds_of
from transport import FaultSchedule


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


def run_simulation(
    plan: Plan, dropouts: dict[Round, float], *, seed: int, workers: int | None, console: Console
) -> tuple[SimulationResult, dict[str, Any]]:
    """Run the session with a progress bar for the current round, and print the table."""
    params = plan.parameters
    for round_ in dropouts:
        if round_ not in rounds_of(params):
            raise ConfigError(
                f"--dropout {round_.value}: --adversary honest-but-curious has no such round; leave it out"
            )
    faults = FaultSchedule.dropouts_by_round(range(params.num_clients), dropouts, seed=seed)
    with Progress(
        TextColumn("{task.description:22}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=params.num_clients)

        def observe(round_: Round, answered: int, awaited: int) -> None:
            progress.update(task, description=round_.value, completed=answered, total=max(1, awaited))

        result = simulate(plan, faults, seed=seed, workers=workers or os.cpu_count() or 1, observer=observe)
    _print(console, plan, result)
    as_object = to_json(plan_to_json(plan), result)
    return result, as_object if result.exact else {**as_object, "error": _failure(result)}


def raise_if_failed(result: SimulationResult) -> None:
    """Raise AbortedError if the session was aborted or its sum is wrong."""
    if not result.exact:
        raise AbortedError(_failure(result))


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
