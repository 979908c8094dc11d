"""A server of `secagg join` that offers one round twice: the difference of two sums would be one client's update.

Malicious mode on the complete graph, over TLS: no rule of the protocol is broken, no client is corrupt, and thresholds
hold in every session.  The clients' records are the defence.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fl.aggregation.participation import open_participation
from fl.aggregation.totals_session import decoded_totals
from fl.learning.own_code import make_model
from fl.network import client as joining
from fl.network.client import Participant
from fl.network.errors import NetworkError
from secagg import Aborted, Completed, Round
from tests.adversarial.repeating_server import (
    CLASSES,
    CLIENTS,
    SCALES,
    SCORES,
    SHAPE,
    VICTIM,
    Lie,
    announced,
    encoding,
    examples,
    params,
    trained,
)
from tests.fl.network.harness import programs
from transport import ClientJournal, ClientRecord, InputWithheldError, Offer
from transport.certificates.reading import identity_from
from transport.tcp import Retry

pytestmark = pytest.mark.live


@pytest.fixture
def lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lie:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))
    return Lie(tmp_path)


@pytest.mark.parametrize("with_state", [True, False])
def test_a_round_is_answered_once_and_the_next_one_is_taken(lie: Lie, with_state: bool) -> None:
    """The record is in a given folder, or in the user's own."""

    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i, **({"state": lie.folder / f"state-{i}"} if with_state else {}))
        first = await lie.offer(3)
        assert isinstance(first, Completed)
        assert first.included == tuple(range(CLIENTS))
        # All but the victim, in the same round: the difference of the sums would be the victim's update.
        second = await lie.offer(3, [i for i in range(CLIENTS) if i != VICTIM], join_seconds=1.0)
        assert isinstance(second, Aborted)
        assert second.had == 0
        for lower in (2, 1):
            assert isinstance(await lie.offer(lower, join_seconds=0.7), Aborted)
        # The victim was told that it is unknown, and gave up.
        lie.start(VICTIM, **({"state": lie.folder / f"state-{VICTIM}"} if with_state else {}))
        honest = await lie.offer(4)
        assert isinstance(honest, Completed)
        assert honest.included == tuple(range(CLIENTS))

    lie.run(scenario)
    for i, said in lie.said.items():
        assert (trained(said, 3), trained(said, 4)) == (1, 1), said
        refused = [line for line in said if line.startswith("not in this round: round 3 was offered, but")]
        assert len(refused) == (i != VICTIM), said


def test_ranges_are_sent_once_a_round_and_never_after_its_update(lie: Lie) -> None:
    """Two sums of ranges could be subtracted too; and an update is trained once, whether measured or not."""

    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i, state=lie.folder / f"state-{i}")
        others = [i for i in range(CLIENTS) if i != VICTIM]
        first = await lie.offer(3, scales=None)
        assert isinstance(first, Completed)
        assert first.included == tuple(range(CLIENTS))
        repeated = await lie.offer(3, others, scales=None, join_seconds=1.0)
        assert isinstance(repeated, Aborted)
        assert repeated.had == 0
        # The victim was told that it is unknown.
        lie.start(VICTIM, state=lie.folder / f"state-{VICTIM}")
        update = await lie.offer(3)
        assert isinstance(update, Completed)
        assert update.included == tuple(range(CLIENTS))
        for number in (3, 2):
            assert isinstance(await lie.offer(number, scales=None, join_seconds=0.7), Aborted)
            assert isinstance(await lie.offer(number, join_seconds=0.7), Aborted)
        for scales in (None, SCALES):
            honest = await lie.offer(4, scales=scales)
            assert isinstance(honest, Completed)
            assert honest.included == tuple(range(CLIENTS))

    lie.run(scenario)
    for i, said in lie.said.items():
        # The victim's second process had no update in memory, and trained.
        assert (trained(said, 3), trained(said, 4)) == (1 + (i == VICTIM), 1), said


