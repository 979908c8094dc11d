"""Frames in pieces from a peer that lies: it spoils at most its own message, and memory grows only with its data."""

import hashlib
import tracemalloc
from typing import Any

import pytest

from secagg import max_message_bytes
from secagg.messages import MaskedInput
from tests.transport.hosts import PARAMS, new_client, new_host, offered, payload_of
from tests.transport.large_inputs import LargeInputs
from transport import HeldAnnouncement
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.durable.frames import RefusalCode
from transport.errors import LinkError

DIGEST = bytes(32)
MESSAGE_2 = b"\x03\x02"
EVERYBODY = (0, 1, 2, 3)


def refusal(session: LargeInputs) -> link.Refused:
    """Return the one refusal, apart from connections that a newer one replaced."""
    sent = [link.decode_server_frame(b"".join(out.parts)) for out in session.host.commit(1.0)]
    (refused,) = [frame for frame in sent if isinstance(frame, link.Refused) and frame.code is not RefusalCode.REPLACED]
    return refused


# The frames of a client after LARGE and two pieces of its input; the offset is then 2 pieces.
PIECES = 2 * _pieces.PIECE_BYTES
LIES = {
    "a gap": (_pieces.Piece(PIECES + 1, b"x"), "but 131008 to"),
    "an absurd offset": (_pieces.Piece(_pieces.MAX_LARGE_BYTES, b"x"), "but 131008 to"),
    "more than there is": (_pieces.Piece(PIECES, b"x" * _pieces.PIECE_BYTES), "but 131008 to"),
    "a session's longest message, and one byte": (_pieces.Large(MESSAGE_2, 1 << 30, DIGEST), "at most"),
    "a PING in pieces": (_pieces.Large(b"\x07", 1000, DIGEST), "does not begin a message"),
    "a HELLO in pieces": (_pieces.Large(payload_of(link.Hello()), 1000, DIGEST), "does not begin a message"),
    "an OFFER in pieces": (_pieces.Large(b"\x02\x00", 1000, DIGEST), "not one that a client sends"),
    "a message that has begun": (_pieces.Large(MESSAGE_2 + b"body", 1000, DIGEST), "does not begin a message"),
    "a later message": (_pieces.Large(b"\x03\x03", 1000, DIGEST), "message 3 where message 2 is due"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_pieces_cost_the_connection_and_nothing_else(lie: str) -> None:
    session = LargeInputs()
    frame, why = LIES[lie]
    session.up(0, session.large[0], *session.pieces(0)[:2])
    if lie == "more than there is":
        session.up(0, *session.pieces(0)[2:-1])
        frame = _pieces.Piece(len(session.pieces(0)[:-1]) * _pieces.PIECE_BYTES, b"x" * _pieces.PIECE_BYTES)
        why = "are due"
    session.up(0, frame)
    refused = refusal(session)
    assert refused.code is RefusalCode.PROTOCOL_ERROR
    assert why in refused.text
    # The pieces are still held: the same client comes back, and is in the sum.
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_pieces_that_are_not_what_was_announced_are_thrown_away() -> None:
    session = LargeInputs()
    pieces = session.pieces(0)
    spoilt = _pieces.Piece(pieces[1].offset, bytes(byte ^ 1 for byte in pieces[1].body))
    session.up(0, session.large[0], pieces[0], spoilt, *pieces[2:])
    refused = refusal(session)
    assert refused.code is RefusalCode.PROTOCOL_ERROR
    assert "SHA-256" in refused.text
    session.connect(0)
    wants = [frame for frame in session.from_server(0) if isinstance(frame, _pieces.Want)]
    assert wants[0].have == 0
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_an_input_under_an_answered_number_drops_its_sender() -> None:
    """As without pieces: an acknowledged input cannot be replaced, and the second one is not downloaded."""
    session = LargeInputs()
    session.send_input(0)
    session.up(0, _pieces.Large(MESSAGE_2, 1000, DIGEST))
    assert refusal(session).code is RefusalCode.DROPPED
    session.run(0)
    assert 0 in session.host.dropped
    assert session.host.outcome.included == EVERYBODY


FLOODS = {
    "LARGE": lambda session: _pieces.Large(MESSAGE_2, 1000, DIGEST),
    "WANT of nothing": lambda session: _pieces.Want(DIGEST, 0, 0),
    "PIECE that is there": lambda session: session.pieces(0)[0],
}


@pytest.mark.parametrize("kind", FLOODS)
def test_frames_that_bring_nothing_are_counted(kind: str) -> None:
    session = LargeInputs()
    session.up(0, session.large[0], *session.pieces(0)[:1])
    frame = FLOODS[kind](session)
    session.up(0, *[frame] * 40)
    assert refusal(session).code is RefusalCode.BUSY
    session.run(0)
    assert set(session.host.outcome.included) == {1, 2, 3}


def test_pieces_before_hello_are_refused() -> None:
    session = LargeInputs()
    for frame in (session.large[0], session.pieces(0)[0]):
        session.host.connected(0, 1.0)
        session.up(0, frame)
        assert "before HELLO" in refusal(session).text
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_a_size_that_is_only_announced_takes_no_memory() -> None:
    session = LargeInputs()
    longest = max_message_bytes(session.host.offer.params, MaskedInput)
    session.up(0, _pieces.Large(MESSAGE_2, longest - 1, DIGEST))
    session.host.commit(1.0)
    tracemalloc.start()
    session.up(0, _pieces.Large(MESSAGE_2, longest, DIGEST))
    session.host.commit(1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # msgpack's encoder takes 256 KiB for itself.
    assert peak < 300_000 < longest
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_half_an_input_is_held_no_longer_than_the_client_is_in_the_session() -> None:
    session = LargeInputs()
    session.up(0, session.large[0], *session.pieces(0)[:2])
    link_of = session.host._conversations.links
    assert link_of[0].receiving.have == PIECES
    session.run(0)
    assert set(session.host.outcome.included) == {1, 2, 3}
    assert all(one.receiving is None for one in link_of.values())


@pytest.mark.parametrize("want", [(0, _pieces.WINDOW_BYTES), (_pieces.MAX_LARGE_BYTES, _pieces.MAX_LARGE_BYTES)])
def test_bytes_beyond_the_offer_are_not_sent(want: tuple[int, int]) -> None:
    host = new_host(extra=bytes(300_000))
    host.connected(0, 1.0)
    host.frame_received(0, payload_of(link.Hello()), 1.0)
    host.frame_received(0, payload_of(_pieces.Want(DIGEST, *want)), 1.0)
    (large,) = [link.decode_server_frame(b"".join(out.parts)) for out in host.commit(1.0)]
    assert isinstance(large, _pieces.Large)
    # Beyond its end, and more than was sent.
    for wrong in (
        _pieces.Want(large.digest, 0, large.size + 1),
        _pieces.Want(large.digest, large.size + 1, large.size + 1),
    ):
        host.frame_received(0, payload_of(wrong), 1.0)
        (refused,) = [link.decode_server_frame(b"".join(out.parts)) for out in host.commit(1.0)]
        assert refused.code is RefusalCode.PROTOCOL_ERROR
        host.connected(0, 1.0)
        host.frame_received(0, payload_of(link.Hello()), 1.0)
        host.commit(1.0)


SERVER_LIES: dict[str, tuple[list[Any], str]] = {
    "too long": ([_pieces.Large(b"\x02", 1001, DIGEST)], "at most 1000"),
    "a message before an offer": ([_pieces.Large(b"\x03\x00", 10, DIGEST)], "at most 0"),
    "an END in pieces": ([_pieces.Large(b"\x05", 10, DIGEST)], "at most 0"),
    "a gap": ([_pieces.Large(b"\x02", 1000, DIGEST), _pieces.Piece(1, b"x")], "are due"),
    "beyond": ([_pieces.Large(b"\x02", 3, DIGEST), _pieces.Piece(0, b"four")], "are due"),
    "another content": ([_pieces.Large(b"\x02", 4, DIGEST), _pieces.Piece(0, b"four")], "SHA-256"),
}


@pytest.mark.parametrize("lie", SERVER_LIES)
def test_a_client_believes_no_servers_pieces(lie: str) -> None:
    held = HeldAnnouncement()
    client = new_client(max_extra=1000, held=held)
    client.connected()
    frames, why = SERVER_LIES[lie]
    for frame in frames:
        client.frame_received(payload_of(frame))
    assert isinstance(client.error, LinkError)
    assert why in str(client.error)
    # Another session finds nothing that could spoil it.
    assert offered(new_client(held=held), extra=b"right")


def test_a_client_that_was_spoilt_asks_for_the_whole_anew() -> None:
    held = HeldAnnouncement()
    host = new_host(extra=bytes(300_000))
    host.connected(0, 1.0)
    host.frame_received(0, payload_of(link.Hello()), 1.0)
    (out,) = host.commit(1.0)
    liar, honest = new_client(held=held), new_client(held=held)
    liar.connected()
    (want,) = liar.frame_received(b"".join(out.parts))
    for start in range(0, 300_000, _pieces.PIECE_BYTES):
        size = min(_pieces.PIECE_BYTES, 300_000 - start)
        liar.frame_received(payload_of(_pieces.Piece(start, b"\x01" * size)))
    assert "SHA-256" in str(liar.error)
    honest.connected()
    assert honest.frame_received(b"".join(out.parts)) == [want]
    assert PARAMS.num_clients == len(host._conversations.links)


def crowded(slots: int) -> LargeInputs:
    """Return a session with room for ``slots`` of its four inputs at a time."""
    session = LargeInputs()
    session.host.memory = slots * session.large[0].size
    return session


def wanted(session: LargeInputs) -> list[int]:
    """Return the clients that the server now asks for pieces."""
    sent = [(out.client_id, link.decode_server_frame(b"".join(out.parts))) for out in session.host.commit(1.0)]
    return [client_id for client_id, frame in sent if isinstance(frame, _pieces.Want)]


def test_inputs_beyond_the_room_wait_for_their_turn() -> None:
    session = crowded(2)
    for client_id in EVERYBODY:
        session.up(client_id, session.large[client_id])
    assert wanted(session) == [0, 1]
    # A client that was not asked may send nothing.
    session.up(3, session.pieces(3)[0])
    assert "but 0 to 0 are due" in refusal(session).text
    session.up(0, *session.pieces(0))
    # Client 3 has lost its connection, and queues again.
    assert wanted(session)[-1] == 2
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_a_room_that_is_too_small_for_any_lets_one_in() -> None:
    session = crowded(0)
    session.host.memory = 1
    for client_id in EVERYBODY:
        session.up(client_id, session.large[client_id])
    assert wanted(session) == [0]
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_a_client_that_keeps_its_room_too_long_makes_way_for_waiting_ones() -> None:
    """It sends so slowly that the others would have to wait until the end."""
    session = crowded(1)
    pieces = iter(session.pieces(0))
    session.up(0, session.large[0], *(next(pieces) for _ in range(len(session.pieces(0)) // 2)))
    session.up(1, session.large[1])
    assert wanted(session)[0] == 0
    # A quarter of the phase's 100 seconds, and not before; no other event is needed then.
    for session.now in (15.0, 25.0, 25.9):
        session.up(0, next(pieces))
        session.host.tick(session.now)
        assert wanted(session) in ([], [0])
    assert session.host.deadline == pytest.approx(26.0, abs=0.1)
    session.host.tick(26.1)
    assert session.host.deadline > 90
    sent = {out.client_id: link.decode_server_frame(b"".join(out.parts)) for out in session.host.commit(26.1)}
    assert isinstance(sent[1], _pieces.Want)
    assert sent[0].code is RefusalCode.BUSY
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_nobody_is_put_out_while_nobody_waits() -> None:
    session = crowded(1)
    session.up(0, session.large[0], session.pieces(0)[0])
    assert wanted(session) == [0]
    session.host.tick(90.0)
    assert wanted(session) == []
    session.up(0, *session.pieces(0)[1:])
    session.run()
    assert session.host.outcome.included == EVERYBODY


def test_a_session_announced_again_with_another_length_is_another_one() -> None:
    """Its digest is that of the announcement, and pieces would follow a whole message."""
    client = new_client(0)
    offered(client, extra=b"")
    large = _pieces.Large(payload_of(link.Offer(PARAMS, nonce=b"n"))[:-2], 5, hashlib.sha256(b"").digest())
    client.frame_received(payload_of(large))
    assert "another session" in str(client.error)


def test_an_offer_in_pieces_holds_its_announcement_and_nothing_else() -> None:
    """The held pieces would be taken for the whole message, and do not match its digest."""
    held = HeldAnnouncement()
    payload = payload_of(link.Offer(PARAMS, nonce=b"n", extra=bytes(70_000)))
    head, body = payload[:3], payload[3:]
    large = _pieces.Large(head, len(body), hashlib.sha256(body).digest())
    for _ in range(2):
        client = new_client(0, held=held)
        client.connected()
        client.frame_received(payload_of(large))
        for start in range(0, len(body), _pieces.PIECE_BYTES):
            client.frame_received(payload_of(_pieces.Piece(start, body[start : start + _pieces.PIECE_BYTES])))
        assert "more in pieces than an offer's announcement" in str(client.error)
    assert offered(new_client(held=held), extra=b"right")
