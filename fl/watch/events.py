"""Log a training as events. Their schema is ``events.schema.json``, next to this file.

Events carry counts, reasons and figures. Client ids appear only where an operator needs them: in drops and declines.
No event carries an address, a vector or a key, and the only client text is the reason for declining.
"""

import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from secagg import Aborted, ClientId, Completed, Parameters, ServerPhase
from secagg.events import rounds_of

# For its type only: a training on another transport must not import sockets.
if TYPE_CHECKING:
    from transport.durable.server_host import SessionHost

logger = logging.getLogger("fl.events")

IDLE: Final = "idle"
"""The phase between two sessions, and before the first."""

_MOST_IDS = 100
"""The most clients that one event names."""

UNSTATED: Final = "unstated"
OTHER: Final = "other"
_DECLINES: Final = {
    "min-inputs": (" inputs, but",),
    "mode": (" mode, but ",),
    "graph": ("sparse graph", "neighbours", "threshold", "corrupt clients"),
    "size": ("elements, but", "bytes, but", "updates have"),
    "classes": ("classes, but",),
    "epochs": ("epochs, but",),
    "model": ("the model is",),
    "announcement": ("announce",),
    "modular": ("may wrap",),
}
DECLINE_REASONS: Final = (*_DECLINES, OTHER, UNSTATED)
"""Labels of metrics. The clients' own texts are not labels, since a client may send any text."""


def decline_reason(text: str) -> str:
    """Return the first entry of `DECLINE_REASONS` that fits a client's text."""
    if not text:
        return UNSTATED
    return next((name for name, signs in _DECLINES.items() if any(sign in text for sign in signs)), OTHER)


def label(member: Enum) -> str:
    """Return the name of an enum's member in metrics, JSON and logs, such as `masked-input-collection`."""
    return member.name.lower().replace("_", "-")


PHASES: Final = (IDLE, *map(label, ServerPhase))
RECOVERY: Final = label(ServerPhase.RECOVERY)
_ENDS: Final = (label(ServerPhase.COMPLETED), label(ServerPhase.ABORTED))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """The figures of a finished round.

    Attributes:
        number: from 1.
        invited, included: the number of clients that could take part, and of updates in the sum.
        dropped: the number of dropped clients, by reason.
        seconds: duration of the round. phases: duration of each phase of its session.
        accuracy, loss: test accuracy and loss of the model after the round, if measured.
        noise: the rounding noise divided by the mean update, if known.
        bytes_up, bytes_down: payload bytes from and to clients.
        aborted: why the sum is missing, or None.
        epsilon: what a private training has spent with the round.
    """

    number: int
    included: int
    seconds: float
    invited: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    loss: float | None = None
    noise: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    aborted: str | None = None
    epsilon: float | None = None


