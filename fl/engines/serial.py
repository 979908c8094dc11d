"""Training of one client after the other in this process, when its update is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fl.aggregation.encoding import ClientUpdate
from fl.engines.api import RoundTraining
from fl.engines.local_worker import LocalWorker
from secagg import ClientId
from transport import WorkerPool


class SerialEngine:
    """The reference engine: it trains each client when it is asked for; see `TrainingEngine`."""

    def __init__(self, worker: LocalWorker, workers: int = 1) -> None:
        self.workers = WorkerPool(workers)
        self._worker = worker

    @contextmanager
    def round(self, training: RoundTraining) -> Iterator["_SerialRound"]:
        """Open a round; see `TrainingEngine`."""
        yield _SerialRound(self._worker, training)

    def close(self) -> None:
        """End the processes for the protocol; may be called again."""
        self.workers.close()


@dataclass(frozen=True, slots=True)
class _SerialRound:
    worker: LocalWorker
    training: RoundTraining

    def __call__(self, client_id: ClientId) -> ClientUpdate:
        return self.worker.update(client_id, self.training.number, self.training.model_messages[client_id])

    def announce(self, client_id: ClientId, due: float) -> None:
        """Do nothing: this engine trains no client in advance."""

    def may_be_early(self, client_id: ClientId) -> bool:
        return True
