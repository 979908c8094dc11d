"""Evaluation of the global model on the clients' held-out examples, by secure aggregation: only totals are learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import secagg
from fl.aggregation.counters import LOSS_STEPS, MAX_LOSS, CounterEncoding, IntegerVector, loss_steps
from fl.aggregation.encoding import UndecodableSumError, checked_totals
from fl.aggregation.planning import SessionPlans
from fl.errors import ConfigError
from fl.learning.training import Evaluation
from secagg import ClientId, Identity
from transport import FaultSchedule, run_session

EvaluateClient = Callable[[ClientId], Evaluation | None]
"""A function that evaluates a client's held-out examples; it returns None if the client has none."""

_VALUE_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutResult:
    """Totals over the clients that took part to the end.

    Attributes:
        evaluation: mean loss and accuracy over all their held-out examples; None without examples or result.
        included: number of clients whose counts are in it.
        aborted: the reason why there is no result, or None.
    """

    evaluation: Evaluation | None
    included: int
    aborted: str | None = None


class FederatedEvaluation:
    """A session after a round that sums each client's counts of examples, correct predictions and loss.

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
        self._max_examples = max_examples
        largest = (max_examples, max_examples, max_examples * MAX_LOSS * LOSS_STEPS)
        self._counters = CounterEncoding(largest, _VALUE_BITS)
        self._identities = identities
        self.plan = plans.plan_of(num_clients, self._counters.vector_length, _VALUE_BITS)

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
                return self._counters.encode((0, 0, 0))
            loss_sum = measured.loss * measured.num_examples
            # The loss of a diverged model is not a number; count it as the largest possible loss.
            loss = loss_steps(loss_sum if loss_sum < float("inf") else float(2**60), measured.num_examples)
            return self._counters.encode(
                (measured.num_examples, round(measured.accuracy * measured.num_examples), loss)
            )

        outcome = run_session(
            self.plan.parameters,
            counts,
            client_ids=client_ids,
            context=context,
            received_context=received_context,
            faults=faults,
            seed=seed,
            identities=self._identities,
        ).outcome
        if not isinstance(outcome, secagg.Completed):
            return HeldOutResult(evaluation=None, included=0, aborted=str(outcome))
        try:
            examples, correct, loss = checked_totals(
                outcome.sum,
                len(outcome.included),
                self._counters,
                fewest_examples=0,
                most_examples=len(outcome.included) * self._max_examples,
            )
        except UndecodableSumError as error:
            return HeldOutResult(evaluation=None, included=0, aborted=str(error))
        evaluation = Evaluation(loss / LOSS_STEPS / examples, correct / examples, examples) if examples else None
        return HeldOutResult(evaluation=evaluation, included=len(outcome.included))
