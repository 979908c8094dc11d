"""Gains by personal models on each client's own held-out examples, and their spread over the clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from fl.engines.local_worker import LocalWorker
from fl.errors import ConfigError
from fl.learning.cpu import torch_threads
from fl.learning.training import Evaluation, evaluate
from secagg import ClientId


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGain:
    """Results of the global and the personal model on one client's `held_out` held-out examples.

    Accuracies are fractions; losses are mean cross-entropies in nats.
    """

    client: ClientId
    training: int
    held_out: int
    global_accuracy: float
    global_loss: float
    personal_accuracy: float
    personal_loss: float

    @property
    def accuracy_gain(self) -> float:
        """Return personal minus global accuracy; above 0 is better."""
        return self.personal_accuracy - self.global_accuracy

    @property
    def loss_gain(self) -> float:
        """Return global minus personal loss; above 0 is better."""
        return self.global_loss - self.personal_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The spread of a value over the clients, each counted once; percentiles are interpolated linearly."""

    p10: float
    median: float
    p90: float
    mean: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        array = np.array(list(values), dtype=np.float64)
        p10, median, p90 = np.percentile(array, (10, 50, 90)).tolist()
        return cls(p10=p10, median=median, p90=p90, mean=float(array.mean()))


@dataclass(frozen=True, slots=True, kw_only=True)
class GainSummary:
    """Summary of all clients' gains.

    Attributes:
        clients, held_out: number of clients, and of all their held-out examples.
        global_accuracy, personal_accuracy: over all held-out examples, so clients count by their number of examples.
        accuracy_gain, loss_gain: spread over the clients of the gains of `ClientGain`.
        global_spread, personal_spread: spread of the clients' accuracies.
        better, same, worse: fractions of the clients by the sign of their accuracy gain.
        lower_loss: fraction of the clients whose personal model has a lower loss.
    """

    clients: int
    held_out: int
    global_accuracy: float
    personal_accuracy: float
    accuracy_gain: Spread
    loss_gain: Spread
    global_spread: Spread
    personal_spread: Spread
    better: float
    same: float
    worse: float
    lower_loss: float


def measure_gain(
    worker: LocalWorker, client_id: ClientId, global_model: nn.Module, personal_model: nn.Module
) -> ClientGain:
    """Measure both models on the client's held-out examples; the models are not changed.

    Raises ConfigError if the client has no held-out examples: on training examples all models look good.
    """
    examples = worker.examples[client_id]
    if not len(examples.held_out):
        raise ConfigError(f"client {client_id} holds out no examples: raise holdout")
    images, labels = worker.data.examples(client_id, examples.held_out)

    def measure(model: nn.Module) -> Evaluation:
        return evaluate(model, images, labels)

    with torch_threads(worker.threads):
        before, after = measure(global_model), measure(personal_model)
    return ClientGain(
        client=client_id,
        training=len(examples.training),
        held_out=len(examples.held_out),
        global_accuracy=before.accuracy,
        global_loss=before.loss,
        personal_accuracy=after.accuracy,
        personal_loss=after.loss,
    )


def summarize_gains(gains: Sequence[ClientGain]) -> GainSummary:
    """Summarize the gains of at least one client. Raises ConfigError for none."""
    if not gains:
        raise ConfigError("no client's gain was measured")
    held_out = sum(gain.held_out for gain in gains)
    # Use counts of correct answers: a rounding error in an accuracy must not decide the sign of a gain.
    changes = np.array([round(gain.accuracy_gain * gain.held_out) for gain in gains])

    def overall(accuracies: Iterable[float]) -> float:
        return sum(accuracy * gain.held_out for accuracy, gain in zip(accuracies, gains, strict=True)) / held_out

    return GainSummary(
        clients=len(gains),
        held_out=held_out,
        global_accuracy=overall(gain.global_accuracy for gain in gains),
        personal_accuracy=overall(gain.personal_accuracy for gain in gains),
        accuracy_gain=Spread.of(gain.accuracy_gain for gain in gains),
        loss_gain=Spread.of(gain.loss_gain for gain in gains),
        global_spread=Spread.of(gain.global_accuracy for gain in gains),
        personal_spread=Spread.of(gain.personal_accuracy for gain in gains),
        better=float(np.mean(changes > 0)),
        same=float(np.mean(changes == 0)),
        worse=float(np.mean(changes < 0)),
        lower_loss=float(np.mean([gain.loss_gain > 0 for gain in gains])),
    )
