"""The link protocol: what a server and a client say to each other around the messages of `secagg`. Sans-IO.

A payload of `transport.framing` is one byte of kind, then the kind's fields: unsigned integers and byte strings in the
shortest form of msgpack; the message that a MESSAGE carries is the rest of the payload, as it is.  Every frame has
exactly one encoding, and nothing is allocated on a length that the other side claims.

    client                                   server
    HELLO (session it is in, messages it has)  ->
                                             <-  WAITING (while there is no session for it: now and again)
                                             <-  OFFER (always, also to those that come back)
                                             <-  MESSAGE n (what it has not, and each round's from then on)
    MESSAGE n (its answer)                     ->
                                             <-  ACK n (once it is durable)
    DECLINE (the offer, instead of an answer)  ->
                                             <-  END or REFUSED

HELLO says which versions of this protocol the client speaks, and begins in the same way in all of them.  The server
answers in the newest that both know, or with REFUSED.  A version that changes a frame gives it another kind: that of
OFFER says which version it is, and a later one can read a journal's offer.

A lost connection loses nothing: whoever reconnects says HELLO, gets what it missed, and sends again what was not
acknowledged, under the same number.

An OFFER or MESSAGE of more than 64 KiB goes in pieces (`transport.durable.pieces`), in either direction:

    sender                                   receiver
    LARGE (head, size, SHA-256 of the rest)    ->
                                             <-  WANT (what it holds, and up to where it may be sent)
    PIECE, PIECE, ...                          ->
                                             <-  WANT (once a quarter of the window has come)

So a receiver that holds a part goes on from there, also over another connection, and one that holds the whole asks for
nothing. Both sides hear from each other all the time, and no other frame waits behind more than a piece.
"""

from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import TypeAlias

from secagg import ClientId, CodecError, LocalProtocolError, Parameters, PlanError
from secagg.params import MAX_CLIENT_ID, PARAMETERS_BYTES
from secagg.session import MAX_NONCE_BYTES, SESSION_ID_BYTES
from transport.driver import Parts
from transport.durable.fields import Reader, pack, pack_text
from transport.durable.pieces import PIECE_BYTES, Large, Piece, Want, encode_transfer, read_transfer
from transport.errors import LinkError

LINK_VERSION = 2
"""The newest version of this protocol that is spoken here."""

OLDEST_LINK_VERSION = 2
"""The oldest one."""

MAX_SEQUENCE = 15
"""No session has so many messages one way: five at most."""

DEFAULT_MAX_EXTRA_BYTES = 1 << 20
"""What an application may announce in an offer unless both sides choose another bound."""

MAX_EXTRA_BYTES = 1 << 29
"""What an offer can carry at all."""

MAX_PAYLOAD_BYTES = PIECE_BYTES + 512
"""The longest payload of a frame: a bound for the `FrameDecoder`, whatever the session."""

SMALL_BYTES = 512
"""The longest payload that a server takes of a connection that is in no session: HELLO, PING and PONG are shorter."""

MAX_PRESENT = 2**32
"""There are no more clients than ids."""

MAX_RETRY_AFTER = 3600
"""Seconds: no refusal asks for a longer pause."""

REPLACED_TEXT = "a newer connection of the same client"

_MAX_UINT = 2**64 - 1


@unique
class RefusalCode(IntEnum):
    """Why a server goes no further with a connection."""

    UNKNOWN_CLIENT = 1
    """The client is not on the session's list."""
    REPLACED = 2
    """A newer connection of the same client took this one's place."""
    NO_SESSION = 3
    """The session that HELLO names is not, or no longer, run here."""
    BAD_VERSION = 4
    """The client speaks older versions of the link protocol only; the text says which one it needs."""
    PROTOCOL_ERROR = 5
    """A frame that is none, or out of turn."""
    TOO_LATE = 6
    """The client's message did not come before its phase's deadline."""
    DROPPED = 7
    """The session goes on without the client; the text says why."""
    BUSY = 8
    """No room for the connection now: come back later."""
    STOPPING = 9
    """The server is being stopped, or starts again: come back later."""
    OLDER_SERVER = 10
    """The server speaks older versions of the link protocol only: come back when it has been upgraded."""
    EXCLUDED = 11
    """The client is enrolled and certified, and its operator has shut it out; the text says by which list."""


@unique
class EndCode(IntEnum):
    """How a session ended."""

    COMPLETED = 0
    TOO_FEW_CLIENTS = 1
    TOO_FEW_SHARES = 2
    INVALID_SHARES = 3
    CANCELLED = 4


