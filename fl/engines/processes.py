"""Training of clients on all cores: each worker process trains one client at a time, on one thread.

Small models gain nothing from threads, which wait for each other after each layer; processes share only the examples.
A client's update does not depend on the process that trains it or on its earlier clients. It is bit for bit the
same as that of the serial engine with the same number of threads (`fl.config.run_config.RunConfig.threads`).
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Thread

from fl.aggregation.encoding import ClientUpdate
from fl.engines.api import RoundTraining
from fl.engines.local_worker import LocalWorker
from fl.engines.outlook import Outlook, updates_kept
from fl.engines.shared_object import SharedObject
from fl.engines.worker_process import WorkerProcess
from fl.errors import ConfigError, EngineError
from secagg import ClientId
from transport import WorkerPool
from transport.processes import ChildDiedError

ATTEMPTS = 3
"""Attempts at a client's training. The reason why a process was killed may be gone at the next one."""


class ProcessesEngine:
    """An engine that trains clients in advance, in ``workers`` child processes; see `TrainingEngine`.

    One thread per child sends it clients and receives updates, so that children have work while the caller is busy.

    Raises:
        ConfigError: the run's model or data set cannot be sent to other processes.
    """

    def __init__(self, worker: LocalWorker, workers: int) -> None:
        try:
            self._shared = SharedObject(worker)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"the model or the data set cannot be sent to other processes ({error}): use the engine serial"
            ) from error
        self.workers = WorkerPool(workers)
        # Children use one thread each, unless the run sets another number, so one process per core uses all cores.
        self._threads = worker.config.threads or 1
        self._capacity = updates_kept(worker, at_least=2 * workers)
        self._changed = Condition()
        self._round: _Round | None = None
        self._closed = False
        self._processes: dict[int, WorkerProcess] = {}
        # Daemon threads, so that a host can exit without closing the engine.
        self._runners = [
            Thread(target=self._run_worker, args=(place,), name=f"trainer {place}", daemon=True)
            for place in range(workers)
        ]
        for runner in self._runners:
            runner.start()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Return the ids of the running child processes."""
        with self._changed:
            return tuple(process.process_id for process in self._processes.values())

    @contextmanager
    def round(self, training: RoundTraining) -> Iterator[_Round]:
        """Open a round; see `TrainingEngine`. Training that runs when the context is left is finished, then dropped."""
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed")
            self._round = _Round(training, self._capacity, self._changed)
            self._changed.notify_all()
        try:
            yield self._round
        finally:
            with self._changed:
                self._round = None

    def close(self) -> None:
        """End the children, even during a client's training; may be called again."""
        with self._changed:
            self._closed = True
            self._round = None
            for process in self._processes.values():
                process.kill()
            self._changed.notify_all()
        for runner in self._runners:
            runner.join()
        self._shared.close()
        self.workers.close()

    def _run_worker(self, place: int) -> None:
        """Run one thread: start its child for the first client, and again when it has died."""
        try:
            while (work := self._next()) is not None:
                round_, client_id = work
                round_.finish(client_id, self._train(place, round_, client_id))
        finally:
            self._end(place)

    def _next(self) -> tuple[_Round, ClientId] | None:
        """Wait for a client of the open round and return it; None when the engine is closed."""
        with self._changed:
            while not self._closed:
                if self._round is not None and (client_id := self._round.next()) is not None:
                    return self._round, client_id
                self._changed.wait()
        return None

    def _train(self, place: int, round_: _Round, client_id: ClientId) -> ClientUpdate | Exception:
        how_it_ended = ""
        for _ in range(ATTEMPTS):
            try:
                process = self._start(place)
                message = round_.training.model_messages[client_id]
                return process.train(client_id, round_.training.number, message)
            except ChildDiedError as error:
                how_it_ended = str(error)
                self._end(place)
                if self._closed:
                    break
            except Exception as error:  # noqa: BLE001 - raised again where the update is asked for
                return error
        return EngineError(
            f"the process that trained client {client_id} ended {ATTEMPTS} times, the last with {how_it_ended}: "
            "use fewer workers, or the engine serial"
        )

    def _start(self, place: int) -> WorkerProcess:
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed")
            if place not in self._processes:
                self._processes[place] = WorkerProcess(self._shared, self._threads)
            return self._processes[place]

    def _end(self, place: int) -> None:
        with self._changed:
            process = self._processes.pop(place, None)
        if process is not None:
            process.close()


class _Round:
    """An open round: the clients to train, and the results. It uses the engine's lock."""

    def __init__(self, training: RoundTraining, capacity: int, changed: Condition) -> None:
        self.training = training
        self._outlook = Outlook(training.expected, capacity)
        self._asked: deque[ClientId] = deque()
        self._results: dict[ClientId, ClientUpdate | Exception] = {}
        self._changed = changed

    def __call__(self, client_id: ClientId) -> ClientUpdate:
        """Return the client's update; see `RoundTrainer`."""
        with self._changed:
            if not self._outlook.begun(client_id):
                self._outlook.begin(client_id)
                self._asked.append(client_id)
                self._changed.notify_all()
            while client_id not in self._results:
                self._changed.wait()
            result = self._results.pop(client_id)
            self._outlook.handed_over(client_id)
            self._changed.notify_all()
        if isinstance(result, Exception):
            raise result
        return result

    def announce(self, client_id: ClientId, due: float) -> None:
        with self._changed:
            self._outlook.announce(client_id, due)
            self._changed.notify_all()

    def may_be_early(self, client_id: ClientId) -> bool:
        return True

    def next(self) -> ClientId | None:
        """Return the client to train now: an asked one, or the next in advance. The caller holds the lock."""
        return self._asked.popleft() if self._asked else self._outlook.next()

    def finish(self, client_id: ClientId, result: ClientUpdate | Exception) -> None:
        """Store a client's update, or the exception raised instead."""
        with self._changed:
            self._results[client_id] = result
            self._changed.notify_all()
