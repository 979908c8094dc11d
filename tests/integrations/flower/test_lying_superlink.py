"""A SuperLink that lies, in malicious mode: separate settings for one node, and sessions that it opens twice."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl.integrations.flower.app_view import run_digest
from fl.integrations.flower.offer import RoundOffer
from tests.integrations.flower import apps
from tests.integrations.flower.apps import examples_of, initial_arrays, train_messages
from tests.integrations.flower.loopback import Fault, Faults, LoopbackGrid
from tests.integrations.flower.signed import ALL, NODES, VICTIM, SignedFederation, content, gradient, total

SETTINGS = {"lr": 0.25, "layers": 2, "name": "a", "fast": True}


@pytest.mark.parametrize("known", [None, {"lr": 0.0}, {"lr": 0.1}])
def test_a_separate_run_configuration_for_one_node(tmp_path: Path, known: dict[str, Any] | None) -> None:
    """If the others' learning rate is 0, the sum is the victim's update: it takes part in no such session."""
    federation = SignedFederation(tmp_path)
    for node in ALL:
        federation.tell(node, {"lr": 0.1 if node == VICTIM else 0.0})
    average, report = federation.round(**({} if known is None else {"run_config": known}))
    if average is not None:
        assert VICTIM not in report.included
        for name, array in average["arrays"].items():
            np.testing.assert_allclose(array.numpy(), initial_arrays()[name].numpy(), atol=1e-5)
    assert (average is None) == (known != {"lr": 0.0})
    if known is None:
        assert {reason for _, reason in report.dropped.values()} == {report.dropped[VICTIM][1]}
        assert "another run configuration" in report.dropped[VICTIM][1]
        assert not federation.trained


def test_each_node_is_offered_its_own_configuration(tmp_path: Path) -> None:
    """Each node is offered its own configuration, and accepts it: then they are in different sessions."""

    class Pleasing(LoopbackGrid):
        def _push(self, message: Message) -> str:
            if "offer" in message.content["secagg"] and message.metadata.dst_node_id == VICTIM:
                fields = dict(message.content["secagg"])
                offer = RoundOffer.from_bytes(fields["offer"])
                digest = run_digest(1, "", {"lr": 0.1})
                fields["offer"] = RoundOffer(
                    offer.params, offer.encoding, offer.nonce, offer.content, digest
                ).to_bytes()
                message.content["secagg"] = ConfigRecord(fields)
            return super()._push(message)

    federation = SignedFederation(tmp_path, grid=Pleasing)
    for node in ALL:
        federation.tell(node, {"lr": 0.1 if node == VICTIM else 0.0})
    average, report = federation.round(run_config={"lr": 0.0})
    assert average is not None
    assert VICTIM not in report.included
    assert VICTIM not in federation.trained


def test_one_configuration_for_all(tmp_path: Path) -> None:
    """The honest run: nodes and server agree, in any order of the settings."""
    federation = SignedFederation(tmp_path)
    for node in ALL:
        federation.tell(node, dict(reversed(SETTINGS.items())) if node % 2 else SETTINGS)
    average, report = federation.round(run_config=SETTINGS)
    assert report.included == ALL
    for name, array in average["arrays"].items():
        mean = sum(gradient(node, array) * examples_of(node - 1000) for node in ALL) / total(ALL)
        np.testing.assert_allclose(array.numpy(), initial_arrays()[name].numpy() - 0.25 * mean, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [{"lr": 1}, {"lr": "0.25"}, {"lr": 0.2500001}, {"fast": False}, {"fast": 1}, {"layers": 2.0}, {"more": 0}],
    ids=str,
)
def test_values_of_another_type_are_different_values(tmp_path: Path, other: dict[str, Any]) -> None:
    federation = SignedFederation(tmp_path)
    for node in ALL:
        federation.tell(node, SETTINGS | (other if node == VICTIM else {}))
    average, report = federation.round(run_config=SETTINGS)
    assert list(report.dropped) == [VICTIM]
    assert average["metrics"]["num-examples"] == total(ALL) - total([VICTIM])


@pytest.mark.parametrize("step", range(5))
def test_another_run_or_group(tmp_path: Path, step: int) -> None:
    """The run's id and the message's group reach the app, too: they are the session's in every message."""

    class Regrouping(LoopbackGrid):
        def _push(self, message: Message) -> str:
            node = message.metadata.dst_node_id
            if (node, self._steps[node] if "offer" not in message.content["secagg"] else 0) == (VICTIM, step):
                message.metadata.group_id = "7"
            return super()._push(message)

    federation = SignedFederation(tmp_path / "groups", grid=Regrouping)
    average, report = federation.round()
    assert list(report.dropped) == [VICTIM]
    assert (VICTIM in report.included) == (step > 2)
    assert (VICTIM in federation.trained) == (step > 2)
    assert average is not None


def test_another_run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = SignedFederation(tmp_path)
    monkeypatch.setattr(TaskIdentity, "_run_id", 2)
    average, report = federation.round()
    assert average is None
    assert "another run" in report.dropped[VICTIM][1]


def test_the_rest_of_the_message_is_the_same_for_all(tmp_path: Path) -> None:
    """The SuperLink may choose dates and names of messages: no app sees them."""

    class Dating(LoopbackGrid):
        def _push(self, message: Message) -> str:
            message.metadata.ttl = 1e5 + message.metadata.dst_node_id
            message.metadata.created_at = 9e9 + message.metadata.dst_node_id
            message.metadata.dst_task_id = message.metadata.dst_node_id
            return super()._push(message)

    federation = SignedFederation(tmp_path, grid=Dating)
    seen = []

    def train(message: Message, context: Context) -> Message:
        assert message.metadata.created_at < 9e9
        seen.append((message.metadata.ttl, message.metadata.dst_task_id, message.metadata.message_id))
        context.state = RecordDict({"mine": ConfigRecord({"kept": True})})
        return apps.train(message, context)

    federation.loopback._app.train("seen")(train)
    grid = federation.grid()
    (reply,) = grid.send_and_receive(train_messages(grid, message_type="train.seen"), timeout=5)
    assert reply.content["metrics"]["num-examples"] == total(ALL)
    assert len(seen) == NODES
    assert len(set(seen)) == 1
    assert all(b"kept" in context for context in federation.loopback.contexts.values())


@pytest.mark.parametrize("ends", [True, False])
def test_the_offer_of_a_session_again(tmp_path: Path, ends: bool) -> None:
    """On a sparse graph, a second instance of one identity in one session isolates the first."""
    faults: Faults = lambda node, step: Fault.ERROR if step == 2 and not ends else None  # noqa: E731
    federation = SignedFederation(tmp_path, faults=faults)
    average, _ = federation.round()
    assert (average is not None) == ends
    opening = next(message for message in federation.loopback.sent if "offer" in message.content["secagg"])
    for _ in range(2):
        message = Message(opening.content, opening.metadata.dst_node_id, "train")
        (reply,) = federation.loopback.send_and_receive([message])
        assert reply.has_error()
    # Another session is allowed.
    federation.loopback._faults = lambda node, step: None
    average, report = federation.round(content(2))
    assert report.included == ALL
