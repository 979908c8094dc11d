"""A client whose server asks for what it refuses: it waits longer and longer, says so once, and does not end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
import torch

from fl.aggregation.encoding import QuantizationError, UndecodableSumError, UpdateEncoding
from fl.aggregation.held_out import held_out_encoding
from fl.aggregation.scales import MAX_WEIGHT
from fl.aggregation.totals import TotalsEncoding
from fl.learning.task import CLASSIFICATION
from fl.learning.training import DivergedError
from fl.network import client as joining
from fl.network import offers, own_inputs
from fl.network.announcement import encode_announcement
from fl.network.client import Participant
from fl.network.errors import NetworkError
from fl.network.local_data import LocalData
from fl.network.offers import JoinOptions
from fl.network.policy import Policy
from secagg import Adversary, RemoteProtocolError, Rule
from tests.fl.network.test_network_parts import ENCODING, PARAMS, announcement
from transport import (
    EndCode,
    InputWithheldError,
    JournalFullError,
    Offer,
    OlderServerError,
    RefusalCode,
    RepeatedSessionError,
    SessionRefusedError,
)
from transport.certificates.reading import CertificateError
from transport.durable.frames import End
from transport.tcp import PLAINTEXT

REPEATED = RepeatedSessionError("round 3 was offered, but this client has answered round 3")
ANOTHER_MODE = offers.ModeError("another mode")


def participant(said: list[str], *, make: type[Participant] = Participant, **changes: Any) -> Participant:
    data = LocalData(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    values: dict[str, Any] = {
        "client_id": 0, "address": ("127.0.0.1", 1), "tls": PLAINTEXT, "max_model_bytes": 1 << 20, "give_up": 1.0,
        "policy": Policy(adversary=Adversary.HONEST_BUT_CURIOUS),
    }  # fmt: skip
    return make(JoinOptions(**values | changes), data, said.append)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that were made; none takes time here."""
    made: list[float] = []

    async def note(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    return made


def serve(monkeypatch: pytest.MonkeyPatch, outcomes: list[Exception | End]) -> None:
    """Run a server that answers each new session with the next of these, and then has no more rounds."""
    left: Iterator[Exception | End] = iter([*outcomes, offers.OverError("over")])

    async def join_session(*_: Any, **__: Any) -> End:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(joining, "join_session", join_session)


def test_a_round_that_was_answered_is_waited_out_with_one_line(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    serve(monkeypatch, [REPEATED] * 50)
    said: list[str] = []
    asyncio.run(participant(said).run())
    assert len(waits) == 50
    assert 0.5 <= waits[0] <= 1.0
    assert all(5.0 <= wait <= 10.0 for wait in waits[5:])
    assert said[1:] == [
        f"not in this round: {REPEATED} (--training NAME); waiting for the next",
        "the training is over",
    ]


def test_a_server_that_alternates_modes_is_not_asked_in_a_hurry(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], tmp_path: Path
) -> None:
    serve(monkeypatch, [ANOTHER_MODE] * 50)
    modes: list[bool] = []
    client = participant([])
    monkeypatch.setattr(client, "_identity", lambda: (modes.append(client._has_identity), (None, None))[1])
    asyncio.run(client.run())
    assert modes[:4] == [False, True, False, True]
    assert len(waits) == 50
    assert all(5.0 <= wait <= 10.0 for wait in waits[5:])


def test_a_server_that_ends_every_session_at_once_is_not_asked_in_a_hurry(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    serve(monkeypatch, [End(EndCode.TOO_FEW_CLIENTS, text="too few")] * 5)
    client = participant([])
    monkeypatch.setattr(client, "_is_last", lambda end, has_answered: False)
    asyncio.run(client.run())
    assert len(waits) == 5
    assert min(waits) >= 0.5


def test_unanswered_rounds_do_not_count_as_taken_part(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    """A server can offer a round and call it completed at once, again and again."""
    serve(monkeypatch, [End(EndCode.COMPLETED, included=5)] * 20)
    said: list[str] = []
    client = participant(said, once=True, training="a server in a hurry")
    session = client._session

    async def offered() -> End:
        client._announced = SimpleNamespace(  # type: ignore[assignment]
            round=3, rounds=9, purpose="update", privacy=None, measures=False
        )
        return await session()

    monkeypatch.setattr(client, "_session", offered)
    asyncio.run(client.run())
    assert client.rounds == 0
    assert said.count("round 3/9: it ended before this client had answered") == 20
    assert all(5.0 <= wait <= 10.0 for wait in waits[5:])


def test_a_model_that_cannot_be_trained_costs_a_round_and_not_the_training(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    serve(monkeypatch, [InputWithheldError("training ran away")] * 2)
    said: list[str] = []
    asyncio.run(participant(said).run())
    assert said[1:] == [
        "no update in this round: training ran away; waiting for the next",
        "no update in this round: training ran away; waiting for the next",
        "the training is over",
    ]
    assert len(waits) == 2


@pytest.mark.parametrize("error", [DivergedError("its loss is nan"), QuantizationError("elements that are not finite")])
def test_a_client_whose_training_fails_sends_what_counts_nothing(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], error: Exception
) -> None:
    """It tells its user after the session, and counts the round as one without an update."""

    def fails(*_: Any, **__: Any) -> None:
        raise error

    said: list[str] = []
    client = participant(said)
    monkeypatch.setattr(own_inputs, "local_update", fails)
    monkeypatch.setattr(own_inputs, "evaluate", fails)
    client._examples.follow(0.5)
    scores = held_out_encoding(CLASSIFICATION.figures, MAX_WEIGHT, ENCODING.value_bits)
    encodings: list[UpdateEncoding | TotalsEncoding] = [replace(ENCODING, scales=None), ENCODING, scores]

    async def session() -> End:
        if not encodings:
            raise offers.OverError(None)
        encoding = encodings.pop(0)
        client._announced = announcement(
            holdout=0.5,
            scales=encoding.scales if isinstance(encoding, UpdateEncoding) else None,
            purpose="update" if isinstance(encoding, UpdateEncoding) else "scores",
        )
        params = replace(PARAMS, vector_length=encoding.vector_length)
        vector = client._input(Offer(params, b"", encode_announcement(client._announced), 2))
        if isinstance(encoding, TotalsEncoding):
            assert encoding.decode(vector, 1, fewest_examples=0, most_examples=1)[0] == 0
        else:
            with pytest.raises(UndecodableSumError, match=r"any"):
                (encoding.decode if encoding.scales else encoding.decode_ranges)(vector, 1)
        return End(EndCode.COMPLETED, included=5)

    monkeypatch.setattr(client, "_session", session)
    asyncio.run(client.run())
    assert said[-1] == "the training is over"
    assert [line for line in said if "no update" in line] == [
        f"no update in this round: {error}; waiting for the next"
    ] * 3
    assert client.rounds == 0


def test_an_end_without_an_offer_is_one_line(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    serve(monkeypatch, [End(EndCode.COMPLETED, included=3)])
    with pytest.raises(NetworkError, match="ended a session that it had not offered"):
        asyncio.run(participant([]).run())


def test_malicious_mode_is_begun_with_the_identity(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    """No connection is made without it."""
    serve(monkeypatch, [])
    for client in (participant([], policy=Policy()), participant([])):
        modes: list[bool] = []
        monkeypatch.setattr(
            client,
            "_identity",
            lambda client=client, modes=modes: (modes.append(client._has_identity), (None, None))[1],
        )
        asyncio.run(client.run())
        serve(monkeypatch, [])
        assert modes == [client._options.policy.adversary is Adversary.MALICIOUS]


def test_files_that_do_not_fit_for_a_moment_end_a_client_at_the_start_only(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    misfit = CertificateError("client-0.pem, client-0.key: KEY_VALUES_MISMATCH")
    said: list[str] = []
    serve(monkeypatch, [misfit])
    with pytest.raises(CertificateError):
        asyncio.run(participant(said).run())
    assert waits == []

    class UnderWay(Participant):
        async def _session(self) -> End:
            with contextlib.suppress(offers.DeclinedError):
                # An offer came once: the files were good.
                self._accept(SimpleNamespace(extra=bytes(1 << 21)))  # type: ignore[arg-type]
            self._session = super()._session  # type: ignore[method-assign]
            raise REPEATED

    serve(monkeypatch, [misfit] * 3)
    waiting = participant(said, make=UnderWay)
    asyncio.run(waiting.run())
    assert said[-4:] == [f"{misfit}; trying again"] * 3 + ["the training is over"]
    assert len(waits) == 4
    serve(monkeypatch, [misfit] * 50)
    waits.clear()
    with pytest.raises(CertificateError):
        asyncio.run(participant(said, make=UnderWay).run())
    assert len(waits) == 1 + joining._MOST_REFUSALS


@pytest.mark.parametrize(
    "error",
    [
        InputWithheldError("training ran away"),
        JournalFullError("the disk is full"),
        RemoteProtocolError(Rule.IDENTITY_NOT_TRUSTED, "client 7"),
    ],
    ids=["withheld", "full", "untrusted"],
)
def test_rounds_without_an_update_end_a_client_when_they_are_too_many_in_a_row(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], error: Exception
) -> None:
    said: list[str] = []
    serve(monkeypatch, [error] * 4)
    asyncio.run(participant(said, max_failed_rounds=5).run())
    assert said[-5:] == [f"no update in this round: {error}; waiting for the next"] * 4 + ["the training is over"]
    serve(monkeypatch, [error] * 5)
    with pytest.raises(NetworkError, match=r"no update in 5 rounds in a row.*--max-failed-rounds"):
        asyncio.run(participant(said, max_failed_rounds=5).run())


def test_a_round_that_was_answered_begins_the_count_anew(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    answered = End(EndCode.COMPLETED, included=3)
    serve(monkeypatch, [InputWithheldError("bad"), answered, InputWithheldError("bad"), answered] * 3)
    client = participant([], max_failed_rounds=2)
    client._announced = SimpleNamespace(round=1, rounds=100)  # type: ignore[assignment]
    monkeypatch.setattr(Participant, "_has_answered", lambda *_: True)
    monkeypatch.setattr(Participant, "_is_last", lambda *_: False)
    asyncio.run(client.run())


def test_a_client_without_an_update_comes_back_as_soon_as_the_others(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """Else a server would see whose training its model made fail."""
    serve(monkeypatch, [End(EndCode.COMPLETED, included=3)] * 3)
    monkeypatch.setattr(Participant, "_has_answered", lambda *_: True)
    monkeypatch.setattr(Participant, "_is_last", lambda *_: False)
    monkeypatch.setattr(Participant, "_failure", lambda *_: InputWithheldError("its loss is nan"))
    said: list[str] = []
    asyncio.run(participant(said, max_failed_rounds=4).run())
    assert said[1:] == ["no update in this round: its loss is nan; waiting for the next"] * 3 + ["the training is over"]
    assert waits == []
    serve(monkeypatch, [End(EndCode.COMPLETED, included=3)] * 4)
    with pytest.raises(NetworkError, match="no update in 4 rounds in a row"):
        asyncio.run(participant([], max_failed_rounds=4).run())


def test_other_faults_of_a_server_end_a_client(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    serve(monkeypatch, [RemoteProtocolError(Rule.INVALID_SIGNATURE, "")])
    with pytest.raises(RemoteProtocolError):
        asyncio.run(participant([]).run())
    assert waits == []


def test_an_older_server_is_waited_for_with_one_line(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    older = OlderServerError("this server speaks link versions up to 1, and the client needs 2")
    serve(monkeypatch, [older] * 20)
    said: list[str] = []
    asyncio.run(participant(said).run())
    assert said[1:] == [f"not in this round: {older}; waiting for the next", "the training is over"]
    assert len(waits) == 20
    assert all(5.0 <= wait <= 10.0 for wait in waits[5:])
    # A client that was told when to come back does not ask before.
    waits.clear()
    serve(monkeypatch, [OlderServerError(str(older), RefusalCode.OLDER_SERVER, retry_after=60)] * 5)
    asyncio.run(participant(said).run())
    assert len(waits) == 5
    assert all(60.0 <= wait <= 90.0 for wait in waits)


def test_a_newer_servers_client_is_told_what_it_needs(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    text = "link version 1, but this server needs 2: upgrade the client"
    serve(monkeypatch, [SessionRefusedError(text, RefusalCode.BAD_VERSION)])
    with pytest.raises(NetworkError, match=text):
        asyncio.run(participant([]).run())
    assert waits == []


def test_announcements_of_other_versions_are_waited_out_or_declined() -> None:
    older, newer = (Offer(PARAMS, extra=msgpack.packb(content)) for content in ([4, {}], [9, 9, {}]))
    with pytest.raises(OlderServerError, match="in version 4"):
        participant([])._accept(older)
    with pytest.raises(offers.DeclinedError, match="upgrade it, to 9 at least"):
        participant([])._accept(newer)
