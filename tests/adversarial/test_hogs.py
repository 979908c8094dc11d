"""Clients that hog shared resources: room for messages, time of a phase, useless work. The others lose nothing."""

import hashlib
import random
from collections import Counter

import numpy as np
import pytest

from secagg import Completed, DropReason, Round, max_message_bytes
from secagg.messages import MaskedInput
from tests.support.sessions import any_session, exact_sum, make_params
from tests.transport.hosts import PARAMS, greet, new_client, new_host, payload_of, run_to_the_end
from tests.transport.large_inputs import LargeInputs
from tests.transport.link_world import CONTEXT
from transport import Deadlines
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.durable.client_host import ClientHost
from transport.durable.frames import RefusalCode
from transport.durable.incoming import MAX_RESTARTS
from transport.durable.memory_budget import STALL_SECONDS, Room
from transport.durable.server_host import SessionHost

DIGEST = bytes(32)
EVERYBODY = (0, 1, 2, 3)
ROOM_FOR_ONE = make_params(12, 4, vector_length=400_000)


def sent_by(session: LargeInputs) -> dict[int, link.ServerFrame]:
    """Return the server's last message to each client."""
    outgoing = session.host.commit(session.now)
    return {out.client_id: link.decode_server_frame(b"".join(out.parts)) for out in outgoing}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_silent_client_loses_its_room_in_seconds(is_there: bool) -> None:
    session = LargeInputs()
    session.host.memory = session.large[0].size
    session.up(0, session.large[0], session.pieces(0)[0])
    session.up(1, session.large[1])
    assert isinstance(sent_by(session)[0], _pieces.Want)
    if not is_there:
        session.host.left(0, session.now)
    session.now += STALL_SECONDS - 0.1
    session.host.tick(session.now)
    assert sent_by(session) == {}
    session.now += 0.2
    assert session.host.deadline < session.now
    session.host.tick(session.now)
    sent = sent_by(session)
    assert isinstance(sent[1], _pieces.Want)
    assert (sent[0].code is RefusalCode.BUSY) if is_there else (0 not in sent)
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_a_client_that_sends_just_enough_not_to_be_silent_falls_behind() -> None:
    """At a piece in ten seconds its message would take three times the limit that holds while others wait."""
    session = LargeInputs()
    session.host.memory = session.large[0].size
    first, second, *_ = session.pieces(0)
    session.up(0, session.large[0], first)
    session.up(1, session.large[1])
    session.host.commit(session.now)
    share = 25.0
    behind = session.now + STALL_SECONDS + share * 2 * _pieces.PIECE_BYTES / session.large[0].size
    session.now = 10.0
    session.up(0, second)
    assert behind < min(session.now + STALL_SECONDS, 1.0 + share)
    assert session.host.deadline == pytest.approx(behind)
    # Pieces that are there already are not progress.
    session.now = 20.0
    session.up(0, first, second)
    assert session.host.deadline == pytest.approx(behind)
    session.now = behind + 0.1
    session.host.tick(session.now)
    sent = sent_by(session)
    assert isinstance(sent[1], _pieces.Want)
    assert sent[0].code is RefusalCode.BUSY
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_liars_that_only_declare_sizes_exclude_no_client() -> None:
    """There is room for one message; four liars come first, send nothing, and come back after each removal."""
    host = SessionHost(ROOM_FOR_ONE, deadlines=Deadlines(), now=0.0, context=CONTEXT, nonce=b"n")
    host.memory = max_message_bytes(ROOM_FOR_ONE)
    vector = np.arange(ROOM_FOR_ONE.vector_length) % 2
    clients = {i: ClientHost(i, lambda offer: vector, accept=any_session, context=CONTEXT) for i in range(12)}
    liars, now, trained, asked = range(4), 0.0, [], 0

    def up(client_id: int, frames) -> None:
        for parts in frames:
            host.frame_received(client_id, b"".join(parts), now)

    def come(client_id: int) -> None:
        clients[client_id].left()
        host.connected(client_id, now)
        up(client_id, clients[client_id].connected())

    for client_id in clients:
        come(client_id)
    while host.outcome is None or host.untold - set(liars):
        assert now < 2000
        outgoing = host.commit(now)
        for out in outgoing:
            frame = link.decode_server_frame(b"".join(out.parts))
            if out.client_id in liars and isinstance(frame, link.Refused) and frame.code is RefusalCode.BUSY:
                come(out.client_id)
            elif out.client_id in liars and isinstance(frame, _pieces.Want):
                asked += 1
            else:
                answers = clients[out.client_id].frame_received(b"".join(out.parts))
                is_input = any(
                    isinstance(link.decode_client_frame(b"".join(parts)), _pieces.Large) for parts in answers
                )
                if is_input and out.client_id not in liars and now < 60:
                    # Honest clients train for a minute.
                    trained.append((out.client_id, answers))
                else:
                    up(out.client_id, answers)
        if host.job is not None:
            host.finish(host.job.run(), now)
        elif not outgoing:
            now += 1.0
            if now >= 60:
                for client_id, answers in trained:
                    up(client_id, answers)
                trained = []
            host.tick(now)
    assert isinstance(host.outcome, Completed)
    assert host.outcome.included == tuple(range(4, 12))
    assert host.outcome.sum.tolist() == exact_sum(ROOM_FOR_ONE, [vector] * 8)
    # Each had its turn, and again only when nobody else was waiting: not once while an honest one was.
    assert asked >= 4


