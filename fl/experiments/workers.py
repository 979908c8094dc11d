"""The processes that run arms: each runs one arm after the other, and reports its progress over a pipe."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl.data import Dataset
from fl.engines import Resources
from fl.errors import FLError
from fl.experiments.experiment import Arm, ArmResult, ArmWork
from fl.learning.cpu import torch_threads
from fl.learning.own_code import make_dataset
from secagg import SecAggError
from transport.processes import ChildDiedError, ChildProcess, Parent


class ExperimentError(FLError):
    """An arm that could not be run; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class ArmProgressed:
    """An arm has done some of its steps."""

    arm: str
    done: int
    total: int
    note: str


@dataclass(frozen=True, slots=True)
class ArmFinished:
    """An arm has a result."""

    arm: str
    result: ArmResult


@dataclass(frozen=True, slots=True)
class ArmFailed:
    """An arm has no result; the user can mend the reason."""

    arm: str
    reason: str


ArmEvent = ArmProgressed | ArmFinished | ArmFailed


@dataclass(frozen=True, slots=True)
class Workplace:
    """The values that all arms of an experiment share.

    Attributes:
        folders: each arm's folder.
        data_dir: the folder where data sets are looked up first.
        threads: the number of torch's threads.
        resources: each arm's share of the machine.
    """

    folders: dict[str, Path]
    data_dir: Path | None
    threads: int
    resources: Resources = field(default_factory=Resources)

    def run(self, arm: Arm, load: Callable[[str], Dataset], report: Callable[[ArmEvent], None]) -> ArmEvent:
        """Run an arm in this process and return its last event; ``report`` gets the others."""

        def progressed(done: int, total: int, note: str) -> None:
            report(ArmProgressed(arm.name, done, total, note))

        work = ArmWork(
            folder=self.folders[arm.name],
            folders=self.folders,
            load=load,
            report=progressed,
            resources=self.resources,
        )
        try:
            with torch_threads(self.threads):
                return ArmFinished(arm.name, arm.run(work))
        except (FLError, SecAggError) as error:
            return ArmFailed(arm.name, str(error))

    def loader(self) -> Callable[[str], Dataset]:
        """Return a function that loads each data set once."""
        return functools.cache(functools.partial(make_dataset, data_dir=self.data_dir))


class ArmWorkers:
    """Several processes, each idle or running an arm. Leaving the context ends them all."""

    def __init__(self, workplace: Workplace, jobs: int) -> None:
        self._events: queue.Queue[tuple[ChildProcess, ArmEvent | ChildDiedError]] = queue.Queue()
        self._running: dict[ChildProcess, str] = {}
        self._idle: list[ChildProcess] = []
        self._listeners: list[threading.Thread] = []
        for _ in range(jobs):
            child = ChildProcess("fl.experiments.workers:serve")
            child.send(workplace)
            self._idle.append(child)
            self._listeners.append(threading.Thread(target=self._listen, args=(child,), daemon=True))
            self._listeners[-1].start()
        self._children = tuple(self._idle)

    def __enter__(self) -> ArmWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            # An arm's files are complete at any moment, so no child needs time to finish.
            child.kill()
        for listener in self._listeners:
            listener.join()
        for child in self._children:
            child.close()

    @property
    def num_idle(self) -> int:
        """Return the number of arms that can be started now."""
        return len(self._idle)

    def start(self, arm: Arm) -> None:
        """Give an arm to an idle process."""
        child = self._idle.pop()
        self._running[child] = arm.name
        with contextlib.suppress(ChildDiedError):
            # The listener reports its death.
            child.send(arm)

    def next_event(self) -> ArmEvent:
        """Wait for the next event of a running arm; raise ExperimentError if its process died."""
        child, event = self._events.get()
        if isinstance(event, ChildDiedError):
            raise ExperimentError(
                f"{self._running.get(child, 'an idle worker')}: its process died ({event}); "
                "run the same command again to resume after the last complete round"
            ) from None
        if not isinstance(event, ArmProgressed):
            del self._running[child]
            self._idle.append(child)
        return event

    def _listen(self, child: ChildProcess) -> None:
        try:
            while True:
                self._events.put((child, child.receive()))
        except ChildDiedError as error:
            self._events.put((child, error))


def serve(parent: Parent) -> None:
    """Run in a child process: take the workplace, then run one arm after the other."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_take_requests, args=(parent, requests), daemon=True).start()
    workplace: Workplace = requests.get()
    load = workplace.loader()
    while True:
        parent.send(workplace.run(requests.get(), load, parent.send))


def _take_requests(parent: Parent, requests: queue.SimpleQueue[Any]) -> None:
    for request in parent:
        requests.put(request)
    # The parent is gone, and may start again soon: an arm that still ran here would write into the same folder.
    os._exit(0)
