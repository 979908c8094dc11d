"""Figures behind private updates: within one norm, with the noise that is said, and none that is not paid for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fl.errors import ConfigError
from fl.privacy.budget import Budget
from fl.privacy.clipping import Clipping
from fl.privacy.figures import BoundedFigure, centred, means, stddevs
from fl.privacy.mechanism import Mechanism, rotation_seed, weight_for
from fl.privacy.planner import plan_private
from fl.privacy.rounding import l1_bound, squared_bound
from fl.privacy.search import Search
from secagg import PlanError
from secagg.primitives.prg import KeystreamReader

SEED = rotation_seed(b"a round")
MECHANISM = Mechanism(
    length=300, clip=2.0, granularity=1e-3, variance=1e-9, ring_bits=24, figures=3, figure_weight=weight_for(3, 0.01)
)
BUDGET = Budget(epsilon=8, delta=1e-4, rounds=50, clip=0.5, sampling_rate=0.1)


def encoded(mechanism: Mechanism, update: np.ndarray, figures: object, client_id: int = 0) -> np.ndarray:
    return mechanism.encode(
        update,
        rotation=SEED,
        rng=np.random.default_rng(client_id),
        entropy=KeystreamReader(client_id.to_bytes(16, "big")),
        figures=figures,  # type: ignore[arg-type]
    )


def steps_of(mechanism: Mechanism, vector: np.ndarray) -> np.ndarray:
    lifted = vector.astype(np.int64)
    return np.where(lifted >= 1 << (mechanism.ring_bits - 1), lifted - (1 << mechanism.ring_bits), lifted)


def test_an_update_and_its_figures_come_out_apart() -> None:
    update = np.random.default_rng(0).normal(size=300) * 0.02
    total, figures = MECHANISM.decode(encoded(MECHANISM, update, [0.25, -1.0, 0.5]), rotation=SEED)
    assert np.abs(total - update).max() < 6 * MECHANISM.granularity
    # A step of the rounding, in units of a figure.
    step = MECHANISM.granularity / MECHANISM.figure_weight / MECHANISM.clip
    assert np.abs(figures - [0.25, -1.0, 0.5]).max() < 6 * step


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("figure", [-1.0, 0.0, 1.0, 7.0, -1e300])
def test_no_client_is_longer_than_the_bound_whatever_its_figures(size: float, figure: float) -> None:
    update = np.random.default_rng(1).normal(size=300) * size
    integers = steps_of(MECHANISM, encoded(MECHANISM, update, [figure] * 3))
    assert int(np.dot(integers, integers)) <= MECHANISM.squared_l2
    # The bound is that of the clip and 1%, as the planner counts it, and not a looser one.
    assert MECHANISM.norm == pytest.approx(2.02)
    assert MECHANISM.squared_l2 == squared_bound(MECHANISM.norm / 1e-3, 512)


def test_figures_of_clipped_updates_are_not_scaled_down_with_them() -> None:
    update = np.full(300, 1e3)
    total, figures = MECHANISM.decode(encoded(MECHANISM, update, [1.0, 1.0, -0.5]), rotation=SEED)
    assert np.linalg.norm(total) == pytest.approx(2.0, rel=1e-2)
    assert figures == pytest.approx([1.0, 1.0, -0.5], abs=0.05)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [0.0] * 4, [[0.0] * 3], [math.nan, 0.0, 0.0], [math.inf, 0.0, 0.0]])
def test_other_figures_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="figures"):
        encoded(MECHANISM, np.zeros(300), bad)


@pytest.mark.parametrize("changes", [{"figures": -1}, {"figure_weight": 0.0}, {"figure_weight": math.nan}])
def test_a_mechanism_with_impossible_figures_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="figures"):
        replace(MECHANISM, **changes)  # type: ignore[arg-type]


def test_the_noise_of_means_is_what_is_said() -> None:
    mechanism = replace(MECHANISM, variance=50_000.0)
    n, figures = 40, (BoundedFigure("loss", 0.0, 4.0), BoundedFigure("accuracy"), BoundedFigure("other", -1.0, 1.0))
    rng = np.random.default_rng(3)
    values = {"loss": 1.0, "accuracy": 0.8, "other": -0.25}
    errors = []
    for trial in range(60):
        total = np.zeros(mechanism.dimension, dtype=np.uint64)
        for i in range(n):
            total += encoded(mechanism, rng.normal(size=300) * 0.1, centred(figures, values), 1000 * trial + i)
        vector = (total & np.uint64((1 << 24) - 1)).astype(np.uint32)
        sums = mechanism.decode(vector, rotation=SEED)[1]
        noise = stddevs(figures, mechanism.figure_stddev(n))
        errors.append(
            [
                (one.mean(float(s) / n) - values[one.name]) / noise[one.name]
                for one, s in zip(figures, sums, strict=True)
            ]
        )
    # 180 errors: their mean square has a deviation of 0.11. The bound counts 1/4 for a rounding's variance.
    assert np.mean(np.square(errors)) == pytest.approx(1, abs=6.2 * math.sqrt(2 / 180))


def test_values_become_numbers_within_their_range_and_back() -> None:
    figure = BoundedFigure("loss", 0.0, 4.0)
    assert [figure.centred(v) for v in (0.0, 1.0, 2.0, 4.0, 9.0, -3.0, math.nan, math.inf, None)] == [
        -1.0, -0.5, 0.0, 1.0, 1.0, -1.0, 1.0, 1.0, 0.0,
    ]  # fmt: skip
    assert [figure.mean(v) for v in (-1.0, 0.5, 1.0, 1.7)] == [0.0, 3.0, 4.0, 4.0]
    assert means((figure,), np.array([3.0]), 6) == {"loss": 3.0}
    for low, high in ((0.0, math.inf), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="rising"):
            BoundedFigure("loss", low, high)


@pytest.mark.parametrize(("low", "high"), [(-8e307, 8e307), (1.6e308, 1.7e308), (0.0, 5e-324)])
def test_no_range_that_a_server_states_makes_a_value_too_long(low: float, high: float) -> None:
    """A value that is not finite would end the client's part, and so tell its loss without noise."""
    figure = BoundedFigure("loss", low, high)
    assert all(-1 <= figure.centred(v) <= 1 for v in (-math.inf, 0.0, 0.5, high, math.inf, math.nan, None))
    assert figure.centred(math.inf) == 1


