"""Updates as integers: always in range, right on average, and sums that give back exact totals."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fl.aggregation.encoding import MAX_VALUE_BITS, MIN_VALUE_BITS, ClientUpdate, QuantizationError, UpdateEncoding
from fl.aggregation.scales import RangeEncoding, Scales
from fl.errors import ConfigError
from secagg.params import required_ring_bits
from tests.fl.encodings import fixed_encoding

value_bits = st.integers(MIN_VALUE_BITS, MAX_VALUE_BITS)
seeds = st.integers(0, 2**32 - 1)


class Rounding:
    """A replacement for a random generator: every element is rounded by the same draw."""

    def __init__(self, draw: float) -> None:
        self._draw = draw

    def random(self, size: int) -> np.ndarray:
        return np.full(size, self._draw)


LARGEST_DRAW = float(np.nextafter(1.0, 0.0))


def make_encoding(**changes: Any) -> UpdateEncoding:
    return fixed_encoding(**{"update_length": 4} | changes)


def make_update(delta: Any, *, num_examples: int = 10, loss_sum: float = 0.0, correct: int = 0) -> ClientUpdate:
    return ClientUpdate(np.array(delta, dtype=np.float32), num_examples, loss_sum, ((correct, num_examples),))


def aggregate(encoding: UpdateEncoding, updates: list[ClientUpdate], seed: int = 0) -> Any:
    """Encode all, add them up in the ring of a plan for their number of clients, and decode."""
    bits = required_ring_bits(len(updates), encoding.value_bits)
    total = np.zeros(encoding.vector_length, dtype=np.uint64)
    for number, update in enumerate(updates):
        vector = encoding.encode(update, np.random.default_rng((seed, number)))
        assert vector.shape == (encoding.vector_length,)
        total += vector.astype(np.uint64)
    return encoding.decode(total & np.uint64((1 << bits) - 1), len(updates))


@st.composite
def deltas(draw: st.DrawFn, clip: float, length: int) -> np.ndarray:
    """Return elements inside and outside of the clipping bound, and next to it."""
    at_clip = np.float32(clip)
    special = [0.0, -0.0, *(sign * float(near) for sign in (1, -1) for near in (
        at_clip, np.nextafter(at_clip, np.float32(0)), np.nextafter(at_clip, np.float32(np.inf)), 2 * at_clip, 3e38
    ))]  # fmt: skip
    inside = st.floats(-float(at_clip), float(at_clip), width=32)
    elements = st.sampled_from(special) | inside
    return np.array(draw(st.lists(elements, min_size=length, max_size=length)), dtype=np.float32)


@given(
    data=st.data(),
    clip=st.floats(1e-6, 1e6),
    bits=value_bits,
    max_examples=st.integers(1, 10**6),
    draw=st.sampled_from([0.0, 0.5, LARGEST_DRAW]),
)
def test_every_encoded_element_is_in_range(
    data: st.DataObject, clip: float, bits: int, max_examples: int, draw: float
) -> None:
    encoding = make_encoding(update_length=12, clip=clip, value_bits=bits, max_examples=max_examples)
    num_examples = data.draw(st.integers(1, max_examples) | st.just(max_examples))
    update = make_update(
        data.draw(deltas(clip, 12)),
        num_examples=num_examples,
        loss_sum=data.draw(st.floats(0, 1e12)),
        correct=data.draw(st.integers(0, num_examples)),
    )
    encoded = encoding.encode(update, Rounding(draw))  # type: ignore[arg-type]
    assert encoded.dtype == np.int64
    assert encoded.min() >= 0
    assert encoded.max() < 1 << bits


@pytest.mark.parametrize("clip", [0.1, 0.3, 1e-3])
def test_a_clipping_bound_between_two_float32_numbers_keeps_the_range(clip: float) -> None:
    """float32(0.1) is a little above 0.1: an element clipped to it must not come out below zero."""
    encoding = make_encoding(update_length=2, clip=clip, value_bits=24)
    for draw in (0.0, 0.5, LARGEST_DRAW):
        low = encoding.encode(make_update([-9, 0]), Rounding(draw))  # type: ignore[arg-type]
        high = encoding.encode(make_update([0, 9]), Rounding(draw))  # type: ignore[arg-type]
        assert low[0] == 0
        assert high[1] in ((1 << 24) - 2, (1 << 24) - 1)


@pytest.mark.parametrize("bits", [MIN_VALUE_BITS, 24, MAX_VALUE_BITS])
@pytest.mark.parametrize("draw", [0.0, LARGEST_DRAW])
def test_the_bounds_are_the_ends_of_the_range_for_any_draw(bits: int, draw: float) -> None:
    encoding = make_encoding(value_bits=bits, clip=0.75)
    for beyond, end in ((-9, 0), (9, (1 << bits) - 1)):
        encoded = encoding.encode(make_update([-0.75, 0.75, beyond, 0]), Rounding(draw))  # type: ignore[arg-type]
        assert encoded[:3].tolist() == [0, (1 << bits) - 1, end]


@pytest.mark.parametrize("bits", [MIN_VALUE_BITS, 8, MAX_VALUE_BITS])
@pytest.mark.parametrize("num_examples", [1, 7, 10])
def test_rounding_is_right_on_average(bits: int, num_examples: int) -> None:
    """The mean of many draws is w (x + c) / step; rounding to the nearest would be off by up to a half."""
    count = 200_000
    encoding = make_encoding(update_length=count, value_bits=bits)
    step = 2 / (2**bits - 1)
    for seed, x in enumerate((-0.999, -0.31, 0.0, 0.123, 0.77)):
        update = make_update(np.full(count, x), num_examples=num_examples)
        encoded = encoding.encode(update, np.random.default_rng(seed))[:count]
        expected = num_examples / 10 * (float(np.float32(x)) + 1) / step
        assert set(np.unique(encoded)) <= {int(expected), int(expected) + 1}
        # An element's deviation is 1/2 at most: this is over five deviations of the mean.
        assert encoded.mean() - int(expected) == pytest.approx(expected - int(expected), abs=0.006)


@given(
    data=st.data(),
    clip=st.floats(2**-20, 2**20, width=32),
    bits=value_bits,
    max_examples=st.integers(1, 100_000),
    num_clients=st.integers(1, 8),
    seed=seeds,
)
def test_the_decoded_mean_is_within_its_bound(
    data: st.DataObject, clip: float, bits: int, max_examples: int, num_clients: int, seed: int
) -> None:
    """|decoded - mean| < step n max_examples / (all examples), beside float32's own rounding.

    With w_i = e_i / M, client i's integer is less than 1 away from w_i (x_i + c) / step. So the sum of the
    integers is less than n away from sum(w_i (x_i + c)) / step, and the decoded mean, which is step M / sum(e_i)
    times that sum, less c, is less than step M n / sum(e_i) away from sum(e_i x_i) / sum(e_i).
    """
    encoding = make_encoding(update_length=5, clip=clip, value_bits=bits, max_examples=max_examples)
    updates = [
        # One element at most is beyond the bound: an update with more of them is scaled down as a whole.
        make_update(
            data.draw(deltas(clip, 5).filter(lambda delta: np.count_nonzero(np.abs(delta) > clip) < 2)),
            num_examples=data.draw(st.integers(1, max_examples)),
        )
        for _ in range(num_clients)
    ]
    weights = np.array([update.num_examples for update in updates])
    clipped = np.clip(np.stack([update.delta for update in updates]).astype(np.float64), -clip, clip)
    mean = weights @ clipped / weights.sum()
    step = 2 * clip / (2**bits - 1)
    bound = step * num_clients * max_examples / weights.sum()
    decoded = aggregate(encoding, updates, seed).mean_delta
    assert decoded.dtype == np.float32
    np.testing.assert_array_less(np.abs(decoded - mean), bound + 2**-22 * (clip + bound))


@given(data=st.data(), bits=value_bits, max_examples=st.integers(1, 10**7), seed=seeds)
@example(data=None, bits=4, max_examples=10**7, seed=0)
@example(data=None, bits=32, max_examples=10**7, seed=0)
def test_totals_are_exact(data: st.DataObject | None, bits: int, max_examples: int, seed: int) -> None:
    """Examples, correct and clipped ones are exact, the loss to its step; also at their maximum."""
    if data is None:
        counts = [(max_examples, max_examples, 256.0 * max_examples, 3)] * 9
    else:
        client = st.integers(1, max_examples).flatmap(
            lambda count: st.tuples(st.just(count), st.integers(0, count), st.floats(0, 256 * count), st.integers(0, 3))
        )
        counts = data.draw(st.lists(client, min_size=1, max_size=9))
    encoding = make_encoding(update_length=3, max_examples=max_examples, value_bits=bits)
    updates = [
        make_update([5] * clipped + [0.5] * (3 - clipped), num_examples=examples, loss_sum=loss, correct=correct)
        for examples, correct, loss, clipped in counts
    ]
    result = aggregate(encoding, updates, seed)
    examples, correct, loss, clipped = (sum(column) for column in zip(*counts, strict=True))
    assert result.num_examples == examples
    assert result.accuracy == correct / examples
    assert result.clipped == clipped / (3 * len(counts))
    # Each client's loss is rounded to the nearest 2^-16.
    assert abs(result.loss * examples - loss) <= len(counts) * 2**-17 + 1e-12 * loss


def test_the_mean_is_weighted_by_examples() -> None:
    encoding = make_encoding(value_bits=24)
    updates = [make_update([1, 0.5, 0, -1], num_examples=1), make_update([-1, 0.5, 0.4, 0], num_examples=3)]
    result = aggregate(encoding, updates)
    np.testing.assert_allclose(result.mean_delta, [-0.5, 0.5, 0.3, -0.25], atol=1e-5)
    assert result.num_examples == 4


def test_clipped_elements_are_bounded_and_counted() -> None:
    encoding = make_encoding(clip=0.5, value_bits=24)
    updates = [make_update([0.5, -0.5, 0.4, -7]), make_update([0.1, 0.2, 0.3, 3e38])]
    result = aggregate(encoding, updates)
    np.testing.assert_allclose(result.mean_delta, [0.3, -0.15, 0.35, 0], atol=1e-6)
    assert result.clipped == 2 / 8


def test_an_update_above_the_bound_is_scaled_down_by_its_clients_own_factor() -> None:
    """Elements that are all clipped would take two values, and the sum would show each client's signs."""
    length, encoding = 4000, make_encoding(update_length=4000, clip=1e-9, value_bits=24, max_examples=1)
    delta = np.random.default_rng(0).normal(size=length)
    sent = [aggregate(encoding, [make_update(delta, num_examples=1)], seed).mean_delta for seed in (1, 2)]
    for one in sent:
        assert np.abs(one).max() <= np.float32(1e-9)
        assert np.count_nonzero(np.abs(one) > 0.999e-9) <= length // 20
        inside = np.abs(one) < 0.999e-9
        factors = one[inside] / delta[inside].astype(np.float32)
        assert np.median(factors) > 0
        np.testing.assert_allclose(one[inside], delta[inside] * np.median(factors), atol=1e-14)
    # Only the client knows the factor.
    assert np.abs(np.log(np.abs(sent[0]).sum() / np.abs(sent[1]).sum())) > 0.05