class Events:
    """A log of a training's events.

    All methods may be called from any thread.  A session's run calls `session` after each commit; that only compares a
    few numbers, and no client's behaviour makes it raise.

    Args:
        run_name: the name of the training.
        total_rounds: the number of planned rounds.
    """

    def __init__(self, run_name: str, total_rounds: int) -> None:
        self._run, self._total_rounds = run_name, total_rounds
        self._lock = threading.RLock()
        self._round, self._round_began = 0, 0.0
        self._round_is_open = False
        self._session = _Session()

    def run_started(self, clients: int, rounds_done: int) -> None:
        """Report that the server listens."""
        text = f"{self._run}: {self._total_rounds} rounds with {clients} enrolled clients, {rounds_done} of them done"
        self._tell("run_started", text, run=self._run, clients=clients, rounds_done=rounds_done)

    def run_ended(self, rounds_done: int, why: str | None = None) -> None:
        """Report that the server ends, with ``why`` if it ends before the last round."""
        text = f"{self._run}: ends after round {rounds_done} of {self._total_rounds}" + (f": {why}" if why else "")
        level = logging.WARNING if why else logging.INFO
        self._tell("run_ended", text, level, run=self._run, rounds_done=rounds_done, reason=why)

    def clients_awaited(self, number: int, present: int, needed: int) -> None:
        """Report that a round's session cannot begin yet, since too few clients are present."""
        text = f"round {number} waits for clients: {present} of {needed} are there"
        self._tell("clients_awaited", text, round=number, present=present, needed=needed)

    def round_started(self, number: int, params: Parameters) -> None:
        """Report that a round is due; its sessions follow."""
        with self._lock:
            self._session = _Session(params)
            self._round, self._round_began, self._round_is_open = number, time.monotonic(), True
            text = f"round {number} of {self._total_rounds} is due"
            self._tell(
                "round_started", text, round=number, rounds=self._total_rounds, threshold=self._session.threshold
            )

    def round_retried(self, number: int, attempt: int, retries: int, why: str) -> None:
        """Report that a session gave no sum, and that another begins."""
        text = f"round {number} is tried again, {attempt} of {retries}: {why}"
        self._tell("round_retried", text, logging.WARNING, round=number, attempt=attempt, retries=retries, reason=why)

    def session(self, host: "SessionHost") -> None:
        """Observe a session: the ``observer`` of `transport.tcp.serve_session` and `SessionServer.run`."""
        with self._lock:
            session = self._session
            if session.host is None or session.host() is not host:
                if session.host is not None:
                    session = self._session = _Session(host.offer.params)
                session.host, session.began = weakref.ref(host), time.monotonic()
            self._observe(session, host)

    def round_ended(
        self,
        number: int,
        outcome: Completed | Aborted | None,
        seconds: float,
        accuracy: float | None = None,
        loss: float | None = None,
        aborted: str | None = None,
        noise: float | None = None,
        epsilon: float | None = None,
    ) -> None:
        """Report that a round is over.

        Args:
            number: from 1.
            outcome: the outcome; None stands for that of the last observed session.
            seconds: duration of the round.
            accuracy, loss: test accuracy and loss of the model after the round, if measured.
            aborted: why it has no result, if its session does not say why.
            noise: the rounding noise divided by the mean update, if known.
            epsilon: what a private training has spent with the round.
        """
        with self._lock:
            session = self._session
            included, why = (session.included, session.aborted) if outcome is None else _result_of(outcome)
            if aborted is not None and why is None:
                included, why = 0, aborted
            self._round_is_open = False
            self._round_is_over(
                RoundFigures(
                    number=number,
                    included=included,
                    seconds=seconds,
                    invited=session.invited,
                    dropped=dict(session.dropped),
                    phases=dict(session.times),
                    accuracy=accuracy,
                    loss=loss,
                    noise=noise,
                    bytes_up=session.bytes_up,
                    bytes_down=session.bytes_down,
                    aborted=why,
                    epsilon=epsilon,
                )
            )

    def _round_is_over(self, figures: RoundFigures) -> None:
        text = f"round {figures.number} of {self._total_rounds}: " + (
            f"{figures.included} of {figures.invited} updates are in the sum, after {figures.seconds:.1f} s"
            if figures.aborted is None
            else f"no result: {figures.aborted}"
        )
        fields = asdict(figures)
        level = logging.INFO if figures.aborted is None else logging.WARNING
        self._tell("round_ended", text, level, round=fields.pop("number"), **fields)

    def _observe(self, session: "_Session", host: "SessionHost") -> None:
        now, status = time.monotonic(), host.progress
        self._note_drops(session, host)
        self._note_declines(session, host)
        if not session.invited:
            # Each client that may take part has answered, is awaited, or was dropped.
            session.invited = status.received + status.pending + session.drops_seen
        session.bytes_up, session.bytes_down = host.counters.bytes_up, host.counters.bytes_down
        if session.outcome is not None:
            return
        session.received, session.pending, session.needed = status.received, status.pending, status.needed
        if (phase := label(status.phase)) != session.phase:
            self._phase_ended(session, now)
            session.phase, session.phase_began = phase, now
            if phase not in _ENDS:
                text = f"round {self._round}: {phase} begins"
                if status.pending:
                    text += f"; {status.needed} of {status.pending} answers are needed"
                self._tell("phase_started", text, phase=phase, pending=status.pending, needed=status.needed)
        if host.outcome is not None:
            session.included, session.aborted = _result_of(host.outcome)
            session.outcome = _ENDS[session.aborted is not None]
            text = f"round {self._round}: the session was {host.outcome}" if session.aborted else (
                f"round {self._round}: the session is completed; {session.included} inputs are in its sum"
            )  # fmt: skip
            self._tell(
                "session_ended",
                text,
                logging.WARNING if session.aborted else logging.INFO,
                outcome=session.outcome,
                reason=session.aborted,
                included=session.included,
                seconds=now - session.began,
            )

    def _phase_ended(self, session: "_Session", now: float) -> None:
        if session.phase == IDLE:
            return
        session.times[session.phase] = seconds = now - session.phase_began
        text = f"round {self._round}: {session.phase} took {seconds:.1f} s; {session.survivors} clients are left"
        self._tell("phase_ended", text, phase=session.phase, seconds=seconds, survivors=session.survivors)

    def _note_drops(self, session: "_Session", host: "SessionHost") -> None:
        if len(host.dropped) == session.drops_seen:
            return
        groups: dict[tuple[str, str], list[ClientId]] = {}
        # Read only the new drops: thousands of clients may be dropped, a few at a time.
        for client_id, drop in islice(host.dropped.items(), session.drops_seen, None):
            groups.setdefault((label(drop.round), label(drop.reason)), []).append(client_id)
        for (phase, reason), ids in groups.items():
            session.dropped[reason] += len(ids)
            session.drops_seen += len(ids)
            text = f"round {self._round}: {len(ids)} client{'s' * (len(ids) > 1)} dropped in {phase}: {reason}"
            self._tell("clients_dropped", text, phase=phase, reason=reason, count=len(ids), client_ids=ids[:_MOST_IDS])

    def _note_declines(self, session: "_Session", host: "SessionHost") -> None:
        # Log one event for each client and session, even if the client declines again.
        for client_id in host.declined.keys() - session.declined.keys():
            session.declined[client_id] = text = host.declined[client_id]
            self._tell(
                "client_declined",
                f"round {self._round}: client {client_id} declines: {text or 'without a reason'}",
                logging.WARNING,
                client_id=client_id,
                reason=decline_reason(text),
                told=text,
            )

    def _tell(self, event: str, text: str, level: int = logging.INFO, **fields: Any) -> None:
        """Log one event, of the running round unless ``fields`` name another."""
        if event not in ("run_started", "run_ended"):
            fields.setdefault("round", self._round)
        logger.log(level, "%s", text, extra={"event": event, **fields})


def _result_of(outcome: Completed | Aborted) -> tuple[int, str | None]:
    """Return the number of inputs in the sum, and why the sum is missing, or None."""
    if isinstance(outcome, Completed):
        return len(outcome.included), None
    return 0, label(outcome.reason)


class _Session:
    """The running session, or the last one; guarded by the lock of its `Events`."""

    def __init__(self, params: Parameters | None = None) -> None:
        # A weak reference: a finished session may hold much memory, which the watch must not keep.
        self.host: weakref.ref[SessionHost] | None = None
        self.threshold = 0 if params is None else params.threshold
        self.expected = () if params is None else (*map(label, rounds_of(params)), RECOVERY)
        self.began = time.monotonic()
        self.phase, self.phase_began = IDLE, self.began
        self.times: dict[str, float] = {}
        self.received = self.pending = self.needed = self.invited = self.included = self.drops_seen = 0
        self.bytes_up = self.bytes_down = 0
        self.dropped: Counter[str] = Counter()
        self.declined: dict[ClientId, str] = {}
        self.outcome: str | None = None
        self.aborted: str | None = None

    @property
    def survivors(self) -> int:
        """Return the number of clients that may take part and were not dropped."""
        return self.invited - self.drops_seen
