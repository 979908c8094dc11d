"""Keep the figures of a training, reported by the thread that runs it and read by the status page and metrics."""

import asyncio
import logging
import tempfile
import time
from collections import Counter, deque
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fl.watch.events import IDLE, RECOVERY, Events, RoundFigures, label
from fl.watch.metrics import Metrics

if TYPE_CHECKING:
    from transport.durable.server_host import SessionHost
    from transport.fronts.server import FrontedServer
    from transport.tcp import SessionServer

MAX_ROUNDS: Final = 1000
"""The most rounds that are kept, which bounds memory and the page's messages."""

MAX_LAG_SECONDS: Final = 10.0
"""Seconds without a turn of the event loop after which the server counts as dead."""

_PULSE_SECONDS = 1.0

# The most reasons for declining that the page shows.
_REASONS = 3


class Watch(Events):
    """The figures of a training, and the log of its events.

    Args:
        run_name: the page's title, and a label of one metric.
        total_rounds: the number of planned rounds.
        folder: the folder of the run; the server is ready only while it is writable.
        epsilon, delta: the budget of a private training.

    Attributes:
        metrics: the metrics for Prometheus.
        version: grows with each change of a figure other than times.
        rounds_version: grows with each change of `rounds`.
    """

    def __init__(
        self,
        run_name: str,
        total_rounds: int,
        folder: Path | None = None,
        *,
        epsilon: float | None = None,
        delta: float | None = None,
    ) -> None:
        super().__init__(run_name, total_rounds)
        self._folder = folder
        self._budget, self._delta = epsilon, delta
        self._started = datetime.now(UTC)
        self.version = self.rounds_version = 0
        self._rounds: deque[RoundFigures] = deque(maxlen=MAX_ROUNDS)
        self._accuracy: float | None = None
        self._loss: float | None = None
        self._recovery: float | None = None
        self._sessions = Counter(completed=0, aborted=0)
        self._listener: SessionServer | FrontedServer | None = None
        self._pulse: _Pulse | None = None
        # Refusals of the running session, if no listener counts them; and of all earlier sessions and listeners.
        self._refusals, self._refused_before = Counter[str](), Counter[str]()
        self.metrics = Metrics(run_name, self.status)

    def listener(self, server: "SessionServer | FrontedServer", loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Watch the connections of ``server``, and the event ``loop`` that it runs in."""
        with self._lock:
            if self._listener is not server:
                self._refused_before = self.refusals()
                self._listener, self._refusals = server, Counter()
            self._pulse = None if loop is None else _Pulse(loop)
            self.version += 1

    def session(self, host: "SessionHost") -> None:
        """Observe a session: the ``observer`` of `transport.tcp.serve_session` and `SessionServer.run`."""
        with self._lock:
            if self.metrics.traffic(host.counters):
                self._refused_before, self._refusals = self._refused_before + self._refusals, Counter()
            if self._listener is None:
                self._refusals = Counter({label(code): count for code, count in host.counters.refused.items()})
            super().session(host)
            self.version += 1

    def restore(self, figures: RoundFigures) -> None:
        """Show a round of an earlier process; the counters of this process do not count it."""
        with self._lock:
            self._rounds.append(figures)
            self._round = max(self._round, figures.number)
            self._accuracy = self._accuracy if figures.accuracy is None else figures.accuracy
            self._loss = self._loss if figures.loss is None else figures.loss
            if figures.aborted is None:
                self.metrics.last_round.set(figures.number)
            self.rounds_version += 1
            self.version += 1

    def _round_is_over(self, figures: RoundFigures) -> None:
        self.restore(figures)
        super()._round_is_over(figures)

    def _tell(self, event: str, text: str, level: int = logging.INFO, **fields: Any) -> None:
        with self._lock:
            match event:
                case "phase_ended" if fields["phase"] == RECOVERY:
                    self._recovery = fields["seconds"]
                case "session_ended":
                    self._sessions[fields["outcome"]] += 1
            self.metrics.count(event, fields)
            self.version += 1
        super()._tell(event, text, level, **fields)

    def refusals(self) -> Counter[str]:
        """Return the number of connections that were refused or closed, by reason."""
        # A listener also counts the refusals of its sessions. A single call in C copies the counts, so that no other
        # thread can add a reason meanwhile.
        now = self._refusals if self._listener is None else Counter(dict(self._listener.refusals))
        return self._refused_before + now

    def rounds(self) -> list[dict[str, Any]]:
        """Return the finished rounds in order, each as the fields of `RoundFigures`."""
        with self._lock:
            rounds = list(self._rounds)
        return [asdict(figures) for figures in rounds]

    def status(self) -> dict[str, Any]:
        """Return all figures except the finished rounds, as plain values for JSON."""
        with self._lock:
            now, listener = time.monotonic(), self._listener
            last = self._rounds[-1].number if self._rounds else 0
            finished = not self._round_is_open and bool(last) and last >= self._total_rounds
            has_begun = self._round or self._session.host
            session = self._session_figures(now)
            waiting = None if listener is None else listener.num_waiting
            enrolled = None if listener is None else listener.num_enrolled
            return {
                "run": self._run,
                "started": self._started.isoformat(timespec="seconds"),
                "state": "finished" if finished else "running" if has_begun else "waiting",
                "round": self._round,
                "total_rounds": self._total_rounds,
                "round_seconds": now - self._round_began if self._round_is_open else None,
                "session": session,
                "accuracy": self._accuracy,
                "loss": self._loss,
                "noise": next((one.noise for one in reversed(self._rounds) if one.noise is not None), None),
                "epsilon": next((one.epsilon for one in reversed(self._rounds) if one.epsilon is not None), None),
                "epsilon_budget": self._budget,
                "delta": self._delta,
                "recovery_seconds": self._recovery,
                "open_connections": None if listener is None else listener.num_connections,
                "waiting_clients": waiting,
                "absent_clients": None
                if enrolled is None or waiting is None
                else max(0, enrolled - waiting - session["connected"]),
                "certificate_expiry": {} if listener is None else dict(listener.certificate_expiry),
                "event_loop_lag_seconds": None if self._pulse is None else self._pulse.lag(),
                "totals": {"sessions": dict(self._sessions), "refusals": dict(self.refusals())},
            }

    def faults(self) -> list[str]:
        """Return why the server is not alive; empty if it is."""
        lag = 0.0 if self._pulse is None else self._pulse.lag()
        return [f"the event loop has not turned for {lag:.0f} s"] if lag > MAX_LAG_SECONDS else []

    def hindrances(self) -> list[str]:
        """Return why the server cannot serve clients now; empty if it can. Write a temporary file to the folder."""
        reasons = self.faults()
        if self._listener is None or not self._listener.addresses:
            reasons.append("the server does not listen")
        else:
            expired = (whose for whose, at in self._listener.certificate_expiry.items() if at <= time.time())
            reasons += (f"the certificate of the {whose} has expired" for whose in expired)
        if self._folder is not None:
            try:
                with tempfile.TemporaryFile(dir=self._folder) as file:
                    file.write(bytes(4096))
            except OSError as error:
                reasons.append(f"the run's folder cannot be written to: {error.strerror}")
        return reasons

    def _session_figures(self, now: float) -> dict[str, Any]:
        session = self._session
        host = None if session.host is None else session.host()
        phases = [{"name": name, "seconds": took, "running": False} for name, took in session.times.items()]
        if session.outcome is None and session.phase != IDLE:
            phases.append({"name": session.phase, "seconds": now - session.phase_began, "running": True})
        return {
            "threshold": session.threshold,
            "expected": session.expected,
            "phases": phases,
            "phase": session.phase,
            "received": session.received,
            "pending": session.pending,
            "needed": session.needed,
            "invited": session.invited,
            "survivors": session.survivors,
            # Count here, not in the session's thread; this is safe, since the set of clients never changes.
            "connected": 0 if host is None else len(host.connected_clients),
            "bytes_in_flight": 0 if host is None else host.bytes_in_flight,
            "dropped": dict(session.dropped),
            "declined": len(session.declined),
            "declines": [
                [text or "without a reason", count]
                for text, count in Counter(session.declined.values()).most_common(_REASONS)
            ],
            "traffic": self.metrics.session_traffic(has_begun=session.host is not None),
            "outcome": session.outcome,
            "aborted": session.aborted,
            "included": session.included,
        }


class _Pulse:
    """A measurement of how late an event loop is, by a timer of one second."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due, self._late = time.monotonic(), 0.0
        loop.call_soon_threadsafe(self._beat)

    def lag(self) -> float:
        """Return the seconds that the loop was late at its last turn, or is late now; any thread may call this."""
        return max(self._late, time.monotonic() - self._due)

    def _beat(self) -> None:
        now = time.monotonic()
        self._late, self._due = max(0.0, now - self._due), now + _PULSE_SECONDS
        self._loop.call_later(_PULSE_SECONDS, self._beat)
