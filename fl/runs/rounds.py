"""The federated loop: sample clients, send the model, train locally, aggregate, apply (McMahan et al. 2017)."""

import dataclasses
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np

import secagg
from fl.aggregation.api import (
    Aggregator,
    PlainAggregator,
    RoundRequest,
    RoundResult,
    vanishes_before_its_update,
)
from fl.aggregation.encoding import Aggregate
from fl.aggregation.held_out import FederatedEvaluation, HeldOutResult
from fl.aggregation.scales import ScaleTracker
from fl.aggregation.secure import SecureAggregator, plan_secure_aggregation
from fl.config.run_config import AggregatorName, RunConfig
from fl.config.seeds import EVALUATION_SEED, NETWORK_SEED, SAMPLING_SEED, derived_seed
from fl.data import Dataset
from fl.engines import Resources, RoundTraining, TrainingEngine, check_engine, open_engine
from fl.engines.local_worker import LocalWorker, round_context
from fl.errors import AbortedError
from fl.learning.cpu import torch_threads
from fl.learning.own_code import make_model
from fl.learning.parameter_layout import LayoutError, ParameterLayout
from fl.learning.serialization import model_to_bytes
from fl.learning.server_optimizer import ServerOptimizer
from fl.learning.training import DivergedError, evaluate
from fl.runs.sampling import deal_out, dropout_schedule
from secagg import ClientId, Round
from transport import FaultSchedule

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
        refused: the clients that had no update that may be sent, such as one with NaN in it, and why. They know it
            themselves; a server sees clients that vanished. By id, as text: JSON has no other keys.
        clipped: the fraction of update elements that were clipped.
        clipped_tensors: by name, how many clients exceeded the tensor's bound, the bound, and one that would have done
            for all, as far as is known (`fl.aggregation.scales.Exceeded`); ``clipped_weights`` likewise for
            the clients' weights.
        noise: the rounding noise over the mean update, both in each tensor's bound.
        bytes_up, bytes_down: of all clients' protocol messages.
        model_bytes: of the model, sent to each sampled client.
        seconds: of the round without the test; training_seconds: of all clients' training in it;
            with an engine that trains elsewhere, what the round waited for it.
        server_seconds: of the server's part of the protocol; client_seconds: the median client's, training not counted.
        held_out_accuracy, held_out_loss: of the new global model on what the round's clients hold out, from totals that
            were aggregated securely; None without `RunConfig.holdout`, or if that session was aborted.
        held_out_examples: how many examples those totals are of.
        held_out_aborted: why that session came to no totals, if it came to none.
        phases: what each round of the protocol cost (`fl.aggregation.phases.PhaseCost`), by its name.
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
    refused: dict[str, str]
    clipped: float | None
    bytes_up: int
    bytes_down: int
    model_bytes: int
    seconds: float
    training_seconds: float
    server_seconds: float
    client_seconds: float
    held_out_accuracy: float | None
    held_out_loss: float | None
    held_out_examples: int
    phases: dict[str, dict[str, float]]
    ring_difference: int | None
    aborted: str | None
    held_out_aborted: str | None = None
    noise: float | None = None
    clipped_tensors: dict[str, dict[str, float | None]] = field(default_factory=dict)
    clipped_weights: dict[str, float | None] | None = None


