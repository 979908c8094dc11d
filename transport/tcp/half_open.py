"""Connections that have not shown yet who they are: bounded in all, and for each network.

Anyone can open connections and say nothing, so none of them may keep a place that somebody else needs. A newcomer is
always let in. If that makes one too many of its network, one of these goes, and if it makes one too many in all, one of
the network that has the most: there the oldest that has said nothing, or else the oldest. A peer that opens many
connections thus closes only its own.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from transport.tcp.refusals import network_of

# Clients that come at the same moment leave each other time for a handshake.
_FEWEST = 16


@dataclass(eq=False, slots=True)
class HalfOpen:
    """One such connection.

    Attributes:
        network: where it comes from: an IPv4 address, or an IPv6 /64.
        end: ends the connection; called once, when its place is needed.
        arrival: later ones have higher numbers.
        heard: whether anything has come over it.
    """

    network: str
    end: Callable[[], None]
    arrival: int
    heard: bool = False

    def speak(self) -> None:
        """Note that something has come over it."""
        self.heard = True


class HalfOpenConnections:
    """The connections of one listener that have not finished their handshakes.

    Args:
        limit: how many there may be.
        per_network: how many of these may come from one IPv4 address or IPv6 /64; by default all.
    """

    def __init__(self, limit: int, per_network: int | None = None) -> None:
        self._most = self._limit = limit
        self._per_network = per_network or limit
        self._arrivals = 0
        self._networks: dict[str, set[HalfOpen]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._networks.values()))

    def enter(self, peer: str, end: Callable[[], None]) -> HalfOpen:
        """Take in a connection from the IP address ``peer``; `leave` takes it out again."""
        name = network_of(peer)
        if len(network := self._networks.get(name, ())) >= self._per_network:
            self._end_one(network)
        self._keep(self._limit - 1)
        self._arrivals += 1
        connection = HalfOpen(name, end, self._arrivals)
        self._networks.setdefault(name, set()).add(connection)
        return connection

    def leave(self, connection: HalfOpen) -> None:
        """Take a connection out, if it is still in. Where it was not pushed out, there is room for one more again."""
        if self._remove(connection):
            self._limit = min(self._most, self._limit + 1)

    def shrink(self) -> None:
        """Have a quarter less, unless they are few: there is no room now for as many as there are."""
        if len(self) > _FEWEST:
            self._limit = max(_FEWEST, len(self) * 3 // 4)
            self._keep(self._limit)

    def _keep(self, number: int) -> None:
        """End connections until there are so many, or fewer."""
        while len(self) > number:
            most = max(map(len, self._networks.values()))
            fullest = (network for network in self._networks.values() if len(network) == most)
            self._end_one(itertools.chain(*fullest))

    def _end_one(self, connections: Iterable[HalfOpen]) -> None:
        connection = min(connections, key=_order)
        self._remove(connection)
        connection.end()

    def _remove(self, connection: HalfOpen) -> bool:
        """Whether it was in."""
        network = self._networks.get(connection.network, set())
        if connection not in network:
            return False
        network.remove(connection)
        if not network:
            del self._networks[connection.network]
        return True


def _order(connection: HalfOpen) -> tuple[bool, int]:
    return connection.heard, connection.arrival
