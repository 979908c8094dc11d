"""The search for noise, granularity and ring: the least noise that keeps a budget, with steps that the ring can hold.

**Ring.**  An element of the sum has, over the random signs of the rotation, a variance of at most c^2 n^2 / D for the
updates, gamma^2 / 4 for each rounding and gamma^2 v for each noise.  The ring holds `deviations` standard deviations to
each side:

    2^b >= 2 k sqrt( c^2 n^2 / (D gamma^2) + n/4 + n v ).

A coarser step gamma needs fewer bits, but lengthens the rounded vectors, for which v has to grow.  The planner takes
the finest step that the ring allows; if the ring may be chosen, the smallest with which rounding costs 1% more noise.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from fl.privacy import rounding, samplers
from fl.privacy.accounting import Divergences, Release, epsilon_of
from fl.privacy.budget import DEVIATIONS, Budget
from fl.privacy.mechanism import Mechanism, joint_norm, weight_for
from fl.privacy.rotation import padded_length
from secagg import PlanError
from secagg.algebra import ring

_COST_OF_ROUNDING = 1.01
_ROUGHLY, EXACTLY = 1e-4, 1e-13
_MOST_STEPS = 200
# Poisson samples exceed their mean by this many deviations once in 3 million rounds.
_MORE_CLIENTS = 5.0
# Of a vector of scores; rounding then costs it 0.1% of noise.
_SCORE_STEPS = 2.0**10


def needed_bits(
    *, clip: float, clients: int, dimension: int, granularity: float, variance: float, deviations: float = DEVIATIONS
) -> float:
    """Return log2 of the width of the sum in steps; ``variance`` is one client's, in steps squared."""
    updates = (clip / granularity * clients) ** 2 / dimension
    return math.log2(2 * deviations * math.sqrt(updates + clients / 4 + clients * variance))


