"""`secagg train`: train a run and write its folder."""

import shlex
import time
from contextlib import ExitStack
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
from fl.formatting import listed
from fl.learning.own_code import make_dataset
from fl.report import save_plot
from fl.report.tensorboard import EventFiles, require_tensorboard
from fl.report.verdict import can_judge, verdict_on
from fl.runs.checkpoint import RunFolder
from fl.runs.display import TrainingDisplay, summary_table
from fl.runs.records import RoundRecord, raise_if_all_aborted
from fl.runs.rounds import FederatedRun, start_runs
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
    runs = start_runs(config, make_dataset(config.data.dataset, data_dir), resources)
    if config.partition == "by-owner" and not allow_one_class:
        _refuse_one_class(runs[0].worker)
    folder = None
    if out is not None:
        folder = RunFolder(out)
        folder.create()
        folder.save(config, runs, [])
    return _train(config, runs, [], folder, console, tensorboard)


def _refuse_one_class(worker: LocalWorker) -> None:
    """Raise ConfigError if all examples of an owner have one class: most likely the labels are wrong."""
    owners = worker.dataset.train_writers
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
    folder = RunFolder(path)
    config, rounds_done = folder.load_config()
    config = replace(config, rounds=config.rounds if rounds is None else rounds)
    if rounds_done > config.rounds:
        raise ConfigError(
            f"the run in {path} has done {rounds_done} rounds already: give a larger --rounds than {config.rounds}"
        )
    runs = start_runs(config, make_dataset(config.data.dataset, data_dir), resources)
    records = folder.restore(runs, rounds_done)
    if rounds_done < config.rounds:
        # The old model must not be taken for the checkpoint's if this start is interrupted.
        folder.remove_model()
    # The number of rounds may have changed, and the other files may be older than the checkpoint.
    folder.save(config, runs, records)
    going_on = f"going on after round {rounds_done} of {config.rounds} in {path}"
    console.print(escape(going_on), highlight=False, soft_wrap=True)
    return _train(config, runs, records, folder, console, tensorboard)


def _train(
    config: RunConfig,
    runs: list[FederatedRun],
    records: list[RoundRecord],
    folder: RunFolder | None,
    console: Console,
    tensorboard: bool,
) -> FinishedTraining:
    rounds_before = runs[0].rounds_done
    if folder is None or not tensorboard:
        interrupted = _rounds(config, runs, records, folder, console)
        if not interrupted:
            raise_if_all_aborted(config, records, rounds_before)
        return _finish(config, runs, records, folder, console, interrupted)
    with EventFiles(folder.path, config, runs[0].plan, records, ended=time.time()) as events:
        interrupted = _rounds(config, runs, records, folder, console, events)
        if not interrupted:
            raise_if_all_aborted(config, records, rounds_before)
        finished = _finish(config, runs, records, folder, console, interrupted)
        if finished.summary["rounds"] and can_judge(runs[0].task, runs[0].worker.dataset):
            verdict = verdict_on(runs[0].model, runs[0].worker.dataset, config.seed)
            events.add_verdict(verdict, runs[0].rounds_done, ended=time.time())
        looked_at = f"events {events.path}: tensorboard --logdir {shlex.quote(str(events.path))}"
        console.print(escape(looked_at), highlight=False, soft_wrap=True)
    return finished


def _rounds(
    config: RunConfig,
    runs: list[FederatedRun],
    records: list[RoundRecord],
    folder: RunFolder | None,
    console: Console,
    events: EventFiles | None = None,
) -> bool:
    """Train the remaining rounds; return whether the user interrupted them."""
    interrupted = False
    with TrainingDisplay(console, config) as display, ExitStack() as engines:
        for run in runs:
            engines.enter_context(run)
        display.introduce(runs[0].layout.size, runs[0].plan, runs[0].worker)
        try:
            while runs[0].rounds_done < config.rounds:
                display.round_started(runs[0].rounds_done)
                done = [run.run_round(display.on_progress) for run in runs]
                records += done
                if folder is not None:
                    folder.save(config, runs, records)
                if events is not None:
                    events.add(done)
                display.round_done(done)
        except KeyboardInterrupt:
            interrupted = True
    return interrupted


def _finish(
    config: RunConfig,
    runs: list[FederatedRun],
    records: list[RoundRecord],
    folder: RunFolder | None,
    console: Console,
    interrupted: bool,
) -> FinishedTraining:
    if interrupted:
        if folder is not None:
            # The interrupted round may have changed a model already; the checkpoint has those of the last whole one.
            _, rounds_done = folder.load_config()
            records = folder.restore(runs, rounds_done)
            kept = f"go on with: secagg train --resume {escape(shlex.quote(str(folder.path)))}"
        else:
            rounds_done = len(records) // len(runs)
            kept = "nothing is kept without --out"
        console.print(
            f"\n[yellow]interrupted after round {rounds_done} of {config.rounds}[/yellow]; {kept}",
            highlight=False,
            soft_wrap=True,
        )
    summary = summarize(config, records, runs[0].plan)
    if records:
        console.print(summary_table(summary))
        if folder is not None:
            folder.save_model(runs[0])
            save_plot(folder.plot_path, config, records)
            files = f"figure {folder.plot_path}, model {folder.model_path}"
            console.print(escape(files), highlight=False, soft_wrap=True)
    return FinishedTraining(summary, interrupted)
