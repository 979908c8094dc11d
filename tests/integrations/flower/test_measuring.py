"""The session that measures, before the first update: trained once, and a lying server gets no more of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import context_from_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.serverapp.strategy import FedAvg

from fl.integrations.flower import SecAggGrid, secagg_mod
from fl.integrations.flower.grid import _Asked, _common_content
from fl.integrations.flower.node_record import NodeRecord, RoundName
from fl.integrations.flower.reply_scales import ReplyScales
from secagg import Round
from tests.integrations.flower import apps
from tests.integrations.flower.apps import change, examples_of, initial_arrays, make_app, number_of, train_messages
from tests.integrations.flower.loopback import Fault, LoopbackGrid, context_bytes
from tests.integrations.flower.signed import ALL, NODES, VICTIM, SignedFederation, content, total
from transport import RepeatedSessionError

OTHERS = [node for node in ALL if node != VICTIM]


def session(
    federation: SignedFederation, asked: RecordDict, *, measures: bool, nodes: Sequence[int] = ALL
) -> tuple[tuple[int, ...], list[int]]:
    """Run one session; return the nodes whose input is in its sum, and those that trained for it."""
    del federation.trained[:]
    grid = federation.grid(**({"clip": None, "max_examples": None} if measures else {}))
    messages = [message for message in train_messages(grid, asked) if message.metadata.dst_node_id in nodes]
    round_ = _Asked(messages, *_common_content(messages), "num-examples", 0.02)
    report, result = grid._session(round_, grid._scales_of(round_)).run()
    assert report.measures == measures
    assert (result is None) == (not report.included)
    return report.included, sorted(federation.trained)


def state_of(loopback: LoopbackGrid, node: int) -> list[str]:
    """Return the names of the protocol's entries that a session leaves."""
    state = context_from_proto(ContextProto.FromString(loopback.contexts[node])).state
    return [name for name in state if name.startswith("secagg.") and name != "secagg.layouts"]


# --- The honest server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [False, True])
def test_the_app_is_called_once_a_round(tmp_path: Path, processes: bool) -> None:
    """In malicious mode, and with a separate process for each message."""
    federation = SignedFederation(tmp_path, processes=processes)
    grid = federation.grid(clip=None, max_examples=None, round_timeout=5.0)
    result = FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=initial_arrays(), num_rounds=2, timeout=5)
    # Strategies send to nodes in any order.
    assert [tuple(sorted(report.included)) for report in grid.reports] == [ALL] * 2
    assert [report.measuring is not None for report in grid.reports] == [True, False]
    expected = initial_arrays()
    for name, array in expected.items():
        array = array.numpy()
        for _ in range(2):
            array = sum(change(array, node - 1000) * (examples_of(node - 1000) / total(ALL)) for node in ALL)
        np.testing.assert_allclose(result.arrays[name].numpy(), array, atol=2e-5)
    if not processes:
        assert sorted(federation.trained) == sorted(2 * ALL)
    assert not any(state_of(federation.loopback, node) for node in ALL)


class Counted:
    """Nodes that count how often they train in each of a round's sessions, and faults by session, from 0, and step."""

    def __init__(self, *faults: tuple[int, int, int], fault: Fault = Fault.ERROR) -> None:
        self.trained: list[tuple[int, int]] = []
        self._sessions: dict[int, int] = {}
        self.faults, self.fault = set(faults), fault

        def train(message: Message, context: Context) -> Message:
            number = number_of(context)
            self.trained.append((self._sessions[number], number))
            return apps.train(message, context)

        def fault_of(node: int, step: int) -> Fault | None:
            if step == 0:
                self._sessions[node] = self._sessions.get(node, -1) + 1
                self.begins(self._sessions[node], node)
            return self.fault if (self._sessions[node], node, step) in self.faults else None

        self.loopback = LoopbackGrid(make_app(secagg_mod(), train=train), NODES, faults=fault_of)
        self.grid = SecAggGrid(self.loopback, round_timeout=0.02, poll_seconds=0.005)

    def begins(self, session: int, node: int) -> None:
        """Call this when a session is offered to a node."""

    def round(self) -> Any:
        replies = list(self.grid.send_and_receive(train_messages(self.grid), timeout=0.02))
        return replies[0].content if replies else None


def assert_average_of(content: RecordDict, numbers: Sequence[int]) -> None:
    weight = sum(map(examples_of, numbers))
    assert content["metrics"]["num-examples"] == weight
    for name, array in initial_arrays().items():
        mean = sum(change(array.numpy(), number) * (examples_of(number) / weight) for number in numbers)
        np.testing.assert_allclose(content["arrays"][name].numpy(), mean, atol=2e-5)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("step", range(4))