class Search:
    """The search for noise, granularity and ring of a budget."""

    def __init__(self, budget: Budget, length: int, num_clients: int, honest: int) -> None:
        self.budget = budget
        self.dimension = padded_length(length + budget.figures)
        self.weight = weight_for(budget.figures, budget.figures_cost)
        self.norm = budget.clip * joint_norm(budget.figures, self.weight)
        self.honest = honest
        more = 0.0 if budget.sampling_rate == 1 else _MORE_CLIENTS * math.sqrt(num_clients)
        self.most_clients = num_clients + math.ceil(more)
        # With ever finer steps the noise, in units of the updates, falls to this deviation of a client.
        finest = budget.clip / 2.0**40
        self.least_stddev = math.sqrt(self.variance(finest, _ROUGHLY)) * finest

    def release(self, granularity: float, variance: float) -> Release:
        return self._release(self.norm / granularity, self.dimension, variance)

    def _release(self, steps: float, dimension: int, variance: float) -> Release:
        squared_l2 = rounding.squared_bound(steps, dimension)
        return Release(
            squared_l2=squared_l2,
            l1=rounding.l1_bound(squared_l2, dimension),
            dimension=dimension,
            noise=self.budget.noise,
            variance=variance,
            honest=self.honest,
            sampling_rate=self.budget.sampling_rate,
        )

    def scores(self, release: Release) -> tuple[Mechanism, Release]:
        """Return the mechanism and the release of held-out scores beside an update's release."""
        number, dimension = self.budget.scores, padded_length(self.budget.scores)
        price = (1 + self.budget.figures_cost) ** 2 - 1
        per_squared_l2 = release.variance / release.squared_l2 / price
        # Fewer steps where their noise would be more than the sampler can do.
        steps = min(_SCORE_STEPS, samplers.LARGEST_STDDEV / 2 / math.sqrt(per_squared_l2))
        made = self._release(steps, dimension, 1.0)
        made = replace(made, variance=per_squared_l2 * made.squared_l2, sampling_rate=release.sampling_rate)
        clip = math.sqrt(number)
        bits = needed_bits(
            clip=clip,
            clients=self.most_clients,
            dimension=dimension,
            granularity=clip / steps,
            variance=made.variance,
            deviations=self.budget.deviations,
        )
        mechanism = Mechanism(
            length=number,
            clip=clip,
            granularity=clip / steps,
            variance=made.variance,
            ring_bits=math.ceil(bits),
            noise=self.budget.noise,
        )
        return mechanism, made

    def of_round(self, release: Release) -> Divergences:
        """Return what a round gives away with an update's release and the scores beside it."""
        divergences = release.divergences()
        return divergences + self.scores(release)[1].divergences() if self.budget.scores else divergences

    def variance(self, granularity: float, tolerance: float) -> float:
        """Return the least variance of one client's noise that keeps the budget, in steps squared."""
        release, budget = self.release(granularity, 1.0), self.budget

        def excess(log_variance: float) -> float:
            divergences = self.of_round(replace(release, variance=math.exp(log_variance)))
            spent = epsilon_of(budget.rounds * divergences, budget.delta)
            return math.log(max(spent, 1e-300) / budget.epsilon)

        guess = math.log(release.squared_l2 / self.honest)
        return math.exp(_root(excess, guess, tolerance))

    def cost(self, granularity: float) -> float:
        """Return the deviation of the noise over that with the finest steps."""
        return math.sqrt(self.variance(granularity, _ROUGHLY)) * granularity / self.least_stddev

    def bits(self, granularity: float) -> float:
        return needed_bits(
            clip=self.norm,
            clients=self.most_clients,
            dimension=self.dimension,
            granularity=granularity,
            variance=self.variance(granularity, _ROUGHLY),
            deviations=self.budget.deviations,
        )

    def ring_and_granularity(self) -> tuple[int, float]:
        """Return the ring's bits and the finest granularity for it; PlanError if no granularity fits."""
        clip, bits = self.budget.clip, self.budget.ring_bits
        if bits is None:
            cheap = clip
            if self.cost(clip) > _COST_OF_ROUNDING:
                cheap = math.exp(
                    -_root(lambda x: self.cost(math.exp(-x)) - _COST_OF_ROUNDING, -math.log(clip), _ROUGHLY)
                )
            bits = min(ring.MAX_RING_BITS, math.ceil(self.bits(cheap)))
        if (fewest := self.bits(clip)) > bits:
            raise PlanError(
                (
                    f"a ring of {bits} bits is too narrow: the sum of {self.most_clients} updates and their noise "
                    f"needs at least {math.ceil(fewest)}, however coarse the steps, or its elements wrap around",
                )
            )
        # Finer steps would exceed what the sampler and 64-bit norms can do, and gain nothing.
        finest = max(clip / 2.0**29, 2 * self.least_stddev / samplers.LARGEST_STDDEV)
        if finest >= clip or self.bits(finest) <= bits:
            return bits, min(finest, clip)
        # A little above the root, since the variance there is rough.
        return bits, 1.001 * math.exp(_root(lambda x: self.bits(math.exp(x)) - bits, math.log(clip), _ROUGHLY))


def _root(falling: Callable[[float], float], guess: float, tolerance: float) -> float:
    """Return the upper end of an interval of this width around the root of a falling function (Illinois method)."""
    low = high = guess
    step = 1.0
    at_low = at_high = falling(guess)
    while at_low <= 0:
        high, at_high, low, step = low, at_low, low - step, 2 * step
        at_low = falling(low)
    while at_high > 0:
        low, at_low, high, step = high, at_high, high + step, 2 * step
        at_high = falling(high)
    side = 0
    for _ in range(_MOST_STEPS):
        if high - low <= tolerance:
            break
        x = high - at_high * (high - low) / (at_high - at_low)
        if not low < x < high:
            x = (low + high) / 2
            if not low < x < high:
                break
        value = falling(x)
        if value > 0:
            low, at_low = x, value
            at_high *= 0.5 if side < 0 else 1.0
            side = -1
        else:
            high, at_high = x, value
            at_low *= 0.5 if side > 0 else 1.0
            side = 1
    return high
