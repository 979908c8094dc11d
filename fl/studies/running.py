"""Train a study's runs on all cores, and write their results; a study that was interrupted goes on.

DIR/runs.csv, DIR/rounds.csv    the results: one row for each run, and for each of its rounds
DIR/final.png, DIR/rounds.png   the results as figures
DIR/runs/NAME/run               each run's folder, as `secagg train --out` writes it
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fl.data import Dataset
from fl.errors import AbortedError, ConfigError, FLError
from fl.experiments.experiment import ArmResult, ArmWork, Experiment
from fl.experiments.federated import RUN, FederatedArm
from fl.experiments.folder import ExperimentFolder, ExperimentIdentity
from fl.experiments.running import Listener, run_arms
from fl.experiments.workers import ArmEvent, ArmFinished, ExperimentError
from fl.files import held
from fl.formatting import percent
from fl.learning.cpu import torch_threads
from fl.learning.own_code import make_dataset
from fl.learning.training import DivergedError
from fl.personalization.scores import Personalizer
from fl.runs.checkpoint import RunFolder
from fl.runs.records import RoundRecord, record_to_json
from fl.runs.rounds import FederatedRun, start_runs
from fl.studies.figure import save_figures
from fl.studies.grid import Study, StudyRun, label, refused_cells
from fl.studies.tables import (
    ROUND_COLUMNS,
    RUN_COLUMNS,
    Row,
    figures_of,
    metrics_of,
    personal_columns,
    picked,
    save_table,
)
from secagg import SecAggError

# One thread for each run: as many runs as cores train side by side, and results do not depend on their number.
_IDENTITY = ExperimentIdentity(experiment="study", quick=False, seed=0, threads=1)
_LOCK = "study.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyArm(FederatedArm):
    """A study's run. That its training diverges, or comes to no sum, is a result like another."""

    def run(self, work: ArmWork) -> ArmResult:
        """Train, or resume training."""
        try:
            return FederatedArm.run(self, work)
        except (DivergedError, AbortedError) as error:
            return {"headline": f"failed: {error}", "seconds": 0.0, "failed": str(error)}

    def _result(self, run: FederatedRun, dataset: Dataset, records: list[RoundRecord]) -> ArmResult:
        # All other figures are in the records, which the run's folder has.
        return {
            "headline": f"{_headline(records[-1])} after {len(records)} round{'' if len(records) == 1 else 's'}",
            "seconds": sum(record.seconds for record in records),
            "personal": Personalizer(run).score().to_json() if run.config.personal.method else {},
            "parameters": sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad),
        }


def _headline(record: RoundRecord) -> str:
    if record.accuracy is not None:
        return percent(record.accuracy)
    name, value = next(iter({**metrics_of(record_to_json(record)), "loss": record.loss}.items()))
    return f"{name.removeprefix('metrics.')} {'-' if value is None else f'{value:.4g}'}"


@dataclass(frozen=True, slots=True)
class StudyResult:
    """A study's results, as in its files.

    Attributes:
        runs: one row for each run; `fl.studies.tables.RUN_COLUMNS` describes the columns.
        rounds: one row for each round of the runs that have ended; see `fl.studies.tables.ROUND_COLUMNS`.
    """

    runs: list[Row]
    rounds: list[Row]


