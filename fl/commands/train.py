"""`secagg train`: train a run and write its folder."""

import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from fl.commands.given import refuse_with_resume
from fl.config.run_config import RunConfig
from fl.engines import Resources
from fl.engines.local_worker import LocalWorker
from fl.errors import ConfigError
from fl.federated_training import FederatedTraining
from fl.formatting import listed
from fl.learning.own_code import make_dataset
from fl.report.tensorboard import EventFiles, require_tensorboard
from fl.report.verdict import can_judge, verdict_on
from fl.runs.checkpoint import RunFolder
from fl.runs.display import summary_table
from fl.runs.summary import summarize

# Options that may be given with --resume; all others are fixed when a run starts.
_RESUMABLE = {"config", "resume", "rounds", "data_dir", "as_json", "tensorboard", "workers", "address", "device"}


@dataclass(frozen=True, slots=True)
class FinishedTraining:
    """The run's figures, and whether the user interrupted the command."""

    summary: dict[str, Any]
    interrupted: bool


def start_training(
    config: RunConfig,
    out: Path | None,
    data_dir: Path | None,
    console: Console,
    *,
    allow_one_class: bool = False,
    tensorboard: bool = False,
    resources: Resources | None = None,
) -> FinishedTraining:
    """Train a new run. FLError or PlanError for impossible settings, before round 1.

    With ``tensorboard``, event files are written too. Owners whose examples all have one class are refused, unless
    ``allow_one_class``; clients that got such examples by a random split are only named.
    """
    if tensorboard:
        require_tensorboard()
        if out is None:
            raise ConfigError("--tensorboard writes into the run's folder: give --out")
    training = FederatedTraining(config, make_dataset(config.data.dataset, data_dir), resources)
    if config.partition == "by-owner" and not allow_one_class:
        _refuse_one_class(training.runs[0].worker)
    if out is not None:
        training.keep_in(out)
    return _train(training, console, tensorboard)


def _refuse_one_class(worker: LocalWorker) -> None:
    """Raise ConfigError if all examples of an owner have one class: most likely the labels are wrong."""
    owners = worker.data.dataset.train_writers
    assert owners is not None  # noqa: S101 - the partition by owner needs them
    few = sorted(int(owners[worker.examples[client_id].training[0]]) for client_id in worker.of_one_class)
    if few:
        owners_have = "owner {} has" if len(few) == 1 else "owners {} have"
        raise ConfigError(
            f"{owners_have.format(listed(few))} examples of one class only, and a model trained on them always "
            "predicts that class: check the labels, leave such owners out, or give --allow-one-class"
        )


def resume_training(
    path: Path,
    given: set[str],
    rounds: int | None,
    data_dir: Path | None,
    console: Console,
    *,
    tensorboard: bool = False,
    resources: Resources | None = None,
) -> FinishedTraining:
    """Continue a stored run up to ``rounds``, by default its own; ``tensorboard`` as for `start_training`."""
    if tensorboard:
        require_tensorboard()
    refuse_with_resume(given, _RESUMABLE)
    config, rounds_done = RunFolder(path).load_config()
    config = replace(config, rounds=config.rounds if rounds is None else rounds)
    training = FederatedTraining(config, make_dataset(config.data.dataset, data_dir), resources)
    training.resume_in(path)
    going_on = f"going on after round {rounds_done} of {config.rounds} in {path}"
    console.print(escape(going_on), highlight=False, soft_wrap=True)
    return _train(training, console, tensorboard)


def _train(training: FederatedTraining, console: Console, tensorboard: bool) -> FinishedTraining:
    folder = training.folder
    if folder is None or not tensorboard:
        return _finish(training, console, training.run_rounds(console))
    run = training.runs[0]
    with EventFiles(folder.path, run.config, run.plan, training.records, ended=time.time()) as events:
        finished = _finish(training, console, training.run_rounds(console, events.add))
        if finished.summary["rounds"] and can_judge(run.task, run.dataset):
            verdict = verdict_on(run.model, run.dataset, run.config.seed)
            events.add_verdict(verdict, run.rounds_done, ended=time.time())
        looked_at = f"events {events.path}: tensorboard --logdir {shlex.quote(str(events.path))}"
        console.print(escape(looked_at), highlight=False, soft_wrap=True)
    return finished


def _finish(training: FederatedTraining, console: Console, interrupted: bool) -> FinishedTraining:
    config, folder = training.config, training.folder
    if interrupted:
        kept = "nothing is kept without --out"
        if folder is not None:
            kept = f"go on with: secagg train --resume {escape(shlex.quote(str(folder.path)))}"
        console.print(
            f"\n[yellow]interrupted after round {training.rounds_done} of {config.rounds}[/yellow]; {kept}",
            highlight=False,
            soft_wrap=True,
        )
    summary = summarize(config, training.records, training.plan)
    if training.records:
        console.print(summary_table(summary))
        training.save_results(console)
        if folder is not None:
            files = f"figure {folder.plot_path}, model {folder.model_path}"
            console.print(escape(files), highlight=False, soft_wrap=True)
        elif not interrupted:
            console.print("the model is not kept: give --out DIR to keep it", highlight=False, soft_wrap=True)
    if training.personal is not None:
        summary["personal"] = training.personal.to_json()
    return FinishedTraining(summary, interrupted)
