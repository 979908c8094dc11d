"""`secagg experiment`: a named comparison of whole runs, with its results in one JSON document."""

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

from fl.commands.output import INTERRUPTED, open_console
from fl.errors import ConfigError
from fl.experiments.catalog import EXPERIMENTS
from fl.formatting import json_line

# What runs it needs torch, whose import takes seconds that the other commands should not wait for.
if TYPE_CHECKING:
    from fl.experiments.experiment import Arm, Experiment
    from fl.experiments.folder import ExperimentFolder, Identity

_MAX_JOBS = 256


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` shows the user's mistakes the way all commands do."""

    @app.command()
    def experiment(
        name: Annotated[str, Argument(help=f"{', '.join(EXPERIMENTS[:-1])} or {EXPERIMENTS[-1]}.")],
        out: Annotated[
            Path | None,
            Option(help="Folder for checkpoints and results (default: runs/NAME); goes on with what is there."),
        ] = None,
        data_dir: Annotated[Path | None, Option(help="Folder with the data sets' files.")] = None,
        arm: Annotated[list[str] | None, Option(help="Run this arm only; may be repeated (default: all).")] = None,
        quick: Annotated[bool, Option("--quick", help="The same arms in seconds, on a small data set.")] = False,
        seed: Annotated[int, Option(help="Of everything but keys and masks.")] = 0,
        jobs: Annotated[int, Option(help="Arms that run at once, each in a process (default: one a core).")] = 0,
        threads: Annotated[int, Option(help="torch's threads in each; results depend on it in the last bit.")] = 1,
        results: Annotated[Path | None, Option(help="Another file to write the results to.")] = None,
        as_json: Annotated[
            bool, Option("--json", help="The results on stdout; everything else goes to stderr.")
        ] = False,
    ) -> None:
        """Run an experiment, or go on with it where it was broken off; docs/experiments.md has the figures."""
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
    """What the user wants; the command's options.

    Raises:
        ConfigError: a number out of range.
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
    """How the command ended: the results so far, and whether the user broke it off."""

    document: dict[str, Any]
    interrupted: bool


def run_experiment(request: ExperimentRequest, console: Console) -> FinishedExperiment:
    """Run, or go on. FLError or SecAggError for what cannot work, before the first arm where it can be known."""
    from fl.experiments.beside import leave
    from fl.experiments.catalog import find
    from fl.experiments.display import results_table
    from fl.experiments.files import write_json
    from fl.experiments.folder import ExperimentFolder, Identity
    from fl.experiments.results import new_document
    from fl.experiments.running import chosen_arms
    from fl.experiments.workers import ExperimentError

    module = find(request.name)
    experiment = module.build(quick=request.quick, seed=request.seed)
    arms = chosen_arms(experiment, request.arms)
    if request.results is not None:
        _check_is_file_to_be(request.results)
    identity = Identity(experiment=request.name, quick=request.quick, seed=request.seed, threads=request.threads)
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
        # One arm could not be run: what the others have come to is kept all the same.
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
    identity: Identity,
    console: Console,
) -> bool:
    """Run the arms; whether the user broke it off."""
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


def _check_is_file_to_be(path: Path) -> None:
    """Better to hear of it now than after an hour."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: --results names a file")
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"cannot write to {path}: {existing} is no folder that can be written to")
