"""What the network's shell can be told: addresses, limits, patience."""

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
    """Says that a connection is to go without TLS: for trials on one machine, and refused on any but loopback."""

    ON_LOOPBACK = "plaintext"


PLAINTEXT: Final[Literal[Plaintext.ON_LOOPBACK]] = Plaintext.ON_LOOPBACK
"""Without TLS: for trials on one machine, refused on any address but loopback."""


class PlaintextError(TransportError):
    """A connection without TLS that would leave the machine."""


def check_loopback(host: str) -> None:
    """PlaintextError unless ``host``, an IP address, is this machine's own."""
    try:
        inside = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise PlaintextError(f"without TLS only loopback addresses are served or called, not {host}")


class _Positive:
    """Numbers that are all above 0."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{field.name} must be above 0, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(_Positive):
    """What one connection, and all of them, may take. Seconds and bytes.

    Attributes:
        first_byte_seconds: from the connection to the first byte of the TLS handshake.
        handshake_seconds: from the connection to the end of the TLS handshake; and again to the first frame.
        frame_seconds: a frame that has begun may take so long,
        minimum_rate: and a second more for each so many bytes of it that have come.
        idle_seconds: silence after which the other side is asked whether it is there,
        answer_seconds: and then has so long to say anything.
        stall_seconds: 64 KiB that do not go out for so long end a connection.
        connections: of one server, at most, that have shown who they are; further ones are closed at once.
        connections_per_address: of these, from one IP address (IPv6: one /64 network).
        connections_per_client: of these, of one client; for a further one its oldest is closed.
        handshakes: connections that have not yet shown who they are. A newcomer is let in all the same: for it goes
            one of the address that has most of them, the oldest that has said nothing, or else the oldest.
        handshakes_per_address: of these, from one IP address (IPv6: one /64 network); one of its own goes.
        memory: bytes of large messages that a server holds while they come in. Further clients wait with theirs; one
            message is let in always.
        commit_seconds: what happens within so long is made durable together, and answered then.
        farewell_seconds: how long a server whose session has ended waits for clients that have not been told.
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
    """How a client comes back. Seconds.

    Attributes:
        first: before the first new try; it doubles with each one that fails,
        longest: up to this. Each wait is drawn between half of that and all of it, so that clients whom one failure
            hit do not come back together.
        longest_asked: a server that says when to come back is obeyed up to this, and up to half of ``give_up``; the
            wait is drawn between that and half as much again.
        give_up: without any word from the server for so long, the client gives up.
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
