"""A client's work in a round: from the model that it received to its update. It can be pickled.

An engine (`fl.engines`) holds one worker in each of its processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fl.aggregation.encoding import ClientUpdate
from fl.config.run_config import RunConfig
from fl.config.seeds import HOLDOUT_SEED, TRAINING_SEED, derived_seed
from fl.data import Dataset
from fl.data.client_data import ClientData
from fl.data.partition import Indices
from fl.errors import ConfigError
from fl.learning.cpu import seeded_global_generator, torch_threads, worthwhile_threads
from fl.learning.devices import CPU
from fl.learning.own_code import ModelSource
from fl.learning.parameter_layout import NOTHING_FROZEN, ParameterLayout, context_digest, frozen_digest
from fl.learning.serialization import load_round_message
from fl.learning.settings import Local
from fl.learning.task import CLASSIFICATION, Task
from fl.learning.training import Evaluation, evaluate, train
from secagg import ClientId


@dataclass(frozen=True, slots=True)
class ClientExamples:
    """The places (`ClientData.places`) of one client's examples: for training, and held out."""

    training: Indices
    held_out: Indices


def model_of(config: RunConfig, dataset: Dataset, model: ModelSource | None, task: Task) -> tuple[nn.Module, int]:
    """Return a run's initial model, and the number of PyTorch threads for it; without a source, the config's model."""
    made = task.make_model(
        config.model if model is None else model,
        dataset.train_images.dtype,
        dataset.train_labels,
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
        seed=config.seed,
    )
    threads = config.threads or worthwhile_threads(
        made, dataset.image_shape, config.local.batch_size, dataset.train_images.dtype
    )
    return made, threads


class LocalWorker:
    """The worker for all of a run's clients, one at a time, on one model object that each client overwrites.

    `device` is that of the training; between trainings, the model is on the CPU.
    """

    def __init__(
        self, config: RunConfig, data: ClientData, model: ModelSource | None = None, task: Task = CLASSIFICATION
    ) -> None:
        self.config = config
        self.data = data
        self.task = task
        self.device = CPU
        self.examples = [_hold_out(data.places(client_id), config, client_id) for client_id in range(data.num_clients)]
        self.model, self.threads = model_of(config, data.dataset, model, self.task)
        # Computed once, since training may not change frozen parameters.
        self.frozen = frozen_digest(self.model)
        # The last message and round of `received_context`, and its result: most clients receive the same message.
        self._context = (b"", 0, b"")

    @property
    def max_examples(self) -> int:
        """Return the largest number of training examples of a client."""
        return max(len(examples.training) for examples in self.examples)

    @property
    def max_held_out(self) -> int:
        """Return the largest number of held-out examples of a client."""
        return max(len(examples.held_out) for examples in self.examples)

    @property
    def of_one_class(self) -> list[ClientId]:
        """Return the clients whose training examples are all of one class, among those whose labels are known."""
        if not self.data.dataset.has_classes:
            return []
        own = [self.data.known_targets(number, examples.training) for number, examples in enumerate(self.examples)]
        return [client_id for client_id, found in enumerate(own) if found is not None and (found == found[0]).all()]

    def update(self, client_id: ClientId, number: int, model_message: bytes) -> ClientUpdate:
        """Load the model that the client received, train on its examples, and return the difference.

        Raises:
            DivergedError: training diverged, so there is no update.
        """
        load_round_message(self.model, model_message)
        seed = derived_seed(self.config.seed, TRAINING_SEED, number, client_id)
        # Random transforms of a data set draw from torch's generator.
        with seeded_global_generator(seed):
            images, labels = self.training_examples(client_id)
        return local_update(
            self.model,
            images,
            labels,
            self.config.local.in_round(number),
            seed=seed,
            threads=self.threads,
            frozen=self.frozen,
            task=self.task,
            device=self.device,
        )

    def evaluate_held_out(self, client_id: ClientId, model_message: bytes) -> Evaluation | None:
        """Evaluate the received model on the client's held-out examples; return None if it has none."""
        load_round_message(self.model, model_message)
        held_out = self.examples[client_id].held_out
        if not len(held_out):
            return None
        with torch_threads(self.threads):
            return evaluate(self.model, *self.data.examples(client_id, held_out), task=self.task, device=self.device)

    def received_context(self, number: int, model_message: bytes) -> bytes:
        """Return the bytes to which the client binds a session: the model that it received, and the round."""
        message, known, context = self._context
        if known != number or message != model_message:
            load_round_message(self.model, model_message)
            context = round_context(self.model, number, self.frozen)
            self._context = model_message, number, context
        return context

    def training_examples(self, client_id: ClientId) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the client's training images and labels."""
        return self.data.examples(client_id, self.examples[client_id].training)


def local_update(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    training: Local,
    *,
    seed: int,
    threads: int,
    frozen: bytes = NOTHING_FROZEN,
    task: Task = CLASSIFICATION,
    device: torch.device = CPU,
) -> ClientUpdate:
    """Train the received model on a client's examples, in place, and return the difference.

    Raises ConfigError if training changed the frozen parameters, whose digest was ``frozen``: they are not sent.
    """
    layout = ParameterLayout.of(model)
    received = layout.to_vector(model)
    with torch_threads(threads):
        result = train(model, images, labels, training, seed=seed, task=task, device=device)
    if frozen_digest(model) != frozen:
        raise ConfigError(
            "the model's own code changes frozen parameters (requires_grad=False), which are not sent: make them "
            "buffers, or train them"
        )
    return ClientUpdate(
        delta=layout.to_vector(model) - received,
        num_examples=result.num_examples,
        loss_sum=result.loss_sum,
        metrics=result.metrics,
    )


def round_context(model: nn.Module, number: int, frozen: bytes) -> bytes:
    """Return the bytes that bind a round: clients with a different model or round cannot agree on masks.

    ``frozen`` is the digest of the model's frozen parameters.
    """
    return hashlib.sha256(context_digest(model, frozen) + number.to_bytes(8, "big")).digest()


def _hold_out(part: Indices, config: RunConfig, client_id: ClientId) -> ClientExamples:
    """Return the client's held-out examples: floor(holdout * count) of them, the same in all rounds."""
    count = int(config.data.holdout * len(part))
    if not count:
        return ClientExamples(training=part, held_out=part[:0])
    order = np.random.default_rng(derived_seed(config.seed, HOLDOUT_SEED, client_id)).permutation(part)
    return ClientExamples(training=np.sort(order[count:]), held_out=np.sort(order[:count]))
