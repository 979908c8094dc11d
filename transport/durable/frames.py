"""The link protocol: the frames of server and client around the messages of `secagg`. Sans-IO.

A payload of `transport.framing` is one byte of kind, then the kind's fields: unsigned integers and byte strings in the
shortest form of msgpack; the rest of a MESSAGE's payload is the message itself.  Each frame has exactly one encoding,
and no length that the other side claims leads to an allocation.

    client                                   server
    HELLO (session it is in, messages it has)  ->
                                             <-  WAITING (from time to time, while it has no session)
                                             <-  OFFER (always, also to clients that return)
                                             <-  MESSAGE n (those it lacks, then one each round)
    MESSAGE n (its answer)                     ->
                                             <-  ACK n (once it is durable)
    DECLINE (the offer, instead of an answer)  ->
                                             <-  END or REFUSED

HELLO lists the versions of this protocol that the client speaks, and begins in the same way in all versions.  The
server answers in the newest version that both know, or with REFUSED.  A version that changes a frame gives it another
kind: the kind of OFFER identifies the version, so that a later version can read a journal's offer.

A lost connection loses nothing: a client that reconnects says HELLO, receives the messages that it missed, and sends
messages without an ACK again, under the same numbers.

An OFFER or MESSAGE of more than 64 KiB goes in pieces (`transport.durable.pieces`), in either direction:

    sender                                   receiver
    LARGE (head, size, SHA-256 of the rest)    ->
                                             <-  WANT (bytes that it holds, and the limit to send)
    PIECE, PIECE, ...                          ->
                                             <-  WANT (after each quarter of the window)

A receiver that holds a part continues from there, also over another connection, and one that holds the whole asks for
nothing. Both sides hear from each other all the time, and other frames wait behind one piece at most.
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
"""The newest version of this protocol that this library speaks."""

OLDEST_LINK_VERSION = 2
"""The oldest version that it speaks."""

MAX_SEQUENCE = 15
"""Bound for message numbers; a session has at most five messages in each direction."""

DEFAULT_MAX_EXTRA_BYTES = 1 << 20
"""Default maximum of an announcement in an offer, in bytes; both sides may choose another."""

MAX_EXTRA_BYTES = 1 << 29
"""Maximum of an announcement in any offer, in bytes."""

MAX_PAYLOAD_BYTES = PIECE_BYTES + 512
"""Maximum payload of a frame in any session, in bytes; a bound for the `FrameDecoder`."""

SMALL_BYTES = 512
"""Maximum payload from a connection outside a session, in bytes; HELLO, PING and PONG are shorter."""

MAX_PRESENT = 2**32
"""Maximum number of clients, which is the number of ids."""

MAX_RETRY_AFTER = 3600
"""Maximum pause that a refusal can ask for, in seconds."""

REPLACED_TEXT = "a newer connection of the same client"

_MAX_UINT = 2**64 - 1


@unique
class RefusalCode(IntEnum):
    """Reasons why a server ends a connection."""

    UNKNOWN_CLIENT = 1
    """The client is not on the session's list."""
    REPLACED = 2
    """A newer connection of the same client replaced this one."""
    NO_SESSION = 3
    """The server does not run the session in HELLO, or has ended it."""
    BAD_VERSION = 4
    """The client speaks only older versions of the link protocol; the text names the needed version."""
    PROTOCOL_ERROR = 5
    """A frame is malformed or out of turn."""
    TOO_LATE = 6
    """The client's message did not come before its phase's deadline."""
    DROPPED = 7
    """The client was dropped; the text has the reason."""
    BUSY = 8
    """The server has no room for the connection now: come back later."""
    STOPPING = 9
    """The server stops or starts again: come back later."""
    OLDER_SERVER = 10
    """The server speaks only older versions of the link protocol: come back once it is upgraded."""
    EXCLUDED = 11
    """The client is enrolled and certified, but the operator excluded it; the text names the list."""


@unique
class EndCode(IntEnum):
    """The ways in which a session can end."""

    COMPLETED = 0
    TOO_FEW_CLIENTS = 1
    TOO_FEW_SHARES = 2
    INVALID_SHARES = 3
    CANCELLED = 4


@dataclass(frozen=True, slots=True)
class Hello:
    """Client to server, once, first on each connection.

    Attributes:
        session_id: id of the client's session, 32 bytes; empty if it has none.
        received: number of messages that it has received from the server in that session.
        version, oldest: the newest and the oldest version of the link protocol that the client speaks.
    """

    session_id: bytes = b""
    received: int = 0
    version: int = LINK_VERSION
    oldest: int = OLDEST_LINK_VERSION


@dataclass(frozen=True, slots=True)
class Offer:
    """Server to client, the answer to each HELLO. It does not contain the context: each side's application has its own.

    Attributes:
        params: the session's parameters.
        nonce: the session's public nonce.
        extra: the application's announcement; opaque here.
        number: the application's number of the session.
    """

    params: Parameters
    nonce: bytes = b""
    extra: bytes = field(default=b"", repr=False)
    number: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """Both ways: a message of `secagg`, number ``sequence`` of its direction from 0.

    Attributes:
        body: its bytes, or its pieces to be sent; in a decoded frame, a view of the payload.
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
        code: the way in which it ended.
        included: number of inputs in the sum; 0 without a sum.
        text: explanation for people.
    """

    code: EndCode
    included: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Server to client: the last frame of this connection.

    Attributes:
        code: the reason.
        text: explanation for people.
        retry_after: seconds for which the client must stay away; 0: no limit.
    """

    code: RefusalCode
    text: str = ""
    retry_after: int = 0


TOO_MANY_FRAMES = Refused(RefusalCode.BUSY, "too many frames that do not advance the session", 10)
NOT_THIS_SESSION = Refused(RefusalCode.NO_SESSION, "this server runs another session, or one with another context")
TOO_MANY_CONNECTIONS = Refused(RefusalCode.BUSY, "too many connections are open", 30)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Server to client, after HELLO: there is no session for it now; the connection stays open for the next one.

    Attributes:
        present: number of clients that wait, this one included.
        needed: number of clients that the next session needs; 0 while unknown, for instance during a session.
    """

    present: int
    needed: int = 0


