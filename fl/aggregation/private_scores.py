"""Scores of the global model on examples that clients hold out, in private runs: noisy means, charged to the ledger.

A session of its own after each round, of clients that are sampled anew: so its privacy loss adds up with the round's.
A client without held-out examples sends zeros and a bit that says so, under the same noise.
"""

import os
from collections.abc import Callable

import numpy as np

import secagg
from fl.aggregation.counters import IntegerVector
from fl.aggregation.held_out import EvaluateClient, HeldOutResult
from fl.aggregation.private import PrivateAggregator, PrivateFigures, numbers_for
from fl.errors import ConfigError
from fl.learning.training import Evaluation
from fl.privacy.figures import centred, means, stddevs
from fl.privacy.ledger import EpsilonSpentError
from fl.privacy.mechanism import rotation_seed
from secagg import ClientId, PlanError
from transport import FaultSchedule, Workers, run_session

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
        self.plan = aggregator.private.scores
        self._aggregator = aggregator
        self._figures = aggregator.figures

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
            params, mechanism, release = numbers_for(
                len(client_ids),
                self.plan.session.parameters,
                self.plan.mechanism,
                self.plan.release,
                self._aggregator.model,
            )
        except (PlanError, ConfigError) as error:
            return _nothing(f"too few clients were sampled for a private sum: {error}")
        try:
            self._aggregator.ledger.charge(number, release)
        except EpsilonSpentError as error:
            return _nothing(str(error))
        context = _CONTEXT + context
        rotation = rotation_seed(context)

        def scores(client_id: ClientId) -> IntegerVector:
            vector = self._centred(evaluate(client_id))
            rng = np.random.default_rng((seed, client_id))
            return mechanism.encode(vector, rotation=rotation, rng=rng, entropy=os.urandom)

        outcome = run_session(
            params,
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
            return _nothing(str(outcome))
        sums, _ = mechanism.decode(outcome.sum, rotation=rotation)
        return self._result(sums, len(outcome.included), mechanism.stddev(len(outcome.included)))

    def _centred(self, measured: Evaluation | None) -> np.ndarray:
        """Return a client's scores as they travel."""
        if measured is None or not measured.num_examples:
            return np.array([-1.0, *(0.0 for _ in self._figures.bounded)])
        totals = tuple(measured.totals.values())
        values = self._figures.values((measured.loss * measured.num_examples, measured.num_examples), totals)
        return np.array([1.0, *centred(self._figures.bounded, values)])

    def _result(self, sums: np.ndarray, clients: int, noise: float) -> HeldOutResult:
        """Return the means over the clients that have held-out examples, if their noisy number says anything."""
        have = (clients + float(sums[0])) / 2
        # With fewer the quotient would be noise.
        if have <= max(1.0, noise):
            return _nothing(f"about {max(have, 0.0):.1f} of {clients} clients hold out examples: too few for the noise")
        found = means(self._figures.bounded, sums[1:], have)
        return HeldOutResult(
            evaluation=Evaluation(
                found.pop("loss", float("nan")), {name: (value, 1) for name, value in found.items()}, 0
            ),
            included=clients,
            stddevs=stddevs(self._figures.bounded, noise / have),
        )


def _nothing(why: str) -> HeldOutResult:
    return HeldOutResult(evaluation=None, included=0, aborted=why)


def require_figures(figures: PrivateFigures) -> None:
    """Raise ConfigError if no figure of the task has a range, so that there would be nothing to report."""
    if not figures.bounded:
        raise ConfigError(
            "held-out examples of a private run need a figure with a range: give figure_ranges, such as loss=0:4, or "
            "set holdout to 0"
        )
