"""Frames that are sent in pieces: the state of a sender and of a receiver. Sans-IO."""

import hashlib

from transport.driver import Parts
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.durable.pieces import Large, Piece, Want
from transport.errors import LinkError


def step_bytes() -> int:
    """Return the number of received bytes after which a receiver sends the next WANT."""
    return _pieces.WINDOW_BYTES // 4


def is_large(parts: Parts) -> bool:
    """Return whether a payload, given as a head and the parts after it, is too long for one frame."""
    return len(parts) > 1 and sum(map(len, parts)) > _pieces.PIECE_BYTES


class Sending:
    """One large payload on one connection.

    Args:
        parts: the payload; the first part is the head of `Large`.
        digest: SHA-256 of the other parts, if it is known.

    Attributes:
        body: all bytes after the head, in one piece.
    """

    def __init__(self, parts: Parts, digest: bytes | None = None) -> None:
        head, *body = parts
        self.body: bytes | memoryview = body[0] if len(body) == 1 else b"".join(body)
        self.large = Large(bytes(head), len(self.body), digest or hashlib.sha256(self.body).digest())
        self._at: int | None = None
        self._had = 0

    def wanted(self, want: Want) -> tuple[list[Parts], bool]:
        """Return the frames that the receiver wants now, and whether it holds more than at its last WANT.

        Raises:
            LinkError: it wants bytes beyond the end, or claims bytes that were not sent.
        """
        if want.limit > self.large.size:
            raise LinkError(f"a WANT asks for bytes up to {want.limit} of {self.large.size}")
        is_further = self._at is None or want.have >= self._had + step_bytes()
        if self._at is None:
            self._at = want.have
        elif want.have > self._at:
            raise LinkError(f"a WANT claims {want.have} bytes, but {self._at} were sent")
        self._had = max(self._had, want.have)
        frames = []
        while self._at < want.limit:
            end = min(self._at + _pieces.PIECE_BYTES, want.limit)
            frames.append(link.encode(Piece(self._at, memoryview(self.body)[self._at : end])))
            self._at = end
        return frames, is_further


class Receiving:
    """The received part of one large payload; it outlives the connection.

    Memory: the received bytes, and never more than `Large.size`.

    Args:
        large: the announcement; the caller must have checked its size.
        whole: all bytes, if they are held already.
    """

    def __init__(self, large: Large, whole: bytes | None = None) -> None:
        self.large = large
        self._data: bytes | bytearray = bytearray() if whole is None else whole
        self._hash = hashlib.sha256(self._data)
        self._limit = 0
        self._said = 0

    @property
    def have(self) -> int:
        """Return the number of held bytes."""
        return len(self._data)

    def restart(self) -> Want:
        """Return the WANT for a new connection."""
        # A multiple of the piece size, so that the sender need not cut a piece at the limit.
        whole = _pieces.WINDOW_BYTES - _pieces.WINDOW_BYTES % _pieces.PIECE_BYTES
        self._limit = min(self.large.size, self.have + whole)
        self._said = self.have
        return Want(self.large.digest, self.have, self._limit)

    def add(self, piece: Piece) -> Want | None:
        """Add a piece, and return the next WANT if one is due.

        Raises:
            LinkError: the piece is not the next one, or was not wanted.
        """
        end = piece.offset + len(piece.body)
        if end <= self.have:
            # A repeated frame, which a channel without integrity may deliver.
            return None
        if piece.offset != self.have or end > self._limit or not isinstance(self._data, bytearray):
            raise LinkError(f"a PIECE has bytes {piece.offset} to {end}, but {self.have} to {self._limit} are due")
        if len(piece.body) != _pieces.PIECE_BYTES and end != self.large.size:
            # A short piece costs the receiver as much work as a long one.
            raise LinkError(
                f"a PIECE has {len(piece.body)} bytes, but all except the last must have {_pieces.PIECE_BYTES}"
            )
        self._data += piece.body
        self._hash.update(piece.body)
        return None if self.have < self._said + step_bytes() or self.is_whole else self.restart()

    @property
    def is_whole(self) -> bool:
        """Return whether all bytes have come; `body` then checks them."""
        return self.have == self.large.size

    @property
    def body(self) -> memoryview:
        """Return the whole payload. LinkError if it does not match the announcement."""
        if self._hash.digest() != self.large.digest:
            raise LinkError("the bytes of the pieces do not have the announced SHA-256")
        return memoryview(self._data).toreadonly()


class HeldAnnouncement:
    """The announcement that a client was offered last, whole or in part.

    Pass the same object to all sessions of a client, so that bytes that it holds are not sent again, neither after a
    lost connection nor in another session with the same announcement. They are used only if their SHA-256 is the one
    in the offer. It is bound into the session if the client makes its context from the received bytes.
    """

    def __init__(self) -> None:
        self._receiving: Receiving | None = None

    def receiving(self, large: Large) -> Receiving:
        """Return the received part of this announcement, and forget any other one."""
        held = self._receiving
        if held is None or (held.large.digest, held.large.size) != (large.digest, large.size):
            held = self._receiving = Receiving(large)
        held.large = large
        return held

    def keep(self, large: Large, whole: bytes) -> None:
        """Hold the whole announcement ``large``."""
        self._receiving = Receiving(large, whole)

    def forget(self) -> None:
        """Forget the announcement."""
        self._receiving = None

    def __repr__(self) -> str:
        held = self._receiving
        return f"<HeldAnnouncement, {0 if held is None else held.have} bytes>"
