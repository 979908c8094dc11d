"""The federated loop: sample clients, send the model, train locally, aggregate, apply (McMahan et al. 2017)."""

import os
import time
from collections.abc import Callable
from pathlib import Path
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
from fl.aggregation.held_out import FederatedEvaluation, HeldOutResult
from fl.aggregation.planning import SessionPlans
from fl.aggregation.private import PrivateAggregator
from fl.aggregation.private_scores import PrivateScores
from fl.aggregation.private_session import PrivateFigures, require_figures
from fl.aggregation.secure import SecureAggregator, SessionAggregator
from fl.config.run_config import AggregatorName, RunConfig
from fl.config.seeds import EVALUATION_SEED, NETWORK_SEED, SAMPLING_SEED, derived_seed
from fl.data import Dataset
from fl.data.client_data import ClientData, DealtOut
from fl.engines import Resources, RoundTraining, TrainingEngine, check_engine, open_engine, workers_in_words
from fl.engines.local_worker import LocalWorker, round_context
from fl.errors import ConfigError
from fl.learning.devices import find_device
from fl.learning.figures import CLASSIFICATION_FIGURES, FigureRange
from fl.learning.own_code import ModelSource
from fl.learning.serialization import round_message
from fl.learning.task import Task
from fl.learning.training import DivergedError
from fl.privacy.ledger import Ledger
from fl.privacy.planner import PrivacyPlan, plan_private
from fl.runs.records import RoundRecord
from fl.runs.run import Run
from fl.runs.sampling import deal_out, dropout_schedule, poisson_sample
from secagg import Adversary, ClientId, Identity, Round
from transport import FaultSchedule, Workers

ProgressObserver = Callable[[str, Round, int, int], None]
"""Called with the aggregator's name, the protocol's current round, and the numbers of answers and of clients asked."""


