"""Accounting: published numbers, exact divergences where they can be computed, and Google's accountant beside ours."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from fl.privacy import accounting, rounding, samplers
from fl.privacy.accounting import ORDERS, Release, discrete_gaussians, epsilon_of, poisson_sampled, skellam
from fl.privacy.mechanism import Noise

NOT_HERE = "needs dp-accounting, which has its own environment: make test-dp"


def published_epsilon(stddev: float) -> float:
    """google-research/federated#66: scale 350, clip 3, 16 clients, dimension 2^24, 150 rounds, delta 0.01."""
    squared_l2 = rounding.squared_bound(350 * 3, 1 << 24)
    release = Release(
        squared_l2=squared_l2,
        l1=rounding.l1_bound(squared_l2, 1 << 24),
        dimension=1 << 24,
        noise=Noise.SKELLAM,
        variance=(350 * stddev) ** 2,
        honest=16,
    )
    return epsilon_of(150 * release.divergences(), 0.01)


def test_the_published_skellam_deviation_costs_what_it_should() -> None:
    # Their search minimises (epsilon - 6)^2 and stops where floats no longer tell. With that search our formulas give
    # their deviation to its last digit; this is the epsilon there.
    assert published_epsilon(11.43585395098052) == pytest.approx(6.000000038243176, rel=1e-13)
    assert published_epsilon(11.43585399798459) == pytest.approx(6, rel=1e-13)


def renyi(p: np.ndarray, q: np.ndarray, order: int) -> float:
    kept = p > 0
    exponents = order * np.log(p[kept]) + (1 - order) * np.log(q[kept])
    largest = exponents.max()
    return float(largest + np.log(np.exp(exponents - largest).sum())) / (order - 1)


def skellam_weights(variance: float) -> np.ndarray:
    table = samplers._skellam_table(Fraction(variance))
    edges = [0, *(int(h) << 64 | int(low) for h, low in zip(table.high, table.low, strict=True)), 1 << 128]
    return np.array([float(Fraction(b - a, 1 << 128)) for a, b in pairwise(edges)])


@pytest.mark.parametrize("variance", [4.0, 30.0, 400.0])
@pytest.mark.parametrize("shift", [1, 3])
def test_the_skellam_bound_is_above_the_exact_divergence(variance: float, shift: int) -> None:
    weights = skellam_weights(variance)
    middle = len(weights) // 2
    bounds = skellam(shift**2, shift, variance)
    for order in (2, 3, 5):
        # Only the part whose floats are exact enough; what is left out makes the exact figure smaller by far less than
        # the difference to the bound.
        reach = min(middle - shift, math.ceil(9 * math.sqrt(variance)) + shift)
        inner = slice(middle - reach, middle + reach)
        exact = renyi(weights[inner], weights[inner.start + shift : inner.stop + shift], order)
        gaussian = order * shift**2 / (2 * variance)
        assert gaussian * (0.99 if variance > 100 else 0.5) < exact <= bounds[order - 2] * (1 + 1e-9)


def test_discrete_gaussians_become_gaussian_and_pay_for_being_few_and_narrow() -> None:
    wide = discrete_gaussians(100.0, 1000.0, 1024, 50.0, 10)
    np.testing.assert_allclose(wide, ORDERS * 100 / (2 * 500), rtol=1e-12)
    narrow = discrete_gaussians(100.0, 1000.0, 1024, 0.6, 10)
    tau = 10 * sum(math.exp(-2 * math.pi**2 * 0.6 * k / (k + 1)) for k in range(1, 10))
    l2, l1 = math.sqrt(100 / 6), 1000 / math.sqrt(6)
    for order in (2, 9, 256):
        assert narrow[order - 2] == pytest.approx(
            min(
                order * l2**2 / 2 + tau * 1024,
                order / 2 * (l2**2 + 2 * l1 * tau + tau**2 * 1024),
                order / 2 * (l2 + 32 * tau) ** 2,
            )
        )
    assert (narrow > ORDERS * 100 / (2 * 6)).all()
    # A single discrete Gaussian is as good as a Gaussian.
    np.testing.assert_allclose(discrete_gaussians(9.0, 9.0, 16, 0.5, 1), ORDERS * 9 / (2 * 0.5))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rate", [0.001, 0.03, 0.4, 0.99])
