"""Averages without options, for all sizes of changes and clients; and the messages about their resolution."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg

from fl.aggregation.scales import Exceeded
from fl.integrations.flower import SecAggGrid, secagg_mod
from fl.integrations.flower.reply_scales import NOT_SENT
from tests.integrations.flower.apps import initial_arrays, make_app, number_of, train_messages
from tests.integrations.flower.loopback import LoopbackGrid

NODES = 5
SIZES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
EXAMPLES = {
    "1": [1] * 5, "50": [50, 51, 52, 53, 54], "500": [500, 501, 502, 503, 504], "10^6": [10**6 + n for n in range(5)],
    "mixed": [1, 50, 500, 10**6, 20],
}  # fmt: skip

Arrays = dict[str, np.ndarray]


def make(update: Callable[[int, Arrays], Arrays], examples: list[int] | None = None) -> Any:
    """Return a train function: the arrays that a node makes of those that it is sent."""

    def train(message: Message, context: Any) -> Message:
        node = number_of(context)
        received = {name: array.numpy() for name, array in message.content["arrays"].items()}
        arrays = ArrayRecord({name: Array(array) for name, array in update(node, received).items()})
        metrics = MetricRecord({"num-examples": (examples or EXAMPLES["50"])[node]})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return train


def round_of(train: Any, sent: Arrays, nodes: int = NODES, **settings: Any) -> tuple[Arrays, SecAggGrid]:
    """Return the average of one round."""
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod(), train=train), nodes), poll_seconds=0.005, **settings)
    content = RecordDict({"arrays": ArrayRecord({name: Array(array) for name, array in sent.items()})})
    (reply,) = grid.send_and_receive(train_messages(grid, content), timeout=10)
    return {name: array.numpy() for name, array in reply.content["arrays"].items()}, grid


def error_of(average: np.ndarray, updates: list[np.ndarray], weights: list[int], sent: np.ndarray) -> float:
    """Return the error of the average change, relative to the size of the exact one."""
    changes = [update.astype(np.float64) - sent for update in updates]
    exact = np.average(changes, axis=0, weights=weights)
    return float(np.linalg.norm(average.astype(np.float64) - sent - exact) / np.linalg.norm(exact))


def moved(scale: float, node: int, array: np.ndarray) -> np.ndarray:
    """Return changes of clients that agree in part, as in one task."""
    common, own = np.random.default_rng(1), np.random.default_rng(10 + node)
    return np.asarray(array + scale * (common.normal(size=array.shape) + own.normal(size=array.shape)), array.dtype)


@pytest.mark.parametrize(("bits", "most"), [(None, 0.01), (16, 0.05)])
@pytest.mark.parametrize("examples", EXAMPLES)
def test_the_first_average_is_right_without_an_option(examples: str, bits: int | None, most: float) -> None:
    """Changes of 1e-1 to 1e-6 in one model: with one bound for all of it, the smallest would be noise."""
    sent = {f"{size:g}": np.random.default_rng(0).normal(scale=0.02, size=2000).astype(np.float32) for size in SIZES}

    def update(node: int, received: Arrays) -> Arrays:
        return {name: moved(float(name), node, array) for name, array in received.items()}

    weights = EXAMPLES[examples]
    average, grid = round_of(make(update, weights), sent, value_bits=bits)
    for name, array in sent.items():
        updates = [update(node, sent)[name] for node in range(NODES)]
        assert error_of(average[name], updates, weights, array) <= most
    assert grid.reports[0].noise <= most
    assert len(grid.reports[0].included) == NODES


def test_batchnorm_over_raw_columns() -> None:
    """Running statistics to 5000 and their squares, beside weights that move by a hundredth."""
    sent = {
        "layer.weight": np.zeros((16, 8), np.float32),
        "norm.num_batches_tracked": np.array(7),
        "norm.running_mean": np.zeros(8, np.float32),
        "norm.running_var": np.ones(8, np.float32),
    }

    def update(node: int, received: Arrays) -> Arrays:
        rng = np.random.default_rng(node)
        return {
            "layer.weight": moved(0.01, node, received["layer.weight"]),
            "norm.num_batches_tracked": np.asarray(received["norm.num_batches_tracked"] + 2),
            "norm.running_mean": rng.uniform(1000, 5000, 8).astype(np.float32),
            "norm.running_var": rng.uniform(1e5, 2.5e7, 8).astype(np.float32),
        }

    for bits, most in ((None, 0.01), (16, 0.05)):
        average, _ = round_of(make(update), sent, value_bits=bits)
        for name in ("layer.weight", "norm.running_mean", "norm.running_var"):
            updates = [update(node, sent)[name] for node in range(NODES)]
            assert error_of(average[name], updates, EXAMPLES["50"], sent[name]) <= most
        assert average["norm.num_batches_tracked"] == 7


@pytest.mark.parametrize("strategy", [FedAvg, FedAdam])
def test_frozen_layers_do_not_drift(strategy: Any) -> None:
    """A LoRA-like training: two small matrices learn, and the adapted weights stay the same, to the last bit."""
    frozen = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    initial = {"base": frozen, "lora.a": frozen[:4].copy(), "lora.b": np.zeros((40, 4), np.float32)}

    def update(node: int, received: Arrays) -> Arrays:
        return {name: array if name == "base" else moved(1e-5, node, array) for name, array in received.items()}

    def trained(secure: bool) -> Arrays:
        loopback = LoopbackGrid(make_app(*([secagg_mod()] if secure else []), train=make(update)), NODES)
        grid = SecAggGrid(loopback, poll_seconds=0.005) if secure else loopback
        start = ArrayRecord({name: Array(array) for name, array in initial.items()})
        result = strategy(fraction_evaluate=0.0).start(grid=grid, initial_arrays=start, num_rounds=3, timeout=10)
        return {name: array.numpy() for name, array in result.arrays.items()}

    secure, plain = trained(True), trained(False)
    np.testing.assert_array_equal(secure["base"], frozen)
    for name in ("lora.a", "lora.b"):
        change = plain[name].astype(np.float64) - initial[name]
        assert np.linalg.norm(change) > 0
        error = np.linalg.norm(secure[name].astype(np.float64) - plain[name])
        # FedAdam divides by the size of the change: this amplifies rounding.
        assert error <= 0.01 * np.linalg.norm(change)


def test_bounds_follow_changes_that_shrink_and_grow() -> None:
    """From one round to the next by factors of ten, with one session a round after the first."""
    scales = [1e-1, 1e-2, 1e-3, 1e-2, 1e-1]
    loopback = LoopbackGrid(make_app(secagg_mod(), train=lambda *asked: train(*asked)), NODES)
    grid = SecAggGrid(loopback, poll_seconds=0.005)
    sent = np.zeros(2000, np.float32)
    content = RecordDict({"arrays": ArrayRecord({"w": Array(sent)})})
    for scale in scales:

        def update(node: int, received: Arrays, scale: float = scale) -> Arrays:
            return {"w": moved(scale, node, received["w"])}

        train = make(update)
        (reply,) = grid.send_and_receive(train_messages(grid, content), timeout=10)
        updates = [update(node, {"w": sent})["w"] for node in range(NODES)]
        assert error_of(reply.content["arrays"]["w"].numpy(), updates, EXAMPLES["50"], sent) <= 0.01
    assert [report.measuring is not None for report in grid.reports] == [True] + [False] * 4


def test_another_layout_is_measured_anew() -> None:
    """As with two models that are trained in turns; each continues from its own state."""
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), NODES), poll_seconds=0.005)
    small, large = initial_arrays(), ArrayRecord({"w": Array(np.zeros(9, np.float32))})
    for arrays in (small, large, small, large):
        (reply,) = grid.send_and_receive(train_messages(grid, RecordDict({"arrays": arrays})), timeout=10)
    assert [report.measuring is not None for report in grid.reports] == [True, True, False, False]
    assert reply.content["arrays"]["w"].numpy().shape == (9,)


def test_bytes_are_as_before() -> None:
    """The update of the quickstart's network: bounds take less than a hundredth of it, whatever their values."""
    shapes = {"conv1.weight": (6, 1, 5, 5), "conv1.bias": (6,), "conv2.weight": (16, 6, 5, 5), "conv2.bias": (16,),
              "fc1.weight": (120, 256), "fc1.bias": (120,), "fc2.weight": (84, 120), "fc2.bias": (84,),
              "fc3.weight": (10, 84), "fc3.bias": (10,)}  # fmt: skip
    sent = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    elements = sum(array.size for array in sent.values())

    def update(node: int, received: Arrays) -> Arrays:
        return {name: moved(0.01, node, array) for name, array in received.items()}

    _, grid = round_of(make(update), sent)
    (report,) = grid.reports
    # 27 bits an element of 24 from five clients; the rest of a session's bytes does not depend on the model.
    assert report.bytes_up / NODES <= 1.01 * (elements * 27 / 8)
    assert report.measuring.bytes_up < 0.1 * report.bytes_up


