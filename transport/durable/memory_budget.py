"""How many bytes of half-sent messages a server holds, and who waits for his turn. Sans-IO."""

from secagg import ClientId

DEFAULT_MEMORY_BYTES = 1 << 28
"""What half-sent messages may take unless a server chooses otherwise."""


class Room:
    """Clients that may send a large message now, and a line of those that wait until there is room.

    A waiting client is not asked for anything, so it sends nothing; its connection is alive meanwhile. A message that
    is larger than the whole room is let in alone.

    Args:
        seconds: who has been in for so long, while others wait, may be put out.

    Attributes:
        size: bytes that there is room for.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self._seconds = seconds
        self._taken = 0
        # Size of the message, and since when; the oldest comes first.
        self._inside: dict[ClientId, tuple[int, float]] = {}
        self._line: dict[ClientId, int] = {}

    def enter(self, client_id: ClientId, size: int) -> None:
        """Join the line, unless this client is in, or in the line, with a message of this size."""
        if self._inside.get(client_id, (0, 0.0))[0] != size and self._line.get(client_id) != size:
            self.leave(client_id)
            self._line[client_id] = size

    def leave(self, client_id: ClientId) -> None:
        """Nothing more is held, or awaited, of this client."""
        self._line.pop(client_id, None)
        self._taken -= self._inside.pop(client_id, (0, 0.0))[0]

    def holds(self, client_id: ClientId) -> bool:
        """Whether this client may send."""
        return client_id in self._inside

    def admit(self, now: float) -> ClientId | None:
        """Let the first one in; None if nobody waits or there is no room."""
        client_id = next(iter(self._line), None)
        if client_id is None or (self._inside and self._taken + self._line[client_id] > self.size):
            return None
        size = self._line.pop(client_id)
        self._inside[client_id] = (size, now)
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
        _, since = next(iter(self._inside.values()))
        return since + self._seconds

    def overdue(self, now: float) -> ClientId | None:
        """Who is to be put out for the first one in the line, which `admit` could not let in."""
        return next(iter(self._inside)) if self.deadline is not None and now >= self.deadline else None