@dataclass(frozen=True, slots=True)
class Hello:
    """Client to server, once, first on each connection.

    Attributes:
        session_id: of the session that the client is in, 32 bytes; empty: it is in none.
        received: how many of that session's server messages it has.
        version, oldest: the newest and the oldest version of the link protocol that the client speaks.
    """

    session_id: bytes = b""
    received: int = 0
    version: int = LINK_VERSION
    oldest: int = OLDEST_LINK_VERSION


@dataclass(frozen=True, slots=True)
class Offer:
    """Server to client, the answer to each HELLO. The context is not in it: each side's application gives its own.

    Attributes:
        params: the session's parameters.
        nonce: the session's public nonce.
        extra: what the application announces; opaque here.
        number: of the session, as the application counts.
    """

    params: Parameters
    nonce: bytes = b""
    extra: bytes = field(default=b"", repr=False)
    number: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """Both ways: a message of `secagg`, the ``sequence``-th of its direction from 0.

    Attributes:
        body: its bytes, or the pieces of them that are to be sent; of a decoded frame, a view of the payload.
    """

    sequence: int
    body: bytes | memoryview | Parts = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ack:
    """Server to client: message ``sequence`` is durable."""

    sequence: int


@dataclass(frozen=True, slots=True)
class End:
    """Server to client: the session is over.

    Attributes:
        code: how.
        included: how many inputs are in the sum; 0 without one.
        text: for people.
    """

    code: EndCode
    included: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Server to client: the last frame of this connection.

    Attributes:
        code: why.
        text: for people.
        retry_after: seconds before which the client is not to come back; 0: as it likes.
    """

    code: RefusalCode
    text: str = ""
    retry_after: int = 0


TOO_MANY_FRAMES = Refused(RefusalCode.BUSY, "too many frames that bring the session no further", 10)
TOO_MANY_CONNECTIONS = Refused(RefusalCode.BUSY, "too many connections are open", 30)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Server to client, after HELLO: there is no session for it now, and the connection is kept for the next.

    Attributes:
        present: how many clients wait, this one included.
        needed: how many the next session waits for; 0 while that is not known, as during another session.
    """

    present: int
    needed: int = 0


@dataclass(frozen=True, slots=True)
class Decline:
    """Client to server: it does not take the offer.

    Attributes:
        text: why, for the server's operator; nothing but what is public.
    """

    text: str = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """Both ways: answer with PONG."""


@dataclass(frozen=True, slots=True)
class Pong:
    """Both ways: the answer to PING."""


@dataclass(frozen=True, slots=True)
class Identify:
    """Client to server, before HELLO and only where the channel has no certificates (plaintext on loopback)."""

    client_id: ClientId


ClientFrame: TypeAlias = Hello | Message | Decline | Ping | Pong | Large | Want | Piece
ServerFrame: TypeAlias = Offer | Message | Ack | End | Refused | Waiting | Ping | Pong | Large | Want | Piece
Frame: TypeAlias = ClientFrame | ServerFrame | Identify


def check_announcement(extra: bytes, number: int) -> None:
    """LocalProtocolError unless an offer can carry them."""
    if not isinstance(extra, bytes) or len(extra) > MAX_EXTRA_BYTES:
        raise LocalProtocolError(f"extra must be bytes, at most {MAX_EXTRA_BYTES}")
    if type(number) is not int or not 0 <= number <= _MAX_UINT:
        raise LocalProtocolError(f"a session's number is an int between 0 and {_MAX_UINT}, not {number!r}")


def refused_version(hello: Hello) -> Refused | None:
    """What a client is told that speaks no version of the link protocol that is spoken here; None to all others."""
    if hello.oldest > LINK_VERSION:
        text = f"this server speaks link versions up to {LINK_VERSION}, and the client needs {hello.oldest}"
        return Refused(RefusalCode.OLDER_SERVER, text)
    if hello.version < OLDEST_LINK_VERSION:
        text = f"link version {hello.version}, but this server needs {OLDEST_LINK_VERSION}: upgrade the client"
        return Refused(RefusalCode.BAD_VERSION, text)
    return None


