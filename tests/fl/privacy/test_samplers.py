"""The distribution of the noise, by exact bounds and by statistics whose keys are fixed: nothing here is random."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from fl.privacy import samplers
from fl.privacy.samplers import discrete_gaussian, skellam
from secagg.primitives.prg import KeystreamReader

KEY = b"a key for tests!"
# Statistics are compared with what is exceeded once in a thousand million.
Z = 6.2


def poisson(mean: Decimal, count: int) -> list[Decimal]:
    terms = [(-mean).exp()]
    for k in range(1, count):
        terms.append(terms[-1] * mean / k)
    return terms


def skellam_probabilities(variance: float, largest: int) -> list[Decimal]:
    """P(0) .. P(largest), by the convolution of two Poisson distributions."""
    mean = Decimal(variance) / 2
    terms = poisson(mean, largest + 200 + math.ceil(20 * math.sqrt(variance)) + math.ceil(variance))
    return [sum(a * b for a, b in zip(terms, terms[k:], strict=False)) for k in range(largest + 1)]


def gaussian_probabilities(variance: float, largest: int) -> list[Decimal]:
    weights = [(-Decimal(k * k) / (2 * Decimal(variance))).exp() for k in range(4 * largest + 40)]
    total = 2 * sum(weights) - weights[0]
    return [weight / total for weight in weights[: largest + 1]]


def probabilities_of(table: samplers.InverseTable) -> list[Decimal]:
    """P(-K) .. P(K) of the table, exactly."""
    thresholds = [int(high) << 64 | int(low) for high, low in zip(table.high, table.low, strict=True)]
    edges = [0, *thresholds, 1 << 128]
    return [Decimal(after - before) / (1 << 128) for before, after in pairwise(edges)]


@pytest.mark.parametrize("variance", [0.01, 0.37, 1.0, 12.5, 400.0])
@pytest.mark.parametrize("kind", ["skellam", "gaussian"])
def test_the_tables_distance_is_below_2_to_the_minus_100(kind: str, variance: float) -> None:
    make = samplers._skellam_table if kind == "skellam" else samplers._gaussian_table
    exact = skellam_probabilities if kind == "skellam" else gaussian_probabilities
    table = make(Fraction(variance))
    with localcontext(prec=90):
        found = probabilities_of(table)
        right = exact(variance, table.largest)
        mirrored = [*right[:0:-1], *right]
        outside = 1 - sum(mirrored)
        assert len(found) == len(mirrored)
        distance = (sum(abs(a - b) for a, b in zip(found, mirrored, strict=True)) + abs(outside)) / 2
        assert abs(outside) < Decimal(2) ** -110
        assert distance < Decimal(2) ** -100


def test_the_largest_table_stays_within_the_bound_of_its_thresholds() -> None:
    table = samplers._skellam_table(Fraction(samplers.LARGEST_TABLE**2))
    # Each of the 2K thresholds is off by 2^-128 at most, and less than 2^-110 is cut off.
    assert 2 * table.largest * 2.0**-128 + 2.0**-110 < 2.0**-100
    assert (np.diff(table.high.astype(object)) >= 0).all()


@pytest.mark.parametrize("variance", [0.5, 3.0, 900.0])
def test_the_guide_finds_what_a_search_finds(variance: float) -> None:
    table = samplers._skellam_table(Fraction(variance))
    words = np.frombuffer(KeystreamReader(KEY)(8 * 50_000), dtype="<u8")
    edges = np.concatenate([table.high, table.high - np.uint64(1), table.high + np.uint64(1)])
    edges = np.concatenate([edges, np.array([0, 1, 2**64 - 1, 2**48, 2**48 - 1], dtype=np.uint64)])
    seconds = bytes(range(8))
    for some in (words, edges):
        expected = [table.decided(word, np.uint64(int.from_bytes(seconds, "little"))) - table.largest for word in some]
        assert table.values(some, lambda size: seconds[:size]).tolist() == expected


def test_equal_upper_words_are_decided_by_a_second_word() -> None:
    table = samplers._skellam_table(Fraction(2))
    for place in (table.largest - 2, table.largest, table.largest + 3):
        word = table.high[place : place + 1]
        low = int(table.low[place])
        for second, reached in ((low - 1, place), (low, place + 1)):
            value = table.values(word, lambda size, second=second: second.to_bytes(size, "little"))
            assert value.tolist() == [reached - table.largest]


def chi_square(values: np.ndarray, probabilities: dict[int, float]) -> tuple[float, int]:
    """The statistic and its degrees of freedom; outer values with few expected counts make one bin a side."""
    common = [k for k, p in probabilities.items() if p * len(values) >= 20]
    low, high = min(common), max(common)
    clipped = np.clip(values, low, high)
    counts = np.bincount(clipped - low, minlength=high - low + 1)
    expected = np.array([probabilities[k] for k in range(low, high + 1)])
    expected[0] += sum(p for k, p in probabilities.items() if k < low)
    expected[-1] += sum(p for k, p in probabilities.items() if k > high)
    expected *= len(values)
    return float((np.square(counts - expected) / expected).sum()), high - low


def assert_fits(values: np.ndarray, probabilities: dict[int, float]) -> None:
    statistic, freedom = chi_square(values, probabilities)
    # Wilson and Hilferty's approximation of the quantiles of chi-square.
    for sign in (-1, 1):
        bound = freedom * (1 - 2 / (9 * freedom) + sign * Z * math.sqrt(2 / (9 * freedom))) ** 3
        assert (statistic < bound) if sign > 0 else (statistic > bound)


def both_sides(right: list[float]) -> dict[int, float]:
    return {sign * k: float(p) for k, p in enumerate(right) for sign in (1, -1)}


@pytest.mark.parametrize("variance", [0.6, 7.0, 160.0])
def test_skellam_noise_fits_the_distribution(variance: float) -> None:
    noise = skellam(KEY, variance, 300_000)
    right = skellam_probabilities(variance, math.ceil(6 * math.sqrt(variance)) + 3)
    assert_fits(noise, both_sides(right))


@pytest.mark.parametrize("variance", [0.6, 7.0, 160.0])
def test_discrete_gaussian_noise_fits_the_distribution(variance: float) -> None:
    right = gaussian_probabilities(variance, math.ceil(6 * math.sqrt(variance)) + 3)
    assert_fits(discrete_gaussian(KEY, variance, 300_000), both_sides(right))


@pytest.mark.parametrize("variance", [5.0, 37.3, 200.0])
def test_rejection_gives_the_distribution_of_the_table(variance: float) -> None:
    right = gaussian_probabilities(variance, math.ceil(6 * math.sqrt(variance)) + 3)
    assert_fits(samplers._rejection(samplers._Stream(KEY), variance, 300_000), both_sides(right))


def test_doubtful_tests_are_decided_exactly() -> None:
    offset, size, scale, variance = 3, 11, 8, 70.0
    with localcontext(prec=80):
        exponent = Decimal(offset) / scale + (size - Decimal(variance) / scale) ** 2 / (2 * Decimal(variance))
        threshold = int((-exponent).exp() * 2**128)
    for uniform, accepted in ((threshold, True), (threshold + 1, False)):
        assert samplers._exactly_accepted(uniform, offset, size, scale, variance) is accepted


def test_where_floats_cannot_tell_they_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "_UNDECIDED", 2.0)
    all_exact = samplers._rejection(samplers._Stream(KEY), 2.0**30, 300)
    assert abs(float(np.mean(np.square(all_exact / 2.0**15))) - 1) < Z * math.sqrt(2 / 300)


@pytest.mark.parametrize("variance", [0.05, 33.0, 1e6, 2.0**24 + 1, 3e8])
@pytest.mark.parametrize("sample", [skellam, discrete_gaussian])
def test_mean_variance_and_kurtosis(sample, variance: float) -> None:
    # Too small a variance makes a discrete Gaussian nearly constant: its own variance is then not the parameter.
    if sample is discrete_gaussian and variance < 1:
        variance = 2.0
    n = 200_000
    noise = sample(KEY, variance, n) / math.sqrt(variance)
    excess = 1 / variance if sample is skellam else 0.0
    assert abs(noise.mean()) < Z / math.sqrt(n)
    assert abs(noise.var() - 1) < Z * math.sqrt((2 + excess) / n)
    if variance > 1:
        assert abs(np.mean(noise**4) - 3 - excess) < 2 * Z * math.sqrt(96 / n)


def test_the_sum_of_skellam_shares_is_skellam() -> None:
    shares = [skellam(bytes([i]) * 16, 1.5, 100_000) for i in range(20)]
    right = skellam_probabilities(30.0, 45)
    assert_fits(np.sum(shares, axis=0), both_sides(right))


def test_a_key_gives_its_noise_and_other_keys_give_other_noise() -> None:
    assert np.array_equal(skellam(KEY, 9.0, 1000), skellam(KEY, 9.0, 1000))
    assert not np.array_equal(skellam(KEY, 9.0, 1000), skellam(b"another test key", 9.0, 1000))
    correlation = np.mean(skellam(KEY, 9.0, 200_000) * skellam(b"another test key", 9.0, 200_000)) / 9
    assert abs(correlation) < Z / math.sqrt(200_000)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan"), float("inf"), 2.0**33])
@pytest.mark.parametrize("sample", [skellam, discrete_gaussian])
def test_impossible_variances_are_refused(sample, variance: float) -> None:
    with pytest.raises(ValueError, match="variance"):
        sample(KEY, variance, 3)
