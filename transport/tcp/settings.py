"""Settings of the network's shell: addresses, limits, and pauses."""

import ipaddress
import secrets
from dataclasses import dataclass, fields
from enum import Enum, unique
from typing import Final, Literal, TypeAlias

from transport.durable.memory_budget import DEFAULT_MEMORY_BYTES
from transport.errors import TransportError

Address: TypeAlias = tuple[str, int]
"""Host name or IP address, and port; port 0 lets the system choose one."""


@unique
class Plaintext(Enum):
    """The choice of connections without TLS: for trials on one machine, refused on all addresses but loopback."""

    ON_LOOPBACK = "plaintext"


PLAINTEXT: Final[Literal[Plaintext.ON_LOOPBACK]] = Plaintext.ON_LOOPBACK
"""No TLS: for trials on one machine, refused on all addresses but loopback."""


class PlaintextError(TransportError):
    """Raised for a connection without TLS that would leave the machine."""


def check_loopback(host: str) -> None:
    """Raise PlaintextError unless ``host``, an IP address, is a loopback address."""
    try:
        inside = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise PlaintextError(
            f"without TLS only loopback addresses are allowed, not {host}: use certificates for all others"
        )


class _Positive:
    """A dataclass whose fields must all be above 0."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{field.name} must be above 0, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(_Positive):
    """Limits of one connection, and of all connections together. Seconds and bytes.

    Attributes:
        first_byte_seconds: maximum time from the connection to the first byte of the TLS handshake.
        handshake_seconds: maximum time from the connection to the end of the TLS handshake, and again from there to
            the first frame.
        frame_seconds: maximum time for a frame that has begun, plus one second for each ``minimum_rate`` bytes of it
            that have come.
        minimum_rate: bytes per second that a frame must reach after ``frame_seconds``.
        idle_seconds: time of silence after which the other side receives a PING.
        answer_seconds: time within which the other side must then send something.
        stall_seconds: maximum time in which 64 KiB must be sent, or the connection ends.
        connections: maximum number of identified connections of a server; further ones are closed at once.
        connections_per_address: maximum number of these from one IP address (IPv6: one /64 network).
        connections_per_client: maximum number of these from one client; a further one closes the oldest.
        handshakes: maximum number of connections that are not identified yet. A further one is accepted, and one of
            the address with the most is closed: the oldest that has sent nothing, else the oldest.
        handshakes_per_address: maximum number of these from one IP address (IPv6: one /64 network); a further one
            closes one of the same address.
        memory: maximum bytes of large messages that a server holds while they arrive. Further clients wait; one
            message is always accepted.
        commit_seconds: time in which events are gathered before they are made durable together and answered.
        farewell_seconds: time for which a server, after its session, waits for clients that were not told its end.
    """

    first_byte_seconds: float = 3.0
    handshake_seconds: float = 10.0
    frame_seconds: float = 30.0
    minimum_rate: float = 4096.0
    idle_seconds: float = 30.0
    answer_seconds: float = 15.0
    stall_seconds: float = 30.0
    connections: int = 4096
    connections_per_address: int = 2048
    connections_per_client: int = 4
    handshakes: int = 2048
    handshakes_per_address: int = 1024
    memory: int = DEFAULT_MEMORY_BYTES
    commit_seconds: float = 0.002
    farewell_seconds: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(_Positive):
    """The pauses of a client before new connections. Seconds.

    Attributes:
        first: pause before the first new try; it doubles with each failure, up to ``longest``.
        longest: maximum pause. Each pause is drawn between half of its value and the whole, so that clients do not
            return all at once after one failure.
        longest_asked: maximum pause that the server can ask for, and at most half of ``give_up``; the pause is drawn
            between that value and 1.5 times that value.
        give_up: time without a word from the server after which the client gives up.
    """

    first: float = 0.25
    longest: float = 15.0
    longest_asked: float = 120.0
    give_up: float = 300.0

    def delay(self, failures: int, asked: float = 0.0) -> float:
        """Return the seconds to wait after ``failures`` in a row, from 1, the last of which asked for a pause."""
        random = secrets.SystemRandom().uniform(0.5, 1.0)
        own: float = min(self.longest, self.first * 2 ** min(failures - 1, 32)) * random
        return max(own, min(asked, self.longest_asked, self.give_up / 2) * (0.5 + random))
