"""Evaluation of the global model on the clients' held-out examples, by secure aggregation: only totals are learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fl.aggregation.counters import IntegerVector
from fl.aggregation.planning import SessionPlans
from fl.aggregation.totals import TotalsEncoding
from fl.aggregation.totals_session import SummedTotals, TotalsSession
from fl.errors import ConfigError
from fl.learning.figures import Evaluation, FigureRange, ratio
from secagg import ClientId, Identity
from transport import FaultSchedule, Workers

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
        stddevs: in private runs, the standard deviation of the noise in the loss and each metric, by name.
    """

    evaluation: Evaluation | None
    included: int
    aborted: str | None = None
    stddevs: Mapping[str, float] = field(default_factory=dict)


class FederatedEvaluation:
    """A session after a round that sums each client's counts of examples, and its metrics and loss.

    Args:
        plans: the plans of the run's sessions: the same threat and graph hold here.
        num_clients: number of clients in a session.
        max_examples: a public bound on the number of held-out examples of one client.
        identities: in malicious mode, the clients' identities.

    Raises:
        ConfigError: no client holds out any examples.
        PlanError: the numbers do not work together.
    """

    def __init__(
        self,
        plans: SessionPlans,
        *,
        num_clients: int,
        max_examples: int,
        identities: Mapping[ClientId, Identity] | None = None,
    ) -> None:
        if max_examples < 1:
            raise ConfigError("no client has enough examples to hold one out: raise holdout")
        self._encoding = held_out_encoding(plans.figures, max_examples)
        self._session = TotalsSession(self._encoding, plans, num_clients=num_clients, identities=identities)
        self.plan = self._session.plan

    def run(
        self,
        client_ids: tuple[ClientId, ...],
        evaluate: EvaluateClient,
        *,
        context: bytes,
        received_context: Callable[[ClientId], bytes],
        faults: FaultSchedule,
        seed: int,
        number: int = 0,
        workers: Workers | None = None,
    ) -> HeldOutResult:
        """Run one session over the in-process network; see `fl.aggregation.api.RoundRequest` for the arguments."""

        def counts(client_id: ClientId) -> IntegerVector:
            return encoded_evaluation(self._encoding, evaluate(client_id))

        return held_out_result(
            self._session.run(
                client_ids,
                counts,
                context=context,
                received_context=received_context,
                faults=faults,
                seed=seed,
                workers=workers,
            )
        )


def held_out_encoding(
    figures: tuple[FigureRange, ...], max_examples: int, value_bits: int = _VALUE_BITS
) -> TotalsEncoding:
    """Return the encoding of a client's evaluation; ``max_examples`` is a public bound on its examples."""
    return TotalsEncoding(figures, max_examples, (), value_bits)


def encoded_evaluation(encoding: TotalsEncoding, measured: Evaluation | None) -> IntegerVector:
    """Return a client's evaluation as integers; None, without held-out examples, adds nothing to the sum."""
    if measured is None:
        return encoding.encode(0, 0.0, ((0, 0),) * (len(encoding.figures) - 1))
    # A diverged model's figures are not numbers: they count as the largest possible ones.
    return encoding.encode(
        measured.num_examples, measured.loss * measured.num_examples, tuple(measured.totals.values()), clips=True
    )


def held_out_result(totals: SummedTotals | str) -> HeldOutResult:
    """Return the result of a session of evaluations."""
    if isinstance(totals, str):
        return HeldOutResult(evaluation=None, included=0, aborted=totals)
    loss = ratio(totals.figures.pop("loss"))
    evaluation = Evaluation(loss, totals.figures, totals.examples) if totals.examples else None
    return HeldOutResult(evaluation=evaluation, included=totals.included)
