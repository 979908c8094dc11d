"""The fuzzed code: four functions of bytes; an exception that leaves one of them is a finding."""

import hashlib
from collections.abc import Callable

import numpy as np

from fuzz.mutation import Cursor, mutated
from fuzz.recorded import Recorded, recorded
from secagg import (
    Aborted,
    Client,
    ClientDropped,
    ClientPhase,
    CodecError,
    Completed,
    InputRequested,
    LocalProtocolError,
    RemoteProtocolError,
    Send,
    Server,
    ServerPhase,
    SharesDisputed,
    UnmaskReady,
    decode_client_message,
    decode_server_message,
    encode,
)
from secagg.messages import UnmaskingShares


class BrokenPromiseError(Exception):
    """A promise that the library broke."""


def codec(data: bytes) -> None:
    """Check that bytes are refused by CodecError, or are exactly the encoding of a message."""
    cursor = Cursor(data)
    session = recorded(cursor.byte())
    if cursor.byte() % 2:
        data = mutated(cursor.pick(session.client_messages + session.server_messages), cursor, session.params, [])
    else:
        data = data[2:]
    for decode in (decode_client_message, decode_server_message):
        try:
            message = decode(data, session.params)
        except CodecError:
            continue
        if encode(message, session.params) != data:
            raise BrokenPromiseError("a message has two encodings")


def client(data: bytes) -> None:
    """Check that a client answers any messages, or raises a declared error and is dead."""
    cursor = Cursor(data)
    session = recorded(cursor.byte())
    machine = session.client(cursor.byte())
    released = 0
    while cursor:
        what = cursor.byte()
        try:
            if machine.phase is ClientPhase.CREATED:
                events = machine.start()
            elif machine.phase is ClientPhase.INPUT_REQUESTED and what % 4 == 0:
                events = machine.submit_input(np.zeros(session.params.vector_length, dtype=np.uint8))
            else:
                events = machine.receive(
                    decode_server_message(_message(what, cursor, session, up=False), session.params)
                )
        except CodecError:
            continue
        except RemoteProtocolError:
            _check_dead(machine)
            return
        except LocalProtocolError as error:
            raise BrokenPromiseError("a correct call was refused as wrong use") from error
        for event in events:
            if not isinstance(event, Send | InputRequested):
                raise BrokenPromiseError(f"a client gave the unknown event {event!r}")
            released += isinstance(event, Send) and isinstance(event.message, UnmaskingShares)
        if released > 1:
            raise BrokenPromiseError("a client released shares twice")
        machine = Client.resume(machine.suspend(), **session.keys())


def _check_dead(machine: Client) -> None:
    if machine.phase is not ClientPhase.ABORTED:
        raise BrokenPromiseError(f"after a refusal a client is in phase {machine.phase.name}")
    for call in (machine.start, machine.suspend):
        try:
            call()
        except LocalProtocolError:
            continue
        raise BrokenPromiseError("a dead client took another message")


def server(data: bytes) -> None:
    """Check that a server turns any messages into events, and that its session ends."""
    cursor = Cursor(data)
    session = recorded(cursor.byte())
    machine = session.server_after(cursor.byte() % 6)
    while cursor:
        what, sender = cursor.byte(), cursor.byte() % (session.params.num_clients + 1)
        if what % 16 == 15:
            _close(machine)
            continue
        if what % 16 == 14:
            for kind in session.sent.values():
                for client_id, message in kind.items():
                    if client_id in machine.pending:
                        _check_events(machine.receive(client_id, message))
            continue
        try:
            message = decode_client_message(_message(what, cursor, session, up=True), session.params)
        except CodecError:
            continue
        _check_events(machine.receive(sender, message))
    while machine.phase not in (ServerPhase.COMPLETED, ServerPhase.ABORTED):
        _close(machine)


def _close(machine: Server) -> None:
    if machine.phase in (ServerPhase.COMPLETED, ServerPhase.ABORTED):
        return
    _ = machine.status
    for event in machine.close_round():
        if isinstance(event, UnmaskReady):
            (end,) = machine.finish(event.job.run())
            if not isinstance(end, Completed):
                raise BrokenPromiseError(f"a session ended in {end!r}")
        elif not isinstance(event, Send | ClientDropped | SharesDisputed | Aborted):
            raise BrokenPromiseError(f"a server gave the unknown event {event!r}")


def _check_events(events: tuple[object, ...]) -> None:
    if not all(isinstance(event, ClientDropped) for event in events):
        raise BrokenPromiseError(f"a message caused the events {events!r}")


def suspension(data: bytes) -> None:
    """Check that bytes are a suspended client or refused by LocalProtocolError, also with a valid checksum."""
    cursor = Cursor(data)
    session = recorded(cursor.byte())
    what = cursor.byte()
    blob = data[2:]
    if what % 4:
        whole = cursor.pick(list(session.blobs))
        body = bytearray(whole[29:])
        if what % 4 == 1:
            body = bytearray(blob)
        while what % 4 > 1 and cursor:
            at = cursor.byte() << 8 | cursor.byte()
            body[at % len(body) : at % len(body) + cursor.byte() % 4] = cursor.take(cursor.byte() % 4)
            body = body or bytearray(1)
        blob = whole[:13] + hashlib.sha256(body).digest()[:16] + body
    try:
        machine = Client.resume(blob, **session.keys())
    except LocalProtocolError:
        return
    _ = machine.phase, machine.transcript, repr(machine)


def _message(what: int, cursor: Cursor, session: Recorded, *, up: bool) -> bytes:
    """Return the next message: raw, one of the session's, or one of these with a change."""
    pool = session.client_messages if up else session.server_messages
    match what % 4:
        case 0:
            return cursor.take(cursor.byte() << 8 | cursor.byte())
        case 1:
            return encode(cursor.pick(pool), session.params)
        case _:
            return mutated(cursor.pick(pool), cursor, session.params, pool)


HARNESSES: dict[str, Callable[[bytes], None]] = {
    "codec": codec,
    "client": client,
    "server": server,
    "suspension": suspension,
}