def test_a_bound_far_below_all_updates_shows_no_clients_signs() -> None:
    """With weights of powers of two, each sum of clipped elements could be read like a binary number."""
    num_clients, length = 8, 2000
    encoding = fixed_encoding(length, clip=1e-12, value_bits=24, max_examples=(1 << 24) - 1, num_clients=num_clients)
    generator = np.random.default_rng(5)
    deltas = generator.normal(size=(num_clients, length)).astype(np.float32)
    weights = 2 ** np.arange(num_clients)
    total = sum(
        encoding.encode(ClientUpdate(delta, int(weight) << 12, 0.0, ((0, 1),)), generator)
        for delta, weight in zip(deltas, weights, strict=True)
    )
    read = np.rint(total[:length] / 2**12).astype(np.int64)
    guessed = (read[:, None] >> np.arange(num_clients)) & 1
    right = ((deltas > 0) == guessed.T).mean(axis=1)
    # The client of the largest weight is half of the sum: its signs show in any mean. The others' do not.
    assert right[:-2].max() < 0.6


@pytest.mark.parametrize("bits", [MIN_VALUE_BITS, MAX_VALUE_BITS])
def test_the_counters_take_as_many_digits_as_they_need(bits: int) -> None:
    encoding = make_encoding(update_length=100, max_examples=1000, value_bits=bits)
    # With room for any weight.
    largest = (2**32, 2**64, 2**64, 2**32 * 256 * 2**16, 100)
    digits = sum(ceil(number.bit_length() / bits) for number in largest)
    assert encoding.scales is not None
    ranges = RangeEncoding(num_tensors=1, num_clients=9, value_bits=bits, scales=encoding.scales)
    assert encoding.vector_length == 100 + ranges.vector_length + digits