def test_a_node_vanishes_between_the_two_sessions(step: int, fault: Fault) -> None:
    """It comes back in the round after."""
    counted = Counted((1, 2, step), fault=fault)
    rest = [number for number in range(NODES) if number != 2 or step == 3]
    assert_average_of(counted.round(), rest)
    assert sorted(counted.trained) == [(0, number) for number in range(NODES)]
    assert [1000 + number for number in rest] == list(counted.grid.reports[0].included)
    assert counted.grid.reports[0].measuring.dropped == {}
    assert_average_of(counted.round(), range(NODES))


@pytest.mark.parametrize("step", range(4))
def test_a_node_that_missed_the_first_session_trains_in_the_second(step: int) -> None:
    counted = Counted((0, 2, step))
    assert_average_of(counted.round(), range(NODES))
    again = [(1, 2)] if step < 3 else []
    # The training before a failed last exchange is kept.
    assert sorted(counted.trained) == sorted([(0, n) for n in range(NODES) if n != 2 or step == 3] + again)
    measuring = counted.grid.reports[0].measuring
    assert list(measuring.dropped) == [1002]
    assert measuring.dropped[1002][0] is list(Round)[step if step < 3 else 4]


def test_a_node_that_is_new_in_the_second_session_trains_there() -> None:
    """Its state was lost, and with it the reply."""
    counted = Counted()

    def begins(session: int, node: int) -> None:
        if (session, node) == (1, 2):
            counted.loopback.contexts[1002] = context_bytes(1002, 2, NODES, {})

    counted.begins = begins  # type: ignore[method-assign]
    assert_average_of(counted.round(), range(NODES))
    assert sorted(counted.trained) == [*((0, number) for number in range(NODES)), (1, 2)]


