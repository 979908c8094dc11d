"""Leases: which front has which client. Sans-IO.

The machine adds no input twice, whatever fronts say. Leases decide whose word counts, so that a client that moves to
another front costs nothing: its earlier front hands over what it has before the next one is asked for anything.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from secagg import ClientId

RELEASE_SECONDS = 2.0
"""Seconds for which a front may take to give up a client that is at another front now."""


MOST_MOVES = 16
"""Moves of one client in a session after which it counts as two processes with one certificate."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A client is at a front. Numbers grow with time, so of two leases of one client the higher one holds."""

    client_id: ClientId
    front: str
    number: int


@dataclass(slots=True)
class _Move:
    to: str
    until: float


class Leases:
    """The leases of one session, and the moves of clients from one front to another."""

    def __init__(self) -> None:
        self._held: dict[ClientId, Lease] = {}
        self._moves: dict[ClientId, _Move] = {}
        self._moved: Counter[ClientId] = Counter()
        self._last = 0

    def of(self, client_id: ClientId) -> Lease | None:
        """Return a client's lease."""
        return self._held.get(client_id)

    def holds(self, client_id: ClientId, front: str, number: int) -> bool:
        """Return whether this is the client's present lease."""
        lease = self._held.get(client_id)
        return lease is not None and (lease.front, lease.number) == (front, number)

    def is_restless(self, client_id: ClientId) -> bool:
        """Return whether the client has moved so often that it must be two processes."""
        return self._moved[client_id] > MOST_MOVES

    def at(self, front: str) -> tuple[ClientId, ...]:
        """Return the clients at a front."""
        return tuple(client_id for client_id, lease in self._held.items() if lease.front == front)

    def claim(
        self, client_id: ClientId, front: str, number: int, up: Collection[str], now: float
    ) -> tuple[Lease | None, Lease | None]:
        """Return the lease that is granted, if any, and the lease that is revoked, if any.

        Args:
            client_id, front: who claims whom.
            number: the number of a lease that the front has from an earlier channel, or of an earlier coordinator; 0:
                the client has a new connection there.
            up: the fronts that can be reached. Others are not asked to release a client.
            now: the time.
        """
        held = self._held.get(client_id)
        if number:
            if held is not None and held.number > number:
                return None, Lease(client_id, front, number)
            self._last = max(self._last, number)
            self._held[client_id] = Lease(client_id, front, number)
            if client_id in self._moves:
                # It may not have heard that the client is elsewhere.
                return None, self._held[client_id]
            return self._held[client_id], held if held is not None and held.front != front else None
        if (move := self._moves.get(client_id)) is not None:
            move.to = front
            return None, None
        if held is None or held.front == front or held.front not in up:
            return self._grant(client_id, front, held), None
        self._moved[client_id] += 1
        self._moves[client_id] = _Move(front, now + RELEASE_SECONDS)
        return None, held

    def released(self, client_id: ClientId, front: str, number: int) -> Lease | None:
        """Note that a front gave up a client; return the next front's lease, if one waits for the client."""
        if not self.holds(client_id, front, number):
            return None
        del self._held[client_id]
        move = self._moves.pop(client_id, None)
        return None if move is None else self._grant(client_id, move.to, None)

    def lost(self, front: str) -> list[Lease]:
        """End all leases of a front, whose process has ended; return the leases of the fronts that wait for them."""
        for client_id in [client_id for client_id, move in self._moves.items() if move.to == front]:
            del self._moves[client_id]
        ended = [self._held[client_id] for client_id in self.at(front)]
        granted = [self.released(lease.client_id, front, lease.number) for lease in ended]
        return [lease for lease in granted if lease is not None]

    @property
    def deadline(self) -> float | None:
        """Return the time at which `overdue` has a lease to give."""
        return min((move.until for move in self._moves.values()), default=None)

    def overdue(self, now: float) -> list[Lease]:
        """Grant the leases that were not released in time; what their earlier fronts still have of them is refused."""
        late = [client_id for client_id, move in self._moves.items() if now >= move.until]
        return [self._grant(client_id, self._moves.pop(client_id).to, None) for client_id in late]

    def _grant(self, client_id: ClientId, front: str, held: Lease | None) -> Lease:
        if held is not None and held.front == front:
            return held
        self._last += 1
        self._held[client_id] = lease = Lease(client_id, front, self._last)
        return lease
