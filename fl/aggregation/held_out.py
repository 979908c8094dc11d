"""Evaluation of the global model on the clients' held-out examples, by secure aggregation: only totals are learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import secagg
from fl.aggregation.counters import IntegerVector
from fl.aggregation.totals import TotalsEncoding, UndecodableSumError
from fl.errors import ConfigError
from fl.learning.figures import CLASSIFICATION_FIGURES, FigureRange, ratio
from fl.learning.training import Evaluation
from secagg import ClientId
from transport import FaultSchedule, run_session

EvaluateClient = Callable[[ClientId], Evaluation | None]
"""A function that evaluates a client's held-out examples; it returns None if the client has none."""

_VALUE_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutResult:
    """Totals over the clients that took part to the end.

    Attributes:
        evaluation: mean loss and metrics over all their held-out examples; None without examples or result.
        included: number of clients whose counts are in it.
        aborted: the reason why there is no result, or None.
    """

    evaluation: Evaluation | None
    included: int
    aborted: str | None = None


class FederatedEvaluation:
    """A session after a round that sums each client's counts of examples, and its metrics and loss.

    Args:
        num_clients: number of clients in a session.
        max_examples: a public bound on the number of held-out examples of one client.
        dropout, corrupt: as for `secagg.plan`.
        figures: the ranges of the loss and of each metric.

    Raises:
        ConfigError: no client holds out any examples.
        PlanError: the numbers do not work together.
    """

    def __init__(
        self,
        *,
        num_clients: int,
        max_examples: int,
        dropout: float,
        corrupt: float,
        figures: tuple[FigureRange, ...] = CLASSIFICATION_FIGURES,
    ) -> None:
        if max_examples < 1:
            raise ConfigError("no client has enough examples to hold one out: raise holdout")
        self._max_examples = max_examples
        self._num_metrics = len(figures) - 1
        self._totals = TotalsEncoding(figures, max_examples, (), _VALUE_BITS)
        self.plan = secagg.plan(
            num_clients=num_clients,
            vector_length=self._totals.vector_length,
            value_bits=_VALUE_BITS,
            dropout=dropout,
            corrupt=corrupt,
        )

    def run(
        self,
        client_ids: tuple[ClientId, ...],
        evaluate: EvaluateClient,
        *,
        context: bytes,
        received_context: Callable[[ClientId], bytes],
        faults: FaultSchedule,
        seed: int,
    ) -> HeldOutResult:
        """Run one session over the in-process network; see `fl.aggregation.api.RoundRequest` for the arguments."""

        def counts(client_id: ClientId) -> IntegerVector:
            measured = evaluate(client_id)
            if measured is None:
                return self._totals.encode(0, 0.0, ((0, 0),) * self._num_metrics)
            # A diverged model's figures are not numbers: they count as the largest possible ones.
            return self._totals.encode(
                measured.num_examples,
                measured.loss * measured.num_examples,
                tuple(measured.totals.values()),
                clips=True,
            )

        outcome = run_session(
            self.plan.parameters,
            counts,
            client_ids=client_ids,
            context=context,
            received_context=received_context,
            faults=faults,
            seed=seed,
        ).outcome
        if not isinstance(outcome, secagg.Completed):
            return HeldOutResult(evaluation=None, included=0, aborted=str(outcome))
        try:
            examples, totals, _ = self._totals.decode(
                outcome.sum,
                len(outcome.included),
                fewest_examples=0,
                most_examples=len(outcome.included) * self._max_examples,
            )
        except UndecodableSumError as error:
            return HeldOutResult(evaluation=None, included=0, aborted=str(error))
        loss = ratio(totals.pop("loss"))
        evaluation = Evaluation(loss, totals, examples) if examples else None
        return HeldOutResult(evaluation=evaluation, included=len(outcome.included))