def test_an_update_without_ranges_excludes_the_ranges_of_its_round(lie: Lie) -> None:
    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i)
        assert isinstance(await lie.offer(3), Completed)
        late = await lie.offer(3, scales=None, join_seconds=1.0)
        assert isinstance(late, Aborted)
        assert late.had == 0
        assert isinstance(await lie.offer(4, scales=None), Completed)

    lie.run(scenario)


def test_scores_are_sent_once_a_round(lie: Lie) -> None:
    """In whatever order: before the update of the round, or after it. They are exact, so a difference would be too."""

    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i, state=lie.folder / f"state-{i}", max_rounds=4)
        first = await lie.offer(3, purpose="scores")
        assert isinstance(first, Completed)
        assert first.included == tuple(range(CLIENTS))
        for number in (3, 2):
            repeated = await lie.offer(
                number, [i for i in range(CLIENTS) if i != VICTIM], purpose="scores", join_seconds=1.0
            )
            assert isinstance(repeated, Aborted)
            assert repeated.had == 0
        # The victim was told that it is unknown.
        lie.start(VICTIM, state=lie.folder / f"state-{VICTIM}", max_rounds=4)
        honest = await lie.offer(4, purpose="scores")
        assert isinstance(honest, Completed)
        assert honest.included == tuple(range(CLIENTS))
        assert decoded_totals(honest, SCORES).examples == sum(len(examples(i).labels) // 4 for i in range(CLIENTS))
        # A number far ahead would shut this client out of all later rounds.
        assert isinstance(await lie.offer(9, purpose="scores", join_seconds=1.0), Aborted)
        with pytest.raises(NetworkError, match=r"round 9 .* this client's budget, .* \(--max-rounds\)"):
            await lie._running[VICTIM]

    lie.run(scenario)


def test_a_measured_update_is_sent_only_for_its_model(lie: Lie) -> None:
    """A server that measures one model and asks for the update of another gets one that was trained on the other."""
    other = make_model("logistic", image_shape=SHAPE, num_classes=CLASSES, seed=1)

    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i)
        assert isinstance(await lie.offer(5, scales=None), Completed)
        assert isinstance(await lie.offer(5, model=other), Completed)
        assert isinstance(await lie.offer(6, scales=None), Completed)
        assert isinstance(await lie.offer(7), Completed)

    lie.run(scenario)
    for said in lie.said.values():
        assert [trained(said, number) for number in (5, 6, 7)] == [2, 1, 1], said


class Noting(Participant):
    """A participant that records what it sends; the first time, client 3 has nothing to send."""

    vectors: ClassVar[dict[int, list[Any]]] = {}

    def _input(self, offer: Offer) -> Any:
        mine = self.vectors.setdefault(self._options.client_id, [])
        mine.append(super()._input(offer))
        if self._options.client_id == 3 and len(mine) == 1:
            raise InputWithheldError("gone")
        return mine[-1]