class FederatedRun(Run):
    """One global model, trained round by round with one aggregator by simulated clients.

    The config's seed and the round's number determine everything in a round except keys and masks, which do not change
    the sum: two runs of a config give the same models, and so does a resumed run.

    Args:
        config, model, max_examples, task: see `Run`.
        data: the clients' examples; a data set is split among the clients.
        aggregator: the name of the aggregator that sums the clients' updates.
        resources: the resources of the engine.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Dataset | ClientData,
        aggregator: AggregatorName,
        resources: Resources | None = None,
        *,
        model: ModelSource | None = None,
        max_examples: int | None = None,
        task: Task | None = None,
    ) -> None:
        if isinstance(data, Dataset):
            data = DealtOut(data, deal_out(config, data))
        super().__init__(config, data.dataset, aggregator, model=model, max_examples=max_examples, task=task)
        self._resources = resources or Resources()
        self.worker = LocalWorker(config, data, model, self.task)
        if self.worker.frozen != self.frozen:
            raise ConfigError(
                f"model {config.model}: its frozen parameters (requires_grad=False) differ each time it is made: load "
                "them from a file, or draw them with torch, which is seeded"
            )
        check_engine(config.engine, self.worker, self._resources)
        if config.engine in ("serial", "processes"):
            self.device = self.worker.device = find_device(self._resources.device)
        self.aggregator: Aggregator = PlainAggregator(self.task.figures)
        self.plans = session_plans(config, self.layout.sizes, self.task.figures)
        self.identities = None
        if config.adversary is Adversary.MALICIOUS:
            self.identities = {client_id: Identity.generate(os.urandom) for client_id in range(config.data.clients)}
        if config.privacy.epsilon is not None:
            self.aggregator = self._private_aggregator()
        elif aggregator == "secure":
            self.aggregator = SecureAggregator(
                self.plans,
                num_clients=config.sample,
                tracker=self.tracker,
                verify=config.protocol.compare,
                identities=self.identities,
            )
        self._evaluation = self._build_evaluation() if config.data.holdout else None
        self._engine: TrainingEngine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine's processes; a later round starts them again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def workers(self) -> Workers | None:
        """The engine's places for the protocol's work; None before the first round and after `close`."""
        return None if self._engine is None else self._engine.workers

    @property
    def plan(self) -> secagg.Plan | None:
        """The plan of the protocol; None for the plain aggregator."""
        return self.aggregator.plan if isinstance(self.aggregator, SessionAggregator) else None

    def _private_aggregator(self) -> PrivateAggregator:
        budget = self.config.privacy.budget(self.config.rounds, 1.0)
        private, model, figures = plan_private_run(self.config, self.layout.size, self.task, self.dataset.num_classes)
        return PrivateAggregator(
            private,
            Ledger(None, budget.epsilon, budget.delta),
            model=model,
            figures=figures if private.mechanism.figures else None,
            clipping=self.clipping,
            identities=self.identities,
        )

    def keep_ledger(self, path: Path) -> None:
        """Keep the ledger of a private run in a new file; ConfigError as for `Ledger.create`."""
        if isinstance(self.aggregator, PrivateAggregator):
            ledger = self.aggregator.ledger
            self.aggregator.ledger = Ledger.create(
                path, epsilon=ledger.epsilon, delta=ledger.delta, charges=ledger.charges
            )

    def load_ledger(self, path: Path, planned_rounds: int) -> None:
        """Go on with the ledger of a private run that was planned for a number of rounds.

        Raises:
            ConfigError: as for `Ledger.load`; or the run has another number of rounds, so that its noise would differ.
        """
        if isinstance(self.aggregator, PrivateAggregator):
            if planned_rounds != self.config.rounds:
                raise ConfigError(
                    f"the noise of this private run is for {planned_rounds} rounds: it cannot have "
                    f"{self.config.rounds}; leave out rounds, or start a new run"
                )
            self.aggregator.ledger = Ledger.load(path)

    def _build_evaluation(self) -> FederatedEvaluation | PrivateScores:
        if isinstance(self.aggregator, PrivateAggregator):
            return PrivateScores(self.aggregator)
        return FederatedEvaluation(
            self.plans,
            num_clients=self.config.sample,
            max_examples=self.worker.max_held_out,
            identities=self.identities,
        )

    def run_round(self, observe: ProgressObserver | None = None) -> RoundRecord:
        """Run one round, and apply its mean update to the model unless the round is aborted.

        Raises:
            DivergedError: no client has a valid update; the settings are at fault, not a client.
        """
        started = time.perf_counter()
        number = self.rounds_done + 1
        sampled = self._sample(number)
        model_messages = self._model_messages(sampled)
        faults = dropout_schedule(self.config, sampled, number)
        training = RoundTraining(number, model_messages, _expected(sampled, faults))
        if self._engine is None:
            self._engine = open_engine(self.config.engine, self.worker, self._resources)
        with workers_in_words(), self._engine.round(training) as trainer:
            result = self.aggregator.aggregate(
                RoundRequest(
                    client_ids=sampled,
                    train=trainer,
                    announce=trainer.announce,
                    may_be_early=trainer.may_be_early,
                    workers=self._engine.workers,
                    context=round_context(self.model, number, self.frozen),
                    received_context=lambda client_id: self.worker.received_context(number, model_messages[client_id]),
                    faults=faults,
                    number=number,
                    seed=self._seed(NETWORK_SEED, number),
                    observer=None if observe is None else (lambda *state: observe(self.aggregator.name, *state)),
                )
            )
        _raise_if_all_refused(result)
        result = self.end_round(result)
        seconds = time.perf_counter() - started
        return self.measure(
            result,
            sampled=len(sampled),
            model_bytes=sum(map(len, model_messages.values())),
            seconds=seconds,
            measured=self._evaluate_held_out(sampled, number),
            epsilon=self.aggregator.ledger.spent if isinstance(self.aggregator, PrivateAggregator) else None,
        )

    def _model_messages(self, sampled: tuple[ClientId, ...]) -> dict[ClientId, bytes]:
        """Return the message to each sampled client; all get the same bytes."""
        return dict.fromkeys(sampled, round_message(self.model))

    def _sample(self, number: int) -> tuple[ClientId, ...]:
        if self.config.privacy.epsilon is not None:
            return poisson_sample(self.config.data.clients, self.config.sample / self.config.data.clients)
        rng = np.random.default_rng(self._seed(SAMPLING_SEED, number))
        return tuple(sorted(rng.choice(self.config.data.clients, size=self.config.sample, replace=False).tolist()))

    def _evaluate_held_out(self, sampled: tuple[ClientId, ...], number: int) -> HeldOutResult | None:
        """Measure the new global model on the clients' held-out examples, in a session with its own dropouts."""
        if self._evaluation is None or self._engine is None:
            return None
        if isinstance(self._evaluation, PrivateScores):
            # Another sample, so that the scores' privacy loss adds up with the round's.
            sampled = self._sample(number)
        messages = self._model_messages(sampled)
        with workers_in_words():
            return self._evaluation.run(
                sampled,
                lambda client_id: self.worker.evaluate_held_out(client_id, messages[client_id]),
                context=round_context(self.model, number, self.frozen),
                received_context=lambda client_id: self.worker.received_context(number, messages[client_id]),
                faults=dropout_schedule(self.config, sampled, number, EVALUATION_SEED),
                number=number,
                seed=self._seed(EVALUATION_SEED, number),
                workers=self._engine.workers,
            )

    def _seed(self, purpose: int, *path: int) -> int:
        return derived_seed(self.config.seed, purpose, *path)


