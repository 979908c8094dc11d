"""Rounds of `secagg serve` without a mean after shares may be out: they have no result, and the run continues.

They are not tried again: clients answer a round once, and a second sum of one round could be subtracted from the first.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.planning import SessionPlans
from fl.aggregation.scales import ScaleTracker
from fl.errors import AbortedError
from fl.learning.settings import Local
from fl.network import client as joining
from fl.network.aggregator import NetworkAggregator
from fl.network.announcement import RoundAnnouncement
from fl.network.client import Participant
from fl.network.errors import RoundFailedError
from fl.network.invitations import Invitations, ServingRules
from fl.network.own_inputs import announced_in
from fl.network.server import FinishedServing, resume_serving
from fl.network.session_files import FolderStore, SessionFiles
from fl.network.session_thread import SessionRequest
from fl.runs.checkpoint import RunFolder
from fl.runs.records import RoundRecord
from secagg import Aborted, AbortReason, Round
from tests.fl.network.harness import CLIENTS, Client, Deployment, until
from transport import ClientRecord, Deadlines, JournalError, Offer
from transport.certificates import reading as certs
from transport.certificates.authority import Authority
from transport.certificates.reading import identity_from
from transport.durable.server_host import Counters
from transport.tcp import Retry

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]

LIAR = 3


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    return Deployment(tmp_path, monkeypatch)


class Training:
    """One training with all its clients, as they are at its beginning, and how it was served."""

    def __init__(self, deployment: Deployment, **changes: Any) -> None:
        self.deployment = deployment
        self.config = deployment.config(**changes)
        self.folder = deployment.directory / "run"
        self.options = {"deadlines": Deadlines(advertise_keys=2, share_keys=5, unmasking=4), "give_up": 10.0}
        self.clients: dict[int, Client] = {}

    def start(self, client_id: int, make: Callable[..., Participant] = Participant) -> None:
        state = self.deployment.directory / f"state-{client_id}"
        self.clients[client_id] = self.deployment.client(client_id, self.config, make=make, state=state)
        self.clients[client_id].start()

    def start_all(self, liar: Callable[..., Participant] = Participant) -> None:
        for client_id in range(CLIENTS):
            self.start(client_id, liar if client_id == LIAR else Participant)

    def serve(self, beside: Callable[[], None]) -> FinishedServing:
        options = self.deployment.options(**self.options)
        return self.deployment.run_beside(self.config, beside, options=options)

    def resume(self, folder: Path | None = None, **changes: Any) -> FinishedServing:
        options = self.deployment.options(**self.options, **changes)
        return resume_serving(folder or self.folder, None, None, options, self.deployment.console())

    def records(self, folder: Path | None = None) -> list[RoundRecord]:
        runs = RunFolder(folder or self.folder)
        return runs.restore([], runs.load_config()[1])

    def finish(self) -> None:
        for client in self.clients.values():
            client.finish()

    def trained(self, number: int) -> list[int]:
        """Return how often each client trained in a round."""
        begin = f"round {number}/{self.config.rounds}: training"
        return [sum(line.startswith(begin) for line in self.clients[i].said) for i in range(CLIENTS)]


def counters_in(vector: Any) -> Any:
    """Return the counters of an encoded update, to be changed."""
    return vector[-UpdateEncoding.for_plan((51,), CLIENTS, 24)._totals.vector_length :]


class Poisoner(Participant):
    """A client that claims more correct predictions than there are examples, in its first round."""

    def _input(self, offer):
        vector = super()._input(offer)
        announced = announced_in(offer)
        if announced.round == 1 and announced.scales is not None:
            # Behind two digits of the examples.
            counters_in(vector)[2] = (1 << announced.value_bits) - 1
        return vector


class Subtracting(Participant):
    """A client that subtracts the others' examples, so that none are left."""

    def _input(self, offer):
        vector = super()._input(offer).astype(np.uint64)
        announced = announced_in(offer)
        if announced.round == 1 and announced.scales is not None:
            counters_in(vector)[0] = np.uint64(offer.params.modulus - 180)
        return vector


@pytest.mark.parametrize(("liar", "said"), [(Poisoner, "accuracy"), (Subtracting, "0 examples")])
def test_a_sum_that_cannot_be_read_costs_its_round_and_no_more(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, liar: type[Participant], said: str
) -> None:
    # A corrupt client does not check itself.
    monkeypatch.setattr("secagg.client._checked_input", lambda vector, params: vector)
    training = Training(deployment, rounds=2)
    finished = training.serve(lambda: training.start_all(liar))
    training.finish()
    spoilt, good = training.records()
    assert said in str(spoilt.aborted)
    assert (spoilt.included, spoilt.num_examples, spoilt.train_loss) == ((), 0, None)
    assert good.aborted is None
    assert good.included == tuple(range(CLIENTS))
    assert good.accuracy > spoilt.accuracy
    assert finished.summary["aborted"] == [{"round": 1, "reason": spoilt.aborted}]
    assert training.trained(1) == training.trained(2) == [1] * CLIENTS


