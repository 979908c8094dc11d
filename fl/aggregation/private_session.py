"""What a private session is: its numbers for a number of clients, and what clients send in it.

Simulated runs, served runs and their clients all take it from here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import secagg
from fl.aggregation.counters import IntegerVector
from fl.aggregation.encoding import Aggregate, ClientUpdate, QuantizationError
from fl.privacy.accounting import Release
from fl.privacy.mechanism import Mechanism, rotation_seed
from fl.privacy.planner import PrivacyPlan, private_session, with_ring
from fl.privacy.terms import PrivateTerms
from secagg import EntropySource
from secagg.algebra import ring


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSession:
    """The numbers of one session.

    Attributes:
        plan: the session's plan, with the modular ring.
        terms: what clients are told.
        release: what the session gives away to all who do not learn who takes part.
    """

    plan: secagg.Plan
    terms: PrivateTerms
    release: Release


class PrivatePlans:
    """The sessions of a private run, by their number of clients.

    That number may differ from the plan's, as with Poisson sampling: each client's noise is then for the fewest honest
    clients of that session, so that the sum has the same noise.

    Args:
        private: the run's plan.
        model: its dropout, corrupt, adversary, threshold and min_inputs, as for `private_session`.

    Attributes:
        private: the run's plan.
    """

    def __init__(self, private: PrivacyPlan, model: Mapping[str, Any]) -> None:
        self.private = private
        self._model = dict(model)
        first = replace(private.session, reasons=private.reasons)
        self._made = {first.parameters.num_clients: first}

    def plan(self, num_clients: int) -> secagg.Plan:
        """Return the plan of a session with this many clients; PlanError if there are too few."""
        if num_clients not in self._made:
            mechanism = self.private.mechanism
            planned = private_session(num_clients, mechanism.dimension, **self._model)
            self._made[num_clients] = replace(planned, parameters=with_ring(planned.parameters, mechanism.ring_bits))
        return self._made[num_clients]

    def session(self, num_clients: int) -> PrivateSession:
        """Return the numbers of a session with this many clients.

        Raises:
            PlanError, ConfigError: there are too few clients.
        """
        plan, release, mechanism = self.plan(num_clients), self.private.release, self.private.mechanism
        honest = plan.parameters.threshold - plan.corrupt_clients
        if honest != release.honest:
            variance = release.honest * release.variance / honest
            release = replace(release, variance=variance, honest=honest)
            mechanism = replace(mechanism, variance=variance)
        terms = PrivateTerms(
            mechanism=mechanism, honest=honest, corrupt=plan.corrupt_clients, sampling_rate=release.sampling_rate
        )
        return PrivateSession(plan=plan, terms=terms, release=release)


@dataclass(frozen=True, slots=True)
class PrivateEncoding:
    """A client's update as elements of the ring, with noise; and their sum as a mean.

    Attributes:
        mechanism: what each client does.
    """

    mechanism: Mechanism

    @property
    def vector_length(self) -> int:
        """Return the number of elements."""
        return self.mechanism.dimension

    @property
    def value_bits(self) -> int:
        """Return the bits of an element."""
        return self.mechanism.ring_bits

    def no_update(self) -> ClientUpdate:
        """Return what a client encodes that has no update: its vector has noise like any other."""
        return ClientUpdate(
            delta=np.zeros(self.mechanism.length, dtype=np.float32), num_examples=0, loss_sum=0.0, metrics=()
        )

    def encode(
        self, update: ClientUpdate, rng: np.random.Generator, *, context: bytes, entropy: EntropySource
    ) -> IntegerVector:
        """Return the update with noise.

        Args:
            update: the client's update.
            rng: generator for the rounding, which need not be secret.
            context: the bytes that the session is bound to.
            entropy: source of the noise's key, the client's own. Who knows it can take the noise off again.

        Raises:
            QuantizationError: the update is not finite.
        """
        try:
            return self.mechanism.encode(update.delta, rotation=rotation_seed(context), rng=rng, entropy=entropy)
        except ValueError as error:
            raise QuantizationError(f"{error}: lower the learning rate") from None

    def decode(self, total: ring.RingVector, included: int, *, context: bytes) -> Aggregate:
        """Return the mean of this many updates, from their sum in the ring."""
        mean = self.mechanism.decode(total, rotation=rotation_seed(context))[0] / included
        return Aggregate(
            mean_delta=mean.astype(np.float32), num_examples=0, loss=math.nan, metrics={}, clipped=math.nan
        )