def encode(frame: Frame) -> Parts:
    """The frame's payload, in pieces for `encode_frame`. ValueError for fields that no frame has."""
    match frame:
        case Hello():
            return (pack(1, frame.version, frame.oldest, frame.session_id, frame.received),)
        case Offer():
            packed = pack(2, frame.number, frame.params.to_bytes(), frame.nonce, frame.extra)
            return (packed[: len(packed) - len(frame.extra)], frame.extra)
        case Message():
            if not 0 <= frame.sequence <= MAX_SEQUENCE:
                raise ValueError(f"a sequence number is between 0 and {MAX_SEQUENCE}, not {frame.sequence}")
            body = frame.body if isinstance(frame.body, tuple) else (frame.body,)
            return (pack(3, frame.sequence), *body)
        case Ack():
            return (pack(4, frame.sequence),)
        case End():
            return (pack(5, frame.code, frame.included, pack_text(frame.text)),)
        case Refused():
            return (pack(6, frame.code, pack_text(frame.text), frame.retry_after),)
        case Ping():
            return (pack(7),)
        case Pong():
            return (pack(8),)
        case Identify():
            return (pack(9, frame.client_id),)
        case Waiting():
            return (pack(10, frame.present, frame.needed),)
        case Decline():
            return (pack(11, pack_text(frame.text)),)
        case Large() | Want() | Piece():
            return encode_transfer(frame)


def decode_client_frame(payload: bytes | memoryview) -> ClientFrame:
    """A frame that a client sent. LinkError if it is none; HELLOs of other versions are given out with theirs."""
    reader = Reader(payload)
    match reader.kind():
        case 1:
            return _read_hello(reader)
        case 3:
            return _read_message(reader)
        case 7:
            return reader.end(Ping())
        case 8:
            return reader.end(Pong())
        case 11:
            return reader.end(Decline(reader.text()))
        case kind:
            return read_transfer(reader, kind, "a client")


def decode_server_frame(payload: bytes | memoryview, max_extra: int = DEFAULT_MAX_EXTRA_BYTES) -> ServerFrame:
    """A frame that the server sent. LinkError if it is none, or an offer with more than ``max_extra`` bytes."""
    reader = Reader(payload)
    match reader.kind():
        case 2:
            return _read_offer(reader, max_extra)
        case 3:
            return _read_message(reader)
        case 4:
            return reader.end(Ack(reader.uint("a sequence number", MAX_SEQUENCE)))
        case 5:
            end = EndCode(reader.uint("how the session ended", max(EndCode)))
            return reader.end(End(end, reader.uint("a number of clients", MAX_CLIENT_ID), reader.text()))
        case 6:
            code = reader.uint("a code", max(RefusalCode))
            if code < min(RefusalCode):
                raise LinkError(f"there is no refusal {code}")
            refused = Refused(RefusalCode(code), reader.text(), reader.uint("a pause", MAX_RETRY_AFTER))
            return reader.end(refused)
        case 7:
            return reader.end(Ping())
        case 8:
            return reader.end(Pong())
        case 10:
            present = reader.uint("a number of clients", MAX_PRESENT)
            return reader.end(Waiting(present, reader.uint("a number of clients", MAX_PRESENT)))
        case kind:
            return read_transfer(reader, kind, "a server")


def decode_identify(payload: bytes | memoryview) -> Identify:
    """The frame before HELLO on a channel without certificates, or LinkError."""
    reader = Reader(payload)
    if reader.kind() != 9:
        raise LinkError("a connection without certificates begins with IDENTIFY")
    return reader.end(Identify(reader.uint("a client id", MAX_CLIENT_ID)))


def _read_hello(reader: Reader) -> Hello:
    version = reader.uint("the newest link version", _MAX_UINT)
    oldest = reader.uint("the oldest link version", version)
    if refused_version(Hello(version=version, oldest=oldest)):
        # The other fields are those of a version that is not known here.
        return Hello(version=version, oldest=oldest)
    session_id = reader.bin("a session id", SESSION_ID_BYTES)
    if len(session_id) not in (0, SESSION_ID_BYTES):
        raise LinkError(f"a session id has {SESSION_ID_BYTES} bytes, not {len(session_id)}")
    received = reader.uint("a number of messages", MAX_SEQUENCE + 1)
    if received and not session_id:
        raise LinkError("messages without a session")
    hello = Hello(session_id, received, version, oldest)
    # A newer client may say more, that it can do without.
    return hello if version > LINK_VERSION else reader.end(hello)


def _read_message(reader: Reader) -> Message:
    return Message(reader.uint("a sequence number", MAX_SEQUENCE), reader.rest())


def _read_offer(reader: Reader, max_extra: int) -> Offer:
    number = reader.uint("a session's number", _MAX_UINT)
    try:
        params = Parameters.from_bytes(reader.bin("parameters", PARAMETERS_BYTES))
    except (CodecError, PlanError) as error:
        raise LinkError(f"an offer of parameters that do not work: {error}") from None
    nonce = reader.bin("a nonce", MAX_NONCE_BYTES)
    return reader.end(Offer(params, nonce, reader.bin("what the offer announces", max_extra), number))
