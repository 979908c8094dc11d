"""Training of many clients of a small model as one computation (`fl.engines.stacked`), in this process.

Rounds repeat bit for bit on one machine, but their last bits differ from the other engines'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import safetensors.torch
import torch

from fl.aggregation.encoding import ClientUpdate
from fl.config.seeds import TRAINING_SEED, derived_seed
from fl.engines.api import RoundTraining
from fl.engines.local_worker import LocalWorker
from fl.engines.outlook import Outlook, updates_kept
from fl.engines.stacked import StackedClient, StackedTraining, check_stackable
from fl.learning.cpu import torch_threads, worthwhile_threads
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.training import DivergedError
from secagg import ClientId
from transport import WorkerPool

# More clients at once gain nothing. With few weights the overhead of a step is small by then; with many, the weights
# and gradients of all clients no longer fit the processor's cache.
_MOST_CLIENTS = 64
_MOST_WEIGHT_BYTES = 16 << 20


class BatchedEngine:
    """An engine that trains an asked client together with clients that will be asked next; see `TrainingEngine`.

    Raises:
        ConfigError: the model or its training cannot be stacked.
    """

    def __init__(self, worker: LocalWorker, workers: int = 1) -> None:
        self.workers = WorkerPool(workers)
        config = worker.config
        check_stackable(worker.model, config.local, worker.task)
        self._worker = worker
        self._stacked = StackedTraining(worker.model, *worker.data.pooled())
        self._stacked.check()
        weight_bytes = 4 * max(1, ParameterLayout.of(worker.model).size)
        self.clients_at_once = max(1, min(_MOST_CLIENTS, _MOST_WEIGHT_BYTES // weight_bytes))
        self._capacity = updates_kept(worker, at_least=2 * self.clients_at_once)
        self._threads = config.threads or worthwhile_threads(
            worker.model, worker.data.dataset.image_shape, config.local.batch_size * self.clients_at_once
        )

    @contextmanager
    def round(self, training: RoundTraining) -> Iterator[_Round]:
        """Open a round; see `TrainingEngine`."""
        yield _Round(self, training, Outlook(training.expected, self._capacity))

    def close(self) -> None:
        """End the processes for the protocol; may be called again."""
        self.workers.close()

    def train(
        self, client_ids: list[ClientId], training: RoundTraining
    ) -> dict[ClientId, ClientUpdate | DivergedError]:
        """Train clients that received the same model."""
        worker, number = self._worker, training.number
        clients = [
            StackedClient(
                places=torch.from_numpy(worker.examples[client_id].training),
                seed=derived_seed(worker.config.seed, TRAINING_SEED, number, client_id),
            )
            for client_id in client_ids
        ]
        received = safetensors.torch.load(training.model_messages[client_ids[0]])
        with torch_threads(self._threads):
            results = self._stacked.updates(received, clients, worker.config.local.in_round(number))
        return dict(zip(client_ids, results, strict=True))


class _Round:
    """An open round."""

    def __init__(self, engine: BatchedEngine, training: RoundTraining, outlook: Outlook) -> None:
        self._engine = engine
        self._training = training
        self._outlook = outlook
        self._results: dict[ClientId, ClientUpdate | DivergedError] = {}

    def __call__(self, client_id: ClientId) -> ClientUpdate:
        """Return the client's update; see `RoundTrainer`."""
        if client_id not in self._results:
            for together in self._with_others(client_id):
                self._results |= self._engine.train(together, self._training)
        result = self._results.pop(client_id)
        self._outlook.handed_over(client_id)
        if isinstance(result, DivergedError):
            raise result
        return result

    def announce(self, client_id: ClientId, due: float) -> None:
        self._outlook.announce(client_id, due)

    def may_be_early(self, client_id: ClientId) -> bool:
        """Return whether the client was trained with others: a group formed early would be another group."""
        return client_id in self._results

    def _with_others(self, client_id: ClientId) -> list[list[ClientId]]:
        """Return the client and the next due ones, grouped by the model that they received (usually one)."""
        self._outlook.begin(client_id)
        by_model = {id(self._training.model_messages[client_id]): [client_id]}
        for _ in range(1, self._engine.clients_at_once):
            if (other := self._outlook.next()) is None:
                break
            by_model.setdefault(id(self._training.model_messages[other]), []).append(other)
        return list(by_model.values())
