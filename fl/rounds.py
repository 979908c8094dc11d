"""The federated loop: sample clients, send the model, train locally, aggregate, apply (McMahan et al. 2017)."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import secagg
from fl.aggregation import Aggregator, PlainAggregator, RoundRequest, SecureAggregator, plan_secure_aggregation
from fl.config import AggregatorName, RunConfig
from fl.data import Dataset
from fl.data.partition import Indices, partition
from fl.models import build_model
from fl.quantization import ClientUpdate, UpdateEncoding
from fl.serialization import load_model, model_to_bytes
from fl.state import ParameterLayout, context_digest
from fl.threads import torch_threads, worthwhile_threads
from fl.training import LocalTraining, evaluate, train
from secagg import ClientId, Round
from transport import FaultSchedule

# What a seed is for: every use of the run's seed has a stream of its own.
_SAMPLING, _FAULTS, TRAINING_SEED, NETWORK_SEED = range(4)

ProgressObserver = Callable[[str, Round, int, int], None]
"""Called with the aggregator's name, the protocol's open round, how many clients have answered, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round in figures; a line of the run's metrics.

    Attributes:
        round: from 1.
        aggregator: `secure` or `plain`.
        accuracy, loss: of the new global model on the test set.
        train_accuracy, train_loss: of the clients' models on their own examples, from the aggregated totals.
        num_examples: that the round's clients trained on.
        sampled: how many clients were asked.
        included: the ids of those whose updates are in the mean.
        dropped: how many vanished, by the round of the protocol in which they did.
        clipped: the fraction of update elements that were clipped.
        bytes_up, bytes_down: of all clients' protocol messages.
        model_bytes: of the model, sent to each sampled client.
        seconds: of the round without the test; training_seconds: of all clients' training in it.
        server_seconds: of the server's part of the protocol; client_seconds: the median client's, training not counted.
        ring_difference: secure sum against plain sum of the same vectors; None where not checked.
        aborted: why the model did not change, if it did not.
    """

    round: int
    aggregator: str
    accuracy: float
    loss: float
    train_accuracy: float | None
    train_loss: float | None
    num_examples: int
    sampled: int
    included: tuple[ClientId, ...]
    dropped: dict[str, int]
    clipped: float | None
    bytes_up: int
    bytes_down: int
    model_bytes: int
    seconds: float
    training_seconds: float
    server_seconds: float
    client_seconds: float
    ring_difference: int | None
    aborted: str | None


class FederatedRun:
    """One global model, trained round by round through one aggregator.

    Everything that a round does follows from the config's seed and the round's number, keys and masks excepted,
    which change nothing in the sum: two runs of one config give the same models, and so does one that is resumed.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, aggregator: AggregatorName) -> None:
        self.config = config
        self.rounds_done = 0
        self.model = build_model(
            config.model, image_shape=dataset.image_shape, num_classes=dataset.num_classes, seed=config.seed
        )
        self._dataset = dataset
        self._parts: list[Indices] = partition(
            dataset,
            config.partition,
            config.clients,
            seed=config.seed,
            alpha=config.alpha,
            shards_per_client=config.shards_per_client,
        )
        # The clients' model: one object that each client in turn fills with what it received.
        self._local_model = build_model(
            config.model, image_shape=dataset.image_shape, num_classes=dataset.num_classes, seed=config.seed
        )
        self._layout = ParameterLayout.of(self.model)
        self._local_training = config.local_training
        self._threads = worthwhile_threads(self.model, dataset.image_shape, config.batch_size)
        self.aggregator = self._build_aggregator(aggregator)

    @property
    def plan(self) -> secagg.Plan | None:
        """The protocol's parameters, where there is a protocol."""
        return self.aggregator.plan if isinstance(self.aggregator, SecureAggregator) else None

    def _build_aggregator(self, name: AggregatorName) -> Aggregator:
        config = self.config
        encoding = UpdateEncoding(
            update_length=self._layout.size,
            max_examples=max(len(part) for part in self._parts),
            clip=config.clip,
            value_bits=config.value_bits,
        )
        if name == "plain":
            return PlainAggregator()
        plan = plan_secure_aggregation(
            encoding, num_clients=config.sample, dropout=config.dropout, corrupt=config.corrupt
        )
        return SecureAggregator(plan, encoding, verify=config.compare, workers=os.cpu_count() or 1)

    def run_round(self, observe: ProgressObserver | None = None) -> RoundRecord:
        """One round; the model is changed at its end, if it was not aborted."""
        started = time.perf_counter()
        number = self.rounds_done + 1
        sampled = self._sample(number)
        model_messages = self._model_messages(sampled)
        before = self._layout.to_vector(self.model)

        def train_client(client_id: ClientId) -> ClientUpdate:
            return self._train_client(client_id, number, model_messages[client_id])

        def received_context(client_id: ClientId) -> bytes:
            load_model(self._local_model, model_messages[client_id])
            return _context(self._local_model, number)

        result = self.aggregator.aggregate(
            RoundRequest(
                client_ids=sampled,
                train=train_client,
                context=_context(self.model, number),
                received_context=received_context,
                faults=FaultSchedule.dropouts(
                    sampled, self.config.dropout, seed=self._seed(_FAULTS, number), rounds=self.config.dropout_rounds
                ),
                seed=self._seed(NETWORK_SEED, number),
                observer=None if observe is None else (lambda *state: observe(self.aggregator.name, *state)),
            )
        )
        aggregate = result.aggregate
        if aggregate is not None:
            after = before + np.float32(self.config.server_learning_rate) * aggregate.mean_delta
            self._layout.load_vector(self.model, after)
        seconds = time.perf_counter() - started
        self.rounds_done = number
        with torch_threads(self._threads):
            test = evaluate(self.model, self._dataset.test_images, self._dataset.test_labels)
        return RoundRecord(
            round=number,
            aggregator=self.aggregator.name,
            accuracy=test.accuracy,
            loss=test.loss,
            train_accuracy=None if aggregate is None else aggregate.accuracy,
            train_loss=None if aggregate is None else aggregate.loss,
            num_examples=0 if aggregate is None else aggregate.num_examples,
            sampled=len(sampled),
            included=result.included,
            dropped=dict(Counter(round_.value for round_ in result.dropped.values())),
            clipped=None if aggregate is None or np.isnan(aggregate.clipped) else aggregate.clipped,
            bytes_up=result.bytes_up,
            bytes_down=result.bytes_down,
            model_bytes=sum(map(len, model_messages.values())),
            seconds=seconds,
            training_seconds=result.training_seconds,
            server_seconds=result.server_seconds,
            client_seconds=result.client_seconds,
            ring_difference=result.ring_difference,
            aborted=result.aborted,
        )

    def _model_messages(self, sampled: tuple[ClientId, ...]) -> dict[ClientId, bytes]:
        """What each sampled client is sent: the same bytes."""
        return dict.fromkeys(sampled, model_to_bytes(self.model))

    def _sample(self, number: int) -> tuple[ClientId, ...]:
        rng = np.random.default_rng(self._seed(_SAMPLING, number))
        return tuple(sorted(rng.choice(self.config.clients, size=self.config.sample, replace=False).tolist()))

    def _train_client(self, client_id: ClientId, number: int, model_message: bytes) -> ClientUpdate:
        """A client's work: load the model that it was sent, train on its own examples, and take the difference."""
        load_model(self._local_model, model_message)
        examples = self._parts[client_id]
        return local_update(
            self._local_model,
            self._dataset.train_images[examples],
            self._dataset.train_labels[examples],
            self._local_training,
            seed=self._seed(TRAINING_SEED, number, client_id),
            threads=self._threads,
        )

    def _seed(self, purpose: int, *path: int) -> int:
        return derived_seed(self.config.seed, purpose, *path)


