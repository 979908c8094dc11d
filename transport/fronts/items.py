"""Define the items that fronts and the coordinator send each other: plain values, in order, over any channel.

A channel loses nothing while it lasts.  When one breaks, both sides begin a new one, and the front repeats everything
that the coordinator has not confirmed; so an item may come twice.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from secagg import ClientDropped, ClientId, DropReason, Round
from secagg.algebra.ring import RingVector
from transport.durable.frames import End, Offer
from transport.durable.links import Counters

# From the coordinator to a front.


@dataclass(frozen=True, slots=True)
class Begin:
    """A session runs: accept its clients. A front that has it already keeps its connections and inputs.

    Attributes:
        session_id, offer, client_ids, dropped: the session.
        phase_seconds: the seconds of the phase of masked inputs.
    """

    session_id: bytes
    offer: Offer = field(repr=False)
    client_ids: tuple[ClientId, ...] = field(repr=False)
    dropped: tuple[ClientDropped, ...] = field(repr=False)
    phase_seconds: float


@dataclass(frozen=True, slots=True)
class Opened:
    """The open round, and the seconds until its deadline; None while nothing is awaited."""

    round: Round
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Granted:
    """The client is this front's: the number of the lease, and the client's state in the session.

    Attributes:
        digests: SHA-256 of each message of the client that is durable.
        sent, unanswered: number of messages for it, and the last one unless it has answered.
        told: whether it was told how the session ended.
    """

    client_id: ClientId
    lease: int
    digests: tuple[bytes, ...] = field(repr=False)
    sent: int
    unanswered: bytes | None = field(repr=False)
    told: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """The client is at another front: close its connection, hand over its input, and answer `Released`.

    Attributes:
        client_id, lease: the lease.
        final: whether the client moves so often that it must be two processes: the connection is refused for good.
    """

    client_id: ClientId
    lease: int
    final: bool


@dataclass(frozen=True, slots=True)
class Forward:
    """A message of the machine for a client, number ``sent`` - 1."""

    client_id: ClientId
    sent: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The first ``received`` messages of a client are durable."""

    client_id: ClientId
    received: int


@dataclass(frozen=True, slots=True)
class PartialRefused:
    """Nothing of a partial sum was added: its clients that are still here must send their inputs again."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class PartialTaken:
    """A partial sum is durable."""

    number: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A client was dropped."""

    drop: ClientDropped


@dataclass(frozen=True, slots=True)
class HandOver:
    """The round closes: hand over the inputs that are there, then answer `HandedOver`."""

    number: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session has its outcome: tell the clients."""

    end: End


@dataclass(frozen=True, slots=True)
class Finish:
    """The session is over for all clients: end its connections. ``stopping``: they are to come back later."""

    stopping: bool


@dataclass(frozen=True, slots=True)
class Gather:
    """The number of clients that the next session waits for (0: no session waits), and that wait at other fronts."""

    needed: int
    elsewhere: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """A client that waited for a session here now waits at another front."""

    client_id: ClientId


# From a front to the coordinator.


@dataclass(frozen=True, slots=True)
class WaitingClients:
    """Clients that began to wait for a session here, and clients that do so no more."""

    came: tuple[ClientId, ...] = field(repr=False)
    went: tuple[ClientId, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """A client is connected here: ask for its lease. ``lease``: the number of one from before the channel, or 0."""

    client_id: ClientId
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """The client's connection ended; the lease stays here until another front asks for it."""

    client_id: ClientId
    lease: int


@dataclass(frozen=True, slots=True)
class Released:
    """The front has given a client up, and has handed over its input, if it had it."""

    client_id: ClientId
    lease: int


@dataclass(frozen=True, slots=True)
class Said:
    """A client's message, number ``sequence``, as its bytes."""

    client_id: ClientId
    lease: int
    sequence: int
    digest: bytes = field(repr=False)
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Partial:
    """A sum of masked inputs: for each client its lease, and the SHA-256 of its message."""

    number: int
    clients: dict[ClientId, tuple[int, bytes]] = field(repr=False)
    vector: RingVector = field(repr=False)


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop a client."""

    client_id: ClientId
    lease: int
    reason: DropReason
    detail: str


@dataclass(frozen=True, slots=True)
class Declined:
    """A client declines the offer."""

    client_id: ClientId
    text: str


@dataclass(frozen=True, slots=True)
class Downloading:
    """A client received another part of the announcement."""


@dataclass(frozen=True, slots=True)
class Told:
    """A client was told how the session ended."""

    client_id: ClientId


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The answer to `HandOver`; everything that came before it is on its way."""

    number: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A front's figures in this session.

    Attributes:
        counters: counts of its events.
        bytes_in_flight: bytes of large messages that clients may send now.
        held: number of inputs that were not handed over yet.
    """

    counters: Counters
    bytes_in_flight: int
    held: int


@dataclass(frozen=True, slots=True)
class Listening:
    """The figures of a front's listener, since its process began; see `SessionServer`."""

    refusals: dict[str, int]
    connections: int
    bytes_received: int
    bytes_sent: int
    certificate_expiry: dict[str, float]


Down: TypeAlias = (
    Begin | Opened | Granted | Revoked | Forward | Confirmed | PartialRefused | PartialTaken | Dropped | HandOver
    | SessionEnded | Finish | Gather | Dismiss
)  # fmt: skip
"""What the coordinator tells a front."""

Up: TypeAlias = (
    WaitingClients | Claim | Left | Released | Said | Partial | Drop | Declined | Downloading | Told | HandedOver
    | Figures | Listening
)  # fmt: skip
"""What a front tells the coordinator."""