# --- Messages ---------------------------------------------------------------------------------------------------------


def shifted(*sizes: float) -> Any:
    """Let node n move the first of two arrays by sizes[n], the other by a hundredth."""

    def update(node: int, received: Arrays) -> Arrays:
        return {"layer.weight": received["layer.weight"] + np.float32(sizes[node]), "bias": received["bias"] + 0.01}

    return update


TWO = {"layer.weight": np.zeros(4, np.float32), "bias": np.zeros(2)}


def test_a_fixed_clip_that_is_exceeded_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """With how many clients exceed it, and a bound that would do."""
    update = shifted(0.1, 0.6, 3.9, 1.1, 0.2)
    average, grid = round_of(make(update), TWO, clip=0.5, max_examples=64)
    (report,) = grid.reports
    assert report.measuring is None
    assert report.exceeded == {"layer.weight": Exceeded(3, 0.5, 8.0)}
    assert report.clipped == pytest.approx(3 * 4 / (5 * 6))
    # Three clients' changes are above the bound as a whole: each is scaled down, to between its half and all of it.
    weights = np.array(EXAMPLES["50"])
    ends = [weights @ np.array([0.1, *3 * [end], 0.2]) / weights.sum() for end in (0.25, 0.5)]
    assert ends[0] < average["layer.weight"].min() <= average["layer.weight"].max() < ends[1]
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "secagg: array 'layer.weight': 3 of 5 clients exceed 0.5; 8 would do" in warnings
    assert "secagg: 40.00% of the elements were clipped to the bounds of their arrays" in warnings