def derived_seed(seed: int, purpose: int, *path: int) -> int:
    """The seed of one use of the run's seed; ``path`` says which round's and client's."""
    return int(np.random.SeedSequence((seed, purpose, *path)).generate_state(1, np.uint64)[0] >> 1)


def local_update(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, training: LocalTraining, *, seed: int, threads: int
) -> ClientUpdate:
    """Train the model that a client received on its examples, in place, and take the difference."""
    layout = ParameterLayout.of(model)
    received = layout.to_vector(model)
    with torch_threads(threads):
        result = train(model, images, labels, training, seed=seed)
    return ClientUpdate(
        delta=layout.to_vector(model) - received,
        num_examples=result.num_examples,
        loss_sum=result.loss_sum,
        correct=result.correct,
    )


def _context(model: nn.Module, number: int) -> bytes:
    """What a round is bound to: clients that were given another model, or another round, cannot agree on masks."""
    return hashlib.sha256(context_digest(model) + number.to_bytes(8, "big")).digest()


def start_runs(config: RunConfig, dataset: Dataset) -> list[FederatedRun]:
    """The config's run, and the plain one beside it where it is to be compared."""
    names: list[AggregatorName] = [config.aggregator, "plain"] if config.compare else [config.aggregator]
    return [FederatedRun(config, dataset, name) for name in names]


def record_to_json(record: RoundRecord) -> dict[str, Any]:
    """Plain values for JSON."""
    return {name: getattr(record, name) for name in RoundRecord.__dataclass_fields__}
