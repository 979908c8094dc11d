"""Training of clients as Ray tasks, on all cores of the cluster.

A client's update is bit for bit the same on all machines with the same kind of processor and the same torch, and equal
to that of the serial engine with the same number of threads.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from fl.aggregation.encoding import ClientUpdate
from fl.engines.api import RoundTraining
from fl.engines.local_worker import LocalWorker
from fl.engines.outlook import Outlook, updates_kept
from fl.engines.ray.cluster import ATTEMPTS, RayCluster
from fl.engines.ray.tasks import SharedWorker, train_client
from fl.engines.ray.workers import RayWorkers
from fl.engines.shared_object import dump
from fl.errors import ConfigError, EngineError, FLError
from secagg import ClientId

# Waiting tasks per core, so that no core is idle while the driver is busy.
_AHEAD = 3


class RayEngine:
    """An engine that trains clients in advance on a cluster; see `TrainingEngine`.

    The run's worker, with its examples, is sent to each machine's object store once, the model once per round.

    Args:
        worker: the run's worker.
        cluster: the cluster, which is closed with the engine.

    Raises:
        ConfigError: the run's model or data set cannot be sent to other processes.
    """

    def __init__(self, worker: LocalWorker, cluster: RayCluster) -> None:
        self._cluster = cluster
        self.workers = RayWorkers(cluster)
        self.tasks_ahead = _AHEAD * cluster.cores
        self.capacity = updates_kept(worker, at_least=2 * self.tasks_ahead)
        threads = worker.config.threads or 1
        self.train = ray.remote(num_cpus=threads, max_retries=ATTEMPTS - 1)(train_client)
        file = io.BytesIO()
        try:
            size = dump(worker, file)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.close()
            raise ConfigError(
                f"the model or the data set cannot be sent to other processes ({error}): use the engine serial"
            ) from error
        reference = ray.put(np.frombuffer(file.getbuffer(), dtype=np.uint8))
        # Sent inside tasks and not as their argument, so that each process fetches and loads it once.
        self.shared = SharedWorker(os.urandom(16), reference, size, threads)

    @contextmanager
    def round(self, training: RoundTraining) -> Iterator[_Round]:
        """Open a round; see `TrainingEngine`."""
        round_ = _Round(self, training)
        try:
            yield round_
        finally:
            round_.drop()

    def close(self) -> None:
        """Disconnect from the cluster, and end it if the engine started it; may be called again."""
        self.workers.close()
        self._cluster.close()


class _Round:
    """An open round: a task for each client in training or kept."""

    def __init__(self, engine: RayEngine, training: RoundTraining) -> None:
        self._engine = engine
        self._training = training
        self._outlook = Outlook(training.expected, engine.capacity)
        self._messages: dict[int, Any] = {}
        self._tasks: dict[ClientId, Any] = {}
        self._running: list[Any] = []
        self._fill()

    def __call__(self, client_id: ClientId) -> ClientUpdate:
        """Return the client's update; see `RoundTrainer`."""
        if not self._outlook.begun(client_id):
            self._outlook.begin(client_id)
            self._start(client_id)
        task = self._tasks.pop(client_id)
        try:
            result: ClientUpdate | FLError = ray.get(task)
        except RayTaskError:
            raise  # a bug in the model, or here, with the worker's traceback
        except RayError as error:
            reason = str(error).strip().split("\n")[0]
            raise EngineError(f"client {client_id} could not be trained on the Ray cluster: {reason}") from error
        finally:
            self._outlook.handed_over(client_id)
        self._fill()
        if isinstance(result, FLError):
            raise result
        # A copy, so that the object store's memory is free again.
        return replace(result, delta=result.delta.copy())

    def announce(self, client_id: ClientId, due: float) -> None:
        self._outlook.announce(client_id, due)
        self._fill()

    def may_be_early(self, client_id: ClientId) -> bool:
        return True

    def drop(self) -> None:
        """Forget the tasks that were not asked for.

        They are not cancelled: that interrupts a process at any point, and an interrupted import leaves half a module.
        At most a few clients per core are waiting.
        """
        self._tasks.clear()

    def _fill(self) -> None:
        """Start enough tasks to keep the cluster busy."""
        if len(self._running) >= self._engine.tasks_ahead:
            _, self._running = ray.wait(self._running, num_returns=len(self._running), timeout=0, fetch_local=False)
        while len(self._running) < self._engine.tasks_ahead and (client_id := self._outlook.next()) is not None:
            self._start(client_id)

    def _start(self, client_id: ClientId) -> None:
        message = self._training.model_messages[client_id]
        if id(message) not in self._messages:
            self._messages[id(message)] = ray.put(np.frombuffer(message, dtype=np.uint8))
        stored = self._messages[id(message)]
        task = self._engine.train.remote(self._engine.shared, stored, client_id, self._training.number)
        self._tasks[client_id] = task
        self._running.append(task)
