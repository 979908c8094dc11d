"""Named arrays and metrics as vectors: the decoded mean is the weighted mean, and what has none is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import ConfigError
from fl.integrations.record_layout import ArrayField, MetricField, RecordError, RecordLayout, layout_of
from fl.integrations.records import RecordEncoding, Reply
from fl.quantization import QuantizationError, UndecodableSumError

SENT = {"model": {"w": np.full((3, 2), 4.0, np.float32), "steps": np.array([5, 6])}, "head": {"b": np.zeros(2)}}


def encoding(**changes: Any) -> RecordEncoding:
    numbers: dict[str, Any] = {
        "capacity": 8, "weight": "num-examples", "max_weight": 100, "clip": 1.0, "value_bits": 20,
        "max_metrics": 3, "metric_bound": 1000.0,
    }  # fmt: skip
    return RecordEncoding(**{**numbers, **changes})


def reply(weight: Any = 10, **changes: Any) -> Reply:
    arrays = {
        "model": {"w": SENT["model"]["w"] + np.float32(0.25), "steps": SENT["model"]["steps"]},
        "head": {"b": np.array([0.5, -0.5])},
    }
    metrics = {"metrics": {"loss": 2.0, "num-examples": weight, "per_class": [0.5, -3]}}
    return Reply(changes.get("arrays", arrays), changes.get("metrics", metrics))


def decoded(replies: list[Reply], form: RecordEncoding, sent: Any = SENT) -> Any:
    """The average, by way of the sum of vectors."""
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


def test_integers_keep_what_was_sent() -> None:
    average = decoded([reply(10), reply(20)], encoding())
    assert average.arrays["model"]["steps"].tolist() == [5, 6]
    assert list(average.arrays["model"]) == ["w", "steps"]


def test_metrics_alone() -> None:
    average = decoded([Reply({}, {"m": {"num-examples": w, "acc": w / 10}}) for w in (1, 3)], encoding(capacity=0))
    assert average.arrays == {}
    assert average.metrics["m"] == {"num-examples": 4, "acc": pytest.approx(0.25, abs=1e-6)}


def test_what_is_clipped_is_counted() -> None:
    far = Reply({"model": {"w": SENT["model"]["w"] + np.float32(9)}}, {"m": {"num-examples": 1}})
    average = decoded([far], encoding())
    # All of it is beyond the bound of 1: it is made smaller as a whole.
    change = average.arrays["model"]["w"] - SENT["model"]["w"]
    np.testing.assert_allclose(change, change[0, 0], atol=1e-3)
    assert 0.5 < change[0, 0] <= 1
    assert average.clipped == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("strange", "error", "text"),
    [
        (reply(-1), RecordError, "whole number from 0 to 100"),
        (reply(101), RecordError, "whole number from 0 to 100"),
        (reply(2.5), RecordError, "whole number"),
        (reply(float("nan")), RecordError, "whole number"),
        (reply([1]), RecordError, "whole number"),
        (reply(metrics={"m": {"loss": 1.0}}), RecordError, "no metric 'num-examples'"),
        (reply(metrics={"m": {"num-examples": 1, "loss": 1001.0}}), RecordError, "metric 'loss'"),
        (reply(metrics={"m": {"num-examples": 1, "many": [0.0] * 4}}), RecordError, "4 metrics, and room for 3"),
        (reply(arrays={"model": {"w": np.zeros((2, 3), np.float32)}}), RecordError, "shape"),
        (reply(arrays={"new": {"x": np.zeros(9, np.float32)}}), RecordError, "9 array elements, and room for 8"),
        (reply(arrays={"new": {"x": np.zeros(2, np.int32)}}), RecordError, "no average"),
        (reply(arrays={"new": {"x": np.zeros(2, np.complex64)}}), RecordError, "no average"),
        (reply(arrays={"new": {"x": np.array([np.nan])}}), QuantizationError, "not finite"),
        (reply(arrays={"new": {"x": np.array([1e300])}}), QuantizationError, "not finite"),
    ],
)
def test_replies_that_have_no_average(strange: Reply, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        encoding().encode(strange, SENT, np.random.default_rng(0))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_metrics": -1},
        {"max_metrics": 10**12},
        {"metric_bound": 0.0},
        {"metric_bound": float("nan")},
        {"clip": 0.0},
        {"max_weight": 0},
    ],
)
def test_encodings_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        encoding(**changes)


def layout() -> RecordLayout:
    one = reply()
    return layout_of(one.arrays, one.metrics, received=SENT, weight="num-examples")


def test_a_layout_says_what_is_there_and_no_value() -> None:
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
def test_other_bytes_are_no_layout(data: bytes) -> None:
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
def test_layouts_that_cannot_be(field: ArrayField) -> None:
    with pytest.raises(RecordError):
        RecordLayout.from_bytes(RecordLayout((field,), (), "m").to_bytes())


def test_a_layout_that_does_not_fit_what_was_sent() -> None:
    form = encoding()
    for field in (
        ArrayField("model", "w", "float32", (6,), True),
        ArrayField("other", "n", "int64", (2,), False),
        ArrayField("model", "big", "float32", (9,), True),
    ):
        with pytest.raises(RecordError):
            form.check_layout(RecordLayout((field,), (), "m"), SENT)


def test_weights_that_add_up_to_nothing() -> None:
    """Only clients that do not keep to the encoding can bring that about."""
    form = encoding()
    with pytest.raises(UndecodableSumError, match=r"add up to 0 examples: .* or none of them has any"):
        form.decode(np.zeros(form.vector_length, np.uint32), 2, layout(), SENT)


# Behind the arrays and the counts of their ranges.
WEIGHT = encoding()._elements.vector_length - encoding()._elements._counters.vector_length


def spoilt(place: int, change: int, form: RecordEncoding, sent: Any = SENT) -> Any:
    """The average of two replies, one of which was changed in one place."""
    encoded = [form.encode(reply(), sent, np.random.default_rng(0)) for _ in range(2)]
    total = encoded[0][0] + encoded[1][0]
    total[place] += change
    return form.decode(total.astype(np.uint32), 2, encoded[0][1], sent)


@pytest.mark.parametrize(
    ("place", "fits", "change", "text"),
    [
        # The weights are 10 each: from 1 to 200 in all. A client may lie about its own, if it takes metrics with it.
        (WEIGHT, 0, -20, "add up to 0 examples"),
        (WEIGHT, 0, -1, "the metrics add up to more"),
        (WEIGHT, 180, 181, "cannot add up to 201 examples"),
        # The high digit of the loss: a unit of it an example, moved by 1000. It is 2.0, and at most 1000.
        (-8, 20 * 998, 20 * 998 + 1, "the metrics add up to more"),
        # The weight of those who have the loss.
        (-3, 0, 1, "the metrics add up to more"),
    ],
)
def test_sums_of_what_is_no_reply(place: int, fits: int, change: int, text: str) -> None:
    assert spoilt(place, fits, encoding()).total_weight >= 2
    with pytest.raises(UndecodableSumError, match=text):
        spoilt(place, change, encoding())


def test_an_average_that_is_not_finite() -> None:
    """A half-precision array whose change is larger than any client's can be."""
    sent = {"model": {"w": np.full((3, 2), 6e4, np.float16), "steps": np.array([5, 6])}, "head": {"b": np.zeros(2)}}
    one = Reply({"model": {"w": sent["model"]["w"] + np.float16(32)}}, {"metrics": {"num-examples": 100}})
    form = encoding(clip=1e4)
    vector, fields = form.encode(one, sent, np.random.default_rng(0))
    assert form.decode(vector.astype(np.uint32), 1, fields, sent).total_weight == 100
    vector[0] = (1 << 20) - 1
    with pytest.raises(UndecodableSumError, match="not finite"):
        form.decode(vector.astype(np.uint32), 1, fields, sent)