def test_figures_cost_what_the_budget_says_and_are_in_the_release() -> None:
    planned = {
        figures: plan_private(replace(BUDGET, figures=figures), num_clients=100, length=7850) for figures in (0, 3)
    }
    noise = {
        figures: math.sqrt(plan.release.honest * plan.mechanism.variance) * plan.mechanism.granularity
        for figures, plan in planned.items()
    }
    assert noise[3] / noise[0] == pytest.approx(1.01, abs=2e-3)
    mechanism, release = planned[3].mechanism, planned[3].release
    # The ledger counts the vector with its figures: the bounds are those of what clients send.
    assert (release.squared_l2, release.dimension) == (mechanism.squared_l2, mechanism.dimension)
    assert release.l1 == l1_bound(mechanism.squared_l2, mechanism.dimension)
    assert planned[3].epsilon <= 8 * (1 + 1e-12)
    assert planned[3].session.parameters.vector_length == mechanism.dimension
    without = replace(mechanism, figures=0, figure_weight=0.0)
    assert without.squared_l2 < release.squared_l2


def test_figures_that_do_not_fit_the_padding_double_the_vector() -> None:
    plan = plan_private(replace(BUDGET, figures=3), num_clients=100, length=8190)
    assert plan.session.parameters.vector_length == plan.mechanism.dimension == 16384
    assert any("power of two above 8193" in why and "without figures half of it" in why for why in plan.reasons)


@pytest.mark.parametrize(("sampling_rate", "most"), [(1.0, 1.0102), (0.1, 1.003)])
def test_scores_are_within_the_budget_and_cost_less_than_in_the_updates_vector(
    sampling_rate: float, most: float
) -> None:
    budget = replace(BUDGET, sampling_rate=sampling_rate)
    without, with_scores = (
        plan_private(replace(budget, scores=scores), num_clients=100, length=7850) for scores in (0, 3)
    )
    noise = [
        math.sqrt(plan.release.honest * plan.mechanism.variance) * plan.mechanism.granularity
        for plan in (without, with_scores)
    ]
    assert 1 < noise[1] / noise[0] < most
    assert with_scores.scores is not None
    assert with_scores.epsilon <= 8 * (1 + 1e-12)
    assert with_scores.known_epsilon > without.known_epsilon
    # All of both is counted: without the scores' release, epsilon would be less.
    release, mechanism = with_scores.scores.release, with_scores.scores.mechanism
    assert (release.squared_l2, release.variance) == (mechanism.squared_l2, mechanism.variance)
    assert release.sampling_rate == sampling_rate
    assert with_scores.scores.session.parameters.ring_bits == mechanism.ring_bits


