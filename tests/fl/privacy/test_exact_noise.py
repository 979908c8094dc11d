"""Exact noise: what stays of it in real sessions, at any number of dropouts, and who can take it off."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.aggregation.private import PrivateAggregator
from fl.errors import ConfigError
from fl.privacy import samplers
from fl.privacy.budget import Budget
from fl.privacy.exact_noise import (
    MOST_EXCESS,
    ExactNoise,
    UpdateAwaitingNoise,
    base_variance,
    needed_components,
    with_components,
)
from fl.privacy.ledger import Ledger
from fl.privacy.mechanism import Mechanism, Noise
from fl.privacy.planner import plan_private
from fl.privacy.policy import PrivacyAccount, PrivacyPolicy
from fl.privacy.terms import PrivateTerms
from secagg import Adversary, Completed, Parameters, PlanError, PolicyError, Round, SessionPolicy
from secagg.algebra import ring
from tests.fl.privacy.test_private_training import LENGTH, request, update_of
from tests.fl.runs import invoke
from tests.support.sessions import SeededEntropy, make_params
from transport import Direction, Fault, FaultSchedule, run_session

RING_BITS = 20
MECHANISM = Mechanism(length=1 << 16, clip=1.0, granularity=1e-3, variance=300.0, ring_bits=RING_BITS)


def parameters(num_clients: int, threshold: int, corrupt: int, length: int = MECHANISM.length) -> Parameters:
    wide = {"value_bits": RING_BITS, "ring_bits": RING_BITS, "modular": True}
    return with_components(make_params(num_clients, threshold, length, **wide), corrupt)


@st.composite
def sessions(draw: st.DrawFn) -> tuple[ExactNoise, int]:
    num_clients = draw(st.integers(3, 1000))
    threshold = draw(st.integers(max(2, num_clients // 2), num_clients - 1))
    corrupt = draw(st.integers(0, threshold // 3))
    mechanism = replace(MECHANISM, variance=draw(st.floats(1e-3, 1e9)))
    return ExactNoise(mechanism, parameters(num_clients, threshold, corrupt)), draw(st.integers(threshold, num_clients))


# --- Variances -------------------------------------------------------------------------------------------------------


@given(sessions())
def test_the_honest_survivors_keep_what_the_sum_needs_and_at_most_a_hundredth_more(session):
    noise, survivors = session
    params = noise.params
    needed = noise.mechanism.variance * (params.threshold - params.corrupt_clients)
    kept = noise.kept_variance(survivors) * (survivors - params.corrupt_clients)
    assert needed * (1 - 1e-12) <= kept <= needed * (1 + MOST_EXCESS + 1e-12)
    assert noise.excess(survivors) == pytest.approx(kept / needed - 1, abs=1e-12)


@given(sessions())
def test_base_and_components_are_the_whole_noise(session):
    noise, _ = session
    components = map(noise.component_variance, range(1, noise.params.noise_components + 1))
    assert math.fsum([noise.base_variance, *components]) == pytest.approx(noise.mechanism.variance, rel=1e-12)


@given(sessions())
def test_no_fewer_components_are_planned_than_are_needed(session):
    params = session[0].params
    whole = Fraction(params.num_clients - params.corrupt_clients, params.threshold - params.corrupt_clients) - 1
    assert whole / (2**params.noise_components - 1) <= MOST_EXCESS
    fewer = params.noise_components - 1
    assert fewer == 0 or whole / (2**fewer - 1) > MOST_EXCESS


def test_where_no_dropouts_are_planned_there_is_nothing_to_take_off():
    params = make_params(10, 10)
    assert needed_components(params, 2) == 0
    assert with_components(params, 2) == params


# --- Real sessions ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.MALICIOUS], ids=lambda mode: mode.value)
@pytest.mark.parametrize("vanished", [0, 2, 4, 6, 8])
def test_the_measured_variance_is_the_target_at_any_dropouts(vanished, adversary):
    """0 to 40% of 20 clients vanish. The sum has 65,536 values, so that one deviation of the measurement is 0.55%."""
    corrupt = 1
    params = replace(parameters(20, 12, corrupt), adversary=adversary)
    noise, source = ExactNoise(MECHANISM, params), SeededEntropy(f"exact {vanished}")
    inputs = {i: UpdateAwaitingNoise(noise, np.zeros(MECHANISM.length, np.int64), source(16)) for i in range(20)}
    faults = {(i, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH for i in range(vanished)}
    end = run_session(params, inputs, faults=FaultSchedule(faults), entropy=source).outcome
    assert isinstance(end, Completed)
    survivors = 20 - vanished
    target = MECHANISM.variance * (12 - corrupt) * survivors / (survivors - corrupt)

    def variance(total: np.ndarray) -> float:
        return float(np.square(ring.centered_lift(total, RING_BITS).astype(np.float64)).mean())

    assert variance(noise.take_off(end.sum, end.noise_keys)) == pytest.approx(target, rel=0.02)
    # Without it the sum has all noise: this is what would be wrong.
    assert variance(end.sum) == pytest.approx(survivors * MECHANISM.variance, rel=0.02)


def test_exactly_the_noise_of_the_removed_components_goes():
    """The sum is, value for value, that of the inputs, the bases and the kept components."""
    length, params = 64, parameters(6, 4, 1, 64)
    noise, source = ExactNoise(replace(MECHANISM, length=length), params), SeededEntropy("exactly")
    keys: dict[int, tuple[bytes, ...]] = {}
    base_keys = {i: source(16) for i in range(6)}
    integers = {i: np.arange(length) * i for i in range(6)}

    class Watched(UpdateAwaitingNoise):
        def __call__(self, given: tuple[bytes, ...]) -> ring.RingVector:
            keys[self.base_key] = given
            return super().__call__(given)

    inputs = {i: Watched(noise, integers[i].astype(np.int64), base_keys[i]) for i in range(6)}
    faults = FaultSchedule({(5, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH})
    end = run_session(params, inputs, faults=faults, entropy=source).outcome
    assert isinstance(end, Completed)
    removed = set(end.noise_keys)
    assert 0 < len(removed) < params.noise_components
    expected = np.zeros(length, dtype=np.int64)
    for i in end.included:
        expected += integers[i] + samplers.skellam(base_keys[i], noise.base_variance, length)
        for component, key in enumerate(keys[base_keys[i]], 1):
            if component not in removed:
                expected += samplers.skellam(key, noise.component_variance(component), length)
    left = ring.centered_lift(noise.take_off(end.sum, end.noise_keys), RING_BITS)
    assert left.tolist() == expected.tolist()


def test_noise_of_a_key_is_the_same_on_every_machine():
    """Server and clients draw it in different places: it must not depend on versions or processors."""
    digests = {
        variance: hashlib.sha256(
            samplers.skellam(bytes(range(16)), variance, 40_000).astype("<i8").tobytes()
        ).hexdigest()
        for variance in (0.37, 83.98950131233595, 1e9)
    }
    assert digests == GOLDEN


GOLDEN = {
    0.37: "81b1197c8ea5bc81e7591fa115e3528650030c2459458d07ecb4878f009393e0",
    83.98950131233595: "6e397f845b6f8aeb2e32f2b0402e24418a17bd656769dfbdd366f0f040f2f5a0",
    1e9: "31dbd861595833081baf42c6213e3c040e1173e377e5c09fd25a9e894c0a39e2",
}


def test_an_update_is_sent_to_another_process_as_it_is():
    noise = ExactNoise(replace(MECHANISM, length=4), parameters(5, 3, 0, 4))
    update = UpdateAwaitingNoise(noise, np.arange(4), bytes(16))
    keys = tuple(bytes([i]) * 16 for i in range(noise.params.noise_components))
    again = pickle.loads(pickle.dumps(update))  # noqa: S301 - our own
    assert again(keys).tolist() == update(keys).tolist()
    assert "integers" not in repr(update)


# --- Plans -----------------------------------------------------------------------------------------------------------

BUDGET = Budget(epsilon=30, delta=1e-3, rounds=3, clip=1.0, exact=True)
MODEL = {"dropout": 0.3, "corrupt": 0.1, "adversary": Adversary.HONEST_BUT_CURIOUS, "threshold": None}


def test_a_plan_has_the_components_it_needs_and_says_so():
    plan = plan_private(BUDGET, num_clients=20, length=LENGTH, **MODEL)
    plain = plan_private(replace(BUDGET, exact=False), num_clients=20, length=LENGTH, **MODEL)
    params = plan.session.parameters
    assert params.noise_components == needed_components(params, 2)
    assert params.corrupt_clients == plan.session.corrupt_clients == 2
    assert any(reason.startswith(f"exact noise: {params.noise_components} components") for reason in plan.reasons)
    # All else is as without.
    assert (plan.mechanism, plan.release, plan.epsilon) == (plain.mechanism, plain.release, plain.epsilon)
    assert replace(params, noise_components=0, corrupt_clients=0) == plain.session.parameters


def test_gaussian_noise_cannot_be_exact():
    with pytest.raises(PlanError, match="gaussian noise cannot be taken off exactly"):
        plan_private(replace(BUDGET, noise=Noise.GAUSSIAN), num_clients=20, length=LENGTH, **MODEL)
    with pytest.raises(ConfigError, match="cannot be taken off exactly"):
        ExactNoise(replace(MECHANISM, noise=Noise.GAUSSIAN), parameters(5, 3, 0))
    with pytest.raises(ConfigError, match="no noise components"):
        ExactNoise(MECHANISM, make_params())


def test_the_command_plans_it():
    options = ("--epsilon", "8", "--delta", "1e-5", "--rounds", "10", "--dropout", "0.4", "--exact-noise", "--json")
    planned = json.loads(invoke("plan", "--clients", "100", *options).stdout)
    assert planned["privacy"]["noise_components"] == 7
    refused = invoke("plan", "--clients", "100", *options, "--noise", "gaussian")
    assert refused.exit_code != 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 27])
@pytest.mark.parametrize("vanished", [0, 4])
def test_a_private_round_has_the_planned_noise_and_no_more(count, vanished):
    """The planner's numbers are for 20 clients; a sampled round may have others."""
    length = 1 << 15
    plan = plan_private(BUDGET, num_clients=20, length=length, **MODEL)
    private = PrivateAggregator(plan, Ledger(None, 30, 1e-3), model=MODEL)
    faults = {(i, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH for i in range(vanished)}
    wide = {i: np.resize(update_of(i).delta, length) * 0.1 for i in range(count)}
    result = private.aggregate(
        request(count, train=lambda i: replace(update_of(i), delta=wide[i]), faults=FaultSchedule(faults))
    )
    assert result.aggregate is not None
    number = len(result.included)
    assert number == count - vanished
    error = (result.aggregate.mean_delta - np.mean([wide[i] for i in result.included], axis=0)) * number
    corrupt = private.private.session.corrupt_clients * count // 20
    needed = plan.release.honest * plan.mechanism.variance * number / (number - corrupt)
    steps = float(np.square(error / plan.mechanism.granularity).mean())
    # Rounding adds at most a quarter of a step squared for each client.
    assert needed * 0.97 <= steps <= needed * 1.03 + number / 4


# --- A client's own figures ------------------------------------------------------------------------------------------


def account(adversary: Adversary = Adversary.HONEST_BUT_CURIOUS, corrupt: float = 0.0) -> PrivacyAccount:
    limits = PrivacyPolicy(max_epsilon=1e5, delta=1e-5)
    return PrivacyAccount(limits, SessionPolicy(adversary=adversary, corrupt=corrupt, may_wrap=True), None)


PARAMS = parameters(20, 14, 2)
TERMS = PrivateTerms(mechanism=MECHANISM, honest=12, corrupt=2)


@pytest.mark.parametrize("own", [0.0, 0.05, 0.3])
def test_a_client_counts_noise_that_every_sum_has_whatever_it_assumes_itself(own):
    """With fewer corrupt clients than announced, more honest ones do not have more noise: it was taken off."""
    counted = account(corrupt=own).release(TERMS, PARAMS)
    corrupt = math.floor(own * 20 + 1e-9)
    noise = ExactNoise(MECHANISM, PARAMS)
    least = min(noise.kept_variance(survivors) * (survivors - corrupt) for survivors in range(14, 21))
    assert counted.honest * counted.variance <= least * (1 + 1e-12)
    assert counted.honest == 14 - max(2, corrupt)


def test_a_client_that_somebody_may_isolate_counts_its_base_alone():
    base = base_variance(MECHANISM, PARAMS)
    assert base == pytest.approx(MECHANISM.variance * 12 / 18)
    distrusting = account(Adversary.MALICIOUS).release(TERMS, PARAMS)
    assert (distrusting.honest, distrusting.variance) == (1, base)
    assert account().alone(TERMS, PARAMS) > account().alone(
        TERMS, replace(PARAMS, noise_components=0, corrupt_clients=0)
    )


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        (replace(TERMS, corrupt=1), "noise planned for 1 corrupt clients, but what is taken off is for 2"),
        (replace(TERMS, mechanism=replace(MECHANISM, noise=Noise.GAUSSIAN)), "only Skellam noise"),
    ],
)
def test_a_client_declines_terms_that_contradict_the_components(terms, reason):
    account().check(TERMS, PARAMS)
    with pytest.raises(PolicyError, match=reason):
        account().check(terms, PARAMS)
