"""Secure aggregation with differential privacy: clients add noise, and only the noisy sum of updates leaves the ring.

Every client counts once. Its loss and metrics, and whether its update was within the clip, travel behind the update in
the same vector, as bounded figures under the same noise; numbers of examples and ranges do not travel.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import secagg
from fl.aggregation.api import RoundRequest, RoundResult, TimedTraining
from fl.aggregation.counters import IntegerVector
from fl.aggregation.encoding import ClientUpdate
from fl.aggregation.private_session import PrivateEncoding, PrivateFigures, PrivatePlans
from fl.aggregation.secure import SessionAggregator
from fl.errors import ConfigError
from fl.privacy.clipping import Clipping
from fl.privacy.ledger import Ledger
from fl.privacy.planner import PrivacyPlan
from secagg import ClientId, Identity, PlanError
from transport import KeyedInput


@dataclass(frozen=True, slots=True)
class _Encode:
    """The encoding of a session; the key of a client's noise is of the process that encodes."""

    encoding: PrivateEncoding
    context: bytes

    def __call__(self, update: ClientUpdate, rng: np.random.Generator) -> IntegerVector | KeyedInput:
        return self.encoding.encode(update, rng, context=self.context, entropy=os.urandom)


class PrivateAggregator(SessionAggregator):
    """Aggregation whose sums carry the noise of a privacy plan, for any number of clients (`PrivatePlans`).

    Each round is charged to the ledger before a client trains.

    Args:
        private: the plan.
        ledger: what the run has spent; it can be replaced before the first round.
        model: the plan's dropout, corrupt, adversary and threshold, as for `private_session`.
        figures: the figures that clients report; None if the plan has none.
        clipping: the clip, which may follow the updates. None: that of the plan.
        identities: as for `SessionAggregator`.
    """

    def __init__(
        self,
        private: PrivacyPlan,
        ledger: Ledger,
        *,
        model: Mapping[str, Any],
        figures: PrivateFigures | None = None,
        clipping: Clipping | None = None,
        identities: Mapping[ClientId, Identity] | None = None,
    ) -> None:
        super().__init__(verify=False, identities=identities)
        self.private = private
        self.plans = PrivatePlans(private, model)
        self.ledger = ledger
        self.plan = replace(private.session, reasons=private.reasons)
        self.clipping = clipping or Clipping(private.mechanism.clip)
        self.figures = figures

    def aggregate(self, request: RoundRequest) -> RoundResult:
        started = time.perf_counter()
        train = TimedTraining(request)
        try:
            session = self.plans.session(len(request.client_ids), self.clipping.clip)
        except (PlanError, ConfigError) as error:
            return RoundResult(
                aggregate=None,
                included=(),
                aborted=f"too few clients were sampled for a private sum: {error}",
                epsilon=self.ledger.spent,
            )
        spent = self.ledger.charge(request.number, session.release)
        encoding = PrivateEncoding.of(session.terms.mechanism, self.figures, session.parameters)
        outcome, result = self._session(request, train, _Encode(encoding, request.context), session.parameters)
        if isinstance(outcome, secagg.Aborted):
            result = replace(result, aborted=str(outcome))
        else:
            aggregate = encoding.decode(outcome, context=request.context)
            if aggregate.within_clip is not None:
                self.clipping.follow(aggregate.within_clip)
            result = replace(result, aggregate=aggregate, included=outcome.included)
        clip = session.terms.mechanism.clip
        return replace(result, seconds=time.perf_counter() - started, epsilon=spent, l2_clip=clip)
