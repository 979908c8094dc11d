"""Secure aggregation with differential privacy: clients add noise, and only the noisy sum of updates leaves the ring.

Every client counts once. Numbers of examples, losses, metrics and ranges do not travel: they would need noise too.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import secagg
from fl.aggregation.api import RoundRequest, RoundResult, TimedTraining
from fl.aggregation.counters import IntegerVector
from fl.aggregation.encoding import Aggregate, ClientUpdate, QuantizationError
from fl.aggregation.secure import SessionAggregator
from fl.errors import ConfigError
from fl.privacy.accounting import Release
from fl.privacy.ledger import Ledger
from fl.privacy.mechanism import Mechanism, rotation_seed
from fl.privacy.planner import PrivacyPlan, private_session
from secagg import ClientId, Identity, PlanError


@dataclass(frozen=True, slots=True)
class NoisyEncoding:
    """A round's encoding of updates with noise; the key of a client's noise is of the process that encodes.

    Attributes:
        mechanism: the mechanism of the round.
        rotation: the round's public seed, from `rotation_seed`.
    """

    mechanism: Mechanism
    rotation: bytes

    def __call__(self, update: ClientUpdate, rng: np.random.Generator) -> IntegerVector:
        """Return the encoded update; QuantizationError if it cannot be encoded."""
        try:
            return self.mechanism.encode(update.delta, rotation=self.rotation, rng=rng, entropy=os.urandom)
        except ValueError as error:
            raise QuantizationError(f"{error}: lower the learning rate") from None


class PrivateAggregator(SessionAggregator):
    """Aggregation whose sums carry the noise of a privacy plan.

    A round's number of clients may differ from the plan's, as with Poisson sampling: each client's noise is then for
    the fewest honest clients of that round, so that the sum has the same noise. Each round is charged to the ledger
    before a client trains.

    Args:
        private: the plan.
        ledger: what the run has spent; it can be replaced before the first round.
        model: the plan's dropout, corrupt, adversary and threshold, as for `private_session`.
        identities: as for `SessionAggregator`.
    """

    def __init__(
        self,
        private: PrivacyPlan,
        ledger: Ledger,
        *,
        model: Mapping[str, Any],
        identities: Mapping[ClientId, Identity] | None = None,
    ) -> None:
        super().__init__(verify=False, identities=identities)
        self.private = private
        self.ledger = ledger
        self.plan = replace(private.session, reasons=private.reasons)
        self._model = dict(model)

    def aggregate(self, request: RoundRequest) -> RoundResult:
        started = time.perf_counter()
        train = TimedTraining(request)
        try:
            params, mechanism, release = self._numbers(len(request.client_ids))
        except (PlanError, ConfigError) as error:
            return RoundResult(
                aggregate=None,
                included=(),
                aborted=f"too few clients were sampled for a private sum: {error}",
                epsilon=self.ledger.spent,
            )
        spent = self.ledger.charge(request.number, release)
        rotation = rotation_seed(request.context)

        outcome, result = self._session(request, train, NoisyEncoding(mechanism, rotation), params)
        if isinstance(outcome, secagg.Aborted):
            result = replace(result, aborted=str(outcome))
        else:
            mean = mechanism.decode(outcome.sum, rotation=rotation) / len(outcome.included)
            aggregate = Aggregate(
                mean_delta=mean.astype(np.float32), num_examples=0, loss=math.nan, metrics={}, clipped=math.nan
            )
            result = replace(result, aggregate=aggregate, included=outcome.included)
        return replace(result, seconds=time.perf_counter() - started, epsilon=spent)

    def _numbers(self, num_clients: int) -> tuple[secagg.Parameters, Mechanism, Release]:
        """Return the numbers of a session with this many clients; PlanError or ConfigError if there are too few."""
        private = self.private
        if num_clients == private.session.parameters.num_clients:
            return private.session.parameters, private.mechanism, private.release
        session = private_session(num_clients, private.mechanism.length, **self._model)
        bits = private.mechanism.ring_bits
        params = replace(session.parameters, value_bits=bits, ring_bits=bits, modular=True)
        honest = params.threshold - session.corrupt_clients
        variance = private.release.honest * private.release.variance / honest
        return (
            params,
            replace(private.mechanism, variance=variance),
            replace(private.release, variance=variance, honest=honest),
        )