def test_a_budget_with_impossible_figures_is_refused() -> None:
    with pytest.raises(PlanError, match=r"cost is 0.*figures is -1.*scores is 2000"):
        plan_private(replace(BUDGET, figures=-1, scores=2000, figures_cost=0.0), num_clients=100, length=10)


@pytest.mark.parametrize("clip", [1e-9, 0.3, 0.7310001, 3.0, 1e9])
def test_a_round_costs_the_same_with_any_clip(clip: float) -> None:
    mechanism = plan_private(replace(BUDGET, figures=3), num_clients=100, length=7850).mechanism
    moved = mechanism.with_clip(clip)
    assert (moved.variance, moved.ring_bits, moved.dimension) == (
        mechanism.variance, mechanism.ring_bits, mechanism.dimension,
    )  # fmt: skip
    # Never longer than what the ledger was charged for.
    assert 0 <= mechanism.squared_l2 - moved.squared_l2 <= 1
    assert moved.norm == pytest.approx(1.01 * clip)
    assert moved.stddev(100) / clip == pytest.approx(mechanism.stddev(100) / mechanism.clip)
    assert mechanism.with_clip(mechanism.clip) is mechanism


@pytest.mark.parametrize(("quantile", "start"), [(0.5, 0.01), (0.5, 500.0), (0.8, 1.0), (0.2, 3.0)])
def test_the_clip_finds_the_quantile_of_norms_through_noise(quantile: float, start: float) -> None:
    rng = np.random.default_rng(7)
    clipping = Clipping(start, quantile)
    found = []
    for _ in range(300):
        norms = rng.lognormal(0.0, 0.5, size=200)
        clipping.follow(float(np.mean(norms <= clipping.clip)) + rng.normal() * 0.05)
        found.append(clipping.clip)
    expected = math.exp(0.5 * {0.5: 0.0, 0.8: 0.8416, 0.2: -0.8416}[quantile])
    assert np.exp(np.mean(np.log(found[150:]))) == pytest.approx(expected, rel=0.05)


def test_a_clip_moves_by_the_published_rule_and_by_no_more_than_its_rate() -> None:
    clipping = Clipping(1.0, 0.5, 0.2)
    clipping.follow(0.9)
    assert clipping.clip == pytest.approx(math.exp(-0.2 * 0.4))
    clipping = Clipping(1.0, 0.5, 0.2)
    clipping.follow(-30.0)
    assert clipping.clip == pytest.approx(math.exp(0.1))
    for _ in range(10_000):
        clipping.follow(0.0)
    assert clipping.clip == 2.0**40
    fixed = Clipping(1.0)
    fixed.follow(0.0)
    assert fixed.clip == 1.0


def test_a_clip_goes_on_from_its_state() -> None:
    clipping, resumed = Clipping(1.0, 0.5), Clipping(1.0, 0.5)
    clipping.follow(0.123)
    resumed.restore(clipping.to_json())
    assert resumed.clip == clipping.clip != 1.0
    resumed.restore(None)
    assert resumed.clip == clipping.clip
    for bad in ("x", -1, math.nan, [1]):
        with pytest.raises((ValueError, TypeError)):
            resumed.restore(bad)


def test_the_search_counts_scores_at_each_trial_of_the_noise() -> None:
    budget = replace(BUDGET, scores=3, sampling_rate=1.0)
    search = Search(budget, 7850, 100, honest=100)
    release = search.release(1e-3, 1e6)
    both, alone = search.of_round(release), release.divergences()
    # To first order the price of figures in the vector: 1.01^2 - 1.
    assert ((both - alone) / alone)[:10] == pytest.approx(0.0201, rel=0.01)