def test_sampling_is_the_sum_of_the_theorem(rate: float, symmetric: bool) -> None:
    plain = skellam(100.0, 400.0, 900.0)
    sampled = poisson_sampled(plain, rate, symmetric=symmetric)
    for order in (2, 3, 4, 17, 60):
        q = Fraction(rate)
        exact = (1 - q) ** (order - 1) * (order * q - q + 1)
        for term in range(2, order + 1):
            weight = math.comb(order, term) * (1 - q) ** (order - term) * q**term
            times = 1 if symmetric or term == 2 else 3
            exact += times * weight * Fraction(math.exp((term - 1) * plain[term - 2]))
        expected = min(math.log(exact) / (order - 1), plain[order - 2])
        assert sampled[order - 2] == pytest.approx(expected, rel=1e-9, abs=1e-13)
    assert (sampled <= plain).all()


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.7])
@pytest.mark.parametrize(("variance", "shift"), [(2.0, 1), (9.0, 4), (50.0, 5)])
def test_the_bound_for_symmetric_noise_holds_in_both_directions(rate: float, variance: float, shift: int) -> None:
    weights = skellam_weights(variance)
    reach = min(len(weights) // 2 - shift, math.ceil(10 * math.sqrt(variance)) + shift)
    middle = len(weights) // 2
    without = weights[middle - reach : middle + reach]
    mixed = (1 - rate) * without + rate * weights[middle - reach - shift : middle + reach - shift]
    bounds = poisson_sampled(skellam(shift**2, shift, variance), rate)
    for order in (2, 3, 5):
        added, removed = renyi(mixed, without, order), renyi(without, mixed, order)
        assert removed <= added * (1 + 1e-9)
        assert added <= bounds[order - 2] * (1 + 1e-9)
        assert variance < 50 or added > 0.7 * bounds[order - 2]


def test_who_takes_part_every_time_is_not_amplified() -> None:
    plain = skellam(100.0, 400.0, 900.0)
    assert np.array_equal(poisson_sampled(plain, 1.0), plain)


def test_epsilon_is_that_of_gaussian_noise_where_the_steps_are_fine() -> None:
    # With D2/sqrt(mu) = 1/z: epsilon of the Gaussian mechanism by RDP, computed here on its own.
    z, delta = 2.0, 1e-5
    expected = min(
        order / (2 * z**2) + math.log((order - 1) / order) - math.log(delta * order) / (order - 1)
        for order in range(2, 257)
    )
    squared_l2 = 10**12
    bounds = skellam(squared_l2, 1e8, z**2 * squared_l2)
    assert epsilon_of(bounds, delta) == pytest.approx(expected, rel=1e-4)


def test_nearly_no_information_is_epsilon_zero() -> None:
    assert epsilon_of(np.full(len(ORDERS), 1e-14), 1e-5) == 0.0
    floor = accounting.least_epsilon(1e-5)
    assert epsilon_of(np.full(len(ORDERS), 1e-9), 1e-5) == pytest.approx(floor, abs=1e-8)
    assert 0 < floor < 0.03


def test_google_converts_to_the_same_epsilon() -> None:
    rdp = pytest.importorskip("dp_accounting.rdp", reason=NOT_HERE)
    for rate in (0.01, 0.2, 1.0):
        for variance in (1e2, 1e4, 1e7):
            for delta in (1e-2, 1e-6):
                divergences = 40 * poisson_sampled(skellam(1e4, 1e5, variance), rate)
                google, _ = rdp.rdp_privacy_accountant.compute_epsilon(ORDERS, divergences, delta)
                assert epsilon_of(divergences, delta) == pytest.approx(google, rel=1e-12, abs=1e-12)


def test_sampled_noise_is_above_googles_exact_gaussian() -> None:
    dp_accounting = pytest.importorskip("dp_accounting", reason=NOT_HERE)
    rdp = pytest.importorskip("dp_accounting.rdp", reason=NOT_HERE)
    for z in (0.8, 2.0):
        accountant = rdp.RdpAccountant(list(map(float, ORDERS)))
        event = dp_accounting.PoissonSampledDpEvent(0.03, dp_accounting.GaussianDpEvent(z))
        accountant.compose(event, 1000)
        ours = epsilon_of(1000 * poisson_sampled(skellam(1e12, 1e8, z**2 * 1e12), 0.03), 1e-4)
        exact = accountant.get_epsilon(1e-4)
        assert exact * (1 - 1e-9) <= ours < 1.01 * exact
