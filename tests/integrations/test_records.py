"""Named arrays and metrics as vectors: the decoded mean is the weighted mean, and others are refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.aggregation.encoding import QuantizationError, UndecodableSumError
from fl.aggregation.scales import MAX_WEIGHT, Scales
from fl.errors import ConfigError
from fl.integrations.record_layout import (
    ArrayField,
    MetricField,
    RecordError,
    RecordLayout,
    RecordLayoutError,
    layout_of,
)
from fl.integrations.records import RecordEncoding, Reply

SENT = {"model": {"w": np.full((3, 2), 4.0, np.float32), "steps": np.array([5, 6])}, "head": {"b": np.zeros(2)}}


def encoding(**changes: Any) -> RecordEncoding:
    numbers: dict[str, Any] = {
        "sizes": (2, 6), "num_clients": 8, "scales": Scales((1.0, 1.0), 100), "weight": "num-examples",
        "value_bits": 20, "max_metrics": 3, "metric_bound": 1000.0,
    }  # fmt: skip
    return RecordEncoding(**{**numbers, **changes})


def with_room(room: int = 8, bound: float = 1.0) -> RecordEncoding:
    """Return an encoding with room for arrays that were not sent."""
    return encoding(sizes=(2, 6, room), scales=Scales((1.0, 1.0, bound), 100))


def reply(weight: Any = 10, **changes: Any) -> Reply:
    arrays = {
        "model": {"w": SENT["model"]["w"] + np.float32(0.25), "steps": SENT["model"]["steps"]},
        "head": {"b": np.array([0.5, -0.5])},
    }
    metrics = {"metrics": {"loss": 2.0, "num-examples": weight, "per_class": [0.5, -3]}}
    return Reply(changes.get("arrays", arrays), changes.get("metrics", metrics))


def decoded(replies: list[Reply], form: RecordEncoding, sent: Any = SENT) -> Any:
    """Return the average, by way of the sum of vectors."""
    rng = np.random.default_rng(0)
    vectors, layouts = zip(*(form.encode(one, sent, rng) for one in replies), strict=True)
    assert len(set(layouts)) == 1
    for vector in vectors:
        assert vector.shape == (form.vector_length,)
        assert vector.dtype == np.int64
        assert vector.min() >= 0
        assert vector.max() < 1 << form.value_bits
    return form.decode(np.sum(vectors, axis=0).astype(np.uint32), len(vectors), layouts[0], sent)


@given(
    weights=st.lists(st.integers(1, 100), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(12, 24),
)
def test_the_mean_is_the_weighted_mean(weights: list[int], seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    replies = []
    for weight in weights:
        arrays = {
            "model": {"w": SENT["model"]["w"] + rng.uniform(-1, 1, (3, 2)).astype(np.float32)},
            "head": {"b": rng.uniform(-1, 1, 2)},
        }
        metrics = {
            "a": {"x": float(rng.uniform(-1000, 1000))},
            "b": {"num-examples": weight, "y": [int(rng.integers(-1000, 1000)), 7]},
        }
        replies.append(Reply(arrays, metrics))
    average = decoded(replies, encoding(value_bits=bits))
    total = sum(weights)

    def mean(values: list[Any]) -> Any:
        return sum(weight * np.asarray(value, float) for weight, value in zip(weights, values, strict=True)) / total

    # Each weight is off by less than one step of rounding.
    tolerance = len(weights) * 100 / total * 2 / ((1 << bits) - 1) + 1e-6
    for record, name in (("model", "w"), ("head", "b")):
        expected = mean([one.arrays[record][name] for one in replies])
        np.testing.assert_allclose(average.arrays[record][name], expected, atol=tolerance)
        assert average.arrays[record][name].dtype == replies[0].arrays[record][name].dtype
    assert average.total_weight == average.metrics["b"]["num-examples"] == total
    assert average.metrics["a"]["x"] == pytest.approx(mean([one.metrics["a"]["x"] for one in replies]), abs=2e-6)
    assert average.metrics["b"]["y"] == pytest.approx(mean([one.metrics["b"]["y"] for one in replies]), abs=2e-6)


def test_the_length_does_not_depend_on_the_reply() -> None:
    form = encoding()
    small = Reply({}, {"metrics": {"num-examples": 1}})
    rng = np.random.default_rng(0)
    assert len(form.encode(small, SENT, rng)[0]) == len(form.encode(reply(), SENT, rng)[0]) == form.vector_length


def test_integers_keep_the_sent_values() -> None:
    average = decoded([reply(10), reply(20)], encoding())
    assert average.arrays["model"]["steps"].tolist() == [5, 6]
    assert list(average.arrays["model"]) == ["w", "steps"]


METRICS_ONLY = encoding(sizes=(), scales=Scales((), MAX_WEIGHT))


def test_metrics_alone() -> None:
    average = decoded([Reply({}, {"m": {"num-examples": w, "acc": w / 10}}) for w in (1, 3)], METRICS_ONLY)
    assert average.arrays == {}
    assert average.metrics["m"] == {"num-examples": 4, "acc": pytest.approx(0.25, abs=1e-6)}


def test_clipped_elements_are_counted() -> None:
    far = Reply({"model": {"w": SENT["model"]["w"] + np.float32(9)}}, {"m": {"num-examples": 1}})
    average = decoded([far], encoding())
    # All of it is beyond the bound of 1: it is scaled down as a whole.
    change = average.arrays["model"]["w"] - SENT["model"]["w"]
    np.testing.assert_allclose(change, change[0, 0], atol=1e-3)
    assert 0.5 < change[0, 0] <= 1
    assert average.clipped == pytest.approx(1.0)


@pytest.mark.parametrize("bits", [16, 24])
def test_each_array_has_its_own_bound(bits: int) -> None:
    """Changes of 1e-6 in one array, and of a million in another that was not sent, cost each other nothing."""
    form = encoding(value_bits=bits, sizes=(2, 6, 3), scales=Scales((4e-6, 0.0, 4e6), 100))
    sent = {**SENT, "model": {**SENT["model"], "w": np.ones((3, 2), np.float32)}}
    rng = np.random.default_rng(0)
    changes = [rng.normal(size=2) * 1e-6 for _ in range(4)]
    far = [rng.normal(size=3) * 1e6 for _ in range(4)]
    replies = [
        Reply({"other": {"z": z}, "model": sent["model"], "head": {"b": b}}, {"m": {"num-examples": 50 + number}})
        for number, (b, z) in enumerate(zip(changes, far, strict=True))
    ]
    average = decoded(replies, form, sent)
    weights = np.array([50, 51, 52, 53]) / 206
    for found, values in ((average.arrays["head"]["b"], changes), (average.arrays["other"]["z"], far)):
        mean = weights @ np.array(values)
        assert np.linalg.norm(found - mean) <= 2.0 ** (6 - bits) * np.linalg.norm(mean)
    assert average.noise < 2.0 ** (5 - bits)
    # Nobody changes it, and it does not move by an ulp.
    np.testing.assert_array_equal(average.arrays["model"]["w"], sent["model"]["w"])
    assert average.ranges.votes.tolist() == [4, 0, 4, 4]
    assert average.not_sent == (("other", "z"),)


def test_an_array_that_does_not_come_back_leaves_the_others_in_place() -> None:
    one = Reply({"model": {"w": SENT["model"]["w"] + np.float32(0.25)}}, {"m": {"num-examples": 10}})
    average = decoded([one, one], encoding())
    np.testing.assert_allclose(average.arrays["model"]["w"], 4.25, atol=1e-4)
    assert average.ranges.votes.tolist() == [0, 2, 2]


def test_a_weight_above_the_bound_counts_as_the_bound() -> None:
    """In the arrays, in the metrics and in the total; and the ranges show that it was above."""
    light, heavy = (
        reply(100),
        reply(
            10**6,
            arrays={**reply().arrays, "head": {"b": np.array([-0.5, 0.5])}},
            metrics={"metrics": {"loss": 4.0, "num-examples": 10**6, "per_class": [0.5, -3]}},
        ),
    )
    average = decoded([light, heavy], encoding())
    assert average.total_weight == average.metrics["metrics"]["num-examples"] == 200
    assert average.metrics["metrics"]["loss"] == pytest.approx(3.0, abs=1e-5)
    np.testing.assert_allclose(average.arrays["head"]["b"], 0.0, atol=1e-4)
    assert average.ranges.above(np.array([1.0, 1.0, 100.0])).tolist() == [0, 0, 1]


def test_metrics_of_the_largest_weights() -> None:
    """The counters have room for any bound: on metrics alone the bound is the largest, and costs nothing."""
    weights = (1, MAX_WEIGHT, 10**12)
    replies = [Reply({}, {"m": {"num-examples": w, "acc": 1000.0 / (n + 1)}}) for n, w in enumerate(weights)]
    average = decoded(replies, METRICS_ONLY)
    # The last one counts as the bound.
    assert average.total_weight == 1 + 2 * MAX_WEIGHT
    expected = (1000.0 + MAX_WEIGHT * 500.0 + MAX_WEIGHT * 1000.0 / 3) / (1 + 2 * MAX_WEIGHT)
    assert average.metrics["m"]["acc"] == pytest.approx(expected, abs=1e-6)


def test_a_session_that_measures_has_the_ranges_alone() -> None:
    form, rng = encoding(scales=None, sizes=(2, 6, 4)), np.random.default_rng(0)
    replies = [
        Reply(
            {"head": {"b": np.array([0.0, 3e-5])}, "model": SENT["model"], "x": {"y": np.full(4, 70.0)}},
            {"m": {"num-examples": 50, "loss": 1.0}},
        )
    ] * 3
    vectors, layouts = zip(*(form.encode(one, SENT, rng) for one in replies), strict=True)
    assert {vector.shape for vector in vectors} == {(form.vector_length,)}
    assert layouts[0] == layout_of(replies[0].arrays, replies[0].metrics, received=SENT, weight="num-examples")
    ranges = form.decode_ranges(np.sum(vectors, axis=0).astype(np.uint32), 3)
    assert ranges.votes.tolist() == [3, 0, 3, 3]
    assert ranges.held_by(1).tolist() == [2.0**-15, 0.0, 128.0, 64.0]
    # Metrics do not belong to it.
    assert form.vector_length == encoding(scales=None, sizes=(2, 6, 4), max_metrics=0).vector_length


@pytest.mark.parametrize("sizes", [(6, 2), (2, 6, 1, 1), (2,), (2, 7), (8,)])
@pytest.mark.parametrize("measures", [False, True])
def test_an_encoding_for_other_arrays(sizes: tuple[int, ...], measures: bool) -> None:
    """A server that announces other sizes than it sends is refused with a reason."""
    form = encoding(sizes=sizes, scales=None if measures else Scales((1.0,) * len(sizes), 100))
    with pytest.raises(RecordLayoutError, match=r"the session is for .* and not for the 2 float arrays, of 8 elements"):
        form.encode(reply(), SENT, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("strange", "error", "text"),
    [
        (reply(-1), RecordError, "whole number of at least 0"),
        (reply(2.5), RecordError, "whole number"),
        (reply(float("nan")), RecordError, "whole number"),
        (reply(float("inf")), RecordError, "whole number"),
        (reply([1]), RecordError, "whole number"),
        (reply(metrics={"m": {"loss": 1.0}}), RecordError, "no metric 'num-examples'"),
        (reply(metrics={"m": {"num-examples": 1, "loss": 1001.0}}), RecordError, "metric 'loss'"),
        (reply(metrics={"m": {"num-examples": 1, "many": [0.0] * 4}}), RecordError, "4 metrics, and room for 3"),
        (reply(arrays={"model": {"w": np.zeros((2, 3), np.float32)}}), RecordError, "shape"),
        (
            reply(arrays={"new": {"x": np.zeros(9, np.float32)}}),
            RecordError,
            "9 elements in arrays that were not sent .'x' of",
        ),
        (reply(arrays={"new": {"x": np.zeros(2, np.int32)}}), RecordError, "no average"),
        (reply(arrays={"new": {"x": np.zeros(2, np.complex64)}}), RecordError, "no average"),
        (reply(arrays={"new": {"x": np.array([np.nan])}}), QuantizationError, "not finite"),
        (reply(arrays={"new": {"x": np.array([1e300])}}), QuantizationError, "not finite"),
    ],
)
def test_replies_that_have_no_average(strange: Reply, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        with_room().encode(strange, SENT, np.random.default_rng(0))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_metrics": -1},
        {"max_metrics": 10**12},
        {"metric_bound": 0.0},
        {"metric_bound": float("nan")},
        {"sizes": (2, -6)},
        {"sizes": (8,)},
        {"num_clients": 0},
        {"value_bits": 33},
    ],
)
def test_impossible_encodings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        encoding(**changes)


def layout() -> RecordLayout:
    one = reply()
    return layout_of(one.arrays, one.metrics, received=SENT, weight="num-examples")


def test_a_layout_describes_structure_and_no_value() -> None:
    assert layout() == RecordLayout(
        (
            ArrayField("model", "w", "float32", (3, 2), True),
            ArrayField("model", "steps", "int64", (2,), False),
            ArrayField("head", "b", "float64", (2,), True),
        ),
        (MetricField("metrics", "loss", None), MetricField("metrics", "per_class", 2)),
        "metrics",
    )


def test_layouts_come_back_from_bytes() -> None:
    assert RecordLayout.from_bytes(layout().to_bytes()) == layout()


@given(st.binary(max_size=80) | st.builds(lambda cut: layout().to_bytes()[:cut], st.integers(0, 60)))
def test_other_bytes_are_not_a_layout(data: bytes) -> None:
    try:
        found = RecordLayout.from_bytes(data)
    except RecordError:
        return
    assert found.to_bytes() == data


@pytest.mark.parametrize(
    "field",
    [
        ArrayField("m", "x", "float32", (-1,), True),
        ArrayField("m", "x", "float32", (1 << 50,), True),
        ArrayField("m", "x", "int8", (2,), True),
        ArrayField("m", "x", "float32", (2,), False),
        ArrayField("m", "x", "float32", tuple([1] * 40), True),
    ],
)
def test_impossible_layouts_are_refused(field: ArrayField) -> None:
    with pytest.raises(RecordError):
        RecordLayout.from_bytes(RecordLayout((field,), (), "m").to_bytes())


def test_a_layout_that_does_not_fit_what_was_sent() -> None:
    form = with_room()
    for field in (
        ArrayField("model", "w", "float32", (6,), True),
        ArrayField("other", "n", "int64", (2,), False),
        ArrayField("model", "big", "float32", (9,), True),
    ):
        with pytest.raises(RecordError):
            form.check_layout(RecordLayout((field,), (), "m"), SENT)


def test_weights_that_add_up_to_nothing() -> None:
    """Only clients that do not follow the encoding can cause this."""
    form = encoding()
    with pytest.raises(UndecodableSumError, match=r"add up to 0 examples: .* or none of them has any"):
        form.decode(np.zeros(form.vector_length, np.uint32), 2, layout(), SENT)


def spoilt(place: int, change: int, form: RecordEncoding, sent: Any = SENT) -> Any:
    """Return the average of two replies, one of which was changed in one place."""
    encoded = [form.encode(reply(), sent, np.random.default_rng(0)) for _ in range(2)]
    total = encoded[0][0] + encoded[1][0]
    total[place] += change
    return form.decode(total.astype(np.uint32), 2, encoded[0][1], sent)


# At the end are three metrics of four digits each, and their weights of two. Before them are UpdateEncoding's counters:
# weight and clipped elements, of 2 digits and 1.
LOSS = -3 * 4 - 3 * 2
WEIGHT = LOSS - 3


@pytest.mark.parametrize(
    ("place", "fits", "change", "text"),
    [
        # The weights are 10 each: from 2 to 200 in all. A client may lie about its own, if it takes metrics with it.
        (WEIGHT, 0, -20, "add up to 0 examples"),
        (WEIGHT, 0, -1, "the sum of the metrics is too large"),
        (WEIGHT, 180, 181, "cannot add up to 201 examples"),
        # The second digit of the loss: one unit for each example, moved by 1000. It is 2.0, and at most 1000.
        (LOSS + 1, 20 * 998, 20 * 998 + 1, "the sum of the metrics is too large"),
        # The weight of clients that have the loss, in two digits as all weights.
        (-6, 0, 1, "the sum of the metrics is too large"),
        # More clients with a weight than there are, behind the eight elements.
        (8, 0, (1 << 20) - 1, "ranges cannot add up"),
    ],
)
def test_sums_of_impossible_replies_are_refused(place: int, fits: int, change: int, text: str) -> None:
    assert spoilt(place, fits, encoding()).total_weight >= 2
    with pytest.raises(UndecodableSumError, match=text):
        spoilt(place, change, encoding())


def test_an_average_that_is_not_finite() -> None:
    """A half-precision array whose change is larger than any client's can be."""
    sent = {"model": {"w": np.full((3, 2), 6e4, np.float16), "steps": np.array([5, 6])}, "head": {"b": np.zeros(2)}}
    one = Reply({"model": {"w": sent["model"]["w"] - np.float16(320)}}, {"metrics": {"num-examples": 100}})
    form = encoding(scales=Scales((1e4, 1e4), 100))
    vector, fields = form.encode(one, sent, np.random.default_rng(0))
    assert form.decode(vector.astype(np.uint32), 1, fields, sent).total_weight == 100
    vector[2] = (1 << 20) - 1
    with pytest.raises(UndecodableSumError, match="not finite"):
        form.decode(vector.astype(np.uint32), 1, fields, sent)
