"""The making of clients' personal models, one client after the other, on one model object."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import nn

from fl.engines.local_worker import LocalWorker
from fl.learning.cpu import torch_threads
from fl.personalization.ditto import Ditto
from fl.personalization.fine_tuning import FineTuning
from secagg import ClientId


class PersonalModels:
    """Makes personal models from the models that clients received.

    Args:
        method: how.
        model: a model of the architecture.
        worker: the clients' examples.
        load: puts the bytes of a received model into a model.
    """

    def __init__(
        self,
        method: FineTuning | Ditto,
        model: nn.Module,
        worker: LocalWorker,
        load: Callable[[nn.Module, bytes], None],
    ) -> None:
        self._method = method
        self._personal, self._received = copy.deepcopy(model), copy.deepcopy(model)
        self._worker = worker
        self._load = load

    def make(self, client_id: ClientId, received: Sequence[bytes], seeds: Sequence[int]) -> nn.Module:
        """Return a client's model; it is valid until the next call.

        Args:
            client_id: the client.
            received: the models that it received, in order: for fine-tuning the one that it starts from; for Ditto one
                for each round that it was in, and the last one.
            seeds: the seed of the training on each.

        Raises:
            DivergedError: its training diverged.
        """
        examples = self._worker.training_examples(client_id)
        with torch_threads(self._worker.threads):
            self._load(self._personal, received[0])
            if isinstance(self._method, FineTuning):
                self._method.personalize(self._personal, *examples, seed=seeds[0])
                return self._personal
            for message, seed in zip(received, seeds, strict=True):
                self._load(self._received, message)
                self._method.improve(self._personal, self._received, *examples, seed=seed)
        return self._personal
