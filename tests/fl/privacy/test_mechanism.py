"""Rotation, rounding and the modular encoding: what goes in comes out, within bounds, also through a real session."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import secagg
from fl.errors import ConfigError
from fl.privacy import rounding
from fl.privacy.mechanism import Mechanism, Noise, rotation_seed
from fl.privacy.rotation import hadamard, padded_length, rotate, rotate_back
from secagg import Completed, Round
from secagg.primitives.prg import KeystreamReader
from transport import Direction, Fault, FaultSchedule, run_session

SEED = rotation_seed(b"a round")


def hadamard_matrix(order: int) -> np.ndarray:
    """By the definition: the sign is the parity of the bits that row and column share."""
    return np.array([[(-1) ** (i & j).bit_count() for j in range(order)] for i in range(order)]) / math.sqrt(order)


@pytest.mark.parametrize("bits", range(9))
def test_the_transform_is_the_hadamard_matrix(bits: int) -> None:
    vector = np.random.default_rng(bits).normal(size=1 << bits)
    expected = hadamard_matrix(1 << bits) @ vector
    hadamard(vector)
    np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("bits", [13, 16, 17, 18, 19, 20, 21])
def test_long_transforms_are_those_of_sums_and_differences(bits: int) -> None:
    vector = np.random.default_rng(bits).normal(size=1 << bits)
    expected = vector.copy()
    for bit in range(bits):
        pairs = expected.reshape(-1, 2, 1 << bit)
        expected = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).ravel()
    hadamard(vector)
    assert np.abs(vector - expected / math.sqrt(1 << bits)).max() < 1e-12


def test_a_transform_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        hadamard(np.zeros(12))


@pytest.mark.parametrize("length", [1, 2, 3, 31, 33, 1000, 1 << 15, 100_001])
def test_rotation_keeps_the_norm_and_can_be_undone(length: int) -> None:
    vector = np.random.default_rng(length).normal(size=length)
    rotated = rotate(vector, SEED)
    assert len(rotated) == padded_length(length) < 2 * length
    norm = np.linalg.norm(vector)
    assert abs(np.linalg.norm(rotated) - norm) < 2**-45 * norm
    assert np.abs(rotate_back(rotated, length, SEED) - vector).max() < 2**-45 * norm


def test_rotation_spreads_a_single_element() -> None:
    vector = np.zeros(4096)
    vector[17] = 64.0
    np.testing.assert_allclose(np.abs(rotate(vector, SEED)), 1.0)
    # With the signs of another seed the same vector is another one.
    dense = np.ones(4096)
    assert np.abs(rotate(dense, SEED)).max() < 6.5
    assert np.abs(rotate(dense, SEED) - rotate(dense, rotation_seed(b"another round"))).max() > 1


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e-310, 1e200])
def test_clipping_scales_to_the_bound_and_leaves_shorter_vectors(scale: float) -> None:
    vector = np.array([3.0, 4.0]) * scale
    assert rounding.clip_factor(vector, scale) == pytest.approx(0.2)
    assert rounding.clip_factor(vector, 6 * scale) == 1
    assert rounding.clip_factor(np.zeros(3), scale) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_clipped(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        rounding.clip_factor(np.array([1.0, bad]), 1.0)


def test_the_bounds_of_rounded_vectors() -> None:
    # In small dimensions the first bound is the smaller one, in large ones the second.
    assert rounding.squared_bound(10.0, 1) == math.floor(min(11**2, 100 + 0.25 + 10 + 0.5))
    assert rounding.squared_bound(0.1, 4) == math.floor(min(2.1**2, 0.01 + 1 + 0.1 + 1))
    large = rounding.squared_bound(1050.0, 1 << 24)
    assert large == 1050**2 + (1 << 22) + 1050 + 2048
    assert rounding.l1_bound(large, 1 << 24) == pytest.approx(large)
    assert rounding.l1_bound(10_000, 16) == 400


def test_rounding_is_unbiased_and_stays_within_the_bound() -> None:
    rng = np.random.default_rng(5)
    dimension, norm = 256, 12.0
    vector = rng.normal(size=dimension)
    vector *= norm / np.linalg.norm(vector)
    bound = rounding.squared_bound(norm, dimension)
    draws = np.array([rounding.round_within(vector, bound, rng) for _ in range(4000)])
    assert (np.square(draws).sum(axis=1) <= bound).all()
    assert set(np.unique(draws - np.floor(vector))) <= {0, 1}
    # The condition moves the mean by less than statistics shows here.
    assert np.abs(draws.mean(axis=0) - vector).max() < 6.2 * 0.5 / math.sqrt(4000)


def test_rounding_is_drawn_again_where_it_is_too_long() -> None:
    vector = np.full(400, 0.5)
    bound = 200 - 15
    calls: list[int] = []

    class Counted(np.random.Generator):
        def bytes(self, length):
            calls.append(1)
            return super().bytes(length)

    rounded = rounding.round_within(vector, bound, Counted(np.random.PCG64(1)))
    assert int(np.square(rounded).sum()) <= bound
    assert len(calls) > 1


def test_at_least_two_of_five_roundings_are_accepted() -> None:
    rng = np.random.default_rng(3)
    for norm, dimension in ((0.0, 64), (8.0, 64), (16.0, 1024), (1000.0, 4096)):
        vector = rng.normal(size=dimension)
        vector *= norm / np.linalg.norm(vector)
        bound = rounding.squared_bound(norm, dimension)
        rounded = np.floor(vector + rng.random((2000, dimension)))
        # 1 - e^(-1/2) = 0.39, less the statistics of 2,000 draws.
        assert np.mean(np.square(rounded).sum(axis=1) <= bound) > 0.39 - 6.2 * 0.5 / math.sqrt(2000)


def test_a_vector_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the bound"):
        rounding.round_within(np.full(4, 100.0), 10, np.random.default_rng(0))


MECHANISM = Mechanism(length=300, clip=2.0, granularity=1e-3, variance=40.0, ring_bits=16)


def encoded(mechanism: Mechanism, update: np.ndarray, client_id: int) -> np.ndarray:
    return mechanism.encode(
        update,
        rotation=SEED,
        rng=np.random.default_rng(client_id),
        entropy=KeystreamReader(client_id.to_bytes(16, "big")),
    )


@pytest.mark.parametrize("noise", list(Noise))
def test_the_sum_through_a_session_with_dropouts_is_that_of_the_clipped_updates(noise: Noise) -> None:
    mechanism = replace(MECHANISM, noise=noise)
    n = 12
    updates = np.random.default_rng(2).normal(size=(n, 300)) * np.linspace(0.02, 0.4, n)[:, np.newaxis]
    params = replace(
        secagg.plan(num_clients=n, vector_length=mechanism.dimension, value_bits=1).parameters,
        value_bits=16,
        ring_bits=16,
        modular=True,
    )
    vectors = {i: encoded(mechanism, updates[i], i) for i in range(n)}
    faults = FaultSchedule(
        {
            (1, Round.SHARE_KEYS, Direction.UP): Fault.VANISH,
            (4, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH,
            (7, Round.UNMASKING, Direction.UP): Fault.VANISH,
        }
    )
    outcome = run_session(params, vectors, faults=faults).outcome
    assert isinstance(outcome, Completed)
    included = list(outcome.included)
    assert set(range(n)) - set(included) == {1, 4}
    # In the ring the sum is exact ...
    plain = sum(vectors[i].astype(np.int64) for i in included) % (1 << 16)
    assert np.array_equal(outcome.sum, plain)
    # ... and what is decoded differs from the clipped updates' by noise and rounding alone.
    lengths = np.linalg.norm(updates, axis=1, keepdims=True)
    clipped = updates * np.minimum(1, 2.0 / lengths)
    error = (mechanism.decode(outcome.sum, rotation=SEED)[0] - clipped[included].sum(axis=0)) / mechanism.granularity
    variance = len(included) * (40.0 + 1 / 6)
    assert lengths.max() > 2.0
    assert abs(np.mean(error**2) / variance - 1) < 6.2 * math.sqrt(2 / 300)
    assert abs(error.mean()) < 6.2 * math.sqrt(variance / 300)


def test_without_noise_to_speak_of_decoding_is_exact_to_rounding() -> None:
    mechanism = replace(MECHANISM, variance=1e-9, ring_bits=14)
    updates = np.random.default_rng(2).normal(size=(3, 300)) * 0.05
    total = sum(encoded(mechanism, update, i).astype(np.int64) for i, update in enumerate(updates)) % (1 << 14)
    difference = mechanism.decode(total.astype(np.uint16), rotation=SEED)[0] - updates.sum(axis=0)
    # The error is a rotation of three roundings in each of 512 coordinates.
    assert np.linalg.norm(difference) < 3 * math.sqrt(512) * mechanism.granularity


def test_negative_sums_come_back_from_the_upper_half_of_the_ring() -> None:
    mechanism = Mechanism(length=1, clip=1.0, granularity=0.125, variance=1e-9, ring_bits=5)
    for value in (-1.0, -0.125, 0.0, 0.875):
        vector = encoded(mechanism, np.array([value]), 0)
        assert vector.dtype == np.uint8
        assert int(vector[0]) < 32
        assert mechanism.decode(vector, rotation=SEED)[0] == value


def test_an_update_of_a_wrong_shape_or_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(300,\) was planned"):
        encoded(MECHANISM, np.zeros(299), 0)
    with pytest.raises(ValueError, match="finite"):
        encoded(MECHANISM, np.full(300, math.nan), 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 0}, "length is 0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip": math.nan}, "clip is nan"),
        ({"granularity": math.inf}, "granularity is inf"),
        ({"granularity": 1e-12}, "larger granularity"),
        ({"length": 1, "figures": 0, "figure_weight": 0.0, "granularity": 1e9}, "rounded to 0"),
        ({"variance": 0.0}, "variance is 0.0"),
        ({"variance": 1e10}, "variance is"),
        ({"ring_bits": 65}, "ring_bits is 65"),
        ({"ring_bits": 1}, "ring_bits is 1"),
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(MECHANISM, **change)


def test_who_knows_the_round_alone_cannot_repeat_the_noise() -> None:
    update = np.zeros(300)
    first, second = (
        MECHANISM.encode(update, rotation=SEED, rng=np.random.default_rng(1), entropy=KeystreamReader(bytes([i]) * 16))
        for i in range(2)
    )
    assert np.count_nonzero(first != second) > 400
