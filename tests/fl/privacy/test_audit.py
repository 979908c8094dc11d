"""An attack on the noise itself: its success stays below the claimed epsilon, and shows where noise is missing.

The attacker knows every input and all noise of corrupt clients, and guesses from the sum in the ring whether one client
took part with the worst input. A threshold test with a false-positive rate f and a true-positive rate p proves that
epsilon is at least ln((p - delta) / f). Each coordinate of a long vector is a try of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fl.privacy.budget import Budget
from fl.privacy.mechanism import Mechanism, Noise
from fl.privacy.planner import PrivacyPlan, plan_private
from fl.privacy.samplers import discrete_gaussian, skellam
from secagg.algebra import ring

TRIES = 400_000
DELTA = 1e-4
# Bounds on a rate that hold except once in a thousand million.
Z = 6.2


def planned(noise: Noise, epsilon: float) -> PrivacyPlan:
    budget = Budget(epsilon=epsilon, delta=DELTA, rounds=1, clip=1.0, noise=noise)
    # 20 clients, of which 4 vanish and 2 are corrupt: 14 honest ones are left.
    return plan_private(budget, num_clients=20, length=1, dropout=0.2, corrupt=0.1)


def sums(plan: PrivacyPlan, mechanism: Mechanism, honest: int, shift: int, salt: int) -> np.ndarray:
    """The sums of the honest clients' noise and one client's integer, as the server lifts them from the ring."""
    sample = skellam if mechanism.noise is Noise.SKELLAM else discrete_gaussian
    total = np.full(TRIES, shift, dtype=np.int64)
    for i in range(honest):
        total += sample(bytes([salt, i]) * 8, mechanism.variance, TRIES)
    vector = total.astype(ring.word_dtype(mechanism.ring_bits))
    ring.reduce_in_place(vector, mechanism.ring_bits)
    return ring.centered_lift(vector, mechanism.ring_bits)


def proven_epsilon(plan: PrivacyPlan, mechanism: Mechanism, honest: int) -> float:
    """The largest epsilon that any threshold proves at this delta."""
    worst = math.isqrt(plan.release.squared_l2)
    without, present = (sums(plan, mechanism, honest, shift, salt) for salt, shift in enumerate((0, worst)))
    best = 0.0
    for share in (0.5, 0.8, 0.95, 0.99, 0.997, 0.999):
        threshold = np.quantile(present, share)
        false, true = (float(np.mean(sample >= threshold)) for sample in (without, present))
        most_false = false + Z * math.sqrt(false * (1 - false) / TRIES) + Z * Z / TRIES
        least_true = true - Z * math.sqrt(true * (1 - true) / TRIES)
        if least_true > DELTA:
            best = max(best, math.log((least_true - DELTA) / most_false))
    return best


@pytest.mark.parametrize("noise", list(Noise))
@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_the_attack_stays_below_the_claim_and_finds_missing_noise(noise: Noise, epsilon: float) -> None:
    plan = planned(noise, epsilon)
    honest = plan.release.honest
    assert honest == 14
    found = proven_epsilon(plan, plan.mechanism, honest)
    assert 0.3 * epsilon < found <= epsilon
    # With a tenth of the variance, or with one client's noise instead of fourteen clients', it is found out.
    little = replace(plan.mechanism, variance=plan.mechanism.variance / 10)
    assert proven_epsilon(plan, little, honest) > epsilon
    assert proven_epsilon(plan, plan.mechanism, 1) > epsilon
    # Half of the standard deviation is.
    half = replace(plan.mechanism, variance=plan.mechanism.variance / 4)
    assert proven_epsilon(plan, half, honest) > epsilon


def test_without_noise_one_sum_gives_a_client_away() -> None:
    plan = planned(Noise.SKELLAM, 1.0)
    assert proven_epsilon(plan, replace(plan.mechanism, variance=1e-9), 14) > 8
