"""What the server keeps of each client's connection, and what it sends: plain values."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from secagg import ClientId
from transport.driver import Parts
from transport.durable.frames import Frame, Hello, RefusalCode, Refused, encode
from transport.durable.transfers import Receiving, Sending, is_large

# Frames that bring a session no further (HELLO, PING, repeated messages): so many at once, and so many a second.
_BURST = 32.0
_PER_SECOND = 1.0


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send ``parts`` as one frame on the connection.

    Attributes:
        client_id: whose connection.
        connection: its number, as `SessionHost.connected` gave it.
        parts: the frame's payload in pieces, for `encode_frame`.
    """

    client_id: ClientId
    connection: int
    parts: Parts = field(repr=False)


@dataclass(frozen=True, slots=True)
class Close:
    """Send ``parts``, a REFUSED frame, on the connection, then close it. The host has forgotten it already.

    Attributes:
        client_id: whose connection.
        connection: its number; where a newer one replaced it, not the client's present one.
        code, text: why.
        retry_after: seconds before which the client is not to come back.
    """

    client_id: ClientId
    connection: int
    code: RefusalCode
    text: str = ""
    retry_after: int = 0

    @property
    def parts(self) -> Parts:
        """The frame's payload in pieces, for `encode_frame`."""
        return encode(Refused(self.code, self.text, self.retry_after))


Outgoing: TypeAlias = Deliver | Close
"""What `SessionHost.commit` hands out, to be sent in order."""


@dataclass(slots=True)
class Counters:
    """What happened so far, for metrics. Counts are this process's own: a resumed host begins at 0.

    Attributes:
        bytes_up, bytes_down: payloads of frames, in bytes.
        frames_up, frames_down: how many.
        connections: that were made.
        reconnects: of these, by clients that had been connected before.
        announcement_bytes: of ``bytes_down``, what offers and what they announce came to.
        repeated: messages that were there already.
        commits: that wrote something to the journal.
        refused: connections that the host closed, by reason.
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
    """How many frames that bring a session no further one connection or client may send."""

    _left: float = _BURST
    _counted_at: float = float("-inf")

    def spend(self, now: float) -> bool:
        """Count one; False if there were too many of late."""
        self._left = min(_BURST, self._left + max(0.0, now - self._counted_at) * _PER_SECOND)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Link:
    """One client's side of a session, as the server has it: some hundred bytes, and the message it has not answered.

    While a large message of the client's comes in, also what has come of it; that outlives the connection.

    Attributes:
        client_id: whose.
        digests: SHA-256 of each message that came from it.
        sent: how many messages it was sent.
        unanswered: the last of them, until it is answered.
        receiving: what is there of its next message, if that comes in pieces.
        restarts: how often it changed or spoilt that, and began anew.
        put_out: how often that was thrown away for others that waited.
        sending: what it is sent in pieces on its present connection, by SHA-256, until it answers.
        downloaded: how many bytes of the announcement it had when it was last seen to get further.
        connection: its connection's number, or 0.
        greeted: whether HELLO came on that connection.
        hello: what it said.
        told: whether it was told how the session ended.
        allowance: for frames that bring the session no further.
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
        """A message came from it."""
        self.digests.append(digest)
        self.unanswered = None
        # Who has answered has all of it.
        self.sending.clear()

    def hang_up(self) -> None:
        """Its connection has ended, or is not listened to any more."""
        self.connection, self.greeted = 0, False
        self.sending.clear()

    def deliver(self, frame: Frame) -> Deliver:
        """The frame, on its present connection; a large one as a LARGE, whose pieces `sending` then has."""
        return self.deliver_parts(encode(frame))

    def deliver_parts(self, parts: Parts, digest: bytes | None = None) -> Deliver:
        """The same for a frame that is encoded, with the SHA-256 of all but its first part, if that is known."""
        if is_large(parts):
            sending = Sending(parts, digest)
            self.sending[sending.large.digest] = sending
            parts = encode(sending.large)
        return Deliver(self.client_id, self.connection, parts)


def digest_of(body: bytes | memoryview) -> bytes:
    """What a message is known by once it is gone: SHA-256."""
    return hashlib.sha256(body).digest()
