"""Bounds that follow the updates: averages close to float arithmetic, without options, from the first round on.

And the effect of a client that lies, or whose training runs away, on the others' resolution.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.aggregation.encoding import (
    MAX_VALUE_BITS,
    MIN_VALUE_BITS,
    Aggregate,
    ClientUpdate,
    QuantizationError,
    UndecodableSumError,
    UpdateEncoding,
)
from fl.aggregation.scales import MAX_CLIP, MAX_WEIGHT, MIN_CLIP, Exceeded, RangeEncoding, Ranges, Scales, ScaleTracker
from fl.errors import ConfigError
from fl.learning.models import MODELS, build_model
from fl.learning.parameter_layout import ParameterLayout
from tests.fl.encodings import mean_of, updates_of, worst_error

MOST_ERROR = {24: 0.01, 16: 0.05}
EXAMPLES = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]


class Server:
    """Sessions without a protocol: the clients' encodings are added up."""

    def __init__(self, sizes: Sequence[int], clients: int, bits: int = 24, **fixed: Any) -> None:
        self.sizes, self.clients, self.bits = tuple(sizes), clients, bits
        self.tracker = ScaleTracker(len(sizes), bits, **fixed)

    def encoding(self) -> UpdateEncoding:
        return UpdateEncoding(
            sizes=self.sizes, num_clients=self.clients, value_bits=self.bits, scales=self.tracker.scales
        )

    def session(self, updates: list[ClientUpdate], forge: Any = None) -> Aggregate | None:
        """Return a session's result; None if it measured. ``forge`` changes the sum, as a client can."""
        encoding = self.encoding()
        total = np.zeros(encoding.vector_length, dtype=np.int64)
        for number, update in enumerate(updates):
            vector = encoding.encode(update, np.random.default_rng(number))
            assert vector.min() >= 0
            assert vector.max() < 1 << self.bits
            total += vector
        if forge is not None:
            forge(encoding, total)
        if self.tracker.scales is None:
            self.tracker.follow(encoding.decode_ranges(total, len(updates)))
            return None
        aggregate = encoding.decode(total, len(updates))
        assert aggregate.ranges is not None
        self.tracker.follow(aggregate.ranges, aggregate.num_examples)
        return aggregate

    def round(self, updates: list[ClientUpdate]) -> Aggregate:
        """Run the update's session, and before it one that measures if there are no bounds."""
        aggregate = self.session(updates)
        if aggregate is None:
            aggregate = self.session(updates)
        assert aggregate is not None
        return aggregate


