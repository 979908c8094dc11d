"""One client after the other, in this process, when its update is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

from fl.engines.engine import RoundTraining, TrainClient
from fl.local_work import LocalWorker
from fl.quantization import ClientUpdate
from secagg import ClientId


class SerialEngine:
    """The engine that others are measured against."""

    def __init__(self, worker: LocalWorker) -> None:
        self._worker = worker

    @contextmanager
    def round(self, training: RoundTraining) -> Iterator[TrainClient]:
        """See `TrainingEngine`."""

        def train_client(client_id: ClientId) -> ClientUpdate:
            return self._worker.update(client_id, training.number, training.model_messages[client_id])

        yield train_client

    def close(self) -> None:
        """Nothing to give back."""
