"""Secure aggregation with differential privacy: clients add noise, and only the noisy sum of updates leaves the ring.

Every client counts once. Its loss and metrics, and whether its update was within the clip, travel behind the update in
the same vector, as bounded figures under the same noise; numbers of examples and ranges do not travel.
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
from fl.learning.figures import Total, ratio
from fl.privacy.accounting import Release
from fl.privacy.clipping import Clipping
from fl.privacy.figures import WITHIN_CLIP, BoundedFigure, centred, means, stddevs
from fl.privacy.ledger import Ledger
from fl.privacy.mechanism import Mechanism, rotation_seed
from fl.privacy.planner import PrivacyPlan, private_session, with_ring
from secagg import ClientId, Identity, PlanError


class PrivateFigures:
    """The figures of a task that clients report in private runs, each in a public range.

    Args:
        names: the names of the loss and of each metric, in the order of an update's.
        ranges: the range of each that is reported; the others stay at the clients.

    Attributes:
        bounded: the figures that are reported, in the order in which they travel.
    """

    def __init__(self, names: tuple[str, ...], ranges: Mapping[str, tuple[float, float]]) -> None:
        if WITHIN_CLIP in names:
            raise ConfigError(f"private runs report a figure {WITHIN_CLIP} of their own: rename the metric")
        self._names = names
        self.bounded = tuple(BoundedFigure(name, *ranges[name]) for name in names if name in ranges)

    @property
    def of_updates(self) -> tuple[BoundedFigure, ...]:
        """Return the figures that travel behind an update."""
        return (*self.bounded, BoundedFigure(WITHIN_CLIP))

    def values(self, loss: Total, metrics: tuple[Total, ...]) -> dict[str, float | None]:
        """Return a client's values by name; None for one without a denominator."""
        totals = dict(zip(self._names, (loss, *metrics), strict=True))
        return {name: ratio(total) if total[1] else None for name, total in totals.items()}


@dataclass(frozen=True, slots=True)
class NoisyEncoding:
    """A round's encoding of updates with noise; the key of a client's noise is of the process that encodes.

    Attributes:
        mechanism: the mechanism of the round.
        rotation: the round's public seed, from `rotation_seed`.
        figures: the figures that clients report; None if the plan has none.
    """

    mechanism: Mechanism
    rotation: bytes
    figures: PrivateFigures | None

    def __call__(self, update: ClientUpdate, rng: np.random.Generator) -> IntegerVector:
        """Return the encoded update; QuantizationError if it cannot be encoded."""
        try:
            return self.mechanism.encode(
                update.delta, rotation=self.rotation, rng=rng, entropy=os.urandom, figures=self._of(update)
            )
        except ValueError as error:
            raise QuantizationError(f"{error}: lower the learning rate") from None

    def _of(self, update: ClientUpdate) -> np.ndarray:
        """Return an update's figures as they travel."""
        if self.figures is None:
            return np.empty(0)
        values = self.figures.values((update.loss_sum, update.num_examples), update.metrics)
        values[WITHIN_CLIP] = float(self.mechanism.is_within(update.delta))
        return centred(self.figures.of_updates, values)


class PrivateAggregator(SessionAggregator):
    """Aggregation whose sums carry the noise of a privacy plan.

    A round's number of clients may differ from the plan's, as with Poisson sampling: each client's noise is then for
    the fewest honest clients of that round, so that the sum has the same noise. Each round is charged to the ledger
    before a client trains.

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
        self.ledger = ledger
        self.plan = replace(private.session, reasons=private.reasons)
        self.clipping = clipping or Clipping(private.mechanism.clip)
        self.figures = figures
        self.model = dict(model)

    def aggregate(self, request: RoundRequest) -> RoundResult:
        started = time.perf_counter()
        train = TimedTraining(request)
        private = self.private
        try:
            params, mechanism, release = numbers_for(
                len(request.client_ids),
                private.session.parameters,
                private.mechanism.with_clip(self.clipping.clip),
                private.release,
                self.model,
            )
        except (PlanError, ConfigError) as error:
            return RoundResult(
                aggregate=None,
                included=(),
                aborted=f"too few clients were sampled for a private sum: {error}",
                epsilon=self.ledger.spent,
            )
        spent = self.ledger.charge(request.number, release)
        rotation = rotation_seed(request.context)

        outcome, result = self._session(request, train, NoisyEncoding(mechanism, rotation, self.figures), params)
        if isinstance(outcome, secagg.Aborted):
            result = replace(result, aborted=str(outcome))
        else:
            clients = len(outcome.included)
            update, figures = mechanism.decode(outcome.sum, rotation=rotation)
            aggregate = self._aggregate(update / clients, figures, clients, mechanism)
            result = replace(result, aggregate=aggregate, included=outcome.included)
        return replace(result, seconds=time.perf_counter() - started, epsilon=spent, l2_clip=mechanism.clip)

    def _aggregate(self, mean: np.ndarray, figures: np.ndarray, clients: int, mechanism: Mechanism) -> Aggregate:
        """Return the aggregate; the clip follows."""
        found: dict[str, float] = {}
        noise: dict[str, float] = {}
        if self.figures is not None:
            found = means(self.figures.of_updates, figures, clients)
            noise = stddevs(self.figures.of_updates, mechanism.figure_stddev(clients))
            self.clipping.follow(found[WITHIN_CLIP])
        return Aggregate(
            mean_delta=mean.astype(np.float32),
            num_examples=0,
            loss=found.pop("loss", math.nan),
            within_clip=found.pop(WITHIN_CLIP, None),
            metrics=found,
            clipped=math.nan,
            stddevs=noise,
        )


def numbers_for(
    num_clients: int,
    parameters: secagg.Parameters,
    mechanism: Mechanism,
    release: Release,
    model: Mapping[str, Any],
) -> tuple[secagg.Parameters, Mechanism, Release]:
    """Return the numbers of a session with this many clients, whose sum has the same noise as the planned one.

    Args:
        num_clients: number of clients that are asked.
        parameters, mechanism, release: as planned.
        model: as for `private_session`.

    Raises:
        PlanError, ConfigError: there are too few clients.
    """
    if num_clients == parameters.num_clients:
        return parameters, mechanism, release
    session = private_session(num_clients, mechanism.dimension, **model)
    honest = session.parameters.threshold - session.corrupt_clients
    variance = release.honest * release.variance / honest
    return (
        with_ring(session.parameters, mechanism.ring_bits),
        replace(mechanism, variance=variance),
        replace(release, variance=variance, honest=honest),
    )
