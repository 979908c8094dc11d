"""The result of a session over the in-process network: its outcome, and what it cost each party."""

from collections import defaultdict
from dataclasses import dataclass, field

from secagg import Aborted, ClientDropped, ClientId, Completed, Round, SecAggError
from transport.errors import TransportError


@dataclass
class ClientReport:
    """Cost and end of one client's part.

    Attributes:
        bytes_up, bytes_down: bytes that it sent and received, by round, with framing.
        seconds: computing time on one core by round, without the making of its input.
        error: the reason if it gave up: the rule that a message broke, or the reason why its input was withheld.
    """

    bytes_up: defaultdict[Round, int] = field(default_factory=lambda: defaultdict(int))
    bytes_down: defaultdict[Round, int] = field(default_factory=lambda: defaultdict(int))
    seconds: defaultdict[Round, float] = field(default_factory=lambda: defaultdict(float))
    error: SecAggError | TransportError | None = None


@dataclass
class SessionReport:
    """The result of a session.

    Attributes:
        outcome: `Completed` with the sum, or `Aborted`.
        dropped: the clients that the server dropped, with the reasons.
        clients: one report for each client.
        server_seconds: the server's computing time, by round; Unmasking includes the recovery of the masks.
        virtual_seconds: duration of the session on the network's clock.
        workers: number of processes that computed for the clients; 1 if it was this process.
        input_seconds: time for the making of all inputs, in those processes.
    """

    outcome: Completed | Aborted
    dropped: dict[ClientId, ClientDropped]
    clients: dict[ClientId, ClientReport]
    server_seconds: dict[Round, float]
    virtual_seconds: float
    workers: int
    input_seconds: float

    @property
    def bytes_up(self) -> int:
        """Return the bytes that all clients sent."""
        return sum(sum(client.bytes_up.values()) for client in self.clients.values())

    @property
    def bytes_down(self) -> int:
        """Return the bytes that all clients received."""
        return sum(sum(client.bytes_down.values()) for client in self.clients.values())
