"""Malicious mode: enrolled keys as identities; and a server that lets one stored client answer twice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from flwr.app import Context, Message

from fl.errors import ConfigError
from fl.integrations.flower import FlowerError, SecAggGrid, secagg_mod
from fl.integrations.flower.wire import unpack
from secagg import Adversary, GraphKind, Identity, SessionPolicy
from tests.integrations.flower.apps import examples_of, make_app, number_of, train_messages
from tests.integrations.flower.loopback import LoopbackGrid

NODES = 5


@pytest.fixture
def identities() -> list[Identity]:
    return [Identity.generate() for _ in range(NODES)]


def keys_of(identities: Sequence[Identity]) -> list[bytes]:
    return [identity.public_key for identity in identities]


def app_of(identities: Sequence[Identity], claims: Path, enrolled: Sequence[bytes] | None = None, **asked: Any) -> Any:
    """Return an app whose nodes load their identities by their number."""

    def identity(context: Context) -> Identity:
        return identities[number_of(context)]

    known = keys_of(identities) if enrolled is None else enrolled
    return make_app(secagg_mod(identity=identity, enrolled=known, claims=claims, **asked))


def run(loopback: LoopbackGrid, enrolled: Sequence[bytes]) -> tuple[Any, Any]:
    fixed = {"clip": 1.0, "max_examples": 100}
    grid = SecAggGrid(
        loopback, adversary=Adversary.MALICIOUS, enrolled=enrolled, round_timeout=0.02, poll_seconds=0.005, **fixed
    )
    replies = list(grid.send_and_receive(train_messages(grid), timeout=0.02))
    return (replies[0].content if replies else None), grid.reports[0]


@pytest.mark.parametrize("processes", [False, True])
def test_a_session(identities: list[Identity], tmp_path: Path, processes: bool) -> None:
    loopback = LoopbackGrid(app_of(identities, tmp_path / "claims"), NODES, processes=processes)
    content, report = run(loopback, keys_of(identities))
    assert content["metrics"]["num-examples"] == sum(map(examples_of, range(NODES)))
    assert report.aborted is None
    assert len(loopback.seen) == 5 * NODES


def test_a_stranger_is_left_out(identities: list[Identity], tmp_path: Path) -> None:
    """The server drops a node whose key is not enrolled."""
    others = [*identities[:4], Identity.generate()]
    enrolled = keys_of(identities)
    content, report = run(LoopbackGrid(app_of(others, tmp_path, enrolled), NODES), enrolled)
    assert list(report.dropped) == [1004]
    assert "identity key" in report.dropped[1004][1]
    assert content["metrics"]["num-examples"] == sum(map(examples_of, range(4)))


def test_a_server_that_enrolls_a_stranger(identities: list[Identity], tmp_path: Path) -> None:
    """It admits its own node; the clients refuse it, and the session ends without a sum."""
    stranger = Identity.generate()
    others = [*identities[:4], stranger]
    content, report = run(
        LoopbackGrid(app_of(others, tmp_path, keys_of(identities)), NODES), [*keys_of(identities), stranger.public_key]
    )
    assert content is None
    assert report.aborted is not None


def test_a_client_without_identity(identities: list[Identity], tmp_path: Path) -> None:
    content, report = run(LoopbackGrid(make_app(secagg_mod(claims=tmp_path)), NODES), keys_of(identities))
    assert content is None
    assert len(report.dropped) == NODES


def test_clients_with_identities_decline_weaker_sessions(identities: list[Identity], tmp_path: Path) -> None:
    grid = SecAggGrid(LoopbackGrid(app_of(identities, tmp_path), NODES), round_timeout=0.02)
    assert list(grid.send_and_receive(train_messages(grid), timeout=0.02)) == []


def test_clients_with_identities_hide_among_three(
    identities: list[Identity], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two nodes make a sum from which each learns the other's input; nodes that accept this may have it.

    By default a server assumes nodes that ask for three, and opens no round.
    """
    policy = SessionPolicy(min_inputs=2)
    for asked, sums in (({}, 0), ({"min_inputs": 2}, 1)):
        loopback = LoopbackGrid(app_of(identities, tmp_path, **asked), 2)
        settings = {"adversary": Adversary.MALICIOUS, "enrolled": keys_of(identities), "round_timeout": 0.02}
        grid = SecAggGrid(loopback, policy=policy, **settings)
        assert len(list(grid.send_and_receive(train_messages(grid), timeout=0.02))) == sums
        with pytest.raises(
            FlowerError, match=r"over 2 nodes is impossible: .* sums of at least 3 inputs \(min_inputs\)"
        ):
            SecAggGrid(loopback, **settings).send_and_receive(train_messages(grid))
    assert "this client asks for 3" in caplog.text


def test_three_nodes_that_hide_among_three(identities: list[Identity], tmp_path: Path) -> None:
    """By default all of the three are needed."""
    loopback = LoopbackGrid(app_of(identities, tmp_path), 3)
    grid = SecAggGrid(loopback, adversary=Adversary.MALICIOUS, enrolled=keys_of(identities), round_timeout=0.02)
    assert len(list(grid.send_and_receive(train_messages(grid), timeout=5))) == 1
    assert len(grid.reports[0].included) == 3


def test_sparse_graphs_in_malicious_mode_are_agreed_on_by_both_sides(
    identities: list[Identity], tmp_path: Path
) -> None:
    """Nodes with identities decline them by default: the grid's error says so, and how to change both sides."""
    loopback = LoopbackGrid(app_of(identities, tmp_path, graph="sparse"), NODES)
    settings = {"adversary": Adversary.MALICIOUS, "enrolled": keys_of(identities), "graph": GraphKind.SPARSE}
    with pytest.raises(ConfigError, match=r"secagg_mod\(graph='sparse'\), and SecAggGrid\(policy="):
        SecAggGrid(loopback, **settings)
    grid = SecAggGrid(loopback, policy=SessionPolicy(graph=GraphKind.SPARSE), round_timeout=0.02, **settings)
    assert len(list(grid.send_and_receive(train_messages(grid), timeout=5))) == 1
    assert len(grid.reports[0].included) == NODES


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_two_messages_at_once_get_one_answer(identities: list[Identity], tmp_path: Path, step: int) -> None:
    """A SuperNode may handle two messages at once, each with the same stored client: the second is refused."""

    class Doubling(LoopbackGrid):
        """A loopback that sends one node's message of one step twice, with the context as before the first."""

        def _push(self, message: Message) -> str:
            said, _ = unpack(message.content)
            node = message.metadata.dst_node_id
            before = self.contexts[node]
            twice = node == 1000 and self._steps[node] == step and said is not None
            identifier = super()._push(message)
            if twice:
                self.contexts[node], after = before, self.contexts[node]
                self._steps[node] -= 1
                second = super()._push(Message(message.content, node, "train"))
                answers.extend(self.pull_messages([second]))
                self.contexts[node] = after
            return identifier

    answers: list[Message] = []
    content, report = run(Doubling(app_of(identities, tmp_path), NODES), keys_of(identities))
    (second,) = answers
    assert second.has_error()
    assert 1000 in report.included
    assert content is not None
