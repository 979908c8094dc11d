"""Scores of the global model on examples that clients hold out, in private runs: noisy means, charged to the ledger.

A session of its own after each round, of clients that are sampled anew: so its privacy loss adds up with the round's.
"""

import os
from collections.abc import Callable

import numpy as np

import secagg
from fl.aggregation.counters import IntegerVector
from fl.aggregation.held_out import EvaluateClient, HeldOutResult
from fl.aggregation.private import PrivateAggregator
from fl.aggregation.private_session import ScoresEncoding, no_scores
from fl.errors import ConfigError
from fl.privacy.ledger import EpsilonSpentError
from secagg import ClientId, PlanError
from transport import FaultSchedule, KeyedInput, Workers, run_session

_CONTEXT = b"scores of held-out examples of "


class PrivateScores:
    """A session after a round that sums each client's mean loss and metrics, with noise.

    Args:
        aggregator: the run's, whose plan has numbers for this session, and whose ledger it charges.

    Raises:
        ConfigError: the plan has no such numbers.
    """

    def __init__(self, aggregator: PrivateAggregator) -> None:
        if aggregator.private.scores is None or aggregator.figures is None:
            raise ConfigError("a private run was planned without scores of held-out examples: plan it with them")
        self._aggregator = aggregator

    def run(
        self,
        client_ids: tuple[ClientId, ...],
        evaluate: EvaluateClient,
        *,
        number: int,
        context: bytes,
        received_context: Callable[[ClientId], bytes],
        faults: FaultSchedule,
        seed: int,
        workers: Workers | None = None,
    ) -> HeldOutResult:
        """Charge and run one session over the in-process network.

        Args:
            client_ids: a sample of their own, drawn as for a round.
            evaluate: the function that evaluates a client.
            number: the round's number.
            context, received_context, faults, seed, workers: see `fl.aggregation.api.RoundRequest`.
        """
        try:
            session = self._aggregator.plans.scores(len(client_ids))
        except (PlanError, ConfigError) as error:
            return no_scores(f"too few clients were sampled for a private sum: {error}")
        try:
            self._aggregator.ledger.charge(number, session.release)
        except EpsilonSpentError as error:
            return no_scores(str(error))
        context = _CONTEXT + context
        encoding = ScoresEncoding.of(session.terms.mechanism, self._aggregator.figures, session.parameters)

        def scores(client_id: ClientId) -> IntegerVector | KeyedInput:
            rng = np.random.default_rng((seed, client_id))
            return encoding.encode(evaluate(client_id), rng, context=context, entropy=os.urandom)

        outcome = run_session(
            session.parameters,
            scores,
            client_ids=client_ids,
            context=context,
            received_context=lambda client_id: _CONTEXT + received_context(client_id),
            faults=faults,
            seed=seed,
            identities=self._aggregator.identities,
            pool=workers,
        ).outcome
        if isinstance(outcome, secagg.Aborted):
            return no_scores(str(outcome))
        return encoding.decode(outcome, context=context)
