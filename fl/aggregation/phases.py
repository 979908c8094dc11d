"""What each round of the protocol cost in a session: time and bytes, of the server, of a client, and of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from secagg import Parameters, Round, rounds_of
from transport import SessionReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """One round of the protocol.

    Attributes:
        server_seconds, client_seconds: computing time; the client's is the median of those that took part in it, their
            training not counted.
        bytes_up, bytes_down: of all clients.
    """

    server_seconds: float
    client_seconds: float
    bytes_up: int
    bytes_down: int

    @classmethod
    def total(cls, costs: Sequence["PhaseCost"]) -> "PhaseCost":
        """What the round cost in several sessions together."""
        return cls(**{name: sum(getattr(cost, name) for cost in costs) for name in cls.__dataclass_fields__})


def phase_costs(report: SessionReport, params: Parameters) -> dict[Round, PhaseCost]:
    """The costs of each of a session's rounds."""
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
