"""Valid replies of clients: in any order, with metrics that some of them lack, without examples."""

import math
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl.integrations.flower import RoundAbortedError, SecAggGrid, secagg_mod
from tests.integrations.flower import apps
from tests.integrations.flower.apps import change, examples_of, initial_arrays, make_app, number_of, train_messages
from tests.integrations.flower.loopback import LoopbackGrid

NODES = 3


def turned(record: Any) -> Any:
    return type(record)(dict(reversed(record.items())))


def started(train: Any, *, secure: bool, rounds: int = 2, **settings: Any) -> Any:
    """Return Flower's result, with the mod and the grid or without them."""
    loopback = LoopbackGrid(make_app(*([secagg_mod()] if secure else []), train=train), NODES)
    grid = SecAggGrid(loopback, max_examples=64, poll_seconds=0.005, **settings) if secure else loopback
    strategy = FedAvg(fraction_evaluate=0.0)
    return strategy.start(grid=grid, initial_arrays=initial_arrays(), num_rounds=rounds, timeout=10)


def assert_same(secure: Any, plain: Any) -> None:
    assert list(secure.arrays) == list(plain.arrays)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(secure.arrays[name].numpy(), array.numpy(), atol=1e-5)
    assert secure.train_metrics_clientapp.keys() == plain.train_metrics_clientapp.keys()
    for number, metrics in plain.train_metrics_clientapp.items():
        assert dict(secure.train_metrics_clientapp[number]) == {
            name: pytest.approx(value, abs=1e-5, nan_ok=True) for name, value in metrics.items()
        }


@pytest.mark.parametrize("one", [0, NODES - 1])
def test_clients_list_arrays_and_metrics_in_other_orders(one: int) -> None:
    def train(message: Any, context: Any) -> Message:
        reply = apps.train(message, context)
        if number_of(context) == one:
            content = {name: turned(record) for name, record in reversed(reply.content.items())}
            reply = Message(RecordDict(content), reply_to=message)
        return reply

    plain, secure = (started(train, secure=way) for way in (False, True))
    for number, metrics in secure.train_metrics_clientapp.items():
        assert set(metrics) == set(plain.train_metrics_clientapp[number])
    assert list(secure.arrays) == list(initial_arrays())
    # Plain Flower lists arrays as the first reply does.
    plain.arrays = ArrayRecord({name: plain.arrays[name] for name in secure.arrays})
    assert_same(secure, plain)


def test_arrays_that_were_not_sent_stay_in_the_order_of_the_replies(caplog: pytest.LogCaptureFixture) -> None:
    """A list of arrays has only its order: '10' comes after '9'."""

    def train(message: Any, context: Any) -> Message:
        arrays = [np.full(2, number / 20 + 0.01 * number_of(context), np.float32) for number in range(12)]
        metrics = MetricRecord({"num-examples": 10})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "m": metrics}), reply_to=message)

    plain, secure = (started(train, secure=way) for way in (False, True))
    assert_same(secure, plain)
    assert [round(float(array[0]), 2) for array in secure.arrays.to_numpy_ndarrays()[9:]] == [0.46, 0.51, 0.56]
    (line,) = [one.getMessage() for one in caplog.records if "were not sent" in one.getMessage()]
    assert "'0' of record 'arrays'" in line
    assert "and 7 more" in line
    assert "with one bound for all of them" in line


@pytest.mark.parametrize("odd", [math.nan, math.inf, 1e12])
def test_a_metric_that_one_client_does_not_have(odd: float, caplog: pytest.LogCaptureFixture) -> None:
    """It costs nobody an update; the metric is averaged over the others."""

    def train(message: Any, context: Any) -> Message:
        reply = apps.train(message, context)
        reply.content["metrics"]["auc"] = odd if number_of(context) == 1 else 0.5 + number_of(context)
        reply.content["metrics"]["list"] = [1.0, odd if number_of(context) == 1 else 3.0]
        return reply

    plain, secure = (started(train, secure=way) for way in (False, True))
    has = examples_of(0) + examples_of(2)
    for number, metrics in secure.train_metrics_clientapp.items():
        auc = (0.5 * examples_of(0) + 2.5 * examples_of(2)) / has
        assert metrics.pop("auc") == pytest.approx(auc, abs=1e-5)
        assert metrics.pop("list") == pytest.approx([1.0, 3.0], abs=1e-5)
        for name in ("auc", "list"):
            plain.train_metrics_clientapp[number].pop(name)
    assert_same(secure, plain)
    total = sum(map(examples_of, range(NODES)))
    assert f"metric 'auc' is averaged over {has} of {total} examples" in caplog.text


