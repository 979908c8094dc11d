"""What is known of a training at one moment: plain values that no lock guards, since nobody changes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from typing import Final

from fl.watch.histogram import Durations
from secagg import ServerPhase

IDLE: Final = "idle"
"""The phase between two sessions, and before the first."""


def label(member: Enum) -> str:
    """An enum's member as it is called in metrics, JSON and logs: `masked-input-collection`."""
    return member.name.lower().replace("_", "-")


PHASES: Final = (IDLE, *map(label, ServerPhase))
RECOVERY: Final = label(ServerPhase.RECOVERY)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over connections; `transport.durable.server_host.Counters` explains all but the refusals."""

    bytes_up: int = 0
    bytes_down: int = 0
    frames_up: int = 0
    frames_down: int = 0
    connections: int = 0
    reconnects: int = 0
    repeated: int = 0
    commits: int = 0

    @classmethod
    def of(cls, counters: object) -> "Traffic":
        """The counters as they are now."""
        return cls(*(getattr(counters, item.name) for item in fields(cls)))

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """A phase of the running session, or of the last one: how long it took, or has taken so far."""

    name: str
    seconds: float
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFigures:
    """The session that runs, or ran last.

    Attributes:
        threshold: clients without whom there is no sum; 0 before the first session.
        phases: all of its kind of session, in order, are expected; those that have begun have times.
        phase: the one that is open, or `idle`.
        received, pending, needed: clients whose message of this phase is in, is awaited; how many must come in.
        invited: clients that may take part. survivors: those that were not dropped. connected: at this moment.
        dropped: how many were, by reason.
        outcome: `completed` or `aborted`, once it has ended. aborted: why, if it was.
        included: how many clients' inputs are in its sum.
    """

    threshold: int = 0
    expected: tuple[str, ...] = ()
    phases: tuple[PhaseTime, ...] = ()
    phase: str = IDLE
    received: int = 0
    pending: int = 0
    needed: int = 0
    invited: int = 0
    survivors: int = 0
    connected: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    traffic: Traffic = Traffic()
    outcome: str | None = None
    aborted: str | None = None
    included: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """A round that is over.

    Attributes:
        number: from 1.
        invited, included: clients that could take part, and whose updates are in the sum.
        dropped: the others, by reason.
        seconds: of the round. phases: of each phase of its session.
        accuracy, loss: of the model after it, where they were measured.
        noise: the rounding noise over the mean update, where it is known.
        aborted: why there is no sum, if there is none.
    """

    number: int
    included: int
    seconds: float
    invited: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    loss: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    aborted: str | None = None
    noise: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts that only grow, over all sessions of this process.

    Attributes:
        sessions: that have ended, by `completed` and `aborted`.
        drops, aborts, refusals: by reason.
        phase_seconds, session_seconds: durations.
    """

    traffic: Traffic
    sessions: Mapping[str, int]
    drops: Mapping[str, int]
    aborts: Mapping[str, int]
    refusals: Mapping[str, int]
    phase_seconds: Mapping[str, Durations]
    session_seconds: Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A training, as it was at one moment.

    Attributes:
        version: another for each change; only the passing of time leaves it as it is.
        rounds_version: the same, of ``rounds``.
        state: `waiting` before the first round, `running`, or `finished` after the last.
        round: the one that runs, or ran last; 0 before the first. round_seconds: since it began, while it runs.
        rounds: those that are over, the last `state.MAX_ROUNDS` of them.
        recovery_seconds: how long masks were last recovered.
        open_connections: of the listener, whose other side has shown who it is; None if it is not known.
        waiting_clients: distinct enrolled clients that wait for a session; None if it is not known.
        certificate_expiry: Unix time at which the `server`'s certificate and its `authority`'s run out.
    """

    version: int
    rounds_version: int
    run: str
    started: datetime
    total_rounds: int
    state: str
    round: int
    round_seconds: float | None
    session: SessionFigures
    rounds: tuple[RoundFigures, ...]
    totals: Totals
    accuracy: float | None
    loss: float | None
    recovery_seconds: float | None
    open_connections: int | None
    waiting_clients: int | None
    certificate_expiry: Mapping[str, float]
