"""The state of an app in ``context.state``, and the entries hidden from it."""

from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common.serde import context_from_proto
from flwr.proto.message_pb2 import Context as ContextProto

from fl.integrations.flower import secagg_mod
from secagg import Identity
from tests.integrations.flower import apps
from tests.integrations.flower.loopback import Fault, LoopbackGrid
from tests.integrations.flower.signed import ALL, VICTIM, SignedFederation

FIRST, SECOND = (VICTIM, 1000, 1001), (VICTIM, 1003, 1004)
SIZE = 4


class MomentumFederation(SignedFederation):
    """Nodes whose app keeps a velocity in its state, changed in place, as apps do."""

    fails = False

    def _train(self, message: Message, context: Context) -> Message:
        config, state = message.content["config"], context.state
        if "mine" not in state:
            state["mine"] = ArrayRecord({"velocity": Array(np.zeros(SIZE, np.float32))})
            state["calls"] = ConfigRecord({"nodes": []})
        velocity = config["momentum"] * state["mine"]["velocity"].numpy() + config["lr"] * update(context.node_id)
        state["mine"]["velocity"] = Array(velocity.astype(np.float32))
        state["calls"]["nodes"].append(context.node_id)
        changed = np.asarray(message.content["arrays"]["w"].numpy() - velocity, np.float32)
        arrays, metrics = ArrayRecord({"w": Array(changed)}), MetricRecord({"num-examples": 10})
        if self.fails:
            return Message(Error(code=0, reason="tired"), reply_to=message)
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    def state_of(self, node: int) -> RecordDict:
        return state_of(self.loopback, node)

    def calls(self, node: int) -> int:
        state = self.state_of(node)
        return len(state["calls"]["nodes"]) if "calls" in state else 0


def update(node: int) -> np.ndarray:
    return np.random.default_rng(node).uniform(-0.3, 0.3, SIZE).astype(np.float32)


def asked(number: int, *, rate: float, momentum: float) -> RecordDict:
    config = ConfigRecord({"server-round": number, "lr": rate, "momentum": momentum})
    return RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(SIZE, np.float32))}), "config": config})


def state_of(loopback: LoopbackGrid, node: int) -> RecordDict:
    """Return a node's state without the layouts of its replies, which stay for the whole run."""
    state = context_from_proto(ContextProto.FromString(loopback.contexts[node])).state
    return RecordDict({name: record for name, record in state.items() if name != "secagg.layouts"})


@pytest.mark.parametrize("processes", [False, True])
def test_the_state_of_an_app_goes_from_round_to_round(tmp_path: Path, processes: bool) -> None:
    """The honest run: two rounds with momentum give the same result as in the clear."""
    federation = MomentumFederation(tmp_path, processes=processes)
    mean = np.mean([update(node) for node in ALL], axis=0)
    for number, factor in ((1, 1.0), (2, 1.5)):
        average, report = federation.round(asked(number, rate=1.0, momentum=0.5))
        assert report.included == ALL
        np.testing.assert_allclose(average["arrays"]["w"].numpy(), -factor * mean, atol=1e-5)
    assert [federation.calls(node) for node in ALL] == [2] * len(ALL)
    assert all(set(federation.state_of(node)) == {"mine", "calls"} for node in ALL)


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("before", [0, 1])
def test_state_from_an_aborted_session_is_forgotten(tmp_path: Path, step: int, before: int) -> None:
    """The next session's nodes learn nothing: anything that they kept would be the victim's update alone."""
    federation = MomentumFederation(tmp_path)
    if before:
        federation.round(asked(1, rate=0.0, momentum=1.0))
    federation.loopback._faults = lambda node, at: Fault.LATE if at >= step else None
    average, _ = federation.round(asked(2, rate=1.0, momentum=0.9), nodes=FIRST, threshold=3)
    assert average is None
    assert federation.calls(VICTIM) == before
    federation.loopback._faults = lambda node, at: None
    average, report = federation.round(asked(3, rate=0.0, momentum=1.0), nodes=SECOND, threshold=3)
    assert report.included == tuple(sorted(SECOND))
    np.testing.assert_allclose(average["arrays"]["w"].numpy(), 0.0, atol=1e-5)
    assert federation.calls(VICTIM) == before + 1