@dataclass(frozen=True, slots=True)
class Decline:
    """Client to server: it declines the offer.

    Attributes:
        text: the reason for the server's operator; only public facts.
    """

    text: str = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """Both ways: a request for PONG."""


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
    """Raise LocalProtocolError unless an offer can carry the announcement and the number."""
    if not isinstance(extra, bytes) or len(extra) > MAX_EXTRA_BYTES:
        raise LocalProtocolError(f"extra must be bytes, at most {MAX_EXTRA_BYTES}")
    if type(number) is not int or not 0 <= number <= _MAX_UINT:
        raise LocalProtocolError(f"the number of a session must be an int between 0 and {_MAX_UINT}, not {number!r}")


def refused_version(hello: Hello) -> Refused | None:
    """Return the refusal for a client without a common version of the link protocol; None for all others."""
    if hello.oldest > LINK_VERSION:
        text = f"this server speaks link versions up to {LINK_VERSION}, and the client needs {hello.oldest}"
        return Refused(RefusalCode.OLDER_SERVER, text)
    if hello.version < OLDEST_LINK_VERSION:
        text = f"link version {hello.version}, but this server needs {OLDEST_LINK_VERSION}: upgrade the client"
        return Refused(RefusalCode.BAD_VERSION, text)
    return None


def encode(frame: Frame) -> Parts:
    """Return the frame's payload in pieces for `encode_frame`. ValueError for fields out of range."""
    match frame:
        case Hello():
            return (pack(1, frame.version, frame.oldest, frame.session_id, frame.received),)
        case Offer():
            packed = pack(2, frame.number, frame.params.to_bytes(), frame.nonce, frame.extra)
            return (packed[: len(packed) - len(frame.extra)], frame.extra)
        case Message():
            if not 0 <= frame.sequence <= MAX_SEQUENCE:
                raise ValueError(f"a sequence number must be between 0 and {MAX_SEQUENCE}, not {frame.sequence}")
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
    """Decode a client's frame. LinkError if it is malformed; HELLOs of other versions keep their version numbers."""
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
    """Decode a server's frame. LinkError if it is malformed, or announces more than ``max_extra`` bytes."""
    reader = Reader(payload)
    match reader.kind():
        case 2:
            return _read_offer(reader, max_extra)
        case 3:
            return _read_message(reader)
        case 4:
            return reader.end(Ack(reader.uint("a sequence number", MAX_SEQUENCE)))
        case 5:
            end = EndCode(reader.uint("an end code", max(EndCode)))
            return reader.end(End(end, reader.uint("a number of clients", MAX_CLIENT_ID), reader.text()))
        case 6:
            code = reader.uint("a code", max(RefusalCode))
            if code < min(RefusalCode):
                raise LinkError(f"{code} is not a code of a refusal")
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
    """Decode the frame before HELLO on a channel without certificates. LinkError if it is malformed."""
    reader = Reader(payload)
    if reader.kind() != 9:
        raise LinkError("a connection without certificates begins with IDENTIFY")
    return reader.end(Identify(reader.uint("a client id", MAX_CLIENT_ID)))


def _read_hello(reader: Reader) -> Hello:
    version = reader.uint("the newest link version", _MAX_UINT)
    oldest = reader.uint("the oldest link version", version)
    if refused_version(Hello(version=version, oldest=oldest)):
        # The other fields belong to a version that is not known here.
        return Hello(version=version, oldest=oldest)
    session_id = reader.bin("a session id", SESSION_ID_BYTES)
    if len(session_id) not in (0, SESSION_ID_BYTES):
        raise LinkError(f"a session id must have {SESSION_ID_BYTES} bytes, not {len(session_id)}")
    received = reader.uint("a number of messages", MAX_SEQUENCE + 1)
    if received and not session_id:
        raise LinkError("a HELLO counts messages but names no session")
    hello = Hello(session_id, received, version, oldest)
    # A newer client may add optional fields.
    return hello if version > LINK_VERSION else reader.end(hello)


def _read_message(reader: Reader) -> Message:
    return Message(reader.uint("a sequence number", MAX_SEQUENCE), reader.rest())


def _read_offer(reader: Reader, max_extra: int) -> Offer:
    number = reader.uint("a session's number", _MAX_UINT)
    try:
        params = Parameters.from_bytes(reader.bin("parameters", PARAMETERS_BYTES))
    except (CodecError, PlanError) as error:
        raise LinkError(f"an offer has invalid parameters: {error}") from None
    nonce = reader.bin("a nonce", MAX_NONCE_BYTES)
    return reader.end(Offer(params, nonce, reader.bin("the announcement", max_extra), number))