def messages_in(liars: int, honest: list[float], *, size: int, room: int, seconds: float = 600.0) -> int:
    """Return how many honest clients finish before the phase closes. Each needs its own seconds to send its message.

    The liars come first.  They send just enough to keep their places, and come back after each removal.
    """
    line, now, done, returns, since = Room(room, seconds / 4), 0.0, 0, Counter[int](), dict[int, float]()
    line.closes = seconds
    needs = dict(enumerate(honest, liars))
    for client_id in range(liars + len(honest)):
        line.enter(client_id, size, 0)
    while now < seconds:
        while True:
            while (admitted := line.admit(now)) is not None:
                since[admitted] = now
            if (late := line.overdue(now)) is None:
                break
            del since[late]
            line.leave(late)
            returns[late] += 1
            line.enter(late, size, returns[late])
        now += 0.5
        for client_id in list(since):
            place = line._inside[client_id]
            if client_id in needs:
                due = min(size, int(size * (now - since[client_id]) / needs[client_id]))
                line.moved(client_id, due - place.came, now)
                if due == size:
                    line.leave(client_id)
                    del since[client_id]
                    done += 1
            else:
                # Never the last piece.
                while line._until(place) <= now + 0.5 and place.came + _pieces.PIECE_BYTES < size:
                    line.moved(client_id, _pieces.PIECE_BYTES, now)
    return done


@pytest.mark.parametrize("liars", [24, 48])
def test_liars_that_send_just_fast_enough_exclude_no_client(monkeypatch: pytest.MonkeyPatch, liars: int) -> None:
    """Six messages at once, 200 honest clients, and four or eight times as many liars as places."""
    monkeypatch.setattr("secrets.randbits", random.Random(1).getrandbits)
    assert messages_in(liars, [1.0] * 200, size=40_000_000, room=1 << 28) == 200


@pytest.mark.parametrize(
    ("honest", "at_least"),
    # Ten minutes have room for 24, 40 and 40.
    [([25.0] * 200, 23), ([15.0] * 40, 38), ([1.0, 25.0] * 20, 38)],
    ids=["far too many", "just enough", "unlike"],
)
def test_honest_clients_that_need_the_whole_phase_are_not_removed(
    monkeypatch: pytest.MonkeyPatch, honest: list[float], at_least: int
) -> None:
    monkeypatch.setattr("secrets.randbits", random.Random(1).getrandbits)
    assert messages_in(0, honest, size=300_000_000, room=1 << 28) >= at_least


def test_a_message_takes_no_more_room_than_one_of_its_round_can() -> None:
    """No message in the round of shares has the size of an input."""
    params = make_params(4, 2, vector_length=400_000)
    host = SessionHost(params, deadlines=Deadlines(), now=0.0, context=CONTEXT, nonce=b"n")
    vector = np.arange(params.vector_length) % 2
    clients = {i: ClientHost(i, lambda offer: vector, accept=any_session, context=CONTEXT) for i in range(4)}
    for client_id, client in clients.items():
        *_, offer = greet(host, client_id)
        client.connected()
        (keys,) = client.frame_received(payload_of(offer))
        host.frame_received(client_id, b"".join(keys), 1.0)
    host.commit(1.0)
    assert host.round is Round.SHARE_KEYS
    for number, what in ((1, "in ShareKeys has"), (2, "message 2 where message 1 is due")):
        large = _pieces.Large(bytes([3, number]), max_message_bytes(params, MaskedInput), DIGEST)
        host.frame_received(0, payload_of(large), 1.0)
        assert what in host.commit(1.0)[-1].text
        assert host._conversations.room.deadline is None
        assert not host._conversations.room.holds(0)
        greet(host, 0, link.Hello(host.session_id, 1))
    assert host._conversations.links[0].receiving is None
    for client_id, client in clients.items():
        client.left()
        host.left(client_id, 1.0)
    run_to_the_end(host, clients)
    assert host.outcome.included == EVERYBODY