def test_rounding_follows_from_the_generator_alone() -> None:
    encoding = make_encoding(update_length=100)
    update = make_update(np.linspace(-1, 1, 100), num_examples=3, loss_sum=4.5, correct=2)
    before = update.delta.copy()
    first, again, other = (encoding.encode(update, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(update.delta, before)


def test_a_loss_beyond_what_travels_is_the_largest_that_does() -> None:
    updates = [make_update([0] * 4, num_examples=10, loss_sum=loss) for loss in (1e30, -3.0)]
    assert aggregate(make_encoding(), updates).loss == 256 * 10 / 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"delta": np.array([0, np.nan, 0, 0], np.float32)}, "finite"),
        ({"delta": np.array([0, np.inf, 0, 0], np.float32)}, "finite"),
        ({"delta": np.array([0, 0, 0, -np.inf], np.float32)}, "finite"),
        ({"loss_sum": float("nan")}, "finite"),
        ({"loss_sum": float("inf")}, "finite"),
        ({"delta": np.zeros(3, np.float32)}, r"\(3,\)"),
        ({"delta": np.zeros((4, 1), np.float32)}, r"\(4, 1\)"),
        ({"num_examples": -1}, "-1 examples"),
    ],
)
def test_invalid_updates_are_refused(change: dict[str, Any], said: str) -> None:
    update = replace(make_update([0.1] * 4, loss_sum=1.0, correct=1), **change)
    with pytest.raises(QuantizationError, match=said):
        make_encoding().encode(update, np.random.default_rng(0))


