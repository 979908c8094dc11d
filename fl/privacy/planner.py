"""Turn a privacy budget into noise, granularity and ring, and check before a run that all numbers add up.

**Noise.**  A session includes at least `threshold` clients, or it has no sum.  Of these at most the corrupt ones may
tell the adversary their noise.  So each client adds v = mu / (threshold - corrupt), and every sum has mu of noise that
the adversary does not know.

**Ring.**  An element of the sum has, over the random signs of the rotation, a variance of at most c^2 n^2 / D for the
updates, gamma^2 / 4 for each rounding and gamma^2 v for each noise.  The ring holds `deviations` standard deviations to
each side:

    2^b >= 2 k sqrt( c^2 n^2 / (D gamma^2) + n/4 + n v ).

A coarser step gamma needs fewer bits, but lengthens the rounded vectors, for which v has to grow.  The planner takes
the finest step that the ring allows; if the ring may be chosen, the smallest with which rounding costs 1% more noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import secagg
from fl.privacy import rounding, samplers
from fl.privacy.accounting import Divergences, Release, epsilon_of, least_epsilon
from fl.privacy.mechanism import Mechanism, Noise
from fl.privacy.rotation import padded_length
from secagg import Adversary, GraphKind, PlanError
from secagg.algebra import packing, ring

# At 4 deviations at most one element in 16,000 wraps around, which adds 0.4% to the error of the sum; at 3, 10%.
DEVIATIONS = 4.0

_COST_OF_ROUNDING = 1.01
_ROUGHLY, _EXACTLY = 1e-4, 1e-13
_MOST_STEPS = 200
# Poisson samples exceed their mean by this many deviations once in 3 million rounds.
_MORE_CLIENTS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The privacy that a run may give away, and how it is spent.

    Attributes:
        epsilon, delta: the bound on what all rounds together say of one client.
        rounds: number of rounds.
        sampling_rate: the probability with which a client takes part in a round, independently of all others.
        clip: updates are scaled down to this L2 norm.
        noise: the distribution of the noise.
        ring_bits: bits of an element; None for the planner's choice.
        deviations: standard deviations of the sum that fit the ring.
    """

    epsilon: float
    delta: float
    rounds: int
    clip: float
    sampling_rate: float = 1.0
    noise: Noise = Noise.SKELLAM
    ring_bits: int | None = None
    deviations: float = DEVIATIONS

    def faults(self) -> list[str]:
        """Return what is wrong with the numbers."""
        faults = []
        for name, value, most in (
            ("epsilon", self.epsilon, 1e6),
            ("delta", self.delta, 0.5),
            ("the clip", self.clip, 1e30),
            ("the sampling rate", self.sampling_rate, 1.0),
            ("deviations", self.deviations, 100.0),
        ):
            if not 0 < value <= most:
                faults.append(f"{name} is {value}, but must be above 0 and at most {most:g}")
        if not 1 <= self.rounds <= 10**9:
            faults.append(f"rounds is {self.rounds}, but must be between 1 and 1,000,000,000")
        if self.ring_bits is not None and not 2 <= self.ring_bits <= ring.MAX_RING_BITS:
            faults.append(f"the ring has {self.ring_bits} bits, but must have between 2 and {ring.MAX_RING_BITS}")
        if 0 < self.delta <= 0.5 and 0 < self.epsilon <= (least := least_epsilon(self.delta)):
            faults.append(
                f"epsilon {self.epsilon:g} is out of reach: by Rényi orders up to 256 no noise proves less than "
                f"{least:.4f} at delta {self.delta:g}"
            )
        return faults


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """The numbers of a private run, with the reasons for them.

    Attributes:
        session: the plan of a round's session, with the modular ring.
        mechanism: what each client does to its update.
        release: what a round gives away to all who do not learn who took part.
        epsilon: what all rounds together give away to them, at the budget's delta.
        known_epsilon: what they give away of a client that is known to have taken part in as many rounds as the
            sampling rate says on average: to the server, which sees who takes part.
        known_rounds: that number of rounds.
        reasons: one sentence for each chosen number.
    """

    session: secagg.Plan
    mechanism: Mechanism
    release: Release
    epsilon: float
    known_epsilon: float
    known_rounds: int
    reasons: tuple[str, ...]