def test_an_app_that_fails_leaves_its_earlier_state(tmp_path: Path) -> None:
    federation = MomentumFederation(tmp_path)
    federation.round(asked(1, rate=1.0, momentum=0.9))
    kept = federation.state_of(VICTIM)
    federation.fails = True
    average, _ = federation.round(asked(2, rate=1.0, momentum=0.9))
    assert average is None
    assert federation.state_of(VICTIM) == kept


@pytest.mark.parametrize("how", ["keeps", "changes", "exchanges", "fakes"])
@pytest.mark.parametrize("kind", ["query", "evaluate"])
def test_a_query_during_a_session_sees_none_of_its_state(tmp_path: Path, kind: str, how: str) -> None:
    """It sees neither the client's secrets nor the app's new state; and the session continues."""
    federation = MomentumFederation(tmp_path)
    seen: list[set[str]] = []

    def look(message: Message, context: Context) -> Message:
        seen.append(set(context.state))
        if how == "changes":
            context.state["asked"] = ConfigRecord({"times": 1})
        elif how == "exchanges":
            context.state = RecordDict()
        elif how == "fakes":
            context.state["secagg.client"] = ConfigRecord({"client": b"", "offer": b""})
        return apps.evaluate(message, context)

    federation.loopback._app.query("look")(look)
    federation.loopback._app.evaluate("look")(look)

    def ask(node: int, step: int) -> None:
        if node == VICTIM - 1000 and step > 0:
            assert "secagg.client" in state_of(federation.loopback, VICTIM)
            message = Message(RecordDict(), VICTIM, f"{kind}.look")
            beside = LoopbackGrid(federation.loopback._app, 0)
            beside.contexts = federation.loopback.contexts
            (reply,) = beside.send_and_receive([message])
            assert not reply.has_error()

    federation.round(asked(1, rate=1.0, momentum=0.5))
    federation.loopback._faults = ask
    _, report = federation.round(asked(2, rate=1.0, momentum=0.5))
    assert report.included == ALL
    assert len(seen) == 4
    assert all(names <= {"mine", "calls", "asked"} for names in seen)
    assert set(federation.state_of(VICTIM)) >= {"mine", "calls"}
    assert not any(name.startswith("secagg") for name in federation.state_of(VICTIM))


def test_the_session_continues_if_a_query_fails() -> None:
    def fail(message: Message, context: Context) -> Message:
        assert set(context.state) == {"mine"}
        context.state = RecordDict()
        raise ValueError("no answer")

    secret = ConfigRecord({"client": b"secret"})
    context = Context(
        run_id=1, node_id=7, node_config={}, run_config={}, state=RecordDict({"secagg.client": secret, "mine": secret})
    )
    with pytest.raises(ValueError, match="no answer"):
        secagg_mod()(Message(RecordDict(), 7, "query"), context, fail)
    assert dict(context.state) == {"secagg.client": secret}


@pytest.mark.parametrize("kind", ["get_parameters", "get_properties", "reconnect", "train"])
@pytest.mark.parametrize("signed", [True, False])
def test_messages_of_other_kinds_do_not_reach_the_app(kind: str, signed: bool) -> None:
    """Flower's older clients answer some of them with their model, in the clear."""
    from flwr.compat.common.recorddict_compat import getparametersins_to_recorddict
    from flwr.compat.common.typing import GetParametersIns

    class Older(NumPyClient):  # type: ignore[misc]
        def get_parameters(self, config: object) -> list[np.ndarray]:
            raise AssertionError("the app was asked for its model")

    identity = Identity.generate()
    mod = secagg_mod(identity=identity, enrolled=[identity.public_key]) if signed else secagg_mod()
    app = ClientApp(client_fn=lambda context: Older().to_client(), mods=[mod])
    message = Message(getparametersins_to_recorddict(GetParametersIns({})), 1000, "query")
    message.metadata.message_type = kind
    (reply,) = LoopbackGrid(app, 1).send_and_receive([message])
    assert reply.error.reason.startswith(f"secagg: this node answers {kind} messages through secure aggregation only")