def test_a_round_that_gave_no_shares_away_may_come_again(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second round sends other integers: clients draw their own randomness."""
    Noting.vectors.clear()
    lie.make = Noting

    async def scenario() -> None:
        for i in range(CLIENTS - 1):
            lie.start(i, state=lie.folder / f"state-{i}")
        # Four of five, as many as needed. One leaves when its input is due, and three are too few.
        aborted = await lie.offer(3, range(4), training_seconds=6.0)
        assert isinstance(aborted, Aborted)
        assert aborted.round is Round.MASKED_INPUT_COLLECTION
        lie.start(3, state=lie.folder / "state-3")
        again = await lie.offer(3, range(4))
        assert isinstance(again, Completed)
        assert isinstance(await lie.offer(3, range(4), join_seconds=1.0), Aborted)

    lie.run(scenario)
    for client_id in range(4):
        first, second = (vector[: encoding(SCALES).update_length] for vector in Noting.vectors[client_id])
        assert (first != second).mean() > 0.5


def test_a_killed_client_without_its_journal_remembers_its_answers(lie: Lie) -> None:
    """The victim is a process; the others are here."""
    data = lie.folder / "victim.npz"
    own = examples(VICTIM)
    np.savez(data, x=own.images.numpy(), y=own.labels.numpy())

    async def scenario() -> None:
        for i in range(CLIENTS - 1):
            lie.start(i, state=lie.folder / f"state-{i}")
        state = lie.folder / "victims"
        with programs() as start:

            def join() -> Any:
                return start(
                    "join", f"127.0.0.1:{lie.port}", "--id", VICTIM, "--certs", lie.certs, "--arrays", data,
                    "--state", state,
                )  # fmt: skip

            victim = join()
            first = await lie.offer(3, join_seconds=40.0)
            assert isinstance(first, Completed)
            assert VICTIM in first.included
            victim.kill()
            for journal in state.glob("*.journal*"):
                journal.unlink()
            victim = join()
            # Until the victim has received the offer.
            repeated = asyncio.create_task(lie.offer(3, join_seconds=30.0))
            await asyncio.to_thread(victim.wait_for, "not in this round: round 3 was offered, but")
            repeated.cancel()
            await asyncio.gather(repeated, return_exceptions=True)
            assert not any(": training on" in line for line in victim.lines)
            # Its patience is that of a user's client.
            honest = await lie.offer(4, join_seconds=20.0)
            assert isinstance(honest, Completed)
            assert VICTIM in honest.included

    lie.run(scenario)


def test_the_training_is_named_by_the_client_alone(lie: Lie, tmp_path: Path) -> None:
    """The same training: another server, or the same at another address, under the same name."""

    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i, state=tmp_path / f"state-{i}", training="ward 7")
        assert isinstance(await lie.offer(3), Completed)

    lie.run(scenario)
    lie.run(lambda: _repeated(lie, training="ward 7", completes=False))
    lie.run(lambda: _repeated(lie, training="ward 8", completes=True))


async def _repeated(lie: Lie, *, training: str, completes: bool) -> None:
    for i in range(CLIENTS):
        lie.start(i, state=lie.folder / f"state-{i}", training=training)
    outcome = await lie.offer(3, join_seconds=8.0 if completes else 1.0)
    assert isinstance(outcome, Completed) == completes


def test_a_budget_of_rounds_is_kept(lie: Lie) -> None:
    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i, state=lie.folder / f"state-{i}", max_rounds=1)
        assert isinstance(await lie.offer(1), Completed)
        assert isinstance(await lie.offer(2, join_seconds=1.0), Aborted)
        with pytest.raises(NetworkError, match=r"its budget is 1: .* \(--max-rounds\)"):
            await lie._running[VICTIM]

    lie.run(scenario)


def test_the_owner_of_a_record_is_the_identity_key(lie: Lie) -> None:
    """The number does not count, since another certificate may have it in another training."""

    async def scenario() -> None:
        for i in range(CLIENTS):
            lie.start(i, state=lie.folder / "shared", training="ward 7")
        assert isinstance(await lie.offer(3), Completed)

    lie.run(scenario)
    participation = open_participation(lie.folder / "shared")
    for i in range(CLIENTS):
        owner = identity_from(lie.certs / f"client-{i}.key").public_key
        assert ClientRecord(participation, owner, training="ward 7").last_answered() == 3
        number = ClientRecord(participation, i.to_bytes(4, "big"), training="ward 7")
        assert number.last_answered() is None


def test_a_journal_repeats_its_randomness_and_no_other_has_it(lie: Lie, tmp_path: Path) -> None:
    """One offer: after a crash the same integers, in another session others, and without a journal never the same."""
    lie.port = 1
    offer = Offer(params(SCALES), b"nonce", announced(3), 3)

    def vector(journal: ClientJournal | None) -> list[int]:
        participant = Participant(lie.options(VICTIM), examples(VICTIM), lambda _: None)
        participant._inputs.journal = journal
        return list(participant._input(offer))

    def begun(name: str) -> ClientJournal:
        journal = ClientJournal(tmp_path / name, tmp_path / "key")
        journal.begin(VICTIM, bytes(32), b"offer")
        return journal

    one, other = begun("one"), begun("other")
    assert vector(one) == vector(one)
    assert vector(one) != vector(other)
    assert vector(None) != vector(None)