def test_a_server_that_dies_after_a_bad_sum_is_not_in_a_crash_loop(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum is in the journal, and the process ends before the round is in the checkpoint."""
    training = Training(deployment, rounds=2)
    with monkeypatch.context() as patch:
        dies_at_save(patch, 2)
        interrupted = training.serve(lambda: training.start_all(Poisoner))
    assert interrupted.interrupted
    assert (training.folder / "round.journal").exists()
    training.resume()
    training.finish()
    spoilt, good = training.records()
    assert "accuracy" in str(spoilt.aborted)
    assert good.included == tuple(range(CLIENTS))
    assert training.trained(1) == [1] * CLIENTS
    assert not list(training.folder.glob("round.*"))


def dies_at_save(patch: pytest.MonkeyPatch, number: int, before: Callable[[], object] = lambda: None) -> None:
    """End the server at its ``number``-th save; the first is the new run's."""
    save, calls = RunFolder.save, [0]

    def counted(self: RunFolder, *arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == number:
            before()
            raise KeyboardInterrupt
        save(self, *arguments)

    patch.setattr(RunFolder, "save", counted)


@pytest.fixture
def two_leave(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients 0 and 1 leave in round 1 before they send their shares: of four, too few are left to unmask."""
    leaving = {identity_from(deployment.certs / f"client-{i}.key").public_key for i in (0, 1)}
    answer = ClientRecord.answer

    def full_disk(self: ClientRecord, session_id: bytes, number: int) -> None:
        if number == 1 and self._client in leaving:
            raise JournalError("the disk is full")
        answer(self, session_id, number)

    monkeypatch.setattr(ClientRecord, "answer", full_disk)


def leave(training: Training) -> None:
    training.start_all()
    for i in (0, 1):
        with pytest.raises(JournalError, match="disk is full"):
            training.clients[i].finish()
    until(lambda: any("no result" in line for line in training.clients[2].said), 20)


@pytest.mark.usefixtures("two_leave")
def test_a_round_aborted_while_shares_were_out_is_not_tried_again(deployment: Deployment) -> None:
    training = Training(deployment, rounds=2)

    def beside() -> None:
        leave(training)
        for i in (0, 1):
            training.start(i)

    training.serve(beside)
    training.finish()
    spoilt, good = training.records()
    assert "aborted in Unmasking" in str(spoilt.aborted)
    assert good.included == tuple(range(CLIENTS))
    assert training.trained(1)[2:] == [1, 1]


@pytest.mark.usefixtures("two_leave")
def test_a_client_told_of_a_missing_last_result_is_told_that_it_was_the_last_round(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.network.aggregator.GOODBYE_SECONDS", 6.0)
    training = Training(deployment, rounds=1)
    with pytest.raises(AbortedError, match="no round came to a sum"):
        training.serve(lambda: leave(training))
    for i in (2, 3):
        training.clients[i].finish()
        assert training.clients[i].said[-2].startswith("round 1/1: no result (")
        assert training.clients[i].said[-1] == "the training is over"


def test_a_round_whose_journal_was_deleted_is_left_out(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients have answered it, and do not answer it again; the server does not ask them for ever."""
    training = Training(deployment, rounds=2)
    with monkeypatch.context() as patch:
        dies_at_save(patch, 2)
        training.serve(training.start_all)
    (training.folder / "round.journal").unlink()
    training.resume()
    training.finish()
    lost, good = training.records()
    assert "its journal is gone" in str(lost.aborted)
    assert good.included == tuple(range(CLIENTS))
    assert training.trained(1) == training.trained(2) == [1] * CLIENTS


def dies_before_the_update(patch: pytest.MonkeyPatch) -> None:
    """End the server between the session that measures and the update's."""

    def begin(self: SessionFiles, number: int) -> None:
        if self.name == "round":
            raise KeyboardInterrupt
        begin_session(self, number)

    begin_session = SessionFiles.begin
    patch.setattr(SessionFiles, "begin", begin)


def test_a_server_that_dies_between_both_sessions_continues_with_the_second(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranges are in the first one's journal, and the clients' updates in their memory."""
    training = Training(deployment, rounds=2)
    with monkeypatch.context() as patch:
        dies_before_the_update(patch)
        assert training.serve(training.start_all).interrupted
    assert (training.folder / "round.ranges.journal").exists()
    training.resume()
    training.finish()
    assert [record.included for record in training.records()] == [tuple(range(CLIENTS))] * 2
    assert training.trained(1) == training.trained(2) == [1] * CLIENTS
    assert not list(training.folder.glob("round.*"))


def test_ranges_whose_journal_was_deleted_are_measured_again_in_the_next_round(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, rounds=2)
    with monkeypatch.context() as patch:
        dies_before_the_update(patch)
        training.serve(training.start_all)
    (training.folder / "round.ranges.journal").unlink()
    training.resume()
    training.finish()
    lost, good = training.records()
    assert "its journal is gone" in str(lost.aborted)
    assert good.included == tuple(range(CLIENTS))
    assert training.trained(1) == training.trained(2) == [1] * CLIENTS


def test_ranges_that_cannot_be_read_cost_their_round(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.client._checked_input", lambda vector, params: vector)

    class Forging(Participant):
        def _input(self, offer: Any) -> Any:
            vector = super()._input(offer)
            return vector if announced_in(offer).round > 1 else vector + 1

    training = Training(deployment, rounds=2)
    training.serve(lambda: training.start_all(Forging))
    training.finish()
    spoilt, good = training.records()
    assert "the session that measures the updates' ranges failed: " in str(spoilt.aborted)
    assert good.included == tuple(range(CLIENTS))
    assert training.trained(2) == [1] * CLIENTS


def test_rounds_that_an_older_copy_of_the_run_has_forgotten_can_be_skipped(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, rounds=3)
    older = deployment.directory / "older"
    with monkeypatch.context() as patch:
        # Round 1 is saved, round 2 is not yet.
        dies_at_save(patch, 3, before=lambda: copy_without_journal(training.folder, older))
        training.serve(training.start_all)
    tried = deployment.directory / "tried"
    copy_without_journal(older, tried)
    with pytest.raises(RoundFailedError, match="1 failed round in a row"):
        training.resume(tried, retries=0, max_failed_rounds=1)
    assert any(line.startswith("round 2 was aborted 1 times") for line in deployment.output)
    training.resume(older, skip=1)
    training.finish()
    first, skipped, last = training.records(older)
    assert (first.aborted, skipped.aborted, last.aborted) == (None, "it was skipped", None)
    assert [training.trained(number) for number in (1, 2, 3)] == [[1] * CLIENTS] * 3


def copy_without_journal(folder: Path, copy: Path) -> None:
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("round.*"))


def test_clients_told_of_wrong_shares_are_told_of_the_end_too(tmp_path: Path) -> None:
    """All were present to the end, and are told that there is no result, not that one is still to come."""
    run: list[SessionRequest] = []
    aborted = Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, needed=1, had=0)

    class Sessions:
        def wait_for_clients(self, count: int, seconds: float) -> tuple[int, ...]:
            return tuple(range(count))

        def run(self, session: SessionRequest, observe: object = None) -> Any:
            run.append(session)
            offer = Offer(session.params, b"nonce", session.extra, session.number)
            return SimpleNamespace(
                outcome=aborted,
                dropped={},
                declined={},
                counters=Counters(),
                client_ids=session.client_ids,
                offer=offer,
            )

    tracker = ScaleTracker(1, 16, clip=1.0, max_weight=5)
    announcement = RoundAnnouncement(
        round=1, rounds=1, model="logistic", image_shape=(1, 4, 4), num_classes=3, value_bits=16, scales=tracker.scales,
        training=Local(epochs=1, batch_size=1, learning_rate=0.1), model_bytes=b"",
    )  # fmt: skip
    plans, sessions = SessionPlans(sizes=(3,), value_bits=16), cast("Any", Sessions())
    rules = ServingRules(min_clients=3, deadlines=Deadlines())
    aggregator = NetworkAggregator(
        plans,
        invitations=Invitations(plans, sessions, (0, 1, 2), rules, lambda _: None),
        tracker=tracker,
        sessions=sessions,
        announce=lambda: announcement,
        rules=rules,
        store=FolderStore(tmp_path),
        say=lambda _: None,
    )
    result, asked = aggregator.aggregate()
    assert asked == 3
    assert (result.aggregate, result.aborted) == (None, str(aborted))
    aggregator.say_goodbye(announcement)
    assert [session.number for session in run] == [1, 0]


def test_a_client_with_an_outdated_directory_waits_until_it_is_copied_anew(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Client 1 has a new key that client 3 does not know: only client 3 is missing, and not for good."""
    monkeypatch.setattr(certs, "_LOOK_SECONDS", -1.0)
    outdated = Path(shutil.copytree(deployment.certs, deployment.directory / "outdated"))
    Authority(deployment.certs).issue(client_ids=[1], overwrite=True)
    training = Training(deployment, rounds=2)
    training.options["deadlines"] = Deadlines(advertise_keys=3, share_keys=2, unmasking=4)

    def beside() -> None:
        for client_id in range(CLIENTS - 1):
            training.start(client_id)
        late = deployment.client(LIAR, training.config, directory=outdated, state=deployment.directory / "state-3")
        training.clients[LIAR] = late
        late.start()
        until(lambda: any("updates are in the mean" in line for line in training.clients[0].said), 30)
        shutil.copy(deployment.certs / "client-1.pem", outdated)

    training.serve(beside)
    training.finish()
    first, second = training.records()
    assert first.included == (0, 1, 2)
    assert second.included == (0, 1, 2, 3)
    said = [line for line in training.clients[LIAR].said if "no update in this round" in line]
    assert said
    assert all("identity key that the directory does not list" in line for line in said)
