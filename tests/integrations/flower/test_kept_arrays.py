"""Integers and bools have no average: they keep type and value from round to round, for every strategy."""

import logging
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

from fl.integrations.flower import SecAggGrid, secagg_mod
from tests.integrations.flower import batchnorm
from tests.integrations.flower.apps import make_app, number_of
from tests.integrations.flower.batchnorm import COUNTER, ROUNDS, STRATEGIES, Net, assert_kept
from tests.integrations.flower.loopback import LoopbackGrid

NODES = 3


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_model_with_batchnorm_trains_in_every_round(name: str) -> None:
    plain = STRATEGIES[name]().start(
        grid=LoopbackGrid(make_app(train=untyped(batchnorm.train)), NODES),
        initial_arrays=batchnorm.initial(),
        num_rounds=ROUNDS,
    )
    grid = SecAggGrid(LoopbackGrid(batchnorm.make(secagg_mod()), NODES))
    evaluated = []
    result = STRATEGIES[name]().start(
        grid=grid,
        initial_arrays=batchnorm.initial(),
        num_rounds=ROUNDS,
        evaluate_fn=lambda round_, arrays: evaluated.append(arrays.to_torch_state_dict()["seen"].item()),
    )
    assert [len(report.included) for report in grid.reports] == [NODES] * ROUNDS
    assert_kept(result.arrays.to_torch_state_dict())
    assert evaluated == [COUNTER] * (1 + ROUNDS)
    assert list(result.arrays) == list(plain.arrays) == list(Net().state_dict())
    for key, array in plain.arrays.items():
        # Training amplifies rounding; arrays without an average are compared above.
        if array.dtype == "float32":
            np.testing.assert_allclose(result.arrays[key].numpy(), array.numpy(), atol=1e-3)


def untyped(train: Any) -> Any:
    """Plain Flower's clients are sent floats in place of integers: restore the model's own types for the comparison."""

    def cast(message: Any, context: Any) -> Any:
        own, sent = Net().state_dict(), message.content["arrays"].to_torch_state_dict()
        arrays = ArrayRecord({name: Array(tensor.to(own[name].dtype).numpy()) for name, tensor in sent.items()})
        return train(Message(RecordDict({"arrays": arrays}), 1, "train"), context)

    def trained(message: Any, context: Any) -> Any:
        return Message(cast(message, context).content, reply_to=message)

    return trained


def test_noise_of_the_strategy_does_not_reach_them(caplog: pytest.LogCaptureFixture) -> None:
    strategy = DifferentialPrivacyClientSideFixedClipping(FedAvg(fraction_evaluate=0.0), 0.5, 1.0, NODES)
    grid = SecAggGrid(LoopbackGrid(batchnorm.make(secagg_mod()), NODES))
    result = strategy.start(grid=grid, initial_arrays=batchnorm.initial(), num_rounds=2)
    assert [len(report.included) for report in grid.reports] == [NODES] * 2
    assert_kept(result.arrays.to_torch_state_dict())
    # The strategy counts replies: it must get one.
    assert "num_sampled_clients" not in caplog.text
    assert "differs" not in caplog.text


def test_noise_for_another_number_of_clients_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    strategy = DifferentialPrivacyClientSideFixedClipping(FedAvg(fraction_evaluate=0.0), 0.5, 1.0, NODES + 1)
    grid = SecAggGrid(LoopbackGrid(batchnorm.make(secagg_mod()), NODES))
    strategy.start(grid=grid, initial_arrays=batchnorm.initial(), num_rounds=2)
    assert caplog.text.count("noise for num_sampled_clients=4, but the average is of 3 clients") == 2
    assert logging.getLogger("flwr").filters == []


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_custom_loop_over_a_strategy(name: str) -> None:
    """As in programs that train two models in turns."""
    grid = SecAggGrid(LoopbackGrid(batchnorm.make(secagg_mod()), NODES))
    strategy, arrays = STRATEGIES[name](), batchnorm.initial()
    for number in range(1, ROUNDS + 1):
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(server_round=number, replies=grid.send_and_receive(messages, timeout=30))
    assert_kept(arrays.to_torch_state_dict())


def test_a_custom_loop_without_strategy() -> None:
    grid = SecAggGrid(LoopbackGrid(batchnorm.make(secagg_mod()), NODES))
    arrays = batchnorm.initial()
    for number in range(1, ROUNDS + 1):
        sent = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": number})})
        (reply,) = grid.send_and_receive([Message(sent, node, "train") for node in grid.get_node_ids()], timeout=30)
        arrays = reply.content["arrays"]
    assert_kept(arrays.to_torch_state_dict())


@pytest.mark.parametrize("sent", [np.array([6.9999999, 0.0]), np.array([7, 0], np.int32), np.array([7, 0])])
def test_integers_that_were_sent_as_another_type(sent: np.ndarray) -> None:
    def train(message: Any, context: Any) -> Message:
        number = number_of(context)
        arrays = ArrayRecord({"n": Array(np.array([7 + number, 5])), "m": Array(np.array([True, False]))})
        return Message(RecordDict({"arrays": arrays, "m": MetricRecord({"num-examples": 1})}), reply_to=message)

    content = RecordDict({"arrays": ArrayRecord({"m": Array(np.array([1.0, 0.0])), "n": Array(sent)})})
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod(), train=train), NODES))
    (reply,) = grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()], timeout=30)
    arrays = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    assert (arrays["n"].dtype, arrays["n"].tolist()) == (np.int64, [7, 0])
    assert (arrays["m"].dtype, arrays["m"].tolist()) == (np.bool_, [True, False])


def test_weights_that_were_sent_as_integers_learn() -> None:
    """An array that comes back as floats has an average, although it was sent as integers."""

    def train(message: Any, context: Any) -> Message:
        received = message.content["arrays"]["w"].numpy()
        arrays = ArrayRecord({"w": Array(received + np.float64(0.25 * (1 + number_of(context))))})
        return Message(RecordDict({"arrays": arrays, "m": MetricRecord({"num-examples": 1})}), reply_to=message)

    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod(), train=train), NODES), max_examples=4, capacity=2)
    initial = ArrayRecord({"w": Array(np.zeros(2, np.int64))})
    result = FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=initial, num_rounds=2)
    np.testing.assert_allclose(result.arrays["w"].numpy(), 1.0, atol=1e-5)
