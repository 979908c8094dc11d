"""Turn a privacy budget into noise, granularity and ring, and check before a run that all numbers add up.

**Noise.**  A session includes at least `threshold` clients, or it has no sum.  Of these at most the corrupt ones may
tell the adversary their noise.  So each client adds v = mu / (threshold - corrupt), and every sum has mu of noise that
the adversary does not know.

**Figures** behind the update, each in [-1, 1] and weighted with w c, lengthen it to c sqrt(1 + k w^2) = c (1 + cost).
So all noise grows by that cost, 1% unless the budget says otherwise, and a figure's mean over n clients has noise of
z sqrt(k) (1 + cost) / (n sqrt((1 + cost)^2 - 1)), at 1% 7.1 z sqrt(k) / n.

**Held-out scores** are a release of their own after each round, from clients that are sampled anew, so that its
divergence adds up with the update's.  Its noise is as much weaker than the budget's as that of figures: its unsampled
divergence is (1 + cost)^2 - 1 times that of the update, to first order the same price as in the update's vector.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import secagg
from fl.privacy.accounting import Release, epsilon_of
from fl.privacy.budget import Budget
from fl.privacy.exact_noise import MOST_EXCESS, exact_noise, with_components
from fl.privacy.mechanism import Mechanism
from fl.privacy.rotation import padded_length
from fl.privacy.search import EXACTLY, Search
from secagg import Adversary, GraphKind, PlanError
from secagg.algebra import packing
from secagg.noise import commitments_bytes, corrections_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresPlan:
    """The numbers of the session after each round that sums scores of held-out examples.

    Attributes:
        session: the plan of the session.
        mechanism: what each client does to its scores, each in [-1, 1].
        release: what a session gives away.
    """

    session: secagg.Plan
    mechanism: Mechanism
    release: Release


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """The numbers of a private run, with the reasons for them.

    Attributes:
        session: the plan of a round's session, with the modular ring.
        mechanism: what each client does to its update.
        release: what a round gives away to all who do not learn who took part.
        scores: the session of held-out scores after each round; None without.
        exact: whether noise that a sum of updates does not need is taken off.
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
    scores: ScoresPlan | None = None
    exact: bool = False


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
            "on a sparse graph no client can check how many clients are in a sum, so its noise is not known: take the "
            "complete graph"
        )
    session = None
    try:
        session = private_session(
            num_clients,
            length + budget.figures if length > 0 else length,
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
    search = Search(budget, length, num_clients, session.parameters.threshold - session.corrupt_clients)
    bits, granularity = search.ring_and_granularity()
    variance = search.variance(granularity, EXACTLY)

    def made(planned: secagg.Plan, ring_bits: int) -> secagg.Parameters:
        params = with_ring(planned.parameters, ring_bits)
        return with_components(params, planned.corrupt_clients) if budget.exact else params

    mechanism = Mechanism(
        length=length,
        clip=budget.clip,
        granularity=granularity,
        variance=variance,
        ring_bits=bits,
        noise=budget.noise,
        figures=budget.figures,
        figure_weight=search.weight,
    )
    release = search.release(granularity, variance)
    scores = None
    if budget.scores:
        mechanism_of_scores, release_of_scores = search.scores(release)
        planned = private_session(
            num_clients,
            budget.scores,
            threshold,
            dropout=dropout,
            corrupt=corrupt,
            adversary=adversary,
            min_inputs=min_inputs,
        )
        scores = ScoresPlan(
            session=replace(planned, parameters=made(planned, mechanism_of_scores.ring_bits)),
            mechanism=mechanism_of_scores,
            release=release_of_scores,
        )
    known_rounds = math.ceil(budget.rounds * budget.sampling_rate)
    plan = PrivacyPlan(
        session=replace(session, parameters=made(session, bits)),
        mechanism=mechanism,
        release=release,
        epsilon=epsilon_of(budget.rounds * search.of_round(release), budget.delta),
        known_epsilon=epsilon_of(known_rounds * search.of_round(release.known()), budget.delta),
        known_rounds=known_rounds,
        reasons=(),
        scores=scores,
        exact=budget.exact,
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


def with_ring(parameters: secagg.Parameters, bits: int) -> secagg.Parameters:
    """Return the parameters with a ring of this many bits, in which sums may wrap around."""
    return replace(parameters, value_bits=bits, ring_bits=bits, modular=True)


def _reasons_of_figures(plan: PrivacyPlan, budget: Budget) -> list[str]:
    """Return what figures and scores cost, and how noisy they are: a mean's deviation over the width of its range."""
    clients, reasons = plan.session.parameters.num_clients, []
    kept = _left(plan.mechanism, plan.session.parameters)
    if budget.figures:
        reasons.append(
            f"{budget.figures} figures travel with each update, which adds {budget.figures_cost:.2%} to its noise; a "
            f"figure's mean has noise of {kept.figure_stddev(clients) / 2:.2%} of its range"
        )
    if plan.scores is not None:
        of_scores = _left(plan.scores.mechanism, plan.scores.session.parameters)
        reasons.append(
            f"{budget.scores} scores of held-out examples, in a session of their own after each round, within the "
            f"epsilon; a mean has noise of {of_scores.stddev(clients) / clients / 2:.2%} of its range"
        )
    return reasons


def _reasons(plan: PrivacyPlan, budget: Budget, search: Search) -> tuple[str, ...]:
    params, mechanism, release = plan.session.parameters, plan.mechanism, plan.release
    stddev = math.sqrt(mechanism.variance)
    least = math.sqrt(release.honest) * stddev * mechanism.granularity / budget.clip
    kept = _left(mechanism, params)
    mean = math.sqrt(mechanism.length / params.num_clients * kept.variance) * mechanism.granularity
    size = packing.packed_size(mechanism.dimension, mechanism.ring_bits)
    reasons = [
        f"noise: {budget.noise.value}, standard deviation {stddev:.4g} steps in each element of each client; the "
        f"fewest honest clients of a sum, {release.honest} ({params.threshold} less {plan.session.corrupt_clients} "
        f"corrupt), give it {least:.4g} times the clip",
        _of_noise_too_much(params, release.honest),
        f"the mean's noise then has L2 norm {mean:.3g}, beside updates of at most {budget.clip:g}",
        *_reasons_of_figures(plan, budget),
        f"granularity {mechanism.granularity:.4g}: the finest step that the ring allows; rounding costs "
        f"{search.cost(mechanism.granularity) - 1:.2%} more noise",
        f"ring of {mechanism.ring_bits} bits: holds the sum of {search.most_clients} updates and their noise to "
        f"{budget.deviations:g} standard deviations; elements beyond wrap around",
        f"{mechanism.dimension} elements, the power of two above {mechanism.length + mechanism.figures}: {size:,} "
        "bytes a masked input"
        + ("; without figures half of it" if padded_length(mechanism.length) < mechanism.dimension else ""),
        f"epsilon {plan.epsilon:.4g} at delta {budget.delta:g} after {budget.rounds} rounds",
    ]
    if budget.sampling_rate < 1:
        reasons[-1] += (
            f", each with every client at probability {budget.sampling_rate:g}, for all who do not learn who took part"
        )
        reasons.append(
            f"the server learns who took part: for it, epsilon is {plan.known_epsilon:.4g} for a client that takes "
            f"part in the mean number of rounds, {plan.known_rounds}"
        )
    return tuple(reasons)


def _left(mechanism: Mechanism, params: secagg.Parameters) -> Mechanism:
    """Return the mechanism of the noise that stays if nobody drops out."""
    exact = exact_noise(mechanism, params)
    return mechanism if exact is None else exact.left(params.num_clients)


def _of_noise_too_much(params: secagg.Parameters, honest: int) -> str:
    if not params.noise_components:
        excess = params.num_clients / honest
        return f"if all {params.num_clients} clients stay, the sum has {excess:.2f} times the variance that it needs"
    shares = corrections_bytes(params, params.num_clients) + commitments_bytes(params)
    return (
        f"exact noise: {params.noise_components} components beside a base, of which the server takes off what a sum "
        f"does not need; at most {MOST_EXCESS:.0%} is left beyond that, however many of the {params.num_clients} "
        f"clients stay; each sends {shares:,} bytes more when it shares keys"
    )
