"""Run an experiment's arms, several at once if there are cores, and resume interrupted ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fl.engines import Resources
from fl.errors import ConfigError
from fl.experiments.experiment import Arm, Experiment
from fl.experiments.folder import ExperimentFolder, ExperimentIdentity
from fl.experiments.workers import ArmEvent, ArmFailed, ArmFinished, ArmWorkers, ExperimentError, Workplace
from fl.learning.cpu import available_cores

Listener = Callable[[ArmEvent], None]

_SECONDS_BETWEEN_SAVES = 5.0


def chosen_arms(experiment: Experiment, names: Sequence[str]) -> tuple[Arm, ...]:
    """Return the arms of those names (without names, all) in order; raise ConfigError for an unknown name."""
    known = [arm.name for arm in experiment.arms]
    if unknown := sorted(set(names) - set(known)):
        raise ConfigError(f"{experiment.name} has no arm {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    return tuple(arm for arm in experiment.arms if not names or arm.name in names)


def run_arms(
    experiment: Experiment,
    arms: Sequence[Arm],
    folder: ExperimentFolder,
    identity: ExperimentIdentity,
    *,
    jobs: int,
    data_dir: Path | None,
    listen: Listener,
) -> None:
    """Run the unfinished ``arms``, ``jobs`` at a time; ``listen`` gets their events.

    With one job they run in this process.  The folder keeps all finished work, also after an error.

    Raises:
        ConfigError: the folder is of another experiment, or an arm needs one that is not run.
        ExperimentError: an arm could not be run.
    """
    folder.open(identity, arms)
    waiting = [arm for arm in arms if folder.result(arm.name) is None]
    _check_needs(waiting, folder)
    workplace = Workplace(folders=folder.of_all(experiment), data_dir=data_dir, threads=identity.threads)
    clock = _Clock(folder)

    def timed(event: ArmEvent) -> None:
        clock.tick()
        listen(event)

    try:
        if jobs == 1 or len(waiting) <= 1:
            _run_here(waiting, workplace, folder, timed)
        else:
            _run_in_processes(waiting, workplace, folder, timed, jobs=min(jobs, len(waiting)))
    finally:
        clock.save()


class _Clock:
    """A clock that saves the experiment's running time often, so that a killed process loses little of it."""

    def __init__(self, folder: ExperimentFolder) -> None:
        self._folder = folder
        self._saved = time.monotonic()

    def tick(self) -> None:
        """Save, if the last save was some time ago."""
        if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Add the time since the last save."""
        now = time.monotonic()
        self._folder.save_elapsed(now - self._saved)
        self._saved = now


def _check_needs(waiting: Iterable[Arm], folder: ExperimentFolder) -> None:
    names = {arm.name for arm in waiting}
    for arm in waiting:
        missing = [name for name in arm.needs if name not in names and folder.result(name) is None]
        if missing:
            raise ConfigError(f"{arm.name} needs {', '.join(missing)}, which has not finished: run it too with --arm")


def _run_here(waiting: list[Arm], workplace: Workplace, folder: ExperimentFolder, listen: Listener) -> None:
    load = workplace.loader()
    while waiting:
        arm = _take_ready(waiting, folder)
        if arm is None:
            raise _circle(waiting)
        _note(workplace.run(arm, load, listen), folder, listen)


def _run_in_processes(
    waiting: list[Arm], workplace: Workplace, folder: ExperimentFolder, listen: Listener, *, jobs: int
) -> None:
    shared = replace(workplace, resources=Resources(max(1, available_cores() // jobs)))
    with ArmWorkers(shared, jobs) as pool:
        while waiting or pool.num_idle < jobs:
            while pool.num_idle and (arm := _take_ready(waiting, folder)) is not None:
                pool.start(arm)
            if pool.num_idle == jobs:
                raise _circle(waiting)
            _note(pool.next_event(), folder, listen)


def _take_ready(waiting: list[Arm], folder: ExperimentFolder) -> Arm | None:
    """Remove from the list, and return, the first arm whose needs have finished."""
    for place, arm in enumerate(waiting):
        if all(folder.result(name) is not None for name in arm.needs):
            return waiting.pop(place)
    return None


def _note(event: ArmEvent, folder: ExperimentFolder, listen: Listener) -> None:
    if isinstance(event, ArmFailed):
        raise ExperimentError(f"{event.arm}: {event.reason}")
    if isinstance(event, ArmFinished):
        folder.finish(event.arm, event.result)
    listen(event)


def _circle(waiting: list[Arm]) -> ValueError:
    return ValueError(f"arms that need each other: {', '.join(arm.name for arm in waiting)}")