@pytest.mark.parametrize("correct", [-1, 4, 10**9])
def test_more_correct_ones_than_examples_are_refused(correct: int) -> None:
    """They would spoil the total unnoticed: a digit holds value_bits bits, and nobody sees one client's."""
    with pytest.raises(QuantizationError, match="accuracy"):
        make_encoding().encode(make_update([0.1] * 4, num_examples=3, correct=correct), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value_bits": MIN_VALUE_BITS - 1}, "value bits"),
        ({"value_bits": MAX_VALUE_BITS + 1}, "value bits"),
        ({"clip": -1.0}, "clipping bound"),
        ({"clip": 1e-21}, "clipping bound"),
        ({"clip": float("nan")}, "clipping bound"),
        ({"clip": float("inf")}, "clipping bound"),
        ({"update_length": 0}, "at least one"),
        ({"num_clients": 0}, "at least one"),
        ({"max_examples": 0}, "bound on weights"),
        ({"max_examples": (1 << 32) + 1}, "bound on weights"),
    ],
)
def test_an_encoding_out_of_range_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_encoding(**change)


def test_a_tensor_without_elements_is_encoded() -> None:
    scales = Scales((1.0, 1.0), 10)
    encoding = UpdateEncoding(sizes=(0, 2), num_clients=3, value_bits=16, scales=scales)
    np.testing.assert_allclose(aggregate(encoding, [make_update([0.5, -0.25])]).mean_delta, [0.5, -0.25], atol=1e-3)
