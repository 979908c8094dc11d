"""One round of a `fl.network.served_run.ServedRun`: announce, aggregate, and try again if too few clients remain.

A session is tried again only while none of its clients can have released shares.  From Unmasking on, clients answer a
session only once (`transport.ClientRecord`), since two sums of one round could be subtracted: the round has one result,
or none.

A round has one session for its update; if no bounds are known yet, a session before it measures the updates.  Each has
its own journal, and both stay until the round is in the checkpoint: a restarted process finds the sum of the ranges in
the first journal, takes the same bounds from it, and continues the second session.

A private round measures nothing. Its session is charged to the ledger after its clients are drawn and before any of
them is told of it; each attempt is a new draw, and a new charge. A session in the journal was charged when it began.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import secagg
from fl.aggregation.api import RoundResult
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.held_out import HeldOutResult, held_out_result
from fl.aggregation.planning import SessionPlans
from fl.aggregation.private_session import PrivateSession, ScoresEncoding, no_scores
from fl.aggregation.scales import ScaleTracker
from fl.aggregation.secure import both_sessions, measured_ranges, with_outcome
from fl.aggregation.totals import TotalsEncoding
from fl.aggregation.totals_session import decoded_totals
from fl.network.announcement import (
    RoundAnnouncement,
    TrainingOver,
    decode_announcement,
    encode_announcement,
    round_context,
)
from fl.network.errors import AnnouncementError, NetworkError
from fl.network.invitations import Invitations, ServingRules
from fl.network.policy import Encoding, encoding_of
from fl.network.private_run import PrivateRun, TooFewDrawnError
from fl.network.session_files import SessionFiles, offer_in
from fl.network.session_thread import SessionRequest, SessionThread
from fl.privacy.ledger import EpsilonSpentError
from fl.watch import Events
from secagg import Aborted, ClientId, Completed, KeyDirectory, Round
from transport import Journal, LinkError, Observer, SessionHost
from transport.durable.frames import MAX_EXTRA_BYTES
from transport.durable.storage import JournalStore

# Clients that missed the last round are told for this long that it was the last.
GOODBYE_SECONDS = 3.0
# The most reasons of declining clients that are shown.
_REASONS = 3


class NetworkAggregator:
    """The protocol over the network; the sessions' journals are kept until the round's result is safe.

    Args:
        plans: the plans of all sessions; for a private run the run itself.
        invitations: chooses the clients of each round.
        tracker: the bounds of the updates; the aggregator adapts them to each round.
        sessions: the listening server.
        announce: returns the announcement of the next session, with the tracker's bounds.
        rules: the rules of rounds.
        store: the place of the journals.
        say: prints one line for the user.
        directory: in malicious mode, the clients' identity keys.
        watch: receives the events of sessions.
        skip_to: rounds with a lower number are skipped, without a result.
    """

    def __init__(
        self,
        plans: SessionPlans | PrivateRun,
        *,
        invitations: Invitations,
        tracker: ScaleTracker,
        sessions: SessionThread,
        announce: Callable[[], RoundAnnouncement],
        rules: ServingRules,
        store: JournalStore,
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
        self._measuring = SessionFiles(store, "round.ranges")
        self._updating = SessionFiles(store, "round")
        self._scoring = SessionFiles(store, "round.scores")
        self._skip_to = skip_to
        self._say = say
        self._directory = directory
        # The clients that took part in the last session to its end; the others do not know its result.
        self._told: frozenset[ClientId] = frozenset()

    @property
    def spent(self) -> float | None:
        """What a private run has spent; None without noise."""
        return self._plans.ledger.spent if isinstance(self._plans, PrivateRun) else None

    def aggregate(self, observer: Observer | None = None) -> tuple[RoundResult, int]:
        """Run the round; return its result and the number of clients that were asked for an update.

        A round that was aborted too often, or after shares may have been released, has a result without a mean, which
        gives the reason.

        Raises:
            RoundFailedError: too few clients connected in the time that the rules allow.
            EpsilonSpentError: the round would exceed the budget of a private run; its clients know nothing of it.
            NetworkError: the journal holds another round than the one that follows the checkpoint.
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
        if isinstance(self._plans, PrivateRun):
            try:
                ended = self._networked(self._updating, self._announce(), observer)
            except TooFewDrawnError as error:
                return _without_result(f"too few clients were sampled for a private sum: {error}"), 0
            result = self._plans.with_mean(ended.cost, ended.outcome, ended.encoding, ended.context)
            return replace(result, seconds=time.perf_counter() - started), ended.num_clients
        measured = RoundResult(aggregate=None, included=())
        if self._tracker.scales is None:
            self._refuse_foreign_update()
            ended = self._networked(self._measuring, self._announce(), observer)
            assert isinstance(ended.encoding, UpdateEncoding)  # noqa: S101 - the session measures updates
            ranges, aborted = measured_ranges(ended.outcome, ended.encoding)
            measured = ended.cost
            if ranges is None:
                result = replace(measured, aborted=aborted, seconds=time.perf_counter() - started)
                return result, ended.num_clients
            self._tracker.follow(ranges)
        ended = self._networked(self._updating, self._announce(), observer)
        assert isinstance(ended.encoding, UpdateEncoding)  # noqa: S101 - the session sums updates
        result = both_sessions(measured, with_outcome(ended.cost, ended.outcome, ended.encoding, self._tracker))
        return replace(result, seconds=time.perf_counter() - started), ended.num_clients

    def score(self, announcement: RoundAnnouncement, observer: Observer | None = None) -> HeldOutResult:
        """Sum the scores of the round's new model on the clients' held-out examples; errors as for `aggregate`."""
        if self._scoring.is_lost(announcement.round) or self._scoring.is_of_another_version():
            return held_out_result("the session was going on, and this server cannot continue it")
        try:
            ended = self._networked(self._scoring, announcement, observer)
        except (TooFewDrawnError, EpsilonSpentError) as error:
            return no_scores(f"no private scores: {error}")
        if isinstance(ended.encoding, ScoresEncoding):
            if isinstance(ended.outcome, Aborted):
                return no_scores(str(ended.outcome))
            return ended.encoding.decode(ended.outcome, context=ended.context)
        assert isinstance(ended.encoding, TotalsEncoding)  # noqa: S101 - the session sums scores
        return held_out_result(decoded_totals(ended.outcome, ended.encoding))

    def _refuse_foreign_update(self) -> None:
        """Raise NetworkError if the journal holds an update's session without a measurement: it is from another run."""
        if self._updating.exists and not self._measuring.exists:
            with contextlib.closing(self._updating.open()) as journal:
                self._check_journal(journal, self._announce())

    def forget_round(self) -> None:
        """Delete the round's journals, since its result is safe."""
        self._scoring.forget()
        self._updating.forget()
        self._measuring.forget()

    def forget_older(self, rounds_done: int) -> None:
        """Delete the journals of rounds that are already in the checkpoint."""
        self._scoring.forget_older(rounds_done)
        self._updating.forget_older(rounds_done)
        self._measuring.forget_older(rounds_done)

    def say_goodbye(self, final: RoundAnnouncement) -> None:
        """Tell clients that there are no more rounds: those that missed the last one's end, or wait for the model."""
        client_ids = self._invitations.allowed
        if len(client_ids) < 2:
            return
        if self._told.issuperset(client_ids) and not self._sessions.wait_for_clients(1, GOODBYE_SECONDS):
            return
        self._sessions.run(
            SessionRequest(
                params=secagg.plan(num_clients=len(client_ids), vector_length=1, value_bits=4).parameters,
                client_ids=client_ids,
                number=0,
                extra=encode_announcement(TrainingOver(final)),
                context=b"",
                deadlines=replace(self._rules.deadlines, advertise_keys=GOODBYE_SECONDS),
            )
        )

    def _networked(self, files: SessionFiles, announcement: RoundAnnouncement, observer: Observer | None) -> _Ended:
        """Run one of the round's sessions; try again after an abort while that is safe."""

        def observe(host: SessionHost) -> None:
            if self._watch is not None:
                self._watch.session(host)
            if observer is not None:
                progress = host.progress
                observer(host.round, progress.received, progress.received + progress.pending)

        for attempt in itertools.count(1):
            request, encoding = self._request(files, announcement)
            host = self._sessions.run(request, observe)
            outcome = host.outcome
            assert isinstance(outcome, Completed | Aborted)  # noqa: S101 - a session that was run has ended
            told = frozenset(host.client_ids) - host.dropped.keys()
            self._told = told if isinstance(outcome, Completed) else frozenset()
            context = round_context(host.offer.number, host.offer.extra)
            ended = _Ended(outcome, _cost(host), encoding, len(request.client_ids), context)
            declines = _declines(host)
            if not isinstance(outcome, Aborted) or outcome.round is Round.UNMASKING:
                if declines:
                    self._say(f"round {request.number}: {declines}")
                return ended
            # No client can have released a share, so the session may begin again, with other clients.
            files.forget()
            reason = "; ".join(filter(None, (str(outcome).removeprefix("aborted "), declines)))
            if attempt > self._rules.retries:
                self._say(
                    f"round {request.number} was aborted {attempt} times, the last time since {reason}; no result"
                )
                return ended
            self._say(f"round {request.number} was aborted: {reason}; trying again")
            if self._watch is not None:
                self._watch.round_retried(request.number, attempt, self._rules.retries, reason)
        raise AssertionError("the loop only ends by return")

    def _request(self, files: SessionFiles, announcement: RoundAnnouncement) -> tuple[SessionRequest, Encoding]:
        """Return the request for the interrupted session, or a new one once clients are there; and its encoding."""
        extra = encode_announcement(announcement)
        if len(extra) > MAX_EXTRA_BYTES:
            raise NetworkError(
                f"the model has {len(extra):,} bytes, but an offer at most {MAX_EXTRA_BYTES:,}: train a smaller one"
            )
        client_ids = files.client_ids()
        is_new = client_ids is None
        if client_ids is None:
            client_ids = self._invitations.next(announcement.round)
        if isinstance(self._plans, PrivateRun):
            session = self._plans.session(len(client_ids), announcement)
            announcement = replace(announcement, privacy=session.terms)
            extra = encode_announcement(announcement)
            if is_new:
                _begin_charged(self._plans, files, announcement.round, session)
        elif is_new:
            files.begin(announcement.round)
        encoding, params = self._planned(len(client_ids), announcement)
        later = {self._measuring: self._updating, self._updating: self._scoring}.get(files)
        request = SessionRequest(
            params=params,
            client_ids=client_ids,
            number=announcement.round,
            extra=extra,
            context=round_context(announcement.round, extra),
            deadlines=self._rules.deadlines,
            directory=self._directory,
            journal=files.open,
            may_resume=lambda journal: self._check_journal(journal, announcement),
            goal=self._rules.goal,
            is_past=later is not None and later.exists,
        )
        return request, encoding

    def _check_journal(self, journal: Journal, announcement: RoundAnnouncement) -> bytes:
        """Return the context of the journal's session; NetworkError if the session is not from this run."""
        try:
            offer = offer_in(journal)
            begun = decode_announcement(offer.extra)
        except (LinkError, AnnouncementError) as error:
            raise NetworkError(f"{journal.path} is not a journal of a training: {error}") from None
        is_ours = isinstance(begun, RoundAnnouncement) and self._is_planned(offer.params, announcement)
        # Only the number of rounds may have changed since the session began.
        if not is_ours or replace(announcement, rounds=begun.rounds) != begun:  # type: ignore[union-attr]
            raise NetworkError(
                f"{journal.path} holds round {offer.number} of another run or model, and round {announcement.round} is "
                "due: delete it to give up its session"
            )
        self._say(f"round {announcement.round} goes on where it was")
        return round_context(offer.number, offer.extra)

    def _planned(self, num_clients: int, announcement: RoundAnnouncement) -> tuple[Encoding, secagg.Parameters]:
        """Return the encoding and parameters of an announced session; PlanError if there is no plan for its clients."""
        if isinstance(self._plans, PrivateRun):
            session = self._plans.session(num_clients, announcement)
            return self._plans.encoding(session, announcement), session.parameters
        encoding = encoding_of(announcement, self._plans.figures, self._plans.sizes, num_clients)
        params = self._plans.plan(num_clients).parameters
        return encoding, replace(params, vector_length=encoding.vector_length)

    def _is_planned(self, begun: secagg.Parameters, announcement: RoundAnnouncement) -> bool:
        """Return whether this run's sessions with as many clients have these parameters."""
        try:
            return begun == self._planned(begun.num_clients, announcement)[1]
        except (secagg.PlanError, TooFewDrawnError):
            return False


