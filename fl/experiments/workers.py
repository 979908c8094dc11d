"""The processes that arms are run in: each takes one arm after the other, and says over a pipe how it gets on."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fl.data import Dataset, load_dataset
from fl.errors import FLError
from fl.experiments.experiment import Arm, ArmResult, ArmWork
from fl.learning.cpu import torch_threads
from secagg import SecAggError
from transport.child_python import safe_spawning


class ExperimentError(FLError):
    """An arm could not be run; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """An arm has done so many of its steps."""

    arm: str
    done: int
    total: int
    note: str


@dataclass(frozen=True, slots=True)
class Finished:
    """An arm has a result."""

    arm: str
    result: ArmResult


@dataclass(frozen=True, slots=True)
class Failed:
    """An arm has none, for a reason that the user can do something about."""

    arm: str
    reason: str


ArmEvent = Progressed | Finished | Failed


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all arms of an experiment share.

    Attributes:
        folders: each arm's folder.
        data_dir: where data sets are looked for first.
        threads: that torch computes with.
    """

    folders: dict[str, Path]
    data_dir: Path | None
    threads: int

    def run(self, arm: Arm, load: Callable[[str], Dataset], report: Callable[[ArmEvent], None]) -> ArmEvent:
        """Run an arm here; its last event. ``report`` hears of the others."""

        def progressed(done: int, total: int, note: str) -> None:
            report(Progressed(arm.name, done, total, note))

        work = ArmWork(folder=self.folders[arm.name], folders=self.folders, load=load, report=progressed)
        try:
            with torch_threads(self.threads):
                return Finished(arm.name, arm.run(work))
        except (FLError, SecAggError) as error:
            return Failed(arm.name, str(error))

    def loader(self) -> Callable[[str], Dataset]:
        """Loads each data set once."""
        return functools.cache(functools.partial(load_dataset, data_dir=self.data_dir))


class WorkerPool:
    """So many processes, each idle or at an arm. As a context manager it ends them, wherever they are."""

    def __init__(self, workplace: Workplace, jobs: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes = {}
        self._running: dict[Connection, str] = {}
        self._idle: list[Connection] = []
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(workplace, theirs))
            with safe_spawning():
                process.start()
            theirs.close()
            self._processes[ours] = process
            self._idle.append(ours)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._processes.items():
            # What an arm keeps on disk is whole at any moment: there is nothing to wait for.
            process.terminate()
            process.join()
            connection.close()

    @property
    def num_idle(self) -> int:
        """How many arms can be started now."""
        return len(self._idle)

    def start(self, arm: Arm) -> None:
        """Give an arm to an idle process."""
        connection = self._idle.pop()
        self._running[connection] = arm.name
        connection.send(arm)

    def next_events(self) -> list[ArmEvent]:
        """Wait for the arms that run. ExperimentError if a process has died."""
        events: list[ArmEvent] = []
        for ready in multiprocessing.connection.wait(list(self._running)):
            if not isinstance(ready, Connection):
                raise TypeError(f"{ready!r} was not waited for")
            try:
                event = ready.recv()
            except EOFError:
                process = self._processes[ready]
                process.join()
                raise ExperimentError(
                    f"{self._running[ready]}: its process died (exit code {process.exitcode}); "
                    "the same command goes on from the last whole round"
                ) from None
            if not isinstance(event, Progressed):
                del self._running[ready]
                self._idle.append(ready)
            events.append(event)
        return events


def _serve(workplace: Workplace, connection: Connection) -> None:
    """A process's life: until the other end of the pipe is gone."""
    load = workplace.loader()
    try:
        while True:
            connection.send(workplace.run(connection.recv(), load, connection.send))
    except (EOFError, OSError):
        return
