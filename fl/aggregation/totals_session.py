"""A session in this process that sums clients' totals, without an update: only totals over all clients are learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import secagg
from fl.aggregation.counters import IntegerVector
from fl.aggregation.planning import SessionPlans
from fl.aggregation.totals import TotalsEncoding, UndecodableSumError
from fl.learning.figures import Total
from secagg import ClientId, Identity
from transport import FaultSchedule, Workers, run_session


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedTotals:
    """Totals over the clients that took part to the end; see `TotalsEncoding.decode`."""

    examples: int
    figures: dict[str, Total]
    further: tuple[int, ...]
    included: int


class TotalsSession:
    """A session over the in-process network.

    Args:
        encoding: of each client's totals.
        plans: the plans of the run's sessions: the same threat and graph hold here.
        num_clients: number of clients in a session.
        identities: in malicious mode, the clients' identities.

    Raises:
        PlanError: the numbers do not work together.
    """

    def __init__(
        self,
        encoding: TotalsEncoding,
        plans: SessionPlans,
        *,
        num_clients: int,
        identities: Mapping[ClientId, Identity] | None = None,
    ) -> None:
        self._encoding = encoding
        self._identities = identities
        self.plan = plans.plan_of(num_clients, encoding.vector_length, encoding.value_bits)

    def run(
        self,
        client_ids: tuple[ClientId, ...],
        totals: Callable[[ClientId], IntegerVector],
        *,
        context: bytes,
        faults: FaultSchedule,
        seed: int,
        received_context: Callable[[ClientId], bytes] | None = None,
        workers: Workers | None = None,
    ) -> SummedTotals | str:
        """Run one session; return the totals, or the reason why there are none.

        Args:
            client_ids: the session's clients.
            totals: the function that returns a client's encoded totals.
            context, faults, seed, received_context, workers: see `fl.aggregation.api.RoundRequest`.
        """
        outcome = run_session(
            self.plan.parameters,
            totals,
            client_ids=client_ids,
            context=context,
            received_context=received_context,
            faults=faults,
            seed=seed,
            identities=self._identities,
            pool=workers,
        ).outcome
        return decoded_totals(outcome, self._encoding)


def decoded_totals(outcome: secagg.Completed | secagg.Aborted, encoding: TotalsEncoding) -> SummedTotals | str:
    """Return the totals in a session's outcome, or the reason why there are none."""
    if not isinstance(outcome, secagg.Completed):
        return str(outcome)
    included = len(outcome.included)
    try:
        examples, figures, further = encoding.decode(
            outcome.sum, included, fewest_examples=0, most_examples=included * encoding.most_examples
        )
    except UndecodableSumError as error:
        return str(error)
    return SummedTotals(examples=examples, figures=figures, further=further, included=included)
