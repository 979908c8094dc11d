"""What is going on in a training: told by the thread that runs it, read by those who show it."""

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from fl.watch.figures import (
    IDLE,
    RECOVERY,
    PhaseTime,
    RoundFigures,
    SessionFigures,
    Snapshot,
    Totals,
    Traffic,
    label,
)
from fl.watch.histogram import Durations
from secagg import Aborted, AbortReason, Completed, DropReason, Parameters
from secagg.events import rounds_of

# Only their types are needed: the page of a training on another transport does not wait for sockets to be imported.
if TYPE_CHECKING:
    from transport.durable.server_host import SessionHost

MAX_ROUNDS: Final = 1000
"""Rounds that are kept: a training of any length takes bounded memory, and the curve a bounded message."""

_OUTCOMES = ("completed", "aborted")


class Connections(Protocol):
    """The part of `transport.tcp.SessionServer` that is watched."""

    @property
    def num_connections(self) -> int:
        """How many are open."""

    @property
    def num_waiting(self) -> int:
        """How many clients wait for a session."""

    @property
    def refusals(self) -> Counter[str]:
        """By reason."""

    @property
    def certificate_expiry(self) -> Mapping[str, float]:
        """When certificates in use run out, in Unix time, by whose they are."""


class Watch:
    """Keeps count of a training.

    All methods may be called from any thread. `session` is what a session's run calls after each commit; it does no
    more than copy a few numbers, and never raises for what clients did.

    Args:
        run_name: shown as title, and as a label of one metric.
        total_rounds: how many are planned.
    """

    def __init__(self, run_name: str, total_rounds: int) -> None:
        self._run, self._total_rounds = run_name, total_rounds
        self._started = datetime.now(UTC)
        self._changed = threading.Condition()
        self._version = self._rounds_version = 0
        self._round, self._round_began, self._round_open = 0, 0.0, False
        self._rounds: deque[RoundFigures] = deque(maxlen=MAX_ROUNDS)
        self._accuracy: float | None = None
        self._loss: float | None = None
        self._recovery: float | None = None
        self._session = _Session()
        self._listener: Connections | None = None
        # Of sessions and listeners before the present ones.
        self._traffic, self._refusals, self._refused_before = Traffic(), Counter[str](), Counter[str]()
        self._sessions: Counter[str] = Counter(dict.fromkeys(_OUTCOMES, 0))
        self._drops: Counter[str] = Counter({label(reason): 0 for reason in DropReason})
        self._aborts: Counter[str] = Counter({label(reason): 0 for reason in AbortReason})
        self._phase_seconds: dict[str, Durations] = {}
        self._session_seconds = Durations()

    def listener(self, server: Connections) -> None:
        """Watch the connections of ``server`` too: those refused in their handshake belong to no session."""
        with self._changed:
            if self._listener is not None:
                self._refused_before.update(dict(self._listener.refusals))
            self._listener = server
            self._note()

    def round_started(self, number: int, params: Parameters) -> None:
        """A round begins; its session's phases are still to come."""
        with self._changed:
            self._leave_session()
            self._session = _Session(params)
            self._round, self._round_began, self._round_open = number, time.monotonic(), True
            self._note()

    def session(self, host: "SessionHost") -> None:
        """Observe a session: the ``observer`` of `transport.tcp.serve_session` and `SessionServer.run`."""
        with self._changed:
            session = self._session
            if session.host is None or session.host() is not host:
                if session.host is not None:
                    self._leave_session()
                session = self._session = _Session(host.offer.params)
                session.host = weakref.ref(host)
            self._observe(session, host)
            self._note()

    def round_ended(
        self,
        number: int,
        outcome: Completed | Aborted | None,
        seconds: float,
        accuracy: float | None = None,
        loss: float | None = None,
        aborted: str | None = None,
        noise: float | None = None,
    ) -> None:
        """A round is over.

        Args:
            number: from 1.
            outcome: how it ended; None: as the last session that was observed.
            seconds: how long it took.
            accuracy, loss: of the model after it, where they were measured.
            aborted: why it has no result, where its session does not say so.
            noise: the rounding noise over the mean update, where it is known.
        """
        with self._changed:
            session = self._session
            included, why = (session.included, session.aborted) if outcome is None else _result_of(outcome)
            if aborted is not None and why is None:
                included, why = 0, aborted
            now = time.monotonic()
            self._append(
                RoundFigures(
                    number=number,
                    included=included,
                    seconds=seconds,
                    invited=session.invited,
                    dropped=dict(session.dropped),
                    phases={phase.name: phase.seconds for phase in session.phases(now)},
                    accuracy=accuracy,
                    loss=loss,
                    bytes_up=session.traffic.bytes_up,
                    bytes_down=session.traffic.bytes_down,
                    aborted=why,
                    noise=noise,
                )
            )
            self._round_open = False

    def restore(
        self,
        number: int,
        *,
        included: int,
        seconds: float,
        invited: int = 0,
        dropped: Mapping[str, int] | None = None,
        accuracy: float | None = None,
        loss: float | None = None,
        bytes_up: int = 0,
        bytes_down: int = 0,
        aborted: str | None = None,
        noise: float | None = None,
    ) -> None:
        """Show a round that an earlier process ran. Counters are this process's own, and do not grow by it."""
        with self._changed:
            self._append(
                RoundFigures(
                    number=number,
                    included=included,
                    seconds=seconds,
                    invited=invited,
                    dropped=dict(dropped or {}),
                    accuracy=accuracy,
                    loss=loss,
                    bytes_up=bytes_up,
                    bytes_down=bytes_down,
                    aborted=aborted,
                    noise=noise,
                )
            )

    def snapshot(self) -> Snapshot:
        """All that is known now."""
        with self._changed:
            now, session = time.monotonic(), self._session
            finished = not self._round_open and bool(self._rounds) and self._rounds[-1].number >= self._total_rounds
            return Snapshot(
                version=self._version,
                rounds_version=self._rounds_version,
                run=self._run,
                started=self._started,
                total_rounds=self._total_rounds,
                state="finished" if finished else "running" if self._round or session.host else "waiting",
                round=self._round,
                round_seconds=now - self._round_began if self._round_open else None,
                session=session.figures(now),
                rounds=tuple(self._rounds),
                totals=Totals(
                    traffic=self._traffic + session.traffic,
                    sessions=dict(self._sessions),
                    drops=dict(self._drops),
                    aborts=dict(self._aborts),
                    refusals=self._all_refusals(),
                    phase_seconds=dict(self._phase_seconds),
                    session_seconds=self._session_seconds,
                ),
                accuracy=self._accuracy,
                loss=self._loss,
                recovery_seconds=self._recovery,
                open_connections=None if self._listener is None else self._listener.num_connections,
                waiting_clients=None if self._listener is None else self._listener.num_waiting,
                certificate_expiry={} if self._listener is None else self._listener.certificate_expiry,
            )

    def wait(self, version: int, seconds: float, stop: threading.Event) -> None:
        """Wait for something that a snapshot of that version has not; for so long, or until `wake` after ``stop``."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version or stop.is_set(), seconds)

    def wake(self) -> None:
        """Let those that `wait` see that they are to stop."""
        with self._changed:
            self._changed.notify_all()

    def _observe(self, session: "_Session", host: "SessionHost") -> None:
        now, status = time.monotonic(), host.status
        if session.outcome is None:
            if (phase := label(status.phase)) != session.phase:
                self._phase_ended(session, now)
                session.phase, session.phase_began = phase, now
            session.received, session.pending, session.needed = status.received, status.pending, status.needed
        new_drops = len(host.dropped) - session.drops_seen
        if new_drops:
            # Thousands of clients may be dropped, a few at a time: only the new ones are looked at.
            reasons = [label(drop.reason) for drop in islice(host.dropped.values(), session.drops_seen, None)]
            session.dropped.update(reasons)
            self._drops.update(reasons)
            session.drops_seen += new_drops
        if not session.invited:
            # Whoever may take part has answered, is awaited, or was dropped.
            session.invited = status.received + status.pending + session.drops_seen
        session.traffic = Traffic.of(host.counters)
        session.refusals = {label(code): count for code, count in host.counters.refused.items()}
        if host.outcome is not None and session.outcome is None:
            self._session_ended(session, host.outcome, now)

    def _phase_ended(self, session: "_Session", now: float) -> None:
        if session.phase == IDLE:
            return
        seconds = now - session.phase_began
        session.times[session.phase] = seconds
        self._phase_seconds[session.phase] = self._phase_seconds.get(session.phase, Durations()).with_one(seconds)
        if session.phase == RECOVERY:
            self._recovery = seconds

    def _session_ended(self, session: "_Session", outcome: Completed | Aborted, now: float) -> None:
        session.included, session.aborted = _result_of(outcome)
        if session.aborted is not None:
            self._aborts[session.aborted] += 1
        session.outcome = _OUTCOMES[session.aborted is not None]
        self._sessions[session.outcome] += 1
        self._session_seconds = self._session_seconds.with_one(now - session.began)

    def _leave_session(self) -> None:
        """Its counts belong to the past from now on."""
        self._traffic += self._session.traffic
        self._refusals.update(self._session.refusals)
        self._session.traffic, self._session.refusals = Traffic(), {}

    def _all_refusals(self) -> dict[str, int]:
        # What a session refuses its listener counts too, so it is either or.
        if self._listener is None:
            return dict(self._refusals + Counter(self._session.refusals))
        # One call in C, so that no other thread can add a reason in the middle of it.
        return dict(self._refused_before + Counter(dict(self._listener.refusals)))

    def _append(self, round_: RoundFigures) -> None:
        self._rounds.append(round_)
        self._round = max(self._round, round_.number)
        if round_.accuracy is not None:
            self._accuracy = round_.accuracy
        if round_.loss is not None:
            self._loss = round_.loss
        self._rounds_version += 1
        self._note()

    def _note(self) -> None:
        self._version += 1
        self._changed.notify_all()


def _result_of(outcome: Completed | Aborted) -> tuple[int, str | None]:
    """How many inputs are in the sum, and why there is none if there is none."""
    if isinstance(outcome, Completed):
        return len(outcome.included), None
    return 0, label(outcome.reason)


class _Session:
    """The running session, or the last one; the watch's lock guards it."""

    def __init__(self, params: Parameters | None = None) -> None:
        # Weak: a session that is over may hold much, and is not kept for having been watched.
        self.host: weakref.ref[SessionHost] | None = None
        self.threshold = 0 if params is None else params.threshold
        self.expected = () if params is None else (*map(label, rounds_of(params)), RECOVERY)
        self.invited = 0
        self.began = time.monotonic()
        self.phase, self.phase_began = IDLE, self.began
        self.times: dict[str, float] = {}
        self.received = self.pending = self.needed = self.included = self.drops_seen = 0
        self.dropped: Counter[str] = Counter()
        self.traffic = Traffic()
        self.refusals: Mapping[str, int] = {}
        self.outcome: str | None = None
        self.aborted: str | None = None

    def phases(self, now: float) -> tuple[PhaseTime, ...]:
        """Those that have begun, in order."""
        done = tuple(PhaseTime(name, seconds, running=False) for name, seconds in self.times.items())
        if self.outcome is not None or self.phase == IDLE:
            return done
        return (*done, PhaseTime(self.phase, now - self.phase_began, running=True))

    def figures(self, now: float) -> SessionFigures:
        host = None if self.host is None else self.host()
        return SessionFigures(
            threshold=self.threshold,
            expected=self.expected,
            phases=self.phases(now),
            phase=self.phase,
            received=self.received,
            pending=self.pending,
            needed=self.needed,
            invited=self.invited,
            survivors=self.invited - self.drops_seen,
            # Which clients there are never changes, so another thread may count; here that costs the session nothing.
            connected=0 if host is None else len(host.connected_clients),
            dropped=dict(self.dropped),
            traffic=self.traffic,
            outcome=self.outcome,
            aborted=self.aborted,
            included=self.included,
        )
