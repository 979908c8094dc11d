"""One round of a `fl.network.served_run.ServedRun`: announced, aggregated, tried again if too few remain.

A session is tried again only while none of its clients can have released shares.  From Unmasking on, clients answer it
no second time (`transport.ClientRecord`), and two sums of one round could be subtracted: it has one result, or none.

A round has one session for its update, and where no bounds are known yet one before that measures.  Each has a journal
of its own, and both stay until the round is in the checkpoint: a process that is started again in between finds the
sum of the ranges in the first, has the same bounds from it, and goes on with the second.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import secagg
from fl.aggregation.api import RoundResult
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.planning import SessionPlans
from fl.aggregation.scales import ScaleTracker
from fl.aggregation.secure import both_sessions, measured_ranges, with_outcome
from fl.network.announcement import (
    Announcement,
    TrainingOver,
    decode_announcement,
    encode_announcement,
    round_context,
)
from fl.network.errors import AnnouncementError, NetworkError
from fl.network.invitations import Invitations, ServingRules
from fl.network.session_files import SessionFiles, offer_in
from fl.network.session_thread import Session, SessionThread
from fl.watch import Events
from secagg import Aborted, ClientId, Completed, KeyDirectory, Round
from transport import Deadlines, Journal, LinkError, Observer, SessionHost
from transport.durable.frames import MAX_EXTRA_BYTES

# So long those who missed the last round have to hear that it was the last.
GOODBYE_SECONDS = 3.0
# So many of the reasons for which clients decline are told.
_REASONS = 3


class NetworkAggregator:
    """The protocol over the network, with the sessions' journals until the round's result is safe.

    Args:
        plans: of all sessions.
        invitations: who takes part in them.
        tracker: the bounds; the aggregator has them follow each round.
        sessions: the listening server.
        announce: gives the coming session's announcement, with the bounds that the tracker has.
        rules: see there.
        folder: where the journals are.
        say: tells the user something, a line at a time.
        directory: in malicious mode, who knows the clients' identity keys.
        watch: is told of the sessions of the rounds.
        skip_to: rounds below are not begun, and have no result.
    """

    def __init__(
        self,
        plans: SessionPlans,
        *,
        invitations: Invitations,
        tracker: ScaleTracker,
        sessions: SessionThread,
        announce: Callable[[], Announcement],
        rules: ServingRules,
        folder: Path,
        say: Callable[[str], None],
        directory: KeyDirectory | None = None,
        watch: Events | None = None,
        skip_to: int = 0,
    ) -> None:
        self._plans = plans
        self._invitations = invitations
        self._tracker = tracker
        self._watch = watch
        self._sessions = sessions
        self._announce = announce
        self._rules = rules
        self._measuring = SessionFiles(folder / "round.ranges.journal")
        self._updating = SessionFiles(folder / "round.journal")
        self._skip_to = skip_to
        self._say = say
        self._directory = directory
        # Who took part in the last session to its end: the others have not heard how it ended.
        self._told: frozenset[ClientId] = frozenset()

    def aggregate(self, observer: Observer | None = None) -> tuple[RoundResult, int]:
        """Run the round; gives its result, and how many clients were asked for an update.

        A round that came to no mean because it was aborted too often, or after shares may have been out, has no result,
        which says why.

        Raises:
            RoundFailedError: too few clients came, for as long as the rules allow.
            NetworkError: the journal holds another round than the checkpoint asks for.
            TransportError: the journal or an address cannot be used.
        """
        started = time.perf_counter()
        number = self._announce().round
        if number < self._skip_to:
            return _without_result("it was skipped"), 0
        if self._measuring.is_lost(number) or self._updating.is_lost(number):
            return _without_result("it was going on, and its journal is gone: clients may have answered it"), 0
        if self._measuring.is_of_another_version() or self._updating.is_of_another_version():
            return _without_result("it was going on in another version of this server: clients may have answered it"), 0
        measured = RoundResult(aggregate=None, included=())
        if self._tracker.scales is None:
            self._refuse_foreign_update()
            ended = self._networked(self._measuring, observer)
            ranges, aborted = measured_ranges(ended.outcome, ended.encoding)
            measured = ended.cost
            if ranges is None:
                result = replace(measured, aborted=aborted, seconds=time.perf_counter() - started)
                return result, ended.encoding.num_clients
            self._tracker.follow(ranges)
        ended = self._networked(self._updating, observer)
        result = both_sessions(measured, with_outcome(ended.cost, ended.outcome, ended.encoding, self._tracker))
        return replace(result, seconds=time.perf_counter() - started), ended.encoding.num_clients

    def _refuse_foreign_update(self) -> None:
        """NetworkError if there is a session of an update for which nothing was measured: it is no part of this run."""
        if self._updating.journal.exists() and not self._measuring.journal.exists():
            with contextlib.closing(Journal(self._updating.journal)) as journal:
                self._check_journal(journal, self._announce())

    def forget_round(self) -> None:
        """The round's result is safe: its journals are not needed any more."""
        self._updating.forget()
        self._measuring.forget()

    def forget_older(self, rounds_done: int) -> None:
        """Delete what is left of rounds that are in the checkpoint already."""
        self._updating.forget_older(rounds_done)
        self._measuring.forget_older(rounds_done)

    def say_goodbye(self) -> None:
        """Tell those who missed the end of the last round that there are no more."""
        client_ids = self._invitations.allowed
        if len(client_ids) < 2 or self._told.issuperset(client_ids):
            return
        self._sessions.run(
            Session(
                params=secagg.plan(num_clients=len(client_ids), vector_length=1, value_bits=4).parameters,
                client_ids=client_ids,
                number=0,
                extra=encode_announcement(TrainingOver()),
                context=b"",
                deadlines=Deadlines(advertise_keys=GOODBYE_SECONDS),
            )
        )

    def _networked(self, files: SessionFiles, observer: Observer | None) -> _Ended:
        """One of the round's sessions, tried again while that is safe."""

        def observe(host: SessionHost) -> None:
            if self._watch is not None:
                self._watch.session(host)
            status = host.status
            if observer is not None:
                observer(host.round, status.received, status.received + status.pending)

        for attempt in itertools.count(1):
            session, encoding = self._session(files)
            host = self._sessions.run(session, observe)
            outcome = host.outcome
            assert isinstance(outcome, Completed | Aborted)  # noqa: S101 - a session that was run has ended
            told = frozenset(host.client_ids) - host.dropped.keys()
            self._told = told if isinstance(outcome, Completed) else frozenset()
            ended, declines = _Ended(outcome, _cost(host), encoding), _declines(host)
            if not isinstance(outcome, Aborted) or outcome.round is Round.UNMASKING:
                if declines:
                    self._say(f"round {session.number}: {declines}")
                return ended
            # No client can have released a share: it may begin again, with others.
            files.forget()
            reason = "; ".join(filter(None, (str(outcome).removeprefix("aborted "), declines)))
            if attempt > self._rules.retries:
                self._say(
                    f"round {session.number} was aborted {attempt} times, the last time since {reason}; no result"
                )
                return ended
            self._say(f"round {session.number} was aborted: {reason}; trying again")
            if self._watch is not None:
                self._watch.round_retried(session.number, attempt, self._rules.retries, reason)
        raise AssertionError("the loop has no end of its own")

    def _session(self, files: SessionFiles) -> tuple[Session, UpdateEncoding]:
        """The session that was begun, or a new one once its clients are there; and its inputs' encoding."""
        announcement = self._announce()
        extra = encode_announcement(announcement)
        if len(extra) > MAX_EXTRA_BYTES:
            raise NetworkError(f"a model of {len(extra):,} bytes, but an offer carries at most {MAX_EXTRA_BYTES:,}")
        client_ids = files.client_ids()
        if client_ids is None:
            client_ids = self._invitations.next(announcement.round)
            files.begin(announcement.round)
        encoding = self._plans.encoding(len(client_ids), announcement.scales)
        session = Session(
            params=self._plans.parameters(encoding),
            client_ids=client_ids,
            number=announcement.round,
            extra=extra,
            context=round_context(announcement.round, extra),
            deadlines=self._rules.deadlines,
            directory=self._directory,
            journal=files.journal,
            may_resume=lambda journal: self._check_journal(journal, announcement),
            goal=self._rules.goal,
            is_past=files is self._measuring and self._updating.journal.exists(),
        )
        return session, encoding

    def _check_journal(self, journal: Journal, announcement: Announcement) -> bytes:
        """The context of the session in the journal; NetworkError if that is no part of this run."""
        try:
            offer = offer_in(journal)
            begun = decode_announcement(offer.extra)
        except (LinkError, AnnouncementError) as error:
            raise NetworkError(f"{journal.path} is no journal of a training: {error}") from None
        is_ours = isinstance(begun, Announcement) and offer.params == self._planned(offer.params, announcement)
        # More rounds may be asked for than when it began; all else is the same.
        if not is_ours or replace(announcement, rounds=begun.rounds) != begun:  # type: ignore[union-attr]
            raise NetworkError(
                f"{journal.path} holds round {offer.number} of another run or model, and round {announcement.round} is "
                "due: delete it to give its session up"
            )
        self._say(f"round {announcement.round} goes on where it was")
        return round_context(offer.number, offer.extra)

    def _planned(self, begun: secagg.Parameters, announcement: Announcement) -> secagg.Parameters | None:
        """The parameters of this run's sessions of as many clients; None if there are none."""
        try:
            return self._plans.parameters(self._plans.encoding(begun.num_clients, announcement.scales))
        except secagg.PlanError:
            return None


@dataclass(frozen=True, slots=True)
class _Ended:
    """A session that was run to its outcome, what it cost, and how its inputs were encoded."""

    outcome: Completed | Aborted
    cost: RoundResult
    encoding: UpdateEncoding


def _cost(host: SessionHost) -> RoundResult:
    """What a session cost, and who vanished in it."""
    counters = host.counters
    return RoundResult(
        aggregate=None,
        included=(),
        dropped={client_id: drop.round for client_id, drop in host.dropped.items()},
        bytes_up=counters.bytes_up,
        # The downloads of the model are counted apart, as they are asked for: not all of them go out.
        bytes_down=max(0, counters.bytes_down - counters.announcement_bytes),
    )


def _without_result(why: str) -> RoundResult:
    return RoundResult(aggregate=None, included=(), aborted=why)


def _declines(host: SessionHost) -> str:
    """How many clients declined the offer, and the reasons that most of them gave; empty if none did."""
    if not (declined := host.declined):
        return ""
    reasons = Counter(text or "without a reason" for text in declined.values()).most_common(_REASONS)
    told = "; ".join(reason if count == len(declined) else f"{reason} ({count})" for reason, count in reasons)
    return f"{len(declined)} client{'s' * (len(declined) > 1)} declined: {told}"
