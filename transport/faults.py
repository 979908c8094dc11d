"""Schedules of faults: the client, the round and the fault of its message."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, unique

import numpy as np
import numpy.typing as npt

from secagg import ClientId, Round
from secagg.planner import fraction_of


@unique
class Fault(Enum):
    """A fault of a message on its way, or of its sender."""

    VANISH = "the client does not send it, and nothing more"
    DISCONNECT = "the connection breaks in the middle of it"
    DELAY = "it arrives after the deadline"
    DUPLICATE = "it arrives twice"
    REORDER = "it arrives in time, but after everyone else's"
    CORRUPT = "some of its bits are flipped"


@unique
class Direction(Enum):
    """The direction of a message."""

    UP = "client to server"
    DOWN = "server to client"


ROUNDS_OF_EVERY_SESSION = tuple(round_ for round_ in Round if round_ is not Round.CONSISTENCY_CHECK)
"""All rounds but ConsistencyCheck, which only malicious mode has; see `secagg.rounds_of`."""


@dataclass(frozen=True, slots=True)
class FaultSchedule:
    """At most one fault for each client, round and direction.

    Attributes:
        faults: by (client, round, direction). A round's downward message is the one that opens it for the client;
            AdvertiseKeys has none. VANISH is a fault of the client itself, so it goes upwards only.
    """

    faults: Mapping[tuple[ClientId, Round, Direction], Fault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for (client_id, round_, direction), fault in self.faults.items():
            if not (isinstance(round_, Round) and isinstance(direction, Direction) and isinstance(fault, Fault)):
                raise TypeError(f"client {client_id}: use members of Round, Direction and Fault, not their names")
            if direction is Direction.DOWN and (fault is Fault.VANISH or round_ is Round.ADVERTISE_KEYS):
                raise ValueError(f"client {client_id}: {fault.name} cannot happen to a message down in {round_.value}")

    def of(self, client_id: ClientId, round_: Round, direction: Direction) -> Fault | None:
        """Return the fault of one message; None if it has none."""
        return self.faults.get((client_id, round_, direction))

    @classmethod
    def dropouts(
        cls,
        client_ids: Iterable[ClientId],
        fraction: float,
        *,
        seed: int,
        rounds: Iterable[Round] = ROUNDS_OF_EVERY_SESSION,
        kinds: Iterable[Fault] = (Fault.VANISH, Fault.DISCONNECT),
        weights: npt.NDArray[np.float64] | None = None,
    ) -> "FaultSchedule":
        """Return a schedule in which floor(fraction * clients) clients vanish, each in one of ``rounds`` and ``kinds``.

        The number is exact, as the planner counts it; ``seed`` determines the clients, rounds and kinds. ``weights``,
        one above 0 for each client in the order of their ids, make some clients likelier to vanish than others.
        """
        ids, rounds, kinds = sorted(client_ids), tuple(rounds), tuple(kinds)
        if not rounds or not kinds:
            raise ValueError("rounds and kinds must not be empty: give at least one of each")
        rng = np.random.default_rng(seed)
        chances = None if weights is None else weights / weights.sum()
        chosen = rng.choice(len(ids), size=_part_of(len(ids), fraction), replace=False, p=chances).tolist()
        return cls(
            {
                (ids[index], rounds[rng.integers(len(rounds))], Direction.UP): kinds[rng.integers(len(kinds))]
                for index in sorted(chosen)
            }
        )

    @classmethod
    def dropouts_by_round(
        cls,
        client_ids: Iterable[ClientId],
        fractions: Mapping[Round, float],
        *,
        seed: int,
        kinds: Iterable[Fault] = (Fault.VANISH, Fault.DISCONNECT),
    ) -> "FaultSchedule":
        """Return a schedule in which floor(fraction * clients) clients vanish in each round, none twice."""
        ids, kinds = sorted(client_ids), tuple(kinds)
        counts = {round_: _part_of(len(ids), fraction) for round_, fraction in fractions.items()}
        if sum(counts.values()) > len(ids):
            raise ValueError(f"{sum(counts.values())} clients are to vanish, but there are {len(ids)}")
        rng = np.random.default_rng(seed)
        order = iter(rng.permutation(len(ids)).tolist())
        return cls(
            {
                (ids[next(order)], round_, Direction.UP): kinds[rng.integers(len(kinds))]
                for round_, count in counts.items()
                for _ in range(count)
            }
        )

    @classmethod
    def random(
        cls,
        client_ids: Iterable[ClientId],
        rate: float,
        *,
        seed: int,
        rounds: Iterable[Round] = ROUNDS_OF_EVERY_SESSION,
    ) -> "FaultSchedule":
        """Return a schedule in which each message, up and down, has a fault of any kind with probability ``rate``."""
        if not 0 <= rate <= 1:
            raise ValueError(f"the rate of faults must be between 0 and 1, not {rate}")
        rng = np.random.default_rng(seed)
        kinds, rounds = tuple(Fault), tuple(rounds)
        faults = {}
        for client_id in sorted(client_ids):
            for round_ in rounds:
                for direction in Direction:
                    kind = kinds[rng.integers(len(kinds))]
                    legal = direction is Direction.UP or (
                        kind is not Fault.VANISH and round_ is not Round.ADVERTISE_KEYS
                    )
                    if rng.random() < rate and legal:
                        faults[client_id, round_, direction] = kind
        return cls(faults)


def _part_of(count: int, fraction: float) -> int:
    """Return floor(fraction * count) as the planner counts: 0.29 of 100 are 29."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of dropouts must be between 0 and 1, not {fraction}")
    return fraction_of(fraction, count)
