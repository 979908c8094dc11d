"""Rounds that a lying server requests twice, in malicious mode: each is answered once, within a budget."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from flwr.app import ConfigRecord, Message
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from fl.integrations.flower import RoundAbortedError
from tests.integrations.flower.apps import initial_arrays
from tests.integrations.flower.loopback import Fault, LoopbackGrid, handle, in_new_process
from tests.integrations.flower.signed import ALL, NODES, VICTIM, SignedFederation, content, total


def test_a_round_again_with_one_node_less(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The difference of the two sums would be the victim's update."""
    federation = SignedFederation(tmp_path)
    first, _ = federation.round(content(3))
    assert first["metrics"]["num-examples"] == total(ALL)
    del federation.trained[:]
    average, _ = federation.round(content(3), nodes=[node for node in ALL if node != VICTIM])
    assert average is None
    assert not federation.trained
    assert "it answers no message twice" in caplog.text
    assert not any("twice" in reply.error.reason for reply in federation.loopback.seen if reply.has_error())
    _, report = federation.round(content(4))
    assert report.included == ALL


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_round_again_with_another_model(tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """Almost the same model gives almost the same updates."""
    federation = SignedFederation(tmp_path)
    federation.round(content(3))
    del federation.trained[:]
    average, _ = federation.round(content(number, seed=1))
    assert average is None
    assert not federation.trained
    assert f"round {number} was offered, but this client has answered round 3" in caplog.text
    _, report = federation.round(content(4, seed=1))
    assert report.included == ALL


def test_a_round_that_nobody_numbers(tmp_path: Path) -> None:
    """An app's own loop may pass no number: then the content alone identifies the round."""
    federation = SignedFederation(tmp_path)
    for seed in (0, 1, 2):
        _, report = federation.round(content(None, seed=seed))
        assert report.included == ALL
        average, _ = federation.round(content(None, seed=seed))
        assert average is None
    assert len(federation.trained) == 3 * NODES


def test_two_sessions_of_one_round_at_once(tmp_path: Path) -> None:
    """All nodes have trained for both before either is unmasked: one of them gets the shares."""
    averages: list[Any] = []

    class Interleaved(LoopbackGrid):
        """A loopback that runs another session, from its opening to its end, before the last message of the first."""

        def _push(self, message: Message) -> str:
            if self._steps[1000] == 4 and not averages:
                averages.append(None)
                contexts, steps = dict(self.contexts), dict(self._steps)
                for node in ALL:
                    federation.tell(node, {})
                averages[0], _ = federation.round()
                self.contexts = contexts
                self._steps.update(steps)
            return super()._push(message)

    federation = SignedFederation(tmp_path, grid=Interleaved)
    average, _ = federation.round()
    assert average is None
    assert averages[0]["metrics"]["num-examples"] == total(ALL)


def test_a_round_that_was_aborted_may_be_repeated(tmp_path: Path) -> None:
    """No shares were sent, so nothing was answered."""
    gone = [0, 1, 2]
    federation = SignedFederation(
        tmp_path, faults=lambda node, step: Fault.LATE if step == 2 and node in gone else None
    )
    average, report = federation.round()
    assert average is None
    assert report.aborted is not None
    del gone[:]
    average, _ = federation.round()
    assert average["metrics"]["num-examples"] == total(ALL)


def test_a_round_whose_shares_were_lost_is_not_repeated(tmp_path: Path) -> None:
    """They may have been lost, or the server may lie about it: the next round continues."""
    lost = [0, 1, 2]
    federation = SignedFederation(
        tmp_path, faults=lambda node, step: Fault.LATE if step == 4 and node in lost else None
    )
    assert federation.round()[0] is None
    del lost[:]
    assert federation.round()[0] is None
    _, report = federation.round(content(2))
    assert report.included == ALL


def test_the_record_outlives_processes_and_states(tmp_path: Path) -> None:
    """A node that is killed between the record and its answer has answered, even if its state is lost."""

    def killed(app: Any, message: bytes, context: bytes) -> tuple[bytes, bytes]:
        handle(app, message, context)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    class Dying(LoopbackGrid):
        def _handle(self, message: bytes, context: bytes) -> tuple[bytes, bytes]:
            if killing and self._steps[1000] == 5:
                with pytest.raises(EOFError):
                    in_new_process(self._app, message, context, handle=killed)
                raise InterruptedError
            return super()._handle(message, context)

        def _push(self, message: Message) -> str:
            try:
                return super()._push(message)
            except InterruptedError:
                return str(message.metadata.message_id)

    killing = [True]
    federation = SignedFederation(tmp_path, grid=Dying, processes=True)
    assert federation.round()[0] is None
    del killing[:]
    for node in ALL:
        federation.tell(node, {})
    assert federation.round()[0] is None
    _, report = federation.round(content(2))
    assert report.included == ALL


def test_a_node_answers_as_many_rounds_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server can begin a run for every round: the budget is for all runs."""
    federation = SignedFederation(
        tmp_path, mod={"max_rounds": 3, "training": lambda context: context.node_config["study"]}
    )

    def begin(run_id: int, study: str) -> None:
        monkeypatch.setattr(TaskIdentity, "_run_id", run_id)
        for node in ALL:
            federation.tell(node, {}, run_id, study=study)

    for run_id in (1, 2, 3):
        begin(run_id, "one")
        assert federation.round()[1].included == ALL
    del federation.trained[:]
    begin(4, "one")
    assert federation.round()[0] is None
    assert not federation.trained
    assert "its budget is 3" in caplog.text
    begin(5, "another")
    assert federation.round()[1].included == ALL


def test_strategies_train_and_evaluate_through_many_rounds(tmp_path: Path) -> None:
    """The second of three rounds is aborted; train and evaluate messages of one round are two."""
    rounds: list[int] = []

    def faults(node: int, step: int) -> Fault | None:
        if (node, step) == (0, 0):
            rounds.append(step)
        return Fault.ERROR if len(rounds) == 3 and step == 2 else None

    federation = SignedFederation(tmp_path, evaluate=True, faults=faults)
    grid = federation.grid()
    result = FedAvg().start(grid=grid, initial_arrays=initial_arrays(), num_rounds=3, timeout=5)
    assert sorted(result.train_metrics_clientapp) == [1, 3]
    assert sorted(result.evaluate_metrics_clientapp) == [1, 2, 3]


def start(federation: SignedFederation, **options: Any) -> Any:
    strategy = FedAvg(fraction_evaluate=0.0)
    return strategy.start(grid=federation.grid(), initial_arrays=initial_arrays(), num_rounds=2, timeout=5, **options)


def test_two_trainings_in_one_run(tmp_path: Path) -> None:
    """The second numbers its rounds from 1 again: its other configuration makes them different."""
    federation = SignedFederation(tmp_path)
    for phase in (1, 2):
        result = start(federation, train_config=ConfigRecord({"phase": phase}))
        assert sorted(result.train_metrics_clientapp) == [1, 2]
    with pytest.raises(RoundAbortedError, match="2 rounds in a row without a result"):
        start(federation, train_config=ConfigRecord({"phase": 2}))


def test_two_grids_that_take_turns(tmp_path: Path) -> None:
    """Each has its own model, in one round: their configurations tell them apart."""
    federation = SignedFederation(tmp_path)
    for number in (1, 2):
        for model in ("generator", "critic"):
            assert federation.round(content(number, model=model))[1].included == ALL