def test_an_input_that_is_announced_anew_without_end_drops_its_sender() -> None:
    session = LargeInputs()
    head, size = session.large[0].head, session.large[0].size
    for number in range(100):
        session.now += 2.0
        session.up(0, _pieces.Large(head, size, number.to_bytes(32, "big")), session.pieces(0)[0])
        session.host.commit(session.now)
    links = session.host._conversations.links
    assert session.host.dropped[0].reason is DropReason.DEADLINE
    assert links[0].receiving is None
    assert links[0].restarts == MAX_RESTARTS + 1
    session.run(0)
    assert session.host.outcome.included == EVERYBODY[1:]


@pytest.mark.parametrize("size", [1, _pieces.PIECE_BYTES - 1])
def test_pieces_are_whole_but_the_last(size: int) -> None:
    session = LargeInputs()
    first, second, *_ = session.pieces(0)
    session.up(0, session.large[0], first, _pieces.Piece(second.offset, second.body[:size]))
    refused = sent_by(session)[0]
    assert refused.code is RefusalCode.PROTOCOL_ERROR
    assert f"a PIECE has {size} bytes" in refused.text
    session.run()
    assert session.host.outcome.included == EVERYBODY


@pytest.mark.parametrize("claim", [0, 1])
def test_a_client_that_only_asks_again_keeps_no_round_open(claim: int) -> None:
    """On each new connection it announces one byte more, or nothing, of a message that it was never sent."""
    extra = bytes(4 * _pieces.WINDOW_BYTES)
    host = new_host(extra=extra, deadlines=Deadlines(advertise_keys=30, download=1000))
    digest = hashlib.sha256(extra).digest()
    others = {client_id: new_client(client_id, max_extra=len(extra)) for client_id in range(1, 4)}
    for number in range(29):
        now = float(number)
        greet(host, 0, now=now)
        host.frame_received(0, payload_of(_pieces.Want(digest, number * claim, number * claim)), now)
        host.commit(now)
        assert host.deadline == 30.0
    # As before, the others get their sum.
    run_to_the_end(host, {0: new_client(0), **others}, missing=(0,))
    assert set(host.outcome.included) == {1, 2, 3}


@pytest.mark.parametrize("goal", [3, None])
def test_a_slow_download_keeps_no_round_open_once_the_goal_is_met(goal: int | None) -> None:
    """One of four downloads its announcement as slowly as allowed, and the three others are enough."""
    extra = bytes(4 * _pieces.WINDOW_BYTES)
    host = new_host(extra=extra, deadlines=Deadlines(advertise_keys=30, download=1000))
    host.goal = goal
    digest, step = hashlib.sha256(extra).digest(), _pieces.WINDOW_BYTES // 4
    greet(host, 0, now=0.0)

    def get_further(number: int, now: float) -> None:
        have = number * step
        host.frame_received(0, payload_of(_pieces.Want(digest, have, have + _pieces.WINDOW_BYTES)), now)
        host.tick(now)
        host.commit(now)

    get_further(0, 1.0)
    get_further(1, 20.0)
    # While there are too few without it, the server waits for it.
    assert host.deadline == 50.0
    clients = {client_id: new_client(client_id, max_extra=len(extra)) for client_id in range(1, 4)}
    for client_id, client in clients.items():
        host.connected(client_id, 21.0)
        up = client.connected()
        while up:
            for parts in up:
                host.frame_received(client_id, b"".join(parts), 21.0)
            down = [out for out in host.commit(21.0) if out.client_id == client_id]
            up = [parts for out in down for parts in client.frame_received(b"".join(out.parts))]
    host.tick(21.0)
    assert host.status.received == 3
    get_further(2, 29.0)
    assert host.round is Round.ADVERTISE_KEYS
    if goal is None:
        assert host.deadline == 59.0
        return
    assert host.deadline == 30.0
    host.tick(30.0)
    assert host.dropped[0].reason is DropReason.DEADLINE
    host.commit(30.0)
    for client_id, client in clients.items():
        client.left()
        host.left(client_id, 30.0)
    run_to_the_end(host, {0: new_client(0), **clients}, missing=(0,))
    assert host.outcome.included == (1, 2, 3)


def test_answered_messages_are_not_kept_for_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pieces, "PIECE_BYTES", 100)
    monkeypatch.setattr(_pieces, "WINDOW_BYTES", 1000)
    host = new_host(extra=bytes(500))
    clients = {client_id: new_client(client_id) for client_id in range(PARAMS.num_clients)}
    kept = set()
    answered = host._conversations._machine.message

    def message(client_id, *arguments):
        deliveries = answered(client_id, *arguments)
        # For all clients that have answered something and were sent nothing since.
        kept.update(
            (one.client_id, len(one.digests))
            for one in host._conversations.links.values()
            if one.digests and one.unanswered is None and one.sending
        )
        return deliveries

    monkeypatch.setattr(host._conversations._machine, "message", message)
    run_to_the_end(host, clients)
    assert isinstance(host.outcome, Completed)
    assert host.outcome.included == EVERYBODY
    assert not kept
