"""`secagg experiment`: run a named comparison of whole runs; its results are one JSON document."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from fl.commands.output import INTERRUPTED, check_is_file_to_be, open_console
from fl.errors import ConfigError
from fl.experiments.catalog import EXPERIMENTS
from fl.formatting import json_line

# These modules import torch, which takes seconds; the other commands should not wait for it.
if TYPE_CHECKING:
    from fl.experiments.experiment import Arm, Experiment
    from fl.experiments.folder import ExperimentFolder, ExperimentIdentity

_MAX_JOBS = 256


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` prints the user's mistakes as all commands do."""

    @app.command()
    def experiment(
        name: Annotated[str, Argument(help=f"{', '.join(EXPERIMENTS[:-1])} or {EXPERIMENTS[-1]}.")],
        out: Annotated[
            Path | None,
            Option(help="Folder for checkpoints and results; a run in it continues (default: runs/NAME)."),
        ] = None,
        data_dir: Annotated[Path | None, Option(help="Folder with the data sets' files.")] = None,
        arm: Annotated[
            list[str] | None,
            Option(help="Run only this arm (one of the compared settings); repeatable (default: all)."),
        ] = None,
        quick: Annotated[bool, Option("--quick", help="Run the same arms in seconds, on a small data set.")] = False,
        seed: Annotated[int, Option(help="Random seed (keys and masks are never seeded).")] = 0,
        jobs: Annotated[int, Option(help="Arms that run at once, each in its own process (0: one per CPU core).")] = 0,
        threads: Annotated[int, Option(help="PyTorch threads of each arm; the last bits of results depend on it.")] = 1,
        results: Annotated[Path | None, Option(help="Also write the results to this file.")] = None,
        as_json: Annotated[
            bool, Option("--json", help="Print the results as one JSON object on stdout, all other output on stderr.")
        ] = False,
    ) -> None:
        """Run an experiment, or continue an interrupted one; docs/experiments.md has the results of all."""
        with reported(as_json):
            request = ExperimentRequest(
                name=name,
                out=out if out is not None else Path("runs") / (f"{name}-quick" if quick else name),
                data_dir=data_dir,
                arms=tuple(arm or ()),
                quick=quick,
                seed=seed,
                jobs=jobs or os.cpu_count() or 1,
                threads=threads,
                results=results,
            )
            finished = run_experiment(request, open_console(stderr=as_json))
        if as_json:
            typer.echo(json_line(finished.document))
        if finished.interrupted:
            sys.exit(INTERRUPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRequest:
    """The command's options.

    Raises:
        ConfigError: a number is out of range.
    """

    name: str
    out: Path
    data_dir: Path | None = None
    arms: tuple[str, ...] = ()
    quick: bool = False
    seed: int = 0
    jobs: int = 1
    threads: int = 1
    results: Path | None = None

    def __post_init__(self) -> None:
        for name, value in (("jobs", self.jobs), ("threads", self.threads)):
            if not 1 <= value <= _MAX_JOBS:
                raise ConfigError(f"{name} must be between 1 and {_MAX_JOBS}, not {value}")


@dataclass(frozen=True, slots=True)
class FinishedExperiment:
    """The results so far, and whether the user interrupted the command."""

    document: dict[str, Any]
    interrupted: bool


def run_experiment(request: ExperimentRequest, console: Console) -> FinishedExperiment:
    """Run or continue the experiment. FLError or SecAggError for impossible options, mostly before the first arm."""
    from fl.experiments.beside import leave
    from fl.experiments.catalog import find
    from fl.experiments.display import results_table
    from fl.experiments.files import write_json
    from fl.experiments.folder import ExperimentFolder, ExperimentIdentity
    from fl.experiments.results import new_document
    from fl.experiments.running import chosen_arms
    from fl.experiments.workers import ExperimentError

    module = find(request.name)
    experiment = module.build(quick=request.quick, seed=request.seed)
    arms = chosen_arms(experiment, request.arms)
    if request.results is not None:
        check_is_file_to_be(request.results, "--results")
    identity = ExperimentIdentity(
        experiment=request.name, quick=request.quick, seed=request.seed, threads=request.threads
    )
    folder = ExperimentFolder(request.out)

    def keep() -> dict[str, Any]:
        document = new_document(experiment, folder, identity, jobs=request.jobs)
        for path in (folder.results_path, request.results):
            if path is not None:
                write_json(path, document)
        leave(folder, document, module.beside(document))
        return document

    try:
        interrupted = _run(request, experiment, arms, folder, identity, console)
    except ExperimentError:
        # One arm failed: the others' results are kept.
        keep()
        raise
    document = keep()
    console.print(results_table(document))
    if interrupted:
        console.print("[yellow]interrupted[/yellow]; the same command goes on with it", soft_wrap=True)
    console.print(escape(f"results {request.results or folder.results_path}"), highlight=False, soft_wrap=True)
    return FinishedExperiment(document, interrupted)


def _run(
    request: ExperimentRequest,
    experiment: Experiment,
    arms: tuple[Arm, ...],
    folder: ExperimentFolder,
    identity: ExperimentIdentity,
    console: Console,
) -> bool:
    """Run the arms; return whether the user interrupted them."""
    from fl.experiments.display import ExperimentDisplay
    from fl.experiments.running import run_arms

    with ExperimentDisplay(console) as display:
        try:
            run_arms(
                experiment,
                arms,
                folder,
                identity,
                jobs=request.jobs,
                data_dir=request.data_dir,
                listen=display.on_event,
            )
        except KeyboardInterrupt:
            return True
    return False