def plan_private(
    budget: Budget,
    *,
    num_clients: int,
    length: int,
    dropout: float = 0.0,
    corrupt: float = 0.0,
    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS,
    graph: GraphKind = GraphKind.COMPLETE,
    threshold: int | None = None,
    min_inputs: int = 2,
) -> PrivacyPlan:
    """Return the numbers of a run with this budget.

    Args:
        budget: the privacy to keep.
        num_clients: number of clients in a round; with sampling, on average.
        length: number of elements of an update.
        dropout, corrupt, adversary, graph, min_inputs: as for `secagg.plan`.
        threshold: the fewest clients in a sum; by default all that remain after the expected dropouts, for which each
            client's noise is least.

    Raises:
        PlanError: a constraint fails; the error names all of them.
    """
    faults = budget.faults()
    if graph is GraphKind.SPARSE:
        faults.append(
            "on a sparse graph nobody vouches for the number of clients in a sum, so its noise is not known: take the "
            "complete graph"
        )
    session = None
    try:
        session = private_session(
            num_clients,
            length,
            threshold,
            dropout=dropout,
            corrupt=corrupt,
            adversary=adversary,
            min_inputs=min_inputs,
        )
    except PlanError as error:
        faults += error.reasons
    if session is None or faults:
        raise PlanError(tuple(faults))
    search = _Search(budget, length, num_clients, session.parameters.threshold - session.corrupt_clients)
    bits, granularity = search.ring_and_granularity()
    variance = search.variance(granularity, _EXACTLY)
    parameters = replace(session.parameters, value_bits=bits, ring_bits=bits, modular=True)
    mechanism = Mechanism(
        length=length,
        clip=budget.clip,
        granularity=granularity,
        variance=variance,
        ring_bits=bits,
        noise=budget.noise,
    )
    release = search.release(granularity, variance)
    known_rounds = math.ceil(budget.rounds * budget.sampling_rate)
    known = replace(release, sampling_rate=1.0).divergences()
    plan = PrivacyPlan(
        session=replace(session, parameters=parameters),
        mechanism=mechanism,
        release=release,
        epsilon=epsilon_of(budget.rounds * release.divergences(), budget.delta),
        known_epsilon=epsilon_of(known_rounds * known, budget.delta),
        known_rounds=known_rounds,
        reasons=(),
    )
    return replace(plan, reasons=(*session.reasons[:-1], *_reasons(plan, budget, search)))


def private_session(num_clients: int, length: int, threshold: int | None, **model: Any) -> secagg.Plan:
    """Return the plan of a session whose threshold, if none is given, is all that the expected dropouts leave."""
    dimension = padded_length(length) if length > 0 else length

    def made(threshold: int | None) -> secagg.Plan:
        # The ring is chosen later.
        return secagg.plan(num_clients=num_clients, vector_length=dimension, value_bits=1, threshold=threshold, **model)

    smallest = made(threshold)
    if threshold is not None or not smallest.spare_clients:
        return smallest
    raised = made(smallest.parameters.threshold + smallest.spare_clients)
    why = f"threshold {raised.parameters.threshold}: all that the expected dropouts leave; a lower one needs more noise"
    return replace(raised, reasons=(why, *raised.reasons[1:]))


def needed_bits(
    *, clip: float, clients: int, dimension: int, granularity: float, variance: float, deviations: float = DEVIATIONS
) -> float:
    """Return log2 of the width of the sum in steps; ``variance`` is one client's, in steps squared."""
    updates = (clip / granularity * clients) ** 2 / dimension
    return math.log2(2 * deviations * math.sqrt(updates + clients / 4 + clients * variance))


