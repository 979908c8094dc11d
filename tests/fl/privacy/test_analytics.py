"""Private statistics through real sessions with dropouts: within their noise of the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fl.privacy.analytics import PrivateQuery, at_least, histogram, quantile
from secagg import Completed, PlanError, Round
from secagg.primitives.prg import KeystreamReader
from transport import Direction, Fault, FaultSchedule, run_session

N = 40
EDGES = [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
AGES = np.random.default_rng(4).normal(50, 15, N).clip(1, 99)
FAULTS = FaultSchedule({(i, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH for i in (2, 11)})


def answered(query: PrivateQuery, vectors: list[object]) -> Completed:
    inputs = {
        i: query.encode(vector, context=b"ages", entropy=KeystreamReader(i.to_bytes(16, "big")))
        for i, vector in enumerate(vectors)
    }
    outcome = run_session(query.parameters, inputs, context=b"ages", faults=FAULTS).outcome
    assert isinstance(outcome, Completed)
    assert set(range(N)) - set(outcome.included) == {2, 11}
    return outcome


def test_a_histogram_and_its_quantiles() -> None:
    query = PrivateQuery(length=5, clip=1.0, epsilon=4.0, delta=1e-4, num_clients=N, dropout=0.1)
    completed = answered(query, [histogram([age], EDGES) for age in AGES])
    counts = query.total(completed, context=b"ages")
    truth = histogram(AGES[list(completed.included)], EDGES)
    assert truth.sum() == 38
    assert 0.5 < query.stddev < 3
    assert np.abs(counts - truth).max() < 6.5 * query.stddev
    assert (counts != truth).all()
    assert abs(quantile(counts, EDGES, 0.5) - np.median(AGES)) < 20
    assert set(at_least(counts, 5.0)) <= {0.0, *counts[counts >= 5]}


def test_a_mean_is_clipped_and_noisy() -> None:
    query = PrivateQuery(length=1, clip=60.0, epsilon=6.0, delta=1e-4, num_clients=N, dropout=0.1)
    completed = answered(query, list(AGES))
    (mean,) = query.mean(completed, context=b"ages")
    truth = np.minimum(AGES, 60)[list(completed.included)].mean()
    assert abs(mean - truth) < 6.5 * query.stddev / 38
    assert truth < AGES.mean()


def test_the_ends_of_a_histogram_take_what_is_beyond() -> None:
    assert histogram([-5, 0, 19.9, 20, 99, 1000], EDGES).tolist() == [3, 1, 0, 0, 2]


def test_quantiles_are_linear_within_a_bin_and_ignore_negative_counts() -> None:
    counts = np.array([10.0, -3.0, 10.0, 0.0, 0.0])
    assert quantile(counts, EDGES, 0.25) == 10
    assert quantile(counts, EDGES, 0.75) == 50
    assert (quantile(counts, EDGES, 0), quantile(counts, EDGES, 1)) == (0, 100)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="no quantile"):
            quantile(counts, EDGES, share)
    with pytest.raises(ValueError, match="no quantile"):
        quantile(-counts.clip(0), EDGES, 0.5)


def test_a_query_that_cannot_be_private_is_refused() -> None:
    with pytest.raises(PlanError, match="out of reach"):
        PrivateQuery(length=5, clip=1.0, epsilon=0.001, delta=1e-6, num_clients=N)
