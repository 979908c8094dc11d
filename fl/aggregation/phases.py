"""Cost of each round of the protocol in a session: time and bytes of the server, a client, and all clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from secagg import Parameters, Round, rounds_of
from transport import SessionReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """The cost of one round of the protocol.

    Attributes:
        server_seconds, client_seconds: computing time; for clients the median of those that took part, without their
            training.
        bytes_up, bytes_down: bytes of all clients' messages.
    """

    server_seconds: float
    client_seconds: float
    bytes_up: int
    bytes_down: int

    @classmethod
    def total(cls, costs: Sequence["PhaseCost"]) -> "PhaseCost":
        """Return the total cost of the round in several sessions."""
        return cls(**{name: sum(getattr(cost, name) for cost in costs) for name in cls.__dataclass_fields__})


def phase_costs(report: SessionReport, params: Parameters) -> dict[Round, PhaseCost]:
    """Return the cost of each round of a session."""
    clients = report.clients.values()
    return {
        round_: PhaseCost(
            server_seconds=report.server_seconds.get(round_, 0.0),
            client_seconds=median([c.seconds[round_] for c in clients if round_ in c.seconds] or [0.0]),
            bytes_up=sum(client.bytes_up.get(round_, 0) for client in clients),
            bytes_down=sum(client.bytes_down.get(round_, 0) for client in clients),
        )
        for round_ in rounds_of(params)
    }
