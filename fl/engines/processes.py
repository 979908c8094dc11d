"""Clients on all cores: each worker process trains one at a time, on one thread.

Small models gain nothing from threads, which wait for each other after each layer; processes share nothing but the
examples. A client's update does not depend on which process trains it, nor on what else that one trained: it is the
same to the bit as that of the serial engine with as many threads (`fl.config.run_config.RunConfig.threads`).
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
from transport.processes import ChildDiedError

ATTEMPTS = 3
"""How often a client's training is begun: a process may have been killed for a reason that is gone."""


class ProcessesEngine:
    """Trains clients in ``workers`` child processes, ahead of being asked; see `TrainingEngine`.

    One thread for each child hands it clients and takes updates from it, so that children have work while the caller
    does something else.

    Raises:
        ConfigError: the run's model or data set cannot be sent to other processes.
    """

    recovery = None

    def __init__(self, worker: LocalWorker, workers: int) -> None:
        try:
            self._shared = SharedObject(worker)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"the model or the data set cannot be sent to other processes ({error}): use the engine serial"
            ) from error
        # Of one thread each, unless the run says otherwise: so many processes use all cores.
        self._threads = worker.config.threads or 1
        self._capacity = updates_kept(worker, at_least=2 * workers)
        self._changed = Condition()
        self._round: _Round | None = None
        self._closed = False
        self._processes: dict[int, WorkerProcess] = {}
        # As daemons, they do not keep a host alive that forgets to close the engine.
        self._hands = [
            Thread(target=self._run_worker, args=(place,), name=f"trainer {place}", daemon=True)
            for place in range(workers)
        ]
        for hand in self._hands:
            hand.start()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The children that are running."""
        with self._changed:
            return tuple(process.process_id for process in self._processes.values())

    @contextmanager
    def round(self, training: RoundTraining) -> Iterator[_Round]:
        """See `TrainingEngine`. A client that is in training when the context is left is finished, and dropped."""
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
        """End the children, also in the middle of a client; may be called again."""
        with self._changed:
            self._closed = True
            self._round = None
            for process in self._processes.values():
                process.kill()
            self._changed.notify_all()
        for hand in self._hands:
            hand.join()
        self._shared.close()

    def _run_worker(self, place: int) -> None:
        """One thread's life: it starts its child with the first client, and anew when it has died."""
        try:
            while (work := self._next()) is not None:
                round_, client_id = work
                round_.finish(client_id, self._train(place, round_, client_id))
        finally:
            self._end(place)

    def _next(self) -> tuple[_Round, ClientId] | None:
        """A client of the open round, waited for; None when the engine is closed."""
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
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the update is asked for
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
    """One open round: what is to be trained, and what was. Its lock is the engine's."""

    def __init__(self, training: RoundTraining, capacity: int, changed: Condition) -> None:
        self.training = training
        self._outlook = Outlook(training.expected, capacity)
        self._asked: deque[ClientId] = deque()
        self._results: dict[ClientId, ClientUpdate | Exception] = {}
        self._changed = changed

    def __call__(self, client_id: ClientId) -> ClientUpdate:
        """The client's update; see `RoundTrainer`."""
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

    def next(self) -> ClientId | None:
        """The client to train now: one that is waited for, or the next one ahead. With the lock held."""
        return self._asked.popleft() if self._asked else self._outlook.next()

    def finish(self, client_id: ClientId, result: ClientUpdate | Exception) -> None:
        """An update is there, or what was raised instead."""
        with self._changed:
            self._results[client_id] = result
            self._changed.notify_all()
