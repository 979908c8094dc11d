"""A run's worker on tiny data, and models that misbehave."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fl.aggregation.encoding import ClientUpdate
from fl.data import Dataset
from fl.data.client_data import DealtOut
from fl.data.partition import partition
from fl.engines import RoundTraining, TrainingEngine
from fl.engines.local_worker import LocalWorker
from fl.learning.serialization import round_message
from tests.fl.runs import tiny_config, tiny_dataset

DATASET = tiny_dataset()


def make_worker(dataset: Dataset = DATASET, **changes: Any) -> LocalWorker:
    """Return a worker of clients with different numbers of examples."""
    config = tiny_config(**{"model": "small-cnn", "clients": 8, "partition": "dirichlet", "epochs": 2, **changes})
    parts = partition(dataset, config.partition, config.data.clients, seed=3, alpha=0.7, shards_per_client=2)
    return LocalWorker(config, DealtOut(dataset, parts))


def training_of(worker: LocalWorker, number: int = 1, expected: tuple[int, ...] = ()) -> RoundTraining:
    """Return a round in which every client was sent the worker's model unchanged."""
    return RoundTraining(
        number, dict.fromkeys(range(worker.config.data.clients), round_message(worker.model)), expected
    )


def updates(engine: TrainingEngine, training: RoundTraining, order: Any = None) -> dict[int, ClientUpdate]:
    """Return every client's update, asked for in an order."""
    with engine.round(training) as trainer:
        return {i: trainer(i) for i in (range(len(training.model_messages)) if order is None else order)}


def assert_same_bits(ours: dict[int, ClientUpdate], theirs: dict[int, ClientUpdate]) -> None:
    assert ours.keys() == theirs.keys()
    for client_id, update in ours.items():
        other = theirs[client_id]
        assert update.delta.dtype == other.delta.dtype == np.float32
        assert update.delta.tobytes() == other.delta.tobytes()
        assert (update.num_examples, update.loss_sum, update.metrics) == (
            other.num_examples,
            other.loss_sum,
            other.metrics,
        )


class Misbehaving(nn.Module):
    """A linear model that misbehaves while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.misbehave()
        logits: torch.Tensor = self.layer(images.flatten(1))
        return logits

    def misbehave(self) -> None:
        raise NotImplementedError


class DyingSequential(nn.Sequential):
    """A model that ends its process."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            os._exit(7)
        logits: torch.Tensor = super().forward(images)
        return logits


class DyingOnce(Misbehaving):
    """A model that ends its process, but only once for each file in the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def misbehave(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()
            os._exit(7)


class Buggy(Misbehaving):
    """A model that prints, and has a bug."""

    def misbehave(self) -> None:
        print("loss: unknown", flush=True)  # noqa: T201
        raise KeyError("a bug of the user's")


class Endless(Misbehaving):
    """A model that reports its beginning, and ends only after a file `stop` is put beside the report."""

    def __init__(self, begun: Path) -> None:
        super().__init__()
        self.begun = begun

    def misbehave(self) -> None:
        self.begun.with_name(f"begun-{os.getpid()}").touch()
        while not self.begun.with_name("stop").exists():
            time.sleep(0.05)