@pytest.mark.parametrize("step", range(4))
def test_a_round_whose_measuring_fails_is_aborted_and_the_next_one_measures(
    step: int, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counted(*((0, node, step) for node in range(3)))
    assert counted.round() is None
    (report,) = counted.grid.reports
    assert report.measures
    assert report.aborted.round is list(Round)[step if step < 3 else 4]
    assert "the first session, which measures the replies, failed: aborted in" in caplog.text
    assert_average_of(counted.round(), range(NODES))
    assert counted.grid.reports[1].measuring is not None


def test_the_reply_waits_for_the_same_content_only() -> None:
    counted = Counted()
    counted.faults = {(1, node, 0) for node in range(NODES)}
    assert counted.round() is None
    # The second session never opened: the replies wait, beside the apps' states.
    for node in counted.loopback.contexts:
        assert state_of(counted.loopback, node) == ["secagg.client", "secagg.reply.arrays", "secagg.reply.metrics"]
    other = content(2, seed=1)
    (reply,) = counted.grid.send_and_receive(train_messages(counted.grid, other), timeout=5)
    assert sorted(counted.trained) == [(session, number) for session in (0, 2) for number in range(NODES)]
    mean = sum(
        change(initial_arrays(1)["layer.bias"].numpy(), node) * (examples_of(node) / total(ALL))
        for node in range(NODES)
    )
    np.testing.assert_allclose(reply.content["arrays"]["layer.bias"].numpy(), mean, atol=2e-5)
    assert not any(state_of(counted.loopback, node) for node in counted.loopback.contexts)


def test_metrics_alone_need_no_measuring() -> None:
    loopback = LoopbackGrid(make_app(secagg_mod(protect_evaluate=True)), NODES)
    grid = SecAggGrid(loopback, protect_evaluate=True, poll_seconds=0.005)
    (reply,) = grid.send_and_receive(train_messages(grid, message_type="evaluate"), timeout=5)
    assert grid.reports[0].measuring is None
    expected = sum(0.1 * number * examples_of(number) for number in range(NODES)) / total(ALL)
    assert reply.content["metrics"]["eval_acc"] == pytest.approx(expected, abs=1e-6)


# --- A server that lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, None])
def test_a_round_is_measured_once(tmp_path: Path, number: int | None) -> None:
    """The difference of two sums of ranges would be one client's."""
    federation = SignedFederation(tmp_path)
    assert session(federation, content(number), measures=True) == (ALL, list(ALL))
    assert session(federation, content(number), measures=True, nodes=OTHERS) == ((), [])
    # Its update is separate, and is also given once. The replies were lost with the declined sessions.
    assert session(federation, content(number), measures=False)[0] == ALL
    assert session(federation, content(number), measures=False, nodes=OTHERS) == ((), [])


def test_a_round_is_not_measured_with_another_model(tmp_path: Path) -> None:
    federation = SignedFederation(tmp_path)
    assert session(federation, content(3), measures=True) == (ALL, list(ALL))
    for number in (1, 3):
        assert session(federation, content(number, seed=1), measures=True) == ((), [])
    assert session(federation, content(4, seed=1), measures=True)[0] == ALL


@pytest.mark.parametrize("number", [3, None])
def test_a_round_is_not_measured_after_its_update(tmp_path: Path, number: int | None) -> None:
    federation = SignedFederation(tmp_path)
    assert session(federation, content(number), measures=False) == (ALL, list(ALL))
    assert session(federation, content(number), measures=True) == ((), [])
    if number is not None:
        for seed, before in ((1, 3), (0, 2)):
            assert session(federation, content(before, seed=seed), measures=True) == ((), [])
    assert session(federation, content(4), measures=True) == (ALL, list(ALL))


def test_the_update_is_of_the_content_that_was_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    federation = SignedFederation(tmp_path)
    assert session(federation, content(3), measures=True) == (ALL, list(ALL))
    for number in (2, 3):
        assert session(federation, content(number, seed=1), measures=False) == ((), [])
    assert "in round 3 this node has measured its update for another message" in caplog.text
    assert session(federation, content(3), measures=False)[0] == ALL
    assert session(federation, content(4, seed=1), measures=False) == (ALL, list(ALL))


@pytest.mark.parametrize("number", [3, None])
def test_later_rounds_need_no_measuring(tmp_path: Path, number: int | None) -> None:
    """With or without numbers: their bounds follow from the round before."""
    federation = SignedFederation(tmp_path)
    assert session(federation, content(number), measures=True) == (ALL, list(ALL))
    assert session(federation, content(number), measures=False)[0] == ALL
    for seed in (1, 2):
        later = content(None if number is None else number + seed, seed=seed)
        assert session(federation, later, measures=False) == (ALL, list(ALL))
        assert session(federation, later, measures=False, nodes=OTHERS) == ((), [])


def test_each_kind_of_answer_has_the_whole_budget(tmp_path: Path) -> None:
    federation = SignedFederation(tmp_path, mod={"max_rounds": 2})
    for number in (1, 2):
        for measures in (True, False):
            assert session(federation, content(number), measures=measures)[0] == ALL
    for measures in (True, False):
        assert session(federation, content(3), measures=measures) == ((), [])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("number", [1, None])
def test_two_processes_that_answer_at_once(tmp_path: Path, first: bool, number: int | None) -> None:
    """Both have checked before either has answered: at least one is stopped before its shares are sent."""
    record = NodeRecord(tmp_path, b"owner", training="training", max_rounds=10)
    name = RoundName("series", -1 if number is None else number)
    # Without a number, only the content identifies the round.
    contents = {True: b"a", False: b"b" if number else b"a"}
    answers = [True, False] if first else [False, True]
    for measures in answers:
        record.check(name, 7, contents[measures], measures=measures)
    record.answer(b"one", name, 7, contents[answers[0]], measures=answers[0])
    if first and number is None:
        record.answer(b"two", name, 7, b"a", measures=False)
        return
    with pytest.raises(RepeatedSessionError):
        record.answer(b"two", name, 7, contents[answers[1]], measures=answers[1])


@pytest.mark.parametrize("measures", [True, False])
def test_a_server_that_offers_other_sizes_than_it_sends(measures: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declined with a reason, before anybody trains; with a server that tells the truth the same nodes continue."""
    counted, honest = Counted(), ReplyScales.encoding

    def lying(scales: ReplyScales, *arguments: Any) -> Any:
        encoding = honest(scales, *arguments)
        if (encoding.scales is None) != measures:
            return encoding
        first, second, *more = encoding.sizes
        return replace(encoding, sizes=(first + second, 0, *more))

    monkeypatch.setattr(ReplyScales, "encoding", lying)
    assert counted.round() is None
    reasons = {reason for _, reason in counted.grid.reports[0].dropped.values()}
    assert reasons == {
        "secagg: the session is for 4 arrays, of "
        f"{'82' if measures else '41'} elements in all, and not for the 3 float arrays, of 41 elements, that were sent"
    }
    assert len(counted.trained) == (0 if measures else NODES)
    monkeypatch.setattr(ReplyScales, "encoding", honest)
    assert_average_of(counted.round(), range(NODES))