class _Search:
    """The search for noise, granularity and ring of a budget."""

    def __init__(self, budget: Budget, length: int, num_clients: int, honest: int) -> None:
        self.budget = budget
        self.dimension = padded_length(length)
        self.honest = honest
        more = 0.0 if budget.sampling_rate == 1 else _MORE_CLIENTS * math.sqrt(num_clients)
        self.most_clients = num_clients + math.ceil(more)
        # With ever finer steps the noise, in units of the updates, falls to this deviation of a client.
        finest = budget.clip / 2.0**40
        self.least_stddev = math.sqrt(self.variance(finest, _ROUGHLY)) * finest

    def release(self, granularity: float, variance: float) -> Release:
        squared_l2 = rounding.squared_bound(self.budget.clip / granularity, self.dimension)
        return Release(
            squared_l2=squared_l2,
            l1=rounding.l1_bound(squared_l2, self.dimension),
            dimension=self.dimension,
            noise=self.budget.noise,
            variance=variance,
            honest=self.honest,
            sampling_rate=self.budget.sampling_rate,
        )

    def variance(self, granularity: float, tolerance: float) -> float:
        """Return the least variance of one client's noise that keeps the budget, in steps squared."""
        release, budget = self.release(granularity, 1.0), self.budget

        def excess(log_variance: float) -> float:
            divergences: Divergences = replace(release, variance=math.exp(log_variance)).divergences()
            spent = epsilon_of(budget.rounds * divergences, budget.delta)
            return math.log(max(spent, 1e-300) / budget.epsilon)

        guess = math.log(release.squared_l2 / self.honest)
        return math.exp(_root(excess, guess, tolerance))

    def cost(self, granularity: float) -> float:
        """Return the deviation of the noise over that with the finest steps."""
        return math.sqrt(self.variance(granularity, _ROUGHLY)) * granularity / self.least_stddev

    def bits(self, granularity: float) -> float:
        return needed_bits(
            clip=self.budget.clip,
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


def _reasons(plan: PrivacyPlan, budget: Budget, search: _Search) -> tuple[str, ...]:
    params, mechanism, release = plan.session.parameters, plan.mechanism, plan.release
    stddev = math.sqrt(mechanism.variance)
    least = math.sqrt(release.honest) * stddev * mechanism.granularity / budget.clip
    mean = math.sqrt(mechanism.length / params.num_clients) * stddev * mechanism.granularity
    excess = params.num_clients / release.honest
    size = packing.packed_size(mechanism.dimension, mechanism.ring_bits)
    reasons = [
        f"noise: {budget.noise.value}, standard deviation {stddev:.4g} steps in each element of each client; the "
        f"fewest honest clients of a sum, {release.honest} ({params.threshold} less {plan.session.corrupt_clients} "
        f"corrupt), give it {least:.4g} times the clip",
        f"if all {params.num_clients} clients stay, the sum has {excess:.2f} times the variance that it needs",
        f"the mean's noise then has L2 norm {mean:.3g}, beside updates of at most {budget.clip:g}",
        f"granularity {mechanism.granularity:.4g}: the finest step that the ring allows; rounding costs "
        f"{search.cost(mechanism.granularity) - 1:.2%} more noise",
        f"ring of {mechanism.ring_bits} bits: holds the sum of {search.most_clients} updates and their noise to "
        f"{budget.deviations:g} standard deviations; elements beyond wrap around",
        f"{mechanism.dimension} elements, the power of two above {mechanism.length}: {size:,} bytes a masked input",
        f"epsilon {plan.epsilon:.4g} at delta {budget.delta:g} after {budget.rounds} rounds",
    ]
    if budget.sampling_rate < 1:
        reasons[-1] += (
            f", each with every client at probability {budget.sampling_rate:g}, for all who do not learn who took part"
        )
        reasons.append(
            f"the server learns who took part: for it, a client in {plan.known_rounds} rounds, the mean, has epsilon "
            f"{plan.known_epsilon:.4g}"
        )
    return tuple(reasons)


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
