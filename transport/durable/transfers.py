"""Frames that go in pieces: what a sender has sent, what a receiver holds. Sans-IO."""

import hashlib

from transport.driver import Parts
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.durable.pieces import Large, Piece, Want
from transport.errors import LinkError


def step_bytes() -> int:
    """The receiver says what it holds, and asks for more, each time that so much has come."""
    return _pieces.WINDOW_BYTES // 4


def is_large(parts: Parts) -> bool:
    """Whether a payload, of a head and what follows it, is too long for one frame."""
    return len(parts) > 1 and sum(map(len, parts)) > _pieces.PIECE_BYTES


class Sending:
    """One large payload on one connection.

    Args:
        parts: the payload; the first part is what `Large` calls the head.
        digest: SHA-256 of the others, where it is known.

    Attributes:
        body: all but the head, in one piece.
    """

    def __init__(self, parts: Parts, digest: bytes | None = None) -> None:
        head, *body = parts
        self.body: bytes | memoryview = body[0] if len(body) == 1 else b"".join(body)
        self.large = Large(bytes(head), len(self.body), digest or hashlib.sha256(self.body).digest())
        self._at: int | None = None
        self._had = 0

    def wanted(self, want: Want) -> tuple[list[Parts], bool]:
        """The frames that the receiver now wants, and whether it has come further since it last asked.

        Raises:
            LinkError: it asks for what is not there, or holds what it was not sent.
        """
        if want.limit > self.large.size:
            raise LinkError(f"a WANT up to byte {want.limit} of {self.large.size}")
        is_further = self._at is None or want.have >= self._had + step_bytes()
        if self._at is None:
            self._at = want.have
        elif want.have > self._at:
            raise LinkError(f"a WANT of who has {want.have} bytes, but {self._at} were sent")
        self._had = max(self._had, want.have)
        frames = []
        while self._at < want.limit:
            end = min(self._at + _pieces.PIECE_BYTES, want.limit)
            frames.append(link.encode(Piece(self._at, memoryview(self.body)[self._at : end])))
            self._at = end
        return frames, is_further


class Receiving:
    """What is held of one large payload; it outlives the connection.

    Memory: what has come, and never more than `Large.size`.

    Args:
        large: what was announced; whether so much is acceptable, the caller has checked.
        whole: all of it, where that is there already.
    """

    def __init__(self, large: Large, whole: bytes | None = None) -> None:
        self.large = large
        self._data: bytes | bytearray = bytearray() if whole is None else whole
        self._hash = hashlib.sha256(self._data)
        self._limit = 0
        self._said = 0

    @property
    def have(self) -> int:
        """How many bytes are held."""
        return len(self._data)

    def restart(self) -> Want:
        """On a new connection: what to ask for."""
        # Whole pieces: whoever sends them need not cut one at the limit.
        whole = _pieces.WINDOW_BYTES - _pieces.WINDOW_BYTES % _pieces.PIECE_BYTES
        self._limit = min(self.large.size, self.have + whole)
        self._said = self.have
        return Want(self.large.digest, self.have, self._limit)

    def add(self, piece: Piece) -> Want | None:
        """Take a piece in; gives what to ask for then, if anything.

        Raises:
            LinkError: it is not the next one, or was not asked for.
        """
        end = piece.offset + len(piece.body)
        if end <= self.have:
            # The same one again, as a channel without integrity may bring it.
            return None
        if piece.offset != self.have or end > self._limit or not isinstance(self._data, bytearray):
            raise LinkError(f"bytes {piece.offset} to {end}, where {self.have} to {self._limit} are due")
        if len(piece.body) != _pieces.PIECE_BYTES and end != self.large.size:
            # Each costs a receiver as much as a long one does.
            raise LinkError(f"a PIECE of {len(piece.body)} bytes, where all but the last have {_pieces.PIECE_BYTES}")
        self._data += piece.body
        self._hash.update(piece.body)
        return None if self.have < self._said + step_bytes() or self.is_whole else self.restart()

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come; `body` then says whether it is the right one."""
        return self.have == self.large.size

    @property
    def body(self) -> memoryview:
        """What has come, once it is whole. LinkError if it is not what was announced."""
        if self._hash.digest() != self.large.digest:
            raise LinkError("what came in pieces does not have the SHA-256 that was announced")
        return memoryview(self._data).toreadonly()


class HeldAnnouncement:
    """The announcement that a client was offered last, whole or in part.

    Give one to all sessions of a client, and what it holds is not sent to it again: not after a lost connection, and
    not in another session that announces the same bytes. What it holds is used only if its SHA-256 is the one that
    the offer gives, which is bound into the session if the client's context is made of what it received.
    """

    def __init__(self) -> None:
        self._receiving: Receiving | None = None

    def receiving(self, large: Large) -> Receiving:
        """What is held of this announcement; another one is forgotten."""
        held = self._receiving
        if held is None or (held.large.digest, held.large.size) != (large.digest, large.size):
            held = self._receiving = Receiving(large)
        held.large = large
        return held

    def keep(self, large: Large, whole: bytes) -> None:
        """Hold all of an announcement, which is ``large``."""
        self._receiving = Receiving(large, whole)

    def forget(self) -> None:
        """Hold nothing."""
        self._receiving = None

    def __repr__(self) -> str:
        held = self._receiving
        return f"<HeldAnnouncement, {0 if held is None else held.have} bytes>"