class StudyFolder:
    """A study and the folder of its results. Use it as a context manager: it locks the folder.

    Args:
        study: the study.
        path: the folder; finished runs in it are not trained again.
        data_dir: the folder where data sets are looked up first.
    """

    def __init__(self, study: Study, path: Path, data_dir: Path | None = None) -> None:
        self.study = study
        self.path = path
        self.runs: list[StudyRun] = study.runs()
        self._data_dir = data_dir
        self._folder = ExperimentFolder(path / "runs")
        self._results: dict[str, ArmResult] = {}
        self._rounds: dict[str, list[Row]] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Lock the folder, and read the results that are there; ConfigError if it is in use or damaged."""
        with held(self.path, _LOCK):
            for run in self.runs:
                if run.config is not None and (result := self._folder.result(run.name)) is not None:
                    self._results[run.name] = self._checked(run.name, result)
            yield

    def check(self, *, skip_impossible: bool = False) -> None:
        """Find the runs that cannot be trained, before any is.

        Raises:
            RefusedCellsError: there are such runs, and they are not to be skipped, or there are no others.
        """
        load = functools.cache(functools.partial(make_dataset, data_dir=self._data_dir))
        refusals: dict[str, str] = {}
        # One thread: a check does less than threads cost.
        with torch_threads(_IDENTITY.threads):
            for run in self.runs:
                # What is refused does not depend on the seed.
                if label(run.cell) not in refusals:
                    refusals[label(run.cell)] = run.refusal or self._refusal(run, load)
        self.runs = [replace(run, refusal=run.refusal or refusals[label(run.cell)]) for run in self.runs]
        refused = [run for run in self.runs if run.refusal]
        if not refused or (skip_impossible and len(refused) < len(self.runs)):
            return
        raise refused_cells(
            [(run.cell, run.refusal) for run in refused],
            remedy="change the grid, or leave such cells out with --skip-impossible"
            if len(refused) < len(self.runs)
            else "change the settings: no run is possible",
        )

    @property
    def files(self) -> list[Path]:
        """Return the paths of the results that are there."""
        names = ("runs", "rounds", "final")
        return [file for name in names for file in sorted(self.path.glob(f"{name}.*"))]

    @property
    def waiting(self) -> list[StudyRun]:
        """Return the possible runs that have not ended."""
        return [run for run in self.runs if not run.refusal and run.name not in self._results]

    def train(self, *, jobs: int, listen: Listener) -> None:
        """Train the runs that wait, `jobs` at once; `listen` gets their events. Errors as in `run_arms`."""
        # Seed by seed: an interrupted study has whole grids.
        order = sorted(self.waiting, key=lambda run: [*self.study.seeds].index(run.seed))
        arms = tuple(
            StudyArm(name=run.name, title=run.label, config=run.config) for run in order if run.config is not None
        )

        def keep(event: ArmEvent) -> None:
            if isinstance(event, ArmFinished):
                self._results[event.arm] = event.result
                save_table(self.path / "runs.csv", self.run_rows())
            listen(event)

        experiment = Experiment(name="study", title="study", arms=arms)
        try:
            run_arms(experiment, arms, self._folder, _IDENTITY, jobs=jobs, data_dir=self._data_dir, listen=keep)
        except ExperimentError as error:
            name, _, reason = str(error).partition(": ")
            labels = {run.name: run.label for run in order}
            raise ExperimentError(f"{labels.get(name, name)}: {reason}") from None

    def save(self) -> StudyResult:
        """Write all results so far, and return them."""
        result = StudyResult(self.run_rows(), self.round_rows())
        save_table(self.path / "runs.csv", result.runs)
        save_table(self.path / "rounds.csv", result.rounds)
        save_figures(self.path, self.study, result.runs, result.rounds)
        return result

    def run_rows(self) -> list[Row]:
        """Return the rows of all runs, those of one cell side by side."""
        return [self._run_row(run) for run in self.runs]

    def round_rows(self) -> list[Row]:
        """Return the rows of all rounds of the runs that have ended."""
        return [row for run in self.runs if run.name in self._results for row in self._rounds_of(run)]

    def _refusal(self, run: StudyRun, load: Callable[[str], Dataset]) -> str:
        if run.config is None or run.name in self._results:
            return ""
        try:
            (started,) = start_runs(run.config, load(run.config.data.dataset))
            if run.config.personal.method:
                Personalizer(started)
        except (FLError, SecAggError) as error:
            return str(error)
        started.close()
        return ""

    def _checked(self, name: str, result: ArmResult) -> ArmResult:
        """Return a stored result; ConfigError if it lacks what a finished run has."""
        is_whole = isinstance(result.get("parameters"), int) and isinstance(result.get("personal"), dict)
        if "failed" in result or is_whole:
            return result
        folder = self._folder.of(name)
        raise ConfigError(f"{folder / 'result.json'} is damaged: remove {folder} to run it again")

    def _run_row(self, run: StudyRun) -> Row:
        result = {} if run.refusal else self._results.get(run.name, {})
        outcome = "impossible" if run.refusal else "failed" if "failed" in result else "finished" if result else "open"
        row: Row = {"run": None, **run.cell, **dict.fromkeys(RUN_COLUMNS)}
        row |= {"run": run.name or None, "seed": run.seed, "outcome": outcome}
        row |= {"reason": run.refusal or result.get("failed")}
        if outcome == "finished":
            row |= {**figures_of(self._rounds_of(run)), "parameters": result["parameters"]}
            row |= personal_columns(result["personal"])
        return row

    def _rounds_of(self, run: StudyRun) -> list[Row]:
        if run.name not in self._rounds:
            folder = RunFolder(self._folder.of(run.name) / RUN)
            _, rounds_done = folder.load_config()
            rows = []
            for record in folder.restore([], rounds_done):
                values = {**record_to_json(record), "run": run.name, "seed": run.seed}
                values |= {"included": len(record.included), "dropped": sum(record.dropped.values())}
                rows.append({"run": run.name, **run.cell, **picked(values, ROUND_COLUMNS), **metrics_of(values)})
            self._rounds[run.name] = rows
        return self._rounds[run.name]