class FederatedRun:
    """One global model, trained round by round through one aggregator.

    Everything that a round does follows from the config's seed and the round's number, keys and masks excepted,
    which change nothing in the sum: two runs of one config give the same models, and so does one that is resumed.

    Args:
        config: the run's settings.
        dataset: what is dealt out to the clients, and the test set.
        aggregator: through which the clients' updates are summed.
        resources: of the engine.
        is_served: the clients are elsewhere: no examples are dealt out here, and ``dataset`` gives their shape, the
            number of classes, and the test set.
        max_examples: a fixed bound on clients' weights; by default it follows them.

    Attributes:
        tracker: the bounds of the updates, which a checkpoint keeps.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        aggregator: AggregatorName,
        resources: Resources | None = None,
        *,
        is_served: bool = False,
        max_examples: int | None = None,
    ) -> None:
        self.config = config
        self._resources = resources or Resources()
        self.rounds_done = 0
        self.model = make_model(
            config.model, image_shape=dataset.image_shape, num_classes=dataset.num_classes, seed=config.seed
        )
        self._dataset = dataset
        self.is_served = is_served
        self.worker = LocalWorker(config, dataset, [] if is_served else deal_out(config, dataset))
        check_engine(config.engine, self.worker, self._resources)
        self._layout = ParameterLayout.of(self.model)
        self.tracker = ScaleTracker(
            len(self._layout.entries), config.value_bits, clip=config.protocol.clip, max_weight=max_examples
        )
        self.server_optimizer = ServerOptimizer(config.server, self.model)
        self.aggregator = self._build_aggregator(aggregator)
        self._evaluation = self._build_evaluation()
        self._engine: TrainingEngine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the engine's processes; a later round starts them anew."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def plan(self) -> secagg.Plan | None:
        """The protocol's parameters, where there is a protocol."""
        return self.aggregator.plan if isinstance(self.aggregator, SecureAggregator) else None

    def _build_aggregator(self, name: AggregatorName) -> Aggregator:
        config = self.config
        if name == "plain":
            return PlainAggregator()
        return SecureAggregator(
            partial(plan_secure_aggregation, dropout=config.protocol.dropout, corrupt=config.protocol.corrupt),
            sizes=self._layout.sizes,
            num_clients=config.sample,
            value_bits=config.value_bits,
            tracker=self.tracker,
            verify=config.protocol.compare,
            workers=os.cpu_count() or 1,
        )

    def _build_evaluation(self) -> FederatedEvaluation | None:
        config = self.config
        if not config.data.holdout or self.is_served:
            return None
        return FederatedEvaluation(
            num_clients=config.sample,
            max_examples=self.worker.max_held_out,
            dropout=config.protocol.dropout,
            corrupt=config.protocol.corrupt,
        )

    def run_round(self, observe: ProgressObserver | None = None) -> RoundRecord:
        """One round; the model is changed at its end, if it was not aborted.

        Raises:
            DivergedError: every client's training ran away: the settings are at fault, not a client.
        """
        started = time.perf_counter()
        number = self.rounds_done + 1
        sampled = self._sample(number)
        model_messages = self._model_messages(sampled)
        before = self._layout.to_vector(self.model)
        faults = dropout_schedule(self.config, sampled, number)
        training = RoundTraining(number, model_messages, _expected(sampled, faults))
        if self._engine is None:
            self._engine = open_engine(self.config.engine, self.worker, self._resources)
        with self._engine.round(training) as trainer:
            result = self.aggregator.aggregate(
                RoundRequest(
                    client_ids=sampled,
                    train=trainer,
                    announce=trainer.announce,
                    recovery=self._engine.recovery,
                    context=round_context(self.model, number),
                    received_context=lambda client_id: self.worker.received_context(number, model_messages[client_id]),
                    faults=faults,
                    seed=self._seed(NETWORK_SEED, number),
                    observer=None if observe is None else (lambda *state: observe(self.aggregator.name, *state)),
                )
            )
        _raise_if_all_refused(result)
        aggregate, included, aborted = result.aggregate, result.included, result.aborted
        if aggregate is not None:
            remembered = self.server_optimizer.state()
            try:
                self._layout.load_vector(self.model, self.server_optimizer.step(before, aggregate.mean_delta))
            except LayoutError as error:
                # The model is what it was, and so is what the optimizer knows: the round has no result.
                self.server_optimizer.load_state(remembered)
                aggregate, included, aborted = None, (), f"the server's step fails: {error}"
        seconds = time.perf_counter() - started
        self.rounds_done = number
        measured = self._evaluate_held_out(sampled, number)
        held_out = None if measured is None else measured.evaluation
        with torch_threads(self.worker.threads):
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
            included=included,
            dropped=dict(Counter(round_.value for round_ in result.dropped.values())),
            refused={str(client_id): why for client_id, why in sorted(result.refused.items())},
            clipped=_known(aggregate, "clipped"),
            noise=_known(aggregate, "noise"),
            clipped_tensors={
                name: dataclasses.asdict(exceeded)
                for name, exceeded in zip(self._layout.names, result.exceeded, strict=False)
                if exceeded is not None
            },
            clipped_weights=None
            if not result.exceeded or result.exceeded[-1] is None
            else dataclasses.asdict(result.exceeded[-1]),
            bytes_up=result.bytes_up,
            bytes_down=result.bytes_down,
            model_bytes=sum(map(len, model_messages.values())),
            seconds=seconds,
            training_seconds=result.training_seconds,
            server_seconds=result.server_seconds,
            client_seconds=result.client_seconds,
            held_out_accuracy=None if held_out is None else held_out.accuracy,
            held_out_loss=None if held_out is None else held_out.loss,
            held_out_examples=0 if held_out is None else held_out.num_examples,
            phases={round_.value: dataclasses.asdict(cost) for round_, cost in result.phases.items()},
            ring_difference=result.ring_difference,
            aborted=aborted,
            held_out_aborted=None if measured is None else measured.aborted,
        )

    def _model_messages(self, sampled: tuple[ClientId, ...]) -> dict[ClientId, bytes]:
        """What each sampled client is sent: the same bytes."""
        return dict.fromkeys(sampled, model_to_bytes(self.model))

    def _sample(self, number: int) -> tuple[ClientId, ...]:
        rng = np.random.default_rng(self._seed(SAMPLING_SEED, number))
        return tuple(sorted(rng.choice(self.config.data.clients, size=self.config.sample, replace=False).tolist()))

    def _evaluate_held_out(self, sampled: tuple[ClientId, ...], number: int) -> HeldOutResult | None:
        """The new global model on what the round's clients hold out: a session of its own, with its own dropouts."""
        if self._evaluation is None:
            return None
        messages = self._model_messages(sampled)
        return self._evaluation.run(
            sampled,
            lambda client_id: self.worker.evaluate_held_out(client_id, messages[client_id]),
            context=round_context(self.model, number),
            received_context=lambda client_id: self.worker.received_context(number, messages[client_id]),
            faults=dropout_schedule(self.config, sampled, number, EVALUATION_SEED),
            seed=self._seed(EVALUATION_SEED, number),
        )

    def _seed(self, purpose: int, *path: int) -> int:
        return derived_seed(self.config.seed, purpose, *path)


