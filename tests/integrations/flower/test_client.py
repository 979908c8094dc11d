"""The client's side: its refusals, the data that it never reveals, and that its state is only in the context."""

import pickle
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import context_from_proto
from flwr.proto.message_pb2 import Context as ContextProto

from fl.integrations.flower import SecAggGrid, secagg_mod
from secagg import Adversary
from tests.integrations.flower import apps
from tests.integrations.flower.apps import examples_of, initial_arrays, make_app, number_of, train_messages
from tests.integrations.flower.loopback import Fault, LoopbackGrid

NODES = 5
STRANGE = 2


def context_of(grid: LoopbackGrid, node: int) -> Context:
    return context_from_proto(ContextProto.FromString(grid.contexts[node]))


def run(loopback: LoopbackGrid, content: RecordDict | None = None, **settings: Any) -> tuple[Any, Any]:
    """Run one round, of one session unless ``settings`` say otherwise; return the reply or None, and the report."""
    fixed = {"clip": 1.0, "max_examples": 1 << 16}
    grid = SecAggGrid(loopback, round_timeout=0.02, poll_seconds=0.005, **(fixed | settings))
    replies = list(grid.send_and_receive(train_messages(grid, content), timeout=0.02))
    return (replies[0].content if replies else None), grid.reports[0]


OTHERS = sum(examples_of(number) for number in range(NODES) if number != STRANGE)


def replying(arrays: Any = None, metrics: Any = None) -> Any:
    """Return a train function in which one node answers with other arrays or metrics."""

    def train(message: Message, context: Context) -> Message:
        reply = apps.train(message, context)
        if number_of(context) == STRANGE:
            for name, change in (("arrays", arrays), ("metrics", metrics)):
                if change is not None:
                    change(reply.content[name])
        return reply

    return train


def put(name: str, value: Any) -> Any:
    def change(record: Any) -> None:
        record[name] = value

    return change


WITHOUT_AVERAGE = {
    "another shape": (replying(arrays=put("layer.bias", Array(np.zeros(6, np.float32)))), "shape"),
    "more elements": (replying(arrays=put("more", Array(np.zeros(9, np.float32)))), "room for 0"),
    "integers": (replying(arrays=put("counts", Array(np.zeros(2, np.int64)))), "no average"),
    "too many metrics": (replying(metrics=put("many", [0.0] * 99)), "max_metrics"),
}
"""Structures of replies: names and shapes travel in the clear anyway."""