def test_bounds_that_follow_clip_nobody_of_a_few(caplog: pytest.LogCaptureFixture) -> None:
    """No warning comes, since a user could do nothing about it."""
    _, grid = round_of(make(shifted(0.1, 0.6, 3.9, 1.1, 0.2)), TWO)
    (report,) = grid.reports
    assert (report.exceeded, report.clipped, report.cut_weights) == ({}, 0.0, None)
    assert not any("exceed" in one.getMessage() or "noise" in one.getMessage() for one in caplog.records
                   if one.levelno >= logging.WARNING)  # fmt: skip


def test_the_rounding_noise_is_reported_each_round_and_its_remedy_above_5_percent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = {"w": np.zeros(2000, np.float32)}

    def update(node: int, received: Arrays) -> Arrays:
        return {"w": moved(1e-4, node, received["w"])}

    def lines(**settings: Any) -> tuple[float, float, list[str]]:
        caplog.clear()
        average, grid = round_of(make(update), sent, **settings)
        updates = [update(node, sent)["w"] for node in range(NODES)]
        (noise,) = [report.noise for report in grid.reports]
        return (
            noise, error_of(average["w"], updates, EXAMPLES["50"], sent["w"]),
            [one.getMessage() for one in caplog.records if "noise" in one.getMessage()],
        )  # fmt: skip

    noise, error, said = lines(clip=1.0, max_examples=1 << 16)
    # The reported noise is the true one. These are the old defaults, which reported nothing.
    assert noise == pytest.approx(error, rel=0.1)
    assert noise > 0.2
    assert len(said) == 2
    assert said[1] == (
        f"secagg: rounding noise is {100 * noise:.2g}% of the average change: leave out `clip` and `max_examples`, or "
        "give more `value_bits` than 24"
    )
    noise, error, said = lines(value_bits=8)
    assert noise == pytest.approx(error, rel=0.1)
    assert said[1].endswith("of the average change: give more `value_bits` than 8")
    noise, error, said = lines()
    assert max(noise, error) < 1e-4
    (line,) = said
    assert "kB down); rounding noise is 0.0" in line


def test_weights_above_a_fixed_bound_count_as_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    """A warning says so on both sides."""
    examples = [10, 90, 150, 400, 20]
    average, grid = round_of(make(shifted(0.1, 0.2, 0.3, 0.4, 0.5), examples), TWO, max_examples=100)
    (report,) = grid.reports
    assert report.cut_weights == Exceeded(2, 100.0, 400.0)
    assert report.total_weight == 10 + 90 + 100 + 100 + 20
    expected = np.average([0.1, 0.2, 0.3, 0.4, 0.5], weights=np.minimum(examples, 100))
    np.testing.assert_allclose(average["layer.weight"], expected, atol=1e-5)
    assert "secagg: weights: 2 of 5 clients exceed 100; 400 would do; they count as the bound" in caplog.text
    assert caplog.text.count("num-examples 400, which counts as 100, the server's bound on weights") == 1


def test_arrays_that_were_not_sent_have_a_bound_of_their_own() -> None:
    """A control variate beside the model; the first session finds its range."""

    def update(node: int, received: Arrays) -> Arrays:
        return {"w": moved(1e-5, node, received["w"]), "control": np.full(30, 1e4 * (node + 1), np.float32)}

    sent = {"w": np.zeros(40, np.float32), "unused": np.zeros(50, np.float32)}
    average, grid = round_of(make(update), sent)
    updates = [update(node, sent)["w"] for node in range(NODES)]
    assert error_of(average["w"], updates, EXAMPLES["50"], sent["w"]) <= 0.01
    mean = np.average([1e4 * (node + 1) for node in range(NODES)], weights=EXAMPLES["50"])
    np.testing.assert_allclose(average["control"], mean, rtol=1e-4)
    assert list(average) == ["w", "control"]
    scales = next(iter(grid._scales.values()))
    assert scales.encoding(NODES, "num-examples").sizes == (50, 40, 30)
    assert scales._names() == ["unused", "w", NOT_SENT]
