"""Run a whole study: from Python, and for the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fl.errors import ConfigError
from fl.learning.cpu import available_cores
from fl.studies.display import StudyDisplay
from fl.studies.grid import Study
from fl.studies.reading import seed_list
from fl.studies.running import StudyFolder, StudyResult

_MAX_JOBS = 256


@dataclass(frozen=True, slots=True)
class FinishedStudy:
    """The results so far, and whether the user interrupted the study."""

    result: StudyResult
    interrupted: bool


def study(
    grid: Mapping[str, Sequence[Any]],
    *,
    out: Path | str,
    seeds: int | Sequence[int] = 1,
    jobs: int | None = None,
    data_dir: Path | str | None = None,
    skip_impossible: bool = False,
    **settings: Any,
) -> StudyResult:
    """Train every combination of some settings' values, each with several seeds, and return the results.

    ::

        fl.study({"clients": [20, 50], "dropout": [0, 0.2]}, seeds=3, out="studies/one", model="logistic", rounds=10)

    Runs train side by side in processes of their own. A study that was interrupted goes on where it was when it is
    started again with the same ``out``; the rows are the same as in the files there.

    Args:
        grid: for each option that varies, its values; names of options are those of `secagg train`, with ``_``.
        out: the folder for the results (`fl.studies.running`).
        seeds: the number of seeds 0, 1, ..., or the seeds.
        jobs: the number of runs at once; None: one for each core.
        data_dir: the folder with the data sets' files.
        skip_impossible: leave out cells whose settings are refused.
        settings: the options that all runs share.

    Raises:
        ConfigError: a setting is wrong, or cells are refused; nothing was trained then.
        ExperimentError: a run could not be trained, because its process died or the disk is full, for example.
    """
    grid_and_seeds = Study(settings=settings, axes=grid, seeds=seed_list(seeds))
    folder = StudyFolder(grid_and_seeds, Path(out), None if data_dir is None else Path(data_dir))
    finished = run_study(folder, jobs=jobs, skip_impossible=skip_impossible, console=Console(stderr=True, emoji=False))
    if finished.interrupted:
        raise KeyboardInterrupt
    return finished.result


def run_study(folder: StudyFolder, *, jobs: int | None, skip_impossible: bool, console: Console) -> FinishedStudy:
    """Train what has not finished, with a display, and write the results; errors as in `study`."""
    if jobs is not None and not 1 <= jobs <= _MAX_JOBS:
        raise ConfigError(f"jobs must be between 1 and {_MAX_JOBS}, not {jobs}")
    interrupted = False
    with folder.opened():
        folder.check(skip_impossible=skip_impossible)
        waiting, at_once = folder.waiting, jobs or available_cores()
        skipped = sum(bool(run.refusal) for run in folder.runs)
        done = len(folder.runs) - len(waiting) - skipped
        console.print(
            f"{_counted(len(folder.runs), 'run')}: "
            f"{_counted(len(folder.runs) // len(folder.study.seeds), 'cell')}, "
            f"{_counted(len(folder.study.seeds), 'seed')} each"
            + (f"; {done} are done" if done else "")
            + (f"; {skipped} are impossible and left out" if skipped else "")
            + f"; {len(waiting)} to train"
            + (f", {min(at_once, len(waiting))} at a time" if waiting else ""),
            highlight=False,
            soft_wrap=True,
        )
        try:
            with StudyDisplay(console, waiting) as display:
                folder.train(jobs=at_once, listen=display.on_event)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            result = folder.save()
    return FinishedStudy(result, interrupted)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