def _expected(sampled: tuple[ClientId, ...], faults: FaultSchedule) -> tuple[ClientId, ...]:
    """The clients that will be asked for their update."""
    return tuple(client_id for client_id in sampled if vanishes_before_its_update(faults, client_id) is None)


def _known(aggregate: Aggregate | None, name: str) -> float | None:
    """A figure of the aggregate's, if there is one."""
    value = math.nan if aggregate is None else float(getattr(aggregate, name))
    return None if math.isnan(value) else value


def _raise_if_all_refused(result: RoundResult) -> None:
    if result.refused and not result.trained:
        client_id, why = next(iter(sorted(result.refused.items())))
        raise DivergedError(f"no client has an update that may be sent; client {client_id}: {why}")


def raise_if_all_aborted(config: RunConfig, records: Sequence[RoundRecord], rounds_before: int) -> None:
    """A training in which no round came to a sum has failed, however many more it might try."""
    new = [one for one in records if one.aggregator == config.protocol.aggregator and one.round > rounds_before]
    if new and all(one.aborted for one in new):
        raise AbortedError(f"no round came to a sum, and the model is what it was; the last one: {new[-1].aborted}")


def start_runs(config: RunConfig, dataset: Dataset, resources: Resources | None = None) -> list[FederatedRun]:
    """The config's run, and the plain one beside it where it is to be compared."""
    names: list[AggregatorName] = (
        [config.protocol.aggregator, "plain"] if config.protocol.compare else [config.protocol.aggregator]
    )
    return [FederatedRun(config, dataset, name, resources) for name in names]


def record_to_json(record: RoundRecord) -> dict[str, Any]:
    """Plain values for JSON."""
    return {name: getattr(record, name) for name in RoundRecord.__dataclass_fields__}