def test_a_metric_that_nobody_has_is_nan() -> None:
    def train(message: Any, context: Any) -> Message:
        reply = apps.train(message, context)
        reply.content["metrics"]["auc"] = math.nan
        return reply

    assert_same(*(started(train, secure=way) for way in (True, False)))


def test_weights_may_be_larger_than_metrics() -> None:
    def train(message: Any, context: Any) -> Message:
        reply = apps.train(message, context)
        reply.content["metrics"]["num-examples"] = 2_000_000
        return reply

    loopback = LoopbackGrid(make_app(secagg_mod(), train=train), NODES)
    grid = SecAggGrid(loopback, max_examples=1 << 21)
    (reply,) = grid.send_and_receive(train_messages(grid), timeout=10)
    assert reply.content["metrics"]["num-examples"] == NODES * 2_000_000


def without_examples(*numbers: int) -> Any:
    def train(message: Any, context: Any) -> Message:
        reply = apps.train(message, context)
        if number_of(context) in numbers:
            reply.content["metrics"]["num-examples"] = 0
        return reply

    return train


def test_a_client_without_examples_counts_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It stays in the sum: its leaving would tell the server that it has none."""
    plain, secure = (started(without_examples(1), secure=way) for way in (False, True))
    assert_same(secure, plain)
    assert caplog.text.count("secagg: the average of 3 of 3 nodes") == 2


def test_few_examples_among_clients_without_any() -> None:
    """The weights add up to less than the number of clients."""

    def train(message: Any, context: Any) -> Message:
        reply = without_examples(0, 1)(message, context)
        if number_of(context) == 2:
            reply.content["metrics"]["num-examples"] = 1
        return reply

    loopback = LoopbackGrid(make_app(secagg_mod(), train=train), NODES)
    grid = SecAggGrid(loopback, max_examples=2)
    (reply,) = grid.send_and_receive(train_messages(grid), timeout=10)
    assert len(grid.reports[0].included) == NODES
    assert reply.content["metrics"]["num-examples"] == 1
    for name, array in initial_arrays().items():
        np.testing.assert_allclose(reply.content["arrays"][name].numpy(), change(array.numpy(), 2), atol=1e-5)


def test_nobody_has_examples() -> None:
    with pytest.raises(RoundAbortedError, match="none of 3 clients has any examples"):
        started(without_examples(0, 1, 2), secure=True)


@pytest.mark.parametrize(
    ("strange", "said"),
    [
        ({"arrays": ArrayRecord({"layer.bias": Array(np.zeros(6, np.float32))})}, "has shape (6,), but (5,) was sent"),
        ({"arrays": ArrayRecord({"new": Array(np.zeros(2, np.int64))})}, "has type int64, which has no average"),
        ({"metrics": MetricRecord({f"m{number}": 0.5 for number in range(17)} | {"num-examples": 1})},
         "17 metrics, and room for 16: the server can give more `max_metrics`"),
        ({"metrics": MetricRecord({"loss": 0.5})}, "no metric 'num-examples'"),
    ],
)  # fmt: skip
def test_the_server_learns_which_entries_have_no_average(strange: dict[str, Any], said: str) -> None:
    """All clients reply so, as an app for another purpose does: the training ends, and says why."""

    def train(message: Any, context: Any) -> Message:
        return Message(RecordDict({**apps.train(message, context).content, **strange}), reply_to=message)

    with pytest.raises(RoundAbortedError) as caught:
        started(train, secure=True)
    assert said in str(caught.value)


def test_a_reason_is_bounded_and_can_be_shown() -> None:
    name = "\x1b[2J" + "x" * 4000

    def train(message: Any, context: Any) -> Message:
        arrays = ArrayRecord({name: Array(np.zeros(2, np.int64))})
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    loopback = LoopbackGrid(make_app(secagg_mod(), train=train), NODES)
    grid = SecAggGrid(loopback)
    assert grid.send_and_receive(train_messages(grid), timeout=10) == []
    reasons = [reply.error.reason for reply in loopback.seen if reply.has_error()]
    assert len(reasons) == NODES
    assert all(len(reason) <= 400 and reason.isprintable() for reason in reasons)
