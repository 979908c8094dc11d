"""The server's state of each client's connection, and the frames that it sends: plain values."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from secagg import ClientId
from transport.driver import Parts
from transport.durable.frames import Frame, Hello, RefusalCode, Refused, encode
from transport.durable.transfers import Receiving, Sending, is_large

# Frames that do not advance a session (HELLO, PING, repeated messages): limit at once, and per second.
_BURST = 32.0
_PER_SECOND = 1.0


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send ``parts`` as one frame on the connection.

    Attributes:
        client_id: the client at the other end.
        connection: the number that `SessionHost.connected` returned.
        parts: the frame's payload in pieces, for `encode_frame`.
    """

    client_id: ClientId
    connection: int
    parts: Parts = field(repr=False)


@dataclass(frozen=True, slots=True)
class Close:
    """Send ``parts``, a REFUSED frame, on the connection, then close it. The host has forgotten it already.

    Attributes:
        client_id: the client at the other end.
        connection: the number of the connection; if a newer one replaced it, not the client's present one.
        code, text: the reason.
        retry_after: seconds for which the client must stay away.
    """

    client_id: ClientId
    connection: int
    code: RefusalCode
    text: str = ""
    retry_after: int = 0

    @property
    def parts(self) -> Parts:
        """Return the frame's payload in pieces, for `encode_frame`."""
        return encode(Refused(self.code, self.text, self.retry_after))


Outgoing: TypeAlias = Deliver | Close
"""The results of `SessionHost.commit`, to be sent in order."""


@dataclass(slots=True)
class Counters:
    """Counts of events, for metrics. They belong to this process: a resumed host begins at 0.

    Attributes:
        bytes_up, bytes_down: payload bytes of frames.
        frames_up, frames_down: number of frames.
        connections: number of connections.
        reconnects: number of connections by clients that had been connected before.
        announcement_bytes: the part of ``bytes_down`` for offers and their announcements.
        repeated: number of messages that came again.
        commits: number of commits that wrote something to the journal.
        refused: number of connections that the host closed, by reason.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    frames_up: int = 0
    frames_down: int = 0
    connections: int = 0
    reconnects: int = 0
    announcement_bytes: int = 0
    repeated: int = 0
    commits: int = 0
    refused: Counter[RefusalCode] = field(default_factory=Counter)


@dataclass(slots=True)
class Allowance:
    """A limit of one connection or client for frames that do not advance the session."""

    _left: float = _BURST
    _counted_at: float = float("-inf")

    def spend(self, now: float) -> bool:
        """Count one frame; return False if there were too many recently."""
        self._left = min(_BURST, self._left + max(0.0, now - self._counted_at) * _PER_SECOND)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Link:
    """The server's state of one client in a session: a few hundred bytes, and the message that it has not answered.

    It also holds the received bytes of a large message; they outlive the connection.

    Attributes:
        client_id: the client.
        digests: SHA-256 of each message that it sent.
        sent: number of messages that the server sent to it.
        unanswered: the last of these, until it is answered.
        receiving: the received part of its next message, if that comes in pieces.
        restarts: number of times that it changed or damaged that message and began again.
        put_out: number of times that the received part was discarded for waiting clients.
        sending: transfers in pieces on its present connection, by SHA-256, until it answers.
        downloaded: bytes of the announcement that it had at its last progress.
        connection: number of its connection, or 0.
        greeted: whether HELLO came on that connection.
        hello: that HELLO.
        told: whether it was told how the session ended.
        allowance: limit for frames that do not advance the session.
    """

    client_id: ClientId
    digests: list[bytes] = field(default_factory=list)
    sent: int = 0
    unanswered: bytes | None = field(default=None, repr=False)
    receiving: Receiving | None = field(default=None, repr=False)
    restarts: int = 0
    put_out: int = 0
    sending: dict[bytes, Sending] = field(default_factory=dict, repr=False)
    downloaded: int = 0
    connection: int = 0
    was_connected: bool = False
    greeted: bool = False
    hello: Hello | None = None
    told: bool = False
    allowance: Allowance = field(default_factory=Allowance)

    def answered(self, digest: bytes) -> None:
        """Note that a message came from the client."""
        self.digests.append(digest)
        self.unanswered = None
        # A client that has answered holds all of it.
        self.sending.clear()

    def hang_up(self) -> None:
        """Note that the connection ended, or that its frames are ignored from now on."""
        self.connection, self.greeted = 0, False
        self.sending.clear()

    def deliver(self, frame: Frame) -> Deliver:
        """Return the frame on the present connection; a large one becomes a LARGE, and `sending` holds its pieces."""
        return self.deliver_parts(encode(frame))

    def deliver_parts(self, parts: Parts, digest: bytes | None = None) -> Deliver:
        """Do the same for an encoded frame, with the SHA-256 of all but its first part, if that is known."""
        if is_large(parts):
            sending = Sending(parts, digest)
            self.sending[sending.large.digest] = sending
            parts = encode(sending.large)
        return Deliver(self.client_id, self.connection, parts)


def digest_of(body: bytes | memoryview) -> bytes:
    """Return the SHA-256 of a message, which identifies it later."""
    return hashlib.sha256(body).digest()
