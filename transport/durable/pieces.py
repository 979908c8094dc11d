"""The frames of the link protocol for a large OFFER or MESSAGE; `transport.durable.frames` explains their use."""

from dataclasses import dataclass, field
from typing import TypeAlias

from transport.driver import Parts
from transport.durable.fields import Reader, pack
from transport.errors import LinkError

PIECE_BYTES = (1 << 16) - 32
"""Maximum bytes of an OFFER, a MESSAGE or a piece in one frame; with the header it fits in 64 KiB."""

WINDOW_BYTES = 1 << 20
"""Maximum bytes on their way that the receiver has not confirmed."""

MAX_LARGE_BYTES = 2**40
"""Maximum size of a LARGE, in bytes; the limit of a session is far below it."""

_DIGEST_BYTES = 32
_MAX_HEAD_BYTES = 400


@dataclass(frozen=True, slots=True)
class Large:
    """Both ways: an OFFER or MESSAGE that is too long for one frame, without its last ``size`` bytes.

    Attributes:
        head: the payload before these bytes.
        size: number of bytes that follow in PIECEs, when WANTs ask for them.
        digest: SHA-256 of these bytes.
    """

    head: bytes
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Want:
    """Both ways: the receiver of a LARGE holds its first ``have`` bytes and accepts bytes up to ``limit``.

    Attributes:
        digest: the digest of the LARGE.
        have, limit: ``limit`` is at least ``have``, and at most `WINDOW_BYTES` above it.
    """

    digest: bytes
    have: int
    limit: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Both ways: bytes of the last LARGE that the receiver asked for.

    Attributes:
        offset: position of the first byte.
        body: at least one byte, at most `PIECE_BYTES`; in a decoded frame, a view of the payload.
    """

    offset: int
    body: bytes | memoryview = field(repr=False)


Transfer: TypeAlias = Large | Want | Piece


def encode_transfer(frame: Transfer) -> Parts:
    """Return the frame's payload, in pieces for `encode_frame`."""
    match frame:
        case Large():
            return (pack(12, frame.head, frame.size, frame.digest),)
        case Want():
            return (pack(13, frame.digest, frame.have, frame.limit),)
        case Piece():
            return (pack(14, frame.offset), frame.body)


def read_transfer(reader: Reader, kind: int, sender: str) -> Transfer:
    """Read the fields of a frame after its kind. LinkError if they are malformed."""
    match kind:
        case 12:
            head, size = reader.bin("a head", _MAX_HEAD_BYTES), reader.uint("a size", MAX_LARGE_BYTES)
            if not head or not size:
                raise LinkError("a LARGE announces no bytes")
            return reader.end(Large(head, size, _read_digest(reader)))
        case 13:
            digest = _read_digest(reader)
            have = reader.uint("a number of held bytes", MAX_LARGE_BYTES)
            limit = reader.uint("a limit", MAX_LARGE_BYTES)
            if not have <= limit <= have + WINDOW_BYTES:
                raise LinkError(f"a WANT has an invalid range, {have} to {limit}")
            return reader.end(Want(digest, have, limit))
        case 14:
            offset, body = reader.uint("an offset", MAX_LARGE_BYTES), reader.rest()
            if not body or len(body) > PIECE_BYTES:
                raise LinkError(f"a PIECE has an invalid length, {len(body)} bytes")
            return Piece(offset, body)
    raise LinkError(f"frame kind {kind} is not one that {sender} sends")


def _read_digest(reader: Reader) -> bytes:
    digest = reader.bin("a digest", _DIGEST_BYTES)
    if len(digest) != _DIGEST_BYTES:
        raise LinkError(f"a digest must have {_DIGEST_BYTES} bytes, not {len(digest)}")
    return digest
