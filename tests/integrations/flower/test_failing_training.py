"""Training that fails, as a server's model can make it: the server does not see whose."""

import math
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import Array, ConfigRecord, Context, Message

from fl.integrations.flower import SecAggGrid, secagg_mod
from tests.integrations.flower import apps
from tests.integrations.flower.apps import make_app, number_of, train_messages
from tests.integrations.flower.loopback import Fault, LoopbackGrid
from tests.integrations.flower.test_client import NODES, OTHERS, STRANGE, context_of, put, replying, run

FAILED = {
    "nan": (replying(arrays=put("layer.bias", Array(np.full(5, np.nan, np.float32)))), "not finite"),
    "infinite": (replying(arrays=put("layer.bias", Array(np.full(5, np.inf, np.float32)))), "not finite"),
    "fewer than no examples": (replying(metrics=put("num-examples", -1)), "at least 0"),
    "half an example": (replying(metrics=put("num-examples", 1.5)), "whole number"),
    "no number of examples": (replying(metrics=put("num-examples", math.nan)), "whole number"),
    "examples in a list": (replying(metrics=put("num-examples", [3])), "whole number"),
}


@pytest.mark.parametrize("settings", [{}, {"clip": None, "max_examples": None}])
@pytest.mark.parametrize("name", FAILED)
def test_the_server_does_not_see_whose_training_fails(
    name: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The node's own log says why; its input counts nothing, also for the metrics. With bounds that it measures too."""
    train, why = FAILED[name]
    loopback = LoopbackGrid(make_app(secagg_mod(), train=train), NODES)
    content, report = run(loopback, **settings)
    assert any(why in record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert report.included == tuple(1000 + number for number in range(NODES))
    assert not any(reply.has_error() for reply in loopback.seen)
    lengths = [len(reply.content["secagg"]["message"].data) for reply in loopback.seen]
    assert sorted(lengths) == sorted(NODES * lengths[::NODES])
    honest = LoopbackGrid(
        make_app(secagg_mod()), NODES, faults=lambda node, step: Fault.ERROR if node == STRANGE else None
    )
    expected, _ = run(honest, **settings)
    assert content["metrics"]["num-examples"] == expected["metrics"]["num-examples"] == OTHERS
    assert content["metrics"]["train_loss"] == pytest.approx(expected["metrics"]["train_loss"], abs=1e-5)
    for array, own in expected["arrays"].items():
        np.testing.assert_allclose(content["arrays"][array].numpy(), own.numpy(), atol=1e-3)


def test_an_app_that_raises_is_seen_before_its_first_reply_only(caplog: pytest.LogCaptureFixture) -> None:
    """Later its input has the layout of its last reply, and counts nothing; its state is the earlier one."""
    fails = {"now": True}

    def train(message: Message, context: Context) -> Message:
        context.state["tried"] = ConfigRecord({"failed": fails["now"]})
        if number_of(context) == STRANGE and fails["now"]:
            raise ValueError("the loss is nan")
        return apps.train(message, context)

    loopback = LoopbackGrid(make_app(secagg_mod(), train=train), NODES)
    grid = SecAggGrid(loopback, max_examples=100, poll_seconds=0.005)

    def included() -> tuple[int, ...]:
        grid.send_and_receive(train_messages(grid), timeout=10)
        return grid.reports[-1].included

    everybody = tuple(1000 + number for number in range(NODES))
    assert included() == tuple(node for node in everybody if node != 1000 + STRANGE)
    fails["now"] = False
    assert included() == everybody
    fails["now"] = True
    assert included() == everybody
    assert grid.reports[-1].total_weight == OTHERS
    assert "ValueError: the loss is nan" in caplog.text
    assert dict(context_of(loopback, 1000 + STRANGE).state["tried"]) == {"failed": False}


def test_a_node_keeps_its_layout_when_it_declines_a_session() -> None:
    """Otherwise the server could make it forget, and then see whether its training fails."""
    fails = {"now": False}

    def train(message: Message, context: Context) -> Message:
        assert not any(name.startswith("secagg") for name in context.state)
        if number_of(context) == STRANGE and fails["now"]:
            raise ValueError("the loss is nan")
        return apps.train(message, context)

    loopback = LoopbackGrid(make_app(secagg_mod(), train=train), NODES)
    grid = SecAggGrid(loopback, max_examples=100, poll_seconds=0.005)
    grid.send_and_receive(train_messages(grid), timeout=10)
    other = SecAggGrid(loopback, max_examples=100, poll_seconds=0.005, run_config={"other": 1})
    assert other.send_and_receive(train_messages(other), timeout=10) == []
    fails["now"] = True
    grid.send_and_receive(train_messages(grid), timeout=10)
    assert len(grid.reports[-1].included) == NODES
