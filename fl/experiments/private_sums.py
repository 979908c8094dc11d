"""Sums of clipped updates with the noise of three methods of differential privacy, for simulations.

The sums are those of `fl.aggregation.private` without sessions and without masks: masks cancel, so a session gives the
same sum, element by element; a test compares them.  All noise comes from the round's seed, so that runs repeat.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fl.aggregation.api import RoundRequest, RoundResult, TimedTraining
from fl.aggregation.encoding import Aggregate, ClientUpdate
from fl.aggregation.private_session import PrivatePlans
from fl.privacy.accounting import ORDERS, epsilon_of, poisson_sampled
from fl.privacy.budget import Budget
from fl.privacy.mechanism import Mechanism, rotation_seed
from fl.privacy.planner import PrivacyPlan
from fl.privacy.rounding import clip_factor
from secagg import EntropySource
from secagg.algebra import packing, ring

Vector = npt.NDArray[np.float64]

# The streams of a client's seed in a round; rounding has the seed itself, as in `fl.aggregation.private`.
_NOISE, _CENTRAL = 1, 2


class NoisyRound(Protocol):
    """One round of a method."""

    def contribution(self, client_id: int, update: ClientUpdate) -> npt.NDArray[np.generic]:
        """Return what the client gives to the sum; all contributions have one shape and dtype."""
        ...

    def released(self, total: npt.NDArray[np.generic]) -> Vector:
        """Return the noisy sum of the updates, from the sum of the contributions."""
        ...


class Method(Protocol):
    """A method of differential privacy."""

    @property
    def client_bytes(self) -> int:
        """Return the bytes of a client's contribution."""
        ...

    def opened(self, request: RoundRequest) -> NoisyRound:
        """Open a round."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianMethod:
    """Gaussian noise in floating point, added by whoever has the plain sum, or by each client.

    Attributes:
        length: the number of elements of an update.
        clip: updates are scaled down to this L2 norm.
        deviation: the standard deviation of an element's noise.
        is_local: each client adds it, as if its update were seen alone; otherwise it is added once, to the sum.
    """

    length: int
    clip: float
    deviation: float
    is_local: bool

    @property
    def client_bytes(self) -> int:
        """Return the bytes of a vector of float32."""
        return 4 * self.length

    def opened(self, request: RoundRequest) -> NoisyRound:
        """Open a round."""
        return _GaussianRound(self, request.seed)


@dataclass(frozen=True, slots=True)
class _GaussianRound:
    method: GaussianMethod
    seed: int

    def contribution(self, client_id: int, update: ClientUpdate) -> npt.NDArray[np.generic]:
        clipped = update.delta.astype(np.float64)
        clipped *= clip_factor(clipped, self.method.clip)
        return clipped + self._noise(client_id, _NOISE) if self.method.is_local else clipped

    def released(self, total: npt.NDArray[np.generic]) -> Vector:
        summed: Vector = total.astype(np.float64)
        if not self.method.is_local:
            summed += self._noise(0, _CENTRAL)
        return summed

    def _noise(self, client_id: int, stream: int) -> Vector:
        rng = np.random.default_rng((self.seed, client_id, stream))
        return rng.normal(scale=self.method.deviation, size=self.method.length)


class DistributedMethod:
    """The project's mechanism: each client adds its share of integer noise, and the ring adds modulo 2^b."""

    def __init__(self, plan: PrivacyPlan) -> None:
        self._plans = PrivatePlans(plan, {"threshold": None})
        self.client_bytes = packing.packed_size(plan.mechanism.dimension, plan.mechanism.ring_bits)

    def opened(self, request: RoundRequest) -> NoisyRound:
        """Open a round; of more clients than planned each adds less noise, of fewer more."""
        mechanism = self._plans.session(len(request.client_ids)).terms.mechanism
        return _DistributedRound(mechanism, rotation_seed(request.context), request.seed)


@dataclass(frozen=True, slots=True)
class _DistributedRound:
    mechanism: Mechanism
    rotation: bytes
    seed: int

    def contribution(self, client_id: int, update: ClientUpdate) -> npt.NDArray[np.generic]:
        return self.mechanism.encode(
            update.delta,
            rotation=self.rotation,
            rng=np.random.default_rng((self.seed, client_id)),
            entropy=noise_source(self.seed, client_id),
        )

    def released(self, total: npt.NDArray[np.generic]) -> Vector:
        # A word has at least the ring's bits, so a sum of words is right modulo 2^b.
        summed = total.astype(ring.word_dtype(self.mechanism.ring_bits))
        ring.reduce_in_place(summed, self.mechanism.ring_bits)
        return self.mechanism.decode(summed, rotation=self.rotation)[0]


def noise_source(seed: int, client_id: int) -> EntropySource:
    """Return a source for a client's noise that repeats; a client that has something to hide takes the system's."""
    return np.random.default_rng((seed, client_id, _NOISE)).bytes


class NoisySums:
    """Aggregation by a method of differential privacy, without masks and dropouts; see `fl.aggregation.Aggregator`."""

    name = "plain"

    def __init__(self, method: Method) -> None:
        self._method = method

    def aggregate(self, request: RoundRequest) -> RoundResult:
        """Run one round."""
        started = time.perf_counter()
        train, opened = TimedTraining(request), self._method.opened(request)
        total: npt.NDArray[np.generic] | None = None
        for due, client_id in enumerate(request.client_ids):
            train.announce(client_id, due)
        for client_id in request.client_ids:
            vector = train(client_id, partial(opened.contribution, client_id))
            total = vector if total is None else np.add(total, vector, out=total)
        if total is None:
            return RoundResult(aggregate=None, included=(), aborted="no client was sampled")
        mean = opened.released(total) / len(request.client_ids)
        return RoundResult(
            aggregate=Aggregate(
                mean_delta=mean.astype(np.float32), num_examples=0, loss=math.nan, metrics={}, clipped=math.nan
            ),
            included=request.client_ids,
            trained=True,
            bytes_up=len(request.client_ids) * self._method.client_bytes,
            seconds=time.perf_counter() - started,
            training_seconds=train.seconds,
        )


def gaussian_multiplier(budget: Budget) -> float:
    """Return the least deviation of Gaussian noise in the sum, as a multiple of the clip, that keeps the budget.

    Its divergence is a/2z^2, and the bound on sampled rounds is exact for it: `poisson_sampled` proves that the sum
    over l of C(a,l) (1-q)^(a-l) q^l e^((l-1) R(l)), which is the divergence of the mixture, bounds both directions.
    """

    def spent(multiplier: float) -> float:
        sampled = poisson_sampled(ORDERS / (2 * multiplier**2), budget.sampling_rate)
        return epsilon_of(budget.rounds * sampled, budget.delta)

    low, high = 1e-3, 1e6
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if spent(middle) > budget.epsilon else (low, middle)
    return high
