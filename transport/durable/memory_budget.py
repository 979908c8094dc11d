"""The memory of a server for partial messages, and the clients that wait for it. Sans-IO."""

import secrets
from dataclasses import dataclass

from secagg import ClientId

DEFAULT_MEMORY_BYTES = 1 << 28
"""Default maximum for partial messages, in bytes."""

STALL_SECONDS = 16.0
"""Seconds without a byte after which a client loses its place while others wait: one piece at 4 kB per second."""


@dataclass(slots=True)
class _Place:
    """The place of one client."""

    size: int
    since: float
    moved_at: float
    came: int = 0


class Room:
    """The clients that may send a large message now, and a line of clients that wait for memory.

    The server asks a waiting client for nothing, so it sends nothing; its connection stays alive. A message that is
    larger than the whole memory is let in alone.

    While others wait, a message must arrive within twice its fair part of the phase: the time that was left when the
    message was let in, divided among all messages that are in or wait.  A client loses its place if it is
    `STALL_SECONDS` behind that pace, or has held it for that time.  The fair part may be too short for all clients;
    so that some finish all the same, a message also gets twice the time that the last client held its place.

    The next client is drawn at random from the line, so that coming first gains nothing.

    Args:
        size: the memory, in bytes.
        seconds: the longest time in which a message must arrive while others wait.

    Attributes:
        closes: when the open phase closes; None if that is not known.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self._seconds = seconds
        self.closes: float | None = None
        self._taken = 0
        self._waiting = 0
        # How long the last client that finished, or lost its place, had held it.
        self._last = 0.0
        self._inside: dict[ClientId, _Place] = {}
        # Size of the message, number of restarts of the client (clients without restarts go first), a random number.
        self._line: dict[ClientId, tuple[int, int, int]] = {}

    def enter(self, client_id: ClientId, size: int, restarts: int) -> None:
        """Let a client join the line, unless it has a place, or is in the line, with a message of this size.

        Args:
            client_id: the client.
            size: size of the message, in bytes.
            restarts: number of times that this client began messages again; clients with fewer go first.
        """
        place = self._inside.get(client_id)
        if (place is None or place.size != size) and self._line.get(client_id, ())[:2] != (size, restarts):
            self.leave(client_id)
            self._line[client_id] = (size, restarts, secrets.randbits(64))
            self._waiting += size

    def leave(self, client_id: ClientId) -> None:
        """Remove a client from its place or from the line."""
        if (waiting := self._line.pop(client_id, None)) is not None:
            self._waiting -= waiting[0]
        if (place := self._inside.pop(client_id, None)) is not None:
            self._taken -= place.size

    def holds(self, client_id: ClientId) -> bool:
        """Return whether this client may send."""
        return client_id in self._inside

    def moved(self, client_id: ClientId, size: int, now: float) -> None:
        """Note that a number of bytes of the client's message came."""
        if (place := self._inside.get(client_id)) is not None:
            place.moved_at = now
            place.came += size
            if place.came >= place.size:
                self._last = now - place.since

    def admit(self, now: float) -> ClientId | None:
        """Let the next client in, and return it; None if nobody waits or the memory is full."""
        if not self._line:
            return None
        client_id = min(self._line, key=lambda waiting: self._line[waiting][1:])
        size = self._line[client_id][0]
        if self._inside and self._taken + size > self.size:
            return None
        self.leave(client_id)
        self._inside[client_id] = _Place(size, now, now)
        self._taken += size
        return client_id

    @property
    def taken(self) -> int:
        """Return the bytes of all messages that are let in."""
        return self._taken

    @property
    def deadline(self) -> float | None:
        """Return the time at which a client loses its place; None while nobody waits."""
        if not self._line or not self._inside:
            return None
        return min(map(self._until, self._inside.values()))

    def overdue(self, now: float) -> ClientId | None:
        """Return the client that must give its place to the next one in the line, which `admit` could not let in."""
        if self.deadline is None or now < self.deadline:
            return None
        client_id = min(self._inside, key=lambda client_id: self._until(self._inside[client_id]))
        self._last = now - self._inside[client_id].since
        return client_id

    def _until(self, place: _Place) -> float:
        seconds = self._seconds
        if self.closes is not None:
            fair = (self.closes - place.since) * self.size / (self._taken + self._waiting)
            seconds = min(seconds, max(2 * fair, 2 * self._last, STALL_SECONDS))
        in_pace = min(seconds, STALL_SECONDS + seconds * place.came / place.size)
        return min(place.since + in_pace, place.moved_at + STALL_SECONDS)
