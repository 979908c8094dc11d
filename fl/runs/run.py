"""A run's global model between rounds, for simulated clients and for clients on other machines."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from fl.aggregation.api import RoundResult
from fl.aggregation.encoding import Aggregate
from fl.aggregation.held_out import HeldOutResult
from fl.aggregation.scales import ScaleTracker
from fl.config.run_config import ACCURACY, AggregatorName, RunConfig
from fl.data import Dataset
from fl.engines.local_worker import model_of
from fl.learning.cpu import torch_threads
from fl.learning.devices import CPU
from fl.learning.own_code import ModelSource
from fl.learning.parameter_layout import LayoutError, ParameterLayout, frozen_digest
from fl.learning.serialization import round_message
from fl.learning.server_optimizer import ServerOptimizer
from fl.learning.task import Task
from fl.learning.training import Evaluation, evaluate
from fl.privacy.figures import WITHIN_CLIP
from fl.runs.records import RoundRecord
from secagg import ClientId


@dataclass(frozen=True, slots=True)
class SentModel:
    """A round's model as `round_message`, and the clients whose updates the round included."""

    message: bytes
    included: tuple[ClientId, ...]


class Run:
    """One global model, with the state that a checkpoint keeps.

    Args:
        config: the run's settings.
        dataset: the data set; it gives the examples' shape, the number of classes and the test set.
        name: the name of the aggregator, `secure` or `plain`.
        model: the model, as `fl.make_model` takes it. None: the one that the config names.
        max_examples: a fixed bound on clients' weights. None: the bound adapts to them.
        task: the loss and metrics. None: those that the config names.

    Attributes:
        rounds_done: the number of completed rounds.
        layout: the layout of the model's averaged tensors.
        frozen: the digest of the model's frozen parameters.
        tracker: the bounds of the updates.
        server_optimizer: the server's optimizer, which applies the mean update.
        clipping: the clip of a private run.
        threads: PyTorch threads for the model.
        sent: the rounds' models, if personal models need them.
        device: the device on which the model is tested.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        name: AggregatorName,
        *,
        model: ModelSource | None = None,
        max_examples: int | None = None,
        task: Task | None = None,
    ) -> None:
        self.config = config
        self.task = Task(config.loss, config.metrics) if task is None else task
        self.dataset = dataset
        self.name = name
        self.rounds_done = 0
        # The paper's Ditto needs the model that each round began with, and whose updates the round included.
        self.sent: list[SentModel] | None = [] if config.personal.method == "ditto" else None
        self.device = CPU
        self.model, self.threads = model_of(config, dataset, model, self.task)
        self.layout = ParameterLayout.of(self.model)
        self.frozen = frozen_digest(self.model)
        self.tracker = ScaleTracker(
            len(self.layout.entries), config.value_bits, clip=config.protocol.clip, max_weight=max_examples
        )
        self.server_optimizer = ServerOptimizer(config.server, self.model)
        self.clipping = config.privacy.clipping()

    def snapshot(self) -> Callable[[], None]:
        """Return a function that restores the present state."""
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        optimizer, scales, rounds_done = self.server_optimizer.state(), self.tracker.scales, self.rounds_done
        sent = None if self.sent is None else list(self.sent)
        clip = self.clipping.clip

        def restore() -> None:
            self.model.load_state_dict(model)
            self.server_optimizer.load_state(optimizer)
            self.tracker.scales, self.rounds_done, self.sent = scales, rounds_done, sent
            self.clipping.clip = clip

        return restore

    def end_round(self, result: RoundResult) -> RoundResult:
        """Apply the mean update; without one, or if the step fails, the model stays unchanged.

        Returns:
            The result; if the step failed, without an aggregate and with the reason.
        """
        sent = b"" if self.sent is None else round_message(self.model)
        if result.aggregate is not None:
            before, remembered = self.layout.to_vector(self.model), self.server_optimizer.state()
            try:
                self.layout.load_vector(self.model, self.server_optimizer.step(before, result.aggregate.mean_delta))
            except LayoutError as error:
                # The model is unchanged; restore the optimizer too. The round has no result.
                self.server_optimizer.load_state(remembered)
                result = replace(result, aggregate=None, included=(), aborted=f"the server's step fails: {error}")
        self.rounds_done += 1
        if self.sent is not None:
            self.sent.append(SentModel(sent, result.included))
        return result

    def _test(self) -> Evaluation | None:
        """Test the model; None without a test set."""
        if not self.dataset.has_test:
            return None
        with torch_threads(self.threads):
            return evaluate(
                self.model, self.dataset.test_images, self.dataset.test_labels, task=self.task, device=self.device
            )

    def measure(
        self,
        result: RoundResult,
        *,
        sampled: int,
        model_bytes: int,
        seconds: float,
        measured: HeldOutResult | None = None,
        epsilon: float | None = None,
    ) -> RoundRecord:
        """Test the model, and return the record of the round that has just ended.

        Args:
            result: the round's result, from `end_round`.
            sampled: the number of clients that were asked.
            model_bytes: bytes of the models that were sent to them.
            seconds: the duration of the round.
            measured: the model's figures on the clients' held-out examples; None if they were not asked for.
            epsilon: what a private run has spent with them. None: what it has spent with the round.
        """
        held_out = None if measured is None else measured.evaluation
        test = self._test()
        aggregate = result.aggregate
        metrics, train_metrics, held_out_metrics = (
            {} if one is None else {name: _number(value) for name, value in one.metrics.items()}
            for one in (test, aggregate, held_out)
        )
        return RoundRecord(
            round=self.rounds_done,
            aggregator=self.name,
            accuracy=metrics.get(ACCURACY),
            loss=None if test is None else test.loss,
            metrics=metrics,
            train_accuracy=train_metrics.get(ACCURACY),
            train_loss=None if aggregate is None else aggregate.loss,
            train_metrics=train_metrics,
            num_examples=0 if aggregate is None else aggregate.num_examples,
            sampled=sampled,
            included=result.included,
            dropped=dict(Counter(round_.value for round_ in result.dropped.values())),
            refused={str(client_id): why for client_id, why in sorted(result.refused.items())},
            clipped=_known(aggregate, "clipped"),
            noise=_known(aggregate, "noise"),
            clipped_tensors={
                name: dataclasses.asdict(exceeded)
                for name, exceeded in zip(self.layout.names, result.exceeded, strict=False)
                if exceeded is not None
            },
            clipped_weights=None
            if not result.exceeded or result.exceeded[-1] is None
            else dataclasses.asdict(result.exceeded[-1]),
            bytes_up=result.bytes_up,
            bytes_down=result.bytes_down,
            model_bytes=model_bytes,
            seconds=seconds,
            training_seconds=result.training_seconds,
            server_seconds=result.server_seconds,
            client_seconds=result.client_seconds,
            held_out_accuracy=held_out_metrics.get(ACCURACY),
            held_out_loss=_known(held_out, "loss"),
            held_out_metrics=held_out_metrics,
            held_out_examples=0 if held_out is None else held_out.num_examples,
            phases={round_.value: dataclasses.asdict(cost) for round_, cost in result.phases.items()},
            ring_difference=result.ring_difference,
            aborted=result.aborted,
            held_out_aborted=None if measured is None else measured.aborted,
            epsilon=result.epsilon if epsilon is None else epsilon,
            l2_clip=result.l2_clip,
            within_clip=None if aggregate is None else aggregate.within_clip,
            stddevs=_stddevs(aggregate, measured),
        )


def _known(measured: Aggregate | Evaluation | None, name: str) -> float | None:
    """Return a figure; None if there is none or it is NaN."""
    return None if measured is None else _number(float(getattr(measured, name)))


def _stddevs(aggregate: Aggregate | None, measured: HeldOutResult | None) -> dict[str, float]:
    """Return the noise of a private run's figures, by their names in the record."""
    found = {
        name if name == WITHIN_CLIP else f"train_{name}": value
        for name, value in ({} if aggregate is None else aggregate.stddevs).items()
    }
    return found | {f"held_out_{name}": value for name, value in ({} if measured is None else measured.stddevs).items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