@pytest.mark.parametrize("bits", MOST_ERROR)
@pytest.mark.parametrize("amplitude", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("examples", [[count] * 5 for count in EXAMPLES] + [EXAMPLES, [7] * 39 + [5_000]], ids=str)
def test_the_average_is_close_for_any_updates_and_weights(bits: int, amplitude: float, examples: list[int]) -> None:
    sizes = (400, 20)
    updates = updates_of([amplitude, amplitude / 30], sizes, examples)
    server = Server(sizes, len(examples), bits)
    for _ in range(4):
        aggregate = server.round(updates)
        assert worst_error(aggregate.mean_delta, mean_of(updates), sizes) < MOST_ERROR[bits]
        assert aggregate.noise < MOST_ERROR[bits]
        assert aggregate.clipped == 0
        assert aggregate.num_examples == sum(examples)


@pytest.mark.parametrize("bits", MOST_ERROR)
@pytest.mark.parametrize(
    "amplitudes",
    [
        # Weights, and BatchNorm's running mean and variance of raw columns.
        [1e-3, 1e-3, 1_500.0, 1e6],
        # LoRA: the second matrix begins at zero, the base is frozen.
        [0.0, 1e-6, 1e-3, 0.0],
        # Late layers of fine-tuning, and an embedding that hardly moves.
        [1e-8, 1e-5, 1e-4, 1e-2],
    ],
    ids=["BatchNorm", "LoRA", "fine-tuning"],
)
def test_each_tensor_has_its_own_resolution(bits: int, amplitudes: list[float]) -> None:
    sizes = (300, 16, 16, 50)
    updates = updates_of(amplitudes, sizes, [50, 60, 70, 20, 100])
    server = Server(sizes, len(updates), bits)
    for _ in range(3):
        aggregate = server.round(updates)
        assert worst_error(aggregate.mean_delta, mean_of(updates), sizes) < MOST_ERROR[bits]
        # A tensor that no client changes stays the same, to the bit.
        for tensor, amplitude in zip(np.split(aggregate.mean_delta, np.cumsum(sizes)[:-1]), amplitudes, strict=True):
            assert tensor.any() == bool(amplitude)


def test_a_layer_frozen_later_stays_unchanged_and_a_freed_one_moves_again() -> None:
    sizes = (50, 50)
    server = Server(sizes, 5)
    both = updates_of([1e-3, 1e-3], sizes, [10] * 5)
    frozen = [replace(update, delta=np.append(np.zeros(50, np.float32), update.delta[50:])) for update in both]
    server.round(both)
    for _ in range(3):
        assert not server.round(frozen).mean_delta[:50].any()
    assert worst_error(server.round(both).mean_delta, mean_of(both), sizes) < 0.01
    never = Server(sizes, 5)
    never.round(frozen)
    # One round to notice it, in which it does not move.
    assert not never.round(both).mean_delta[:50].any()
    assert worst_error(never.round(both).mean_delta, mean_of(both), sizes) < 0.01


@pytest.mark.parametrize("factor", [1e-3, 0.5, 2.0, 100.0])
def test_bounds_follow_updates_that_shrink_or_grow(factor: float) -> None:
    """A step of a factor 8 is within the headroom; a larger one is clipped for a round or two, and then followed."""
    sizes = (200,)
    server = Server(sizes, 10)
    server.round(updates_of([1e-2], sizes, [10] * 10))
    later = updates_of([1e-2 * factor], sizes, [10] * 10)
    clipped = [server.round(later).clipped for _ in range(3)]
    assert clipped[0] == 0 or factor > 8
    assert clipped[-1] == 0
    assert worst_error(server.round(later).mean_delta, mean_of(later), sizes) < 0.01


@pytest.mark.parametrize("bits", MOST_ERROR)
@pytest.mark.parametrize("what", ["elements", "weight", "both", "training ran away"])
def test_one_client_costs_the_others_no_resolution(bits: int, what: str) -> None:
    """It claims any size, at most 2^60, in measuring sessions and others: the sum without its part stays as close.

    With few bits, a weight is kept whole at the cost of the others' resolution: such a client is most of the mean.
    """
    most = 0.4 if (bits, what) in ((16, "weight"), (16, "both")) else MOST_ERROR[bits]
    sizes = (400, 20)
    honest = updates_of([1e-3, 1e-5], sizes, [20] * 9)
    huge = np.full(420, 2.0**60 if what in ("elements", "both") else 1e8 if what != "weight" else 1e-3, np.float32)
    liar = ClientUpdate(huge, 1 << 60 if what in ("weight", "both") else 20, 0.0, ((0, 20),))
    server = Server(sizes, 10, bits)
    for _ in range(6):
        server.session([*honest, liar])
        encoding = server.encoding()
        total = sum(encoding.encode(one, np.random.default_rng(i)) for i, one in enumerate(honest))
        alone = encoding.decode(total, 9)
        assert worst_error(alone.mean_delta, mean_of(honest), sizes) < most


@pytest.mark.parametrize("clients", [10, 100, 300])
def test_a_client_that_forges_its_weights_range_costs_the_first_round(clients: int) -> None:
    """It claims 2^60 in every round, and sends 20: the sum of the weights shows it, from the first update on."""
    sizes = (400,)
    honest = updates_of([1e-3], sizes, [20] * clients)
    errors = []
    server = Server(sizes, clients, 16)
    for _ in range(4):
        aggregate = server.session(honest, forge_last_weight)
        if aggregate is not None:
            errors.append(worst_error(aggregate.mean_delta, mean_of(honest), sizes))
    assert errors[0] < 0.6
    assert max(errors[1:]) < 0.03


def test_a_tensor_that_one_client_alone_changes_stays_among_the_others() -> None:
    """No other client can tell whether it is right, so its bound stays among those that others need."""
    sizes = (400, 20)
    honest = updates_of([1e-3, 0.0], sizes, [20] * 20)
    lone = ClientUpdate(np.append(honest[0].delta[:400], np.full(20, 1e30)).astype(np.float32), 20, 0.0, ((0, 20),))
    server = Server(sizes, 20, 20)
    for _ in range(12):
        server.session([*honest[1:], lone])
        assert server.tracker.scales is not None
        assert server.tracker.scales.bounds[1] <= 2**10 * server.tracker.scales.bounds[0]


def forge_last_weight(encoding: UpdateEncoding, total: npt.NDArray[np.int64]) -> None:
    """Move one of the clients with a weight from its range to the highest one."""
    start = 0 if encoding.scales is None else encoding.update_length
    digits = total[start : start + encoding._ranges.vector_length]
    ranges = encoding._ranges.decode(digits)
    counts = ranges.counts.copy()
    counts[-1, np.flatnonzero(counts[-1])[0]] -= 1
    counts[-1, -1] += 1
    width = encoding.num_clients.bit_length()
    number = sum(int(count) << width * place for place, count in enumerate(counts.ravel()))
    digits[:] = [number >> encoding.value_bits * place & (1 << encoding.value_bits) - 1 for place in range(len(digits))]


def test_bounds_change_by_a_limited_factor_in_each_round() -> None:
    """The limit holds for any claims of all clients but one, on every tensor and the weights."""
    server = Server((10,), 9)
    updates = updates_of([1.0], (10,), [16] * 9)
    server.round(updates)
    for amplitude, examples in ((1e18, MAX_WEIGHT), (1e-18, 1)):
        before = server.tracker.scales
        assert before is not None
        server.round([replace(one, delta=one.delta * np.float32(amplitude), num_examples=examples) for one in updates])
        after = server.tracker.scales
        assert after is not None
        for one, other in ((before.bounds[0], after.bounds[0]), (before.max_weight, after.max_weight)):
            assert 2.0**-12 <= other / one <= 2.0**12


@given(
    data=st.data(),
    bits=st.integers(MIN_VALUE_BITS, MAX_VALUE_BITS),
    clients=st.integers(1, 70),
    tensors=st.integers(0, 5),
    measuring=st.booleans(),
)
def test_counts_come_back_from_any_sum_of_ranges(
    data: st.DataObject, bits: int, clients: int, tensors: int, measuring: bool
) -> None:
    scales = None if measuring else Scales((0.5,) * tensors, 100)
    encoding = RangeEncoding(num_tensors=tensors, num_clients=clients, value_bits=bits, scales=scales)
    largest = st.lists(st.sampled_from([0.0, 1e-30, 0.1, 0.5, 0.6, 3e38]), min_size=tensors, max_size=tensors)
    sent = data.draw(st.lists(st.tuples(largest, st.integers(0, 1 << 70)), min_size=1, max_size=clients))
    vectors = [encoding.encode(np.array(values), weight) for values, weight in sent]
    for vector in vectors:
        assert vector.shape == (encoding.vector_length,)
        assert vector.min() >= 0
        assert vector.max() < 1 << bits
    ranges = encoding.decode(sum(vectors))
    values = np.array([[*values, float(min(weight, 1 << 63))] for values, weight in sent])
    assert ranges.votes.tolist() == (values > 0).sum(axis=0).tolist()
    known = np.minimum(values.max(axis=0), ranges.ends[:, -1])
    largest_end = ranges.held_by(1)
    assert (largest_end >= known).all()
    # In ranges that double or quadruple, and the lowest has no lower end.
    assert ((largest_end <= known * 4) | (largest_end <= ranges.ends[:, 0])).all()


@given(st.data(), st.booleans())
def test_any_sum_of_ranges_is_bounds_or_an_error(data: st.DataObject, measuring: bool) -> None:
    """The sum may be any that a client within the ring can make; the next bounds stay within their limits."""
    tracker = ScaleTracker(2, 16)
    if not measuring:
        tracker.scales = Scales((1e-3, 0.0), 50)
    encoding = UpdateEncoding(sizes=(3, 2), num_clients=5, value_bits=16, scales=tracker.scales)
    total = np.array(data.draw(st.lists(st.integers(0, 2**18), min_size=(n := encoding.vector_length), max_size=n)))
    try:
        if measuring:
            tracker.follow(encoding.decode_ranges(total, 5))
        else:
            aggregate = encoding.decode(total, 5)
            assert aggregate.ranges is not None
            tracker.follow(aggregate.ranges, aggregate.num_examples)
    except UndecodableSumError:
        return
    assert tracker.scales is not None


@pytest.mark.parametrize(
    "counts",
    [
        [[0, 1], [0, 0]],
        [[0, 1], [0, 4]],
        [[1, 2], [0, 2]],
        [[0, 0], [0, 0]],
    ],
    ids=["no weights", "more weights than clients", "more changes than weights", "nothing"],
)
@pytest.mark.parametrize("measuring", [True, False])
def test_impossible_counts_are_one_error(counts: list[list[int]], measuring: bool) -> None:
    scales = None if measuring else Scales((1.0,), 10)
    encoding = UpdateEncoding(sizes=(4,), num_clients=3, value_bits=16, scales=scales)
    width = encoding._ranges._ends().shape[1]
    number = 0
    for row, (low, high) in enumerate(counts):
        number += (low + (high << 2 * (width - 1))) << 2 * width * row
    length = encoding._ranges.vector_length
    digits = [number >> 16 * place & 0xFFFF for place in range(length)]
    counters = [0] * (encoding.vector_length - length - (0 if measuring else 4))
    total = np.array(digits if measuring else [0] * 4 + digits + counters)
    with pytest.raises(UndecodableSumError, match="3 clients"):
        encoding.decode_ranges(total, 3) if measuring else encoding.decode(total, 3)


def test_counts_beyond_the_last_are_that_error() -> None:
    encoding = UpdateEncoding(sizes=(4,), num_clients=3, value_bits=16, scales=None)
    total = np.zeros(encoding.vector_length, dtype=np.int64)
    total[-1] = 3 << 16
    with pytest.raises(UndecodableSumError):
        encoding.decode_ranges(total, 3)


def test_a_measuring_session_reveals_only_ranges() -> None:
    """Clients with the same ranges send the same vector, independent of the rest of their updates."""
    encoding = UpdateEncoding(sizes=(4,), num_clients=3, value_bits=16, scales=None)
    one = ClientUpdate(np.array([0.9, 0, 0, 0], np.float32), 60, 1.0, ((2, 60),))
    other = ClientUpdate(np.array([0.1, -0.6, 0.3, 0.2], np.float32), 50, 9.0, ((40, 50),))
    first, second = (encoding.encode(update, np.random.default_rng(0)).tolist() for update in (one, other))
    assert first == second
    with pytest.raises(QuantizationError, match="not finite"):
        encoding.encode(replace(one, delta=np.array([np.nan, 0, 0, 0], np.float32)), np.random.default_rng(0))


def test_tensors_above_a_fixed_bound_are_named_with_a_sufficient_one() -> None:
    tracker = ScaleTracker(3, 24, clip=0.5, max_weight=64)
    assert tracker.scales == Scales((0.5,) * 3, 64)
    encoding = UpdateEncoding(sizes=(1, 1, 1), num_clients=4, value_bits=24, scales=tracker.scales)
    total = sum(
        encoding.encode(
            ClientUpdate(np.array(delta, np.float32), weight, 0.0, ((0, weight),)), np.random.default_rng(0)
        )
        for delta, weight in (([0.5, 1.2, 0], 64), ([0.1, 0.1, 0.1], 65), ([-0.4, -2, 0], 1), ([0, 1e5, 0], 200))
    )
    aggregate = encoding.decode(total, 4)
    assert aggregate.ranges is not None
    assert aggregate.num_examples == 64 + 64 + 1 + 64
    weights = Exceeded(2, 64.0, 256.0)
    assert tracker.exceeded(aggregate.ranges) == [None, Exceeded(3, 0.5, None), None, weights]
    tracker.follow(aggregate.ranges, aggregate.num_examples)
    assert tracker.scales == Scales((0.5,) * 3, 64)


@pytest.mark.parametrize(("fixed", "bounds"), [({"clip": 0.5}, (0.5,)), ({"max_weight": 64}, None)])
def test_one_of_both_may_be_fixed(fixed: dict[str, Any], bounds: tuple[float, ...] | None) -> None:
    server = Server((40,), 4, **fixed)
    assert server.tracker.scales is None
    server.round(updates_of([1e-3], (40,), [100] * 4))
    scales = server.tracker.scales
    assert scales is not None
    assert bounds is None or scales.bounds == bounds
    assert scales.max_weight == fixed.get("max_weight", 512)


@pytest.mark.parametrize(
    "fixed", [{"clip": 0.0}, {"clip": float("nan")}, {"clip": 1e21}, {"max_weight": 0}, {"max_weight": MAX_WEIGHT + 1}]
)
def test_fixed_bounds_out_of_range_are_refused(fixed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="bound"):
        ScaleTracker(2, 24, **fixed)


def test_bounds_come_back_from_a_checkpoint() -> None:
    server = Server((40, 3), 4)
    fresh = ScaleTracker(2, 24)
    fresh.restore(json.loads(json.dumps(server.tracker.to_json())))
    assert fresh.scales is None
    server.round(updates_of([1.234e-5, 7e3], (40, 3), [100] * 4))
    fresh.restore(json.loads(json.dumps(server.tracker.to_json())))
    assert fresh.scales == server.tracker.scales
    with pytest.raises(ConfigError, match="2 clipping bounds for 3 tensors"):
        ScaleTracker(3, 24).restore(fresh.to_json())


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=10, max_size=10), min_size=3, max_size=3),
    st.lists(st.just(0.0) | st.floats(MIN_CLIP, MAX_CLIP), min_size=2, max_size=2),
    st.integers(1, MAX_WEIGHT),
    st.integers(MIN_VALUE_BITS, MAX_VALUE_BITS),
    st.integers(1, 1 << 40),
)
def test_bounds_stay_within_their_limits(
    counts: list[list[int]], bounds: list[float], max_weight: int, bits: int, total_weight: int
) -> None:
    scales = Scales(tuple(bounds), max_weight)
    ends = RangeEncoding(num_tensors=2, num_clients=9, value_bits=bits, scales=scales)._ends()
    # Raises if a bound is out of range.
    Scales.following(Ranges(ends, np.array(counts)), bits, scales, total_weight)


@pytest.mark.parametrize("clients", [10, 100])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
def test_ranges_take_a_hundredth_of_an_update_or_some_bytes(clients: int, shape: tuple[int, ...]) -> None:
    """Compared with the update and nine digits of counters alone. Ring elements have four bytes here."""
    for name in MODELS:
        layout = ParameterLayout.of(build_model(name, image_shape=shape, num_classes=10, seed=0))
        alone, measuring = (
            layout.size + 9,
            UpdateEncoding(sizes=layout.sizes, num_clients=clients, value_bits=24, scales=None),
        )
        length = UpdateEncoding.for_plan(layout.sizes, clients, 24).vector_length
        assert length <= max(1.01 * alone, alone + 12)
        assert 4 * measuring.vector_length < 2_000