@pytest.mark.parametrize("name", WITHOUT_AVERAGE)
def test_a_structure_without_an_average_stays_and_the_server_learns_why(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    train, why = WITHOUT_AVERAGE[name]
    loopback = LoopbackGrid(make_app(secagg_mod(), train=train), NODES)
    content, report = run(loopback)
    assert content["metrics"]["num-examples"] == OTHERS
    assert any(why in record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    (error,) = [reply.error.reason for reply in loopback.seen if reply.has_error()]
    assert why in error
    assert why in report.dropped[1000 + STRANGE][1]
    assert list(report.dropped) == [1000 + STRANGE]
    assert "secagg.client" not in context_of(loopback, 1000 + STRANGE).state


def test_another_structure_than_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """One node has one metric more: it is left out before the sum, and the rest agree."""
    loopback = LoopbackGrid(make_app(secagg_mod(), train=replying(metrics=put("extra", 1.0))), NODES)
    content, report = run(loopback)
    assert set(content["metrics"]) == {"train_loss", "num-examples", "per_class"}
    assert report.included == (1000, 1001, 1003, 1004)
    assert "1 replies do not have the records of the 4 that agree" in caplog.text


def test_no_two_agree() -> None:
    def train(message: Message, context: Context) -> Message:
        reply = apps.train(message, context)
        reply.content["metrics"][f"of-{number_of(context)}"] = 1.0
        return reply

    content, report = run(LoopbackGrid(make_app(secagg_mod(), train=train), NODES))
    assert content is None
    assert report.aborted is not None


def test_no_weight() -> None:
    def train(message: Message, context: Context) -> Message:
        reply = apps.train(message, context)
        del reply.content["metrics"]["num-examples"]
        return reply

    content, _ = run(LoopbackGrid(make_app(secagg_mod(), train=train), NODES))
    assert content is None


def test_another_weight() -> None:
    def train(message: Message, context: Context) -> Message:
        reply = apps.train(message, context)
        reply.content["metrics"]["batches"] = 1 + number_of(context)
        return reply

    content, report = run(LoopbackGrid(make_app(secagg_mod(), train=train), NODES), weighted_by="batches")
    assert content["metrics"]["batches"] == report.total_weight == 15
    assert content["metrics"]["num-examples"] == pytest.approx(
        sum((1 + number) * examples_of(number) for number in range(NODES)) / 15, abs=1e-4
    )


def test_several_records_of_arrays_and_metrics() -> None:
    """As custom strategies send them: two models and a control variate that was not sent, metrics in two records."""

    def train(message: Message, context: Context) -> Message:
        number = number_of(context)
        content = RecordDict(
            {
                "model": ArrayRecord({"w": Array(message.content["model"]["w"].numpy() + np.float32(0.1 * number))}),
                "head": ArrayRecord(
                    {
                        "w": Array(message.content["head"]["w"].numpy() - 0.05 * number),
                        "steps": message.content["head"]["steps"],
                    }
                ),
                "control": ArrayRecord({"c": Array(np.full((2, 2), 0.2 * number, np.float32))}),
                "first": MetricRecord({"loss": [1.0 * number, 2.0]}),
                "second": MetricRecord({"num-examples": 1 + number, "norm": -3 * number}),
            }
        )
        return Message(content, reply_to=message)

    sent = RecordDict(
        {
            "model": ArrayRecord({"w": Array(np.full(3, 5.0, np.float32)), "unused": Array(np.zeros(7, np.float32))}),
            "head": ArrayRecord({"w": Array(np.full((2, 1), 7.0)), "steps": Array(np.array([41, 42]))}),
            "config": ConfigRecord({"round": 1}),
        }
    )
    content, report = run(LoopbackGrid(make_app(secagg_mod(), train=train), 4), sent, clip=None, max_examples=None)
    weights = np.array([1, 2, 3, 4]) / 10
    mean = float(weights @ np.arange(4))
    assert {name: list(record) for name, record in content.items()} == {
        "model": ["w"], "head": ["w", "steps"], "control": ["c"], "first": ["loss"], "second": ["num-examples", "norm"],
    }  # fmt: skip
    np.testing.assert_allclose(content["model"]["w"].numpy(), 5 + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(content["head"]["w"].numpy(), np.full((2, 1), 7 - 0.05 * mean), atol=1e-5)
    np.testing.assert_allclose(content["control"]["c"].numpy(), np.full((2, 2), 0.2 * mean), atol=1e-5)
    assert content["head"]["w"].numpy().dtype == np.float64
    # Integers have no average: the server's values stay.
    assert content["head"]["steps"].numpy().tolist() == [41, 42]
    assert content["first"]["loss"] == pytest.approx([mean, 2.0], abs=1e-5)
    assert content["second"]["norm"] == pytest.approx(-3 * mean, abs=1e-5)
    assert content["second"]["num-examples"] == report.total_weight == 10


def test_training_in_the_clear_is_declined() -> None:
    """A server that leaves the wrapper out gets an error, and the app is never called."""
    called = []
    app = make_app(secagg_mod(), train=lambda message, context: called.append(message))
    loopback = LoopbackGrid(app, 3)
    replies = loopback.send_and_receive(train_messages(loopback))
    assert all("wrap the ServerApp's grid in SecAggGrid" in reply.error.reason for reply in replies)
    assert len(replies) == 3
    assert not called


def test_evaluation_in_the_clear_is_declined_where_it_is_protected() -> None:
    loopback = LoopbackGrid(make_app(secagg_mod(protect_evaluate=True)), 3)
    replies = loopback.send_and_receive(train_messages(loopback, message_type="evaluate"))
    assert all("protect_evaluate=True" in reply.error.reason for reply in replies)


def test_a_client_without_the_mod_takes_no_part() -> None:
    """It fails on a message without a model, or answers unasked in the clear: it is left out."""
    content, report = run(LoopbackGrid(make_app(), 3))
    assert content is None
    assert len(report.dropped) == 3
    for _, reason in report.dropped.values():
        assert reason.endswith("; is secagg_mod() the first of its mods?")


def test_a_model_other_than_the_announced_one_is_refused() -> None:
    """A server opens one session for all, and then sends one client another model."""

    class Lying(LoopbackGrid):
        def push_messages(self, messages: Any) -> list[str]:
            changed = []
            for message in messages:
                if "arrays" in message.content and message.metadata.dst_node_id == 1001:
                    content = RecordDict({**message.content, "arrays": initial_arrays(seed=9)})
                    message = Message(content, 1001, "train")
                changed.append(message)
            return super().push_messages(changed)

    called = []

    def train(message: Message, context: Context) -> Message:
        called.append(context.node_id)
        return apps.train(message, context)

    loopback = Lying(make_app(secagg_mod(), train=train), NODES)
    content, report = run(loopback)
    assert sorted(called) == [1000, 1002, 1003, 1004]
    assert 1001 not in report.included
    assert content is not None


@pytest.mark.parametrize(
    ("mod", "settings"),
    [
        ({"min_inputs": 4}, {}),
        ({"adversary": Adversary.SEMI_MALICIOUS}, {}),
        ({"min_inputs": 6}, {"threshold": 5}),
    ],
)
def test_a_session_below_what_the_client_asks_for(
    mod: dict[str, Any], settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    content, report = run(LoopbackGrid(make_app(secagg_mod(**mod)), NODES), **settings)
    assert content is None
    assert len(report.dropped) == NODES
    assert "but this client asks for" in caplog.text
    # The server's own log says so, too: both sides can learn what to change.
    assert all("but this client asks for" in reason for _, reason in report.dropped.values())


def test_an_error_of_the_apps_own_reaches_the_server() -> None:
    def train(message: Message, context: Context) -> Message:
        if number_of(context) == STRANGE:
            return Message(Error(code=77, reason="no data today"), reply_to=message)
        return apps.train(message, context)

    content, report = run(LoopbackGrid(make_app(secagg_mod(), train=train), NODES))
    assert report.dropped[1000 + STRANGE][1] == "no data today"
    assert content is not None


def test_an_app_that_raises() -> None:
    def train(message: Message, context: Context) -> Message:
        if number_of(context) == STRANGE:
            raise ValueError("out of memory")
        return apps.train(message, context)

    content, report = run(LoopbackGrid(make_app(secagg_mod(), train=train), NODES))
    assert list(report.dropped) == [1000 + STRANGE]
    assert content is not None


@pytest.mark.parametrize("wrong", ["LocalDpMod", "fixedclipping_mod"])
def test_mods_in_the_wrong_order_fail_in_the_first_round(wrong: str) -> None:
    """A mod in front of ours would add noise to masked vectors: it fails without arrays, and nobody trains."""
    from flwr.clientapp import mod as mods

    other = mods.LocalDpMod(1.0, 0.0, 1.0, 0.1) if wrong == "LocalDpMod" else getattr(mods, wrong)
    content, report = run(LoopbackGrid(make_app(other, secagg_mod()), 3))
    assert content is None
    assert all("expects exactly one" in reason for _, reason in report.dropped.values())


def test_local_noise_comes_before_masking() -> None:
    """With a sensitivity of 0 there is no noise: only the clipping of each client's update remains."""
    from flwr.clientapp.mod import LocalDpMod

    local = LocalDpMod(clipping_norm=0.01, sensitivity=0.0, epsilon=1.0, delta=0.1)
    plain = LoopbackGrid(make_app(local), NODES)
    replies = {reply.metadata.src_node_id: reply.content for reply in plain.send_and_receive(train_messages(plain))}
    weights = {node: content["metrics"]["num-examples"] for node, content in replies.items()}
    content, _ = run(LoopbackGrid(make_app(secagg_mod(), local), NODES), max_examples=100)
    for name, array in content["arrays"].items():
        mean = sum(replies[node]["arrays"][name].numpy() * weights[node] for node in replies) / sum(weights.values())
        np.testing.assert_allclose(array.numpy(), mean, atol=1e-6)
    moved = np.linalg.norm(content["arrays"]["layer.weight"].numpy() - initial_arrays()["layer.weight"].numpy())
    assert 0 < moved <= 0.0101


def test_the_adaptive_mod_sends_its_bit_masked() -> None:
    """For strategies that ask for the fraction of clients that clipped; Flower's own counts replies, and is refused."""
    from flwr.clientapp.mod import adaptiveclipping_mod
    from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM, KEY_NORM_BIT

    sent = RecordDict({"arrays": initial_arrays(), "config": ConfigRecord({KEY_CLIPPING_NORM: 0.5})})
    plain = LoopbackGrid(make_app(adaptiveclipping_mod), NODES)
    bits = {
        reply.metadata.src_node_id - 1000: reply.content["metrics"][KEY_NORM_BIT]
        for reply in plain.send_and_receive(train_messages(plain, sent))
    }
    content, _ = run(LoopbackGrid(make_app(secagg_mod(), adaptiveclipping_mod), NODES), sent)
    total = sum(map(examples_of, bits))
    expected = sum(bit * examples_of(number) for number, bit in bits.items()) / total
    assert content["metrics"][KEY_NORM_BIT] == pytest.approx(expected, abs=1e-5)


def test_each_message_in_a_separate_process() -> None:
    """Only the context's bytes go from one message to the next, in any mode; the result is the same."""
    seen = []
    loopback = LoopbackGrid(make_app(secagg_mod()), 4, processes=True)
    for _ in range(2):
        content, report = run(loopback)
        seen.append(content["metrics"]["num-examples"])
        assert len(report.included) == 4
    assert seen == [sum(map(examples_of, range(4)))] * 2


def test_the_state_is_gone_when_the_session_is_over() -> None:
    loopback = LoopbackGrid(make_app(secagg_mod()), NODES)
    run(loopback)
    assert all("secagg.client" not in context_of(loopback, node).state for node in loopback.contexts)


def test_the_apps_own_state_stays() -> None:
    def train(message: Message, context: Context) -> Message:
        before = context.state["mine"]["calls"] if "mine" in context.state else 0
        context.state["mine"] = MetricRecord({"calls": before + 1})
        return apps.train(message, context)

    loopback = LoopbackGrid(make_app(secagg_mod(), train=train), 3)
    run(loopback)
    run(loopback)
    assert [context_of(loopback, node).state["mine"]["calls"] for node in loopback.contexts] == [2, 2, 2]


def test_a_session_that_was_left_is_forgotten_by_the_next() -> None:
    """Every node is left in the middle of a session; the next one starts afresh."""
    once = []

    def faults(node: int, step: int) -> Fault | None:
        return Fault.LATE if step == 2 and len(once) < NODES and not once.append(node) else None

    loopback = LoopbackGrid(make_app(secagg_mod()), NODES, faults=faults)
    content, report = run(loopback)
    assert content is None
    assert report.aborted is not None
    assert all("secagg.client" in context_of(loopback, node).state for node in loopback.contexts)
    content, _ = run(loopback)
    assert content["metrics"]["num-examples"] == sum(map(examples_of, range(NODES)))


def test_a_message_of_no_session_is_declined() -> None:
    from fl.integrations.flower.wire import Onward, pack_onward

    loopback = LoopbackGrid(make_app(secagg_mod()), 1)
    for content, why in (
        (pack_onward(Onward(b"")), "no session is open on this node: it was never offered, or it is over"),
        (RecordDict({"secagg": ConfigRecord({"message": 7})}), "is not of this version"),
        (RecordDict({"secagg": ConfigRecord({"client-id": 0, "offer": b"no offer"})}), "is not an offer"),
        (RecordDict({"secagg": MetricRecord({"a": 1})}), "is not of this version"),
    ):
        (reply,) = loopback.send_and_receive([Message(content, 1000, "train")])
        assert reply.error.reason.startswith("secagg: ")
        assert why in reply.error.reason


def test_nothing_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """No log, no reply in the clear, and no repr holds a node's suspended state."""
    blobs = []

    def faults(node: int, step: int) -> None:
        for context in list(loopback.contexts):
            state = context_of(loopback, context).state
            if "secagg.client" in state:
                blobs.append(state["secagg.client"]["client"])

    loopback = LoopbackGrid(make_app(secagg_mod()), 3, faults=faults)
    caplog.set_level("DEBUG")
    run(loopback)
    assert blobs
    shown = caplog.text + repr(secagg_mod()) + "".join(map(repr, loopback.sent))
    for blob in blobs:
        assert blob[40:72].hex() not in shown
        assert not any(blob[40:72] in pickle.dumps(dict(reply.content)) for reply in loopback.seen)