def _expected(sampled: tuple[ClientId, ...], faults: FaultSchedule) -> tuple[ClientId, ...]:
    """Return the clients that will be asked for their update."""
    return tuple(client_id for client_id in sampled if vanishes_before_its_update(faults, client_id) is None)


def _raise_if_all_refused(result: RoundResult) -> None:
    if result.refused and not result.trained:
        client_id, why = next(iter(sorted(result.refused.items())))
        raise DivergedError(f"no client has an update that may be sent; client {client_id}: {why}")


def plan_private_run(
    config: RunConfig, length: int, task: Task, num_classes: int
) -> tuple[PrivacyPlan, dict[str, Any], PrivateFigures]:
    """Return the plan of a simulated private run, its threat and dropouts, and the figures that clients can report.

    Raises:
        ConfigError: a range is stated for no figure, or held-out examples are to be scored and no figure has a range.
        PlanError: the numbers do not work together; the error names all reasons.
    """
    protocol = config.protocol
    model: dict[str, Any] = {
        "dropout": protocol.dropout,
        "corrupt": protocol.corrupt,
        "adversary": config.adversary,
        "threshold": protocol.threshold,
    }
    figures = PrivateFigures.of_task(task.figures, config.privacy.ranges(), num_classes)
    if config.data.holdout:
        require_figures(figures)
    budget = config.privacy.budget(
        config.rounds,
        config.sample / config.data.clients,
        figures=len(figures.of_updates),
        scores=figures.num_scores if config.data.holdout else 0,
    )
    private = plan_private(budget, num_clients=config.sample, length=length, graph=config.graph, **model)
    return private, model, figures


def session_plans(
    config: RunConfig, sizes: tuple[int, ...], figures: tuple[FigureRange, ...] = CLASSIFICATION_FIGURES
) -> SessionPlans:
    """Return the plans of a simulated run's sessions.

    Args:
        config: the run's settings.
        sizes: the elements of each tensor of an update.
        figures: the ranges of the loss and of each metric.
    """
    protocol = config.protocol
    return SessionPlans(
        sizes=sizes,
        value_bits=config.value_bits,
        dropout=protocol.dropout,
        corrupt=protocol.corrupt,
        figures=figures,
        adversary=config.adversary,
        graph=config.graph,
        threshold=protocol.threshold,
    ).explained(config.sample)


def start_runs(
    config: RunConfig,
    data: Dataset | ClientData,
    resources: Resources | None = None,
    *,
    model: ModelSource | None = None,
    task: Task | None = None,
) -> list[FederatedRun]:
    """Return the config's run, and with ``compare`` also the plain run; arguments as for `FederatedRun`."""
    names: list[AggregatorName] = (
        [config.protocol.aggregator, "plain"] if config.protocol.compare else [config.protocol.aggregator]
    )
    return [FederatedRun(config, data, name, resources, model=model, task=task) for name in names]