@dataclass(frozen=True, slots=True)
class _Ended:
    """The outcome of a session, its cost, the encoding of its inputs, and the context that it is bound to."""

    outcome: Completed | Aborted
    cost: RoundResult
    encoding: Encoding
    num_clients: int
    context: bytes


def _cost(host: SessionHost) -> RoundResult:
    """Return the cost of a session, with the clients that dropped out."""
    counters = host.counters
    return RoundResult(
        aggregate=None,
        included=(),
        dropped={client_id: drop.round for client_id, drop in host.dropped.items()},
        bytes_up=counters.bytes_up,
        # Downloads of the model are counted separately, by the clients that were asked: not all of them are sent.
        bytes_down=max(0, counters.bytes_down - counters.announcement_bytes),
    )


def _without_result(why: str) -> RoundResult:
    return RoundResult(aggregate=None, included=(), aborted=why)


def _declines(host: SessionHost) -> str:
    """Return the number of clients that declined the offer, and their main reasons; empty if none declined."""
    if not (declined := host.declined):
        return ""
    reasons = Counter(text or "without a reason" for text in declined.values()).most_common(_REASONS)
    told = "; ".join(reason if count == len(declined) else f"{reason} ({count})" for reason, count in reasons)
    return f"{len(declined)} client{'s' * (len(declined) > 1)} declined: {told}"


def _begin_charged(run: PrivateRun, files: SessionFiles, number: int, session: PrivateSession) -> None:
    """Begin a session that is charged before any client learns of it."""
    files.begin(number)
    try:
        run.charge(number, session)
    except BaseException:
        files.forget()
        raise
