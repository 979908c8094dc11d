"""Connections that have not identified themselves yet: bounded in total and for each network.

Anyone can open connections and send nothing, so such a connection must not keep a place that another peer needs. A new
connection is always accepted. If its network then has too many, one of that network is closed; if the total is too
large, one of the network with the most. The oldest connection that has sent nothing goes first, else the oldest. A peer
that opens many connections thus closes only its own.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from transport.tcp.refusals import network_of

# Clients that come at the same time leave each other time for a handshake.
_FEWEST = 16


@dataclass(eq=False, slots=True)
class HalfOpen:
    """One such connection.

    Attributes:
        network: the network of its peer: an IPv4 address, or an IPv6 /64.
        end: ends the connection; called once, when its place is needed.
        arrival: a number that grows with each new connection.
        heard: whether any byte has come over it.
    """

    network: str
    end: Callable[[], None]
    arrival: int
    heard: bool = False

    def speak(self) -> None:
        """Note that a byte has come over the connection."""
        self.heard = True


class HalfOpenConnections:
    """The connections of one listener that have not finished their handshakes.

    Args:
        limit: maximum number of connections.
        per_network: maximum number from one IPv4 address or IPv6 /64; by default the limit.
    """

    def __init__(self, limit: int, per_network: int | None = None) -> None:
        self._most = self._limit = limit
        self._per_network = per_network or limit
        self._arrivals = 0
        self._networks: dict[str, set[HalfOpen]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._networks.values()))

    def enter(self, peer: str, end: Callable[[], None]) -> HalfOpen:
        """Add a connection from the IP address ``peer``; `leave` removes it."""
        name = network_of(peer)
        if len(network := self._networks.get(name, ())) >= self._per_network:
            self._end_one(network)
        self._keep(self._limit - 1)
        self._arrivals += 1
        connection = HalfOpen(name, end, self._arrivals)
        self._networks.setdefault(name, set()).add(connection)
        return connection

    def leave(self, connection: HalfOpen) -> None:
        """Remove a connection; if it was not closed for another, raise a lowered limit by one."""
        if self._remove(connection):
            self._limit = min(self._most, self._limit + 1)

    def shrink(self) -> None:
        """Lower the limit to three quarters of the connections, unless these are few: the system has no room."""
        if len(self) > _FEWEST:
            self._limit = max(_FEWEST, len(self) * 3 // 4)
            self._keep(self._limit)

    def _keep(self, number: int) -> None:
        """End connections until at most this many are left."""
        while len(self) > number:
            most = max(map(len, self._networks.values()))
            fullest = (network for network in self._networks.values() if len(network) == most)
            self._end_one(itertools.chain(*fullest))

    def _end_one(self, connections: Iterable[HalfOpen]) -> None:
        connection = min(connections, key=_order)
        self._remove(connection)
        connection.end()

    def _remove(self, connection: HalfOpen) -> bool:
        """Remove a connection, and return whether it was present."""
        network = self._networks.get(connection.network, set())
        if connection not in network:
            return False
        network.remove(connection)
        if not network:
            del self._networks[connection.network]
        return True


def _order(connection: HalfOpen) -> tuple[bool, int]:
    return connection.heard, connection.arrival
