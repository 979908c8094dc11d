"""How many bytes of half-sent messages a server holds, and who waits for its turn. Sans-IO."""

from dataclasses import dataclass

from secagg import ClientId

DEFAULT_MEMORY_BYTES = 1 << 28
"""What half-sent messages may take unless a server chooses otherwise."""

STALL_SECONDS = 16.0
"""While others wait, who has moved no byte for so long, connected or not, loses its place: a piece at 4 kB a second."""


@dataclass(slots=True)
class _Place:
    """What one client holds."""

    size: int
    since: float
    moved_at: float
    came: int = 0


class Room:
    """Clients that may send a large message now, and a line of those that wait until there is room.

    A waiting client is not asked for anything, so it sends nothing; its connection is alive meanwhile. A message that
    is larger than the whole room is let in alone.

    Args:
        size: bytes that there is room for.
        seconds: what a message has to come in while others wait. Who has fallen behind that pace by `STALL_SECONDS` may
            be put out, and who has been in for so long.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self._seconds = seconds
        self._taken = 0
        self._inside: dict[ClientId, _Place] = {}
        # Size of the message, and how often the client has begun anew: who never did comes first.
        self._line: dict[ClientId, tuple[int, int]] = {}

    def enter(self, client_id: ClientId, size: int, restarts: int) -> None:
        """Join the line, unless this client is in, or in the line, with a message of this size.

        Args:
            client_id: who.
            size: of the message, in bytes.
            restarts: how often this client's messages were begun anew; it waits for all that did so less often.
        """
        place = self._inside.get(client_id)
        if (place is None or place.size != size) and self._line.get(client_id) != (size, restarts):
            self.leave(client_id)
            self._line[client_id] = (size, restarts)

    def leave(self, client_id: ClientId) -> None:
        """Nothing more is held, or awaited, of this client."""
        self._line.pop(client_id, None)
        if (place := self._inside.pop(client_id, None)) is not None:
            self._taken -= place.size

    def holds(self, client_id: ClientId) -> bool:
        """Whether this client may send."""
        return client_id in self._inside

    def moved(self, client_id: ClientId, size: int, now: float) -> None:
        """So many bytes of its message came."""
        if (place := self._inside.get(client_id)) is not None:
            place.moved_at = now
            place.came += size

    def admit(self, now: float) -> ClientId | None:
        """Let the next one in; None if nobody waits or there is no room."""
        if not self._line:
            return None
        client_id = min(self._line, key=lambda waiting: self._line[waiting][1])
        size, _ = self._line[client_id]
        if self._inside and self._taken + size > self.size:
            return None
        del self._line[client_id]
        self._inside[client_id] = _Place(size, now, now)
        self._taken += size
        return client_id

    @property
    def taken(self) -> int:
        """Bytes of the messages that are let in."""
        return self._taken

    @property
    def deadline(self) -> float | None:
        """When somebody is to be put out; None while nobody waits."""
        if not self._line or not self._inside:
            return None
        return min(map(self._until, self._inside.values()))

    def overdue(self, now: float) -> ClientId | None:
        """Who is to be put out for the next one in the line, which `admit` could not let in."""
        if self.deadline is None or now < self.deadline:
            return None
        return min(self._inside, key=lambda client_id: self._until(self._inside[client_id]))

    def _until(self, place: _Place) -> float:
        in_pace = self._seconds * min(1.0, STALL_SECONDS / self._seconds + place.came / place.size)
        return min(place.since + in_pace, place.moved_at + STALL_SECONDS)
