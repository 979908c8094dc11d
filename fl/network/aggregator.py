"""One round of a `fl.runs.rounds.FederatedRun` over the network: announced, aggregated, tried again if too few remain.

A session is tried again only while none of its clients can have released shares.  From Unmasking on, clients answer it
no second time (`transport.ClientRecord`), and two sums of one round could be subtracted: it has one result, or none.

A round has one session for its update, and where no bounds are known yet one before that measures.  Each has a journal
of its own, and both stay until the round is in the checkpoint: a process that is started again in between finds the
sum of the ranges in the first, has the same bounds from it, and goes on with the second.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import secagg
from fl.aggregation.api import RoundRequest, RoundResult
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import ScaleTracker
from fl.aggregation.secure import SecureAggregator, both_sessions, measured_ranges, with_outcome
from fl.files import replace_file
from fl.network.announcement import (
    Announcement,
    TrainingOver,
    decode_announcement,
    encode_announcement,
    round_context,
)
from fl.network.errors import AnnouncementError, AnnouncementVersionError, NetworkError, RoundFailedError
from fl.network.session_thread import Session, SessionThread
from fl.watch import Events
from secagg import Aborted, ClientId, Completed, KeyDirectory, Round
from transport import Deadlines, Journal, LinkError, Offer, SessionHost
from transport.durable.frames import MAX_EXTRA_BYTES, decode_server_frame
from transport.tcp.server import HostObserver

# So long those who missed the last round have to hear that it was the last.
GOODBYE_SECONDS = 3.0
# How often the user is told how many clients are there, while they are too few and their number changes.
_NEWS_SECONDS = 5.0
# So many of the reasons for which clients decline are told.
_REASONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRules:
    """How rounds are run; nothing in it changes what a sum is.

    Attributes:
        min_clients: how many enrolled clients must be present before a round begins.
        give_up: seconds to wait for them before the server ends; None: no end.
        retries: how often a round that was begun and aborted is tried again.
        deadlines: of the protocol's rounds.
    """

    min_clients: int
    give_up: float | None = None
    retries: int = 3
    deadlines: Deadlines


class _SessionFiles:
    """What makes one of a round's sessions survive the end of this process.

    Args:
        journal: the session's. Beside it, a file of the same name that ends in ``.begun`` says which round has such a
            session: if the journal is gone then, the session has no result.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self._begun = journal.with_suffix(".begun")

    def begin(self, number: int) -> None:
        """Note that clients will hear of the session."""
        try:
            # With an empty journal nobody has heard of it: a process that ends here has lost nothing.
            Journal(self.journal).close()
            replace_file(self._begun, str(number).encode())
        except BaseException:
            # Without room for both there is neither, and both are made when there is.
            self.forget()
            raise

    def is_lost(self, number: int) -> bool:
        """Whether clients may have answered the round in a session of which nothing is left."""
        return not self.journal.exists() and self._has_begun(number)

    def is_of_another_version(self) -> bool:
        """Whether the journal holds a session whose announcement is not read here: an upgrade came in between."""
        if not self.journal.exists():
            return False
        with contextlib.closing(Journal(self.journal)) as journal:
            try:
                if not journal.is_empty:
                    decode_announcement(_offer_in(journal).extra)
            except AnnouncementVersionError:
                return True
            except (LinkError, AnnouncementError):
                # What it is then, the aggregator says that is to go on with it.
                pass
        return False

    def forget(self) -> None:
        """The session's result is safe, or it has none and may begin again."""
        self._begun.unlink(missing_ok=True)
        SessionThread.forget(self.journal)

    def forget_older(self, rounds_done: int) -> None:
        """Delete what is left of a round that is in the checkpoint already: a crash came between the two."""
        if not self._has_begun(rounds_done + 1):
            self._begun.unlink(missing_ok=True)
        if self.journal.exists():
            journal = Journal(self.journal)
            try:
                is_empty = journal.is_empty
                if is_empty or _offer_in(journal).number <= rounds_done:
                    journal.delete()
            finally:
                journal.close()
            if is_empty:
                self._begun.unlink(missing_ok=True)

    def _has_begun(self, number: int) -> bool:
        try:
            return self._begun.read_text() == str(number)
        except FileNotFoundError:
            return False


class NetworkAggregator(SecureAggregator):
    """The protocol over the network, with the sessions' journals until the round's result is safe.

    Args:
        plan: of all sessions, but for the length of their vectors.
        sizes, num_clients, value_bits, tracker: as for `SecureAggregator`.
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
        plan: secagg.Plan,
        *,
        sizes: tuple[int, ...],
        num_clients: int,
        value_bits: int,
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
        super().__init__(lambda _: plan, sizes=sizes, num_clients=num_clients, value_bits=value_bits, tracker=tracker)
        self._watch = watch
        self._sessions = sessions
        self._announce = announce
        self._rules = rules
        self._measuring = _SessionFiles(folder / "round.ranges.journal")
        self._updating = _SessionFiles(folder / "round.journal")
        self._skip_to = skip_to
        self._say = say
        self._directory = directory
        # Who took part in the last session to its end: the others have not heard how it ended.
        self._told: frozenset[ClientId] = frozenset()

    def aggregate(self, request: RoundRequest) -> RoundResult:
        """Run the round; clients train where they are, and nothing of ``request.train`` is used.

        A round whose shares may be out and that came to no mean is not tried again: its result says why.

        Raises:
            RoundFailedError: it was aborted, or too few clients came, for as long as the rules allow.
            NetworkError: the journal holds another round than the checkpoint asks for.
            TransportError: the journal or an address cannot be used.
        """
        started = time.perf_counter()
        number = self._announce().round
        if number < self._skip_to:
            return _without_result("it was skipped")
        if self._measuring.is_lost(number) or self._updating.is_lost(number):
            return _without_result("it was going on, and its journal is gone: clients may have answered it")
        if self._measuring.is_of_another_version() or self._updating.is_of_another_version():
            return _without_result("it was going on in another version of this server: clients may have answered it")
        measured = RoundResult(aggregate=None, included=())
        if self._tracker.scales is None:
            self._refuse_foreign_update()
            encoding = self._encoding(self._num_clients, None)
            outcome, measured = self._networked(request, encoding, self._measuring)
            ranges, aborted = measured_ranges(outcome, encoding)
            if ranges is None:
                return replace(measured, aborted=aborted, seconds=time.perf_counter() - started)
            self._tracker.follow(ranges)
        encoding = self._encoding(self._num_clients, self._tracker.scales)
        outcome, result = self._networked(request, encoding, self._updating)
        result = with_outcome(result, outcome, encoding, self._tracker)
        return replace(both_sessions(measured, result), seconds=time.perf_counter() - started)

    def _refuse_foreign_update(self) -> None:
        """NetworkError if there is a session of an update for which nothing was measured: it is no part of this run."""
        if self._updating.journal.exists() and not self._measuring.journal.exists():
            journal = Journal(self._updating.journal)
            try:
                self._check_journal(journal, self.plan.parameters, self._announce())
            finally:
                journal.close()

    def forget_round(self) -> None:
        """The round's result is safe: its journals are not needed any more."""
        self._updating.forget()
        self._measuring.forget()

    def forget_older(self, rounds_done: int) -> None:
        """Delete what is left of rounds that are in the checkpoint already."""
        self._updating.forget_older(rounds_done)
        self._measuring.forget_older(rounds_done)

    def say_goodbye(self, client_ids: tuple[ClientId, ...]) -> None:
        """Tell those who missed the end of the last round that there are no more."""
        if self._told.issuperset(client_ids):
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

    def _networked(
        self, request: RoundRequest, encoding: UpdateEncoding, files: _SessionFiles
    ) -> tuple[Completed | Aborted, RoundResult]:
        """One of the round's sessions, tried again while that is safe, and its cost; it is not decoded."""
        announcement = self._announce()
        extra = encode_announcement(announcement)
        if len(extra) > MAX_EXTRA_BYTES:
            raise NetworkError(f"a model of {len(extra):,} bytes, but an offer carries at most {MAX_EXTRA_BYTES:,}")
        params = replace(self.plan.parameters, vector_length=encoding.vector_length)

        def observe(host: SessionHost) -> None:
            if self._watch is not None:
                self._watch.session(host)
            status = host.status
            if request.observer is not None:
                request.observer(host.round, status.received, status.received + status.pending)

        session = Session(
            params=params,
            client_ids=request.client_ids,
            number=announcement.round,
            extra=extra,
            context=round_context(announcement.round, extra),
            deadlines=self._rules.deadlines,
            directory=self._directory,
            journal=files.journal,
            may_resume=lambda journal: self._check_journal(journal, params, announcement),
            is_past=files is self._measuring and self._updating.journal.exists(),
        )
        reason = ""
        for attempt in range(self._rules.retries + 1):
            if attempt:
                self._say(f"round {announcement.round} was aborted: {reason}; trying again")
                if self._watch is not None:
                    self._watch.round_retried(announcement.round, attempt, self._rules.retries, reason)
            host, reason = self._attempt(session, files, observe)
            if host is not None:
                assert isinstance(host.outcome, Completed | Aborted)  # noqa: S101 - a session that was run has ended
                return host.outcome, _cost(host)
        raise RoundFailedError(
            f"round {announcement.round} was aborted {self._rules.retries + 1} times, the last time since {reason}"
        )

    def _attempt(self, session: Session, files: _SessionFiles, observe: HostObserver) -> tuple[SessionHost | None, str]:
        """The session, if it cannot begin again; or why it can."""
        if not files.journal.exists():
            self._wait_for_clients(session.number)
            files.begin(session.number)
        host = self._sessions.run(session, observe)
        outcome, told = host.outcome, frozenset(session.client_ids) - host.dropped.keys()
        self._told = told if isinstance(outcome, Completed) else frozenset()
        if isinstance(outcome, Aborted) and outcome.round is not Round.UNMASKING:
            files.forget()
            return None, "; ".join(filter(None, (str(outcome).removeprefix("aborted "), _declines(host))))
        if declines := _declines(host):
            self._say(f"round {session.number}: {declines}")
        return host, ""

    def _wait_for_clients(self, number: int) -> None:
        """Wait for the clients of a round. RoundFailedError if they do not come before the rules say to give up."""
        needed, give_up, said = self._rules.min_clients, self._rules.give_up, -1
        patience = math.inf if give_up is None else give_up
        until = time.monotonic() + patience
        while (there := self._sessions.wait_for_clients(needed, min(_NEWS_SECONDS, patience))) < needed:
            if (patience := until - time.monotonic()) <= 0:
                raise RoundFailedError(
                    f"round {number} was not begun: {there} of {needed} clients were there after {give_up:g} s"
                )
            if there != said:
                self._say(f"round {number} waits for clients: {there} of {needed} are there")
                if self._watch is not None:
                    self._watch.clients_awaited(number, there, needed)
                said = there

    def _check_journal(self, journal: Journal, params: secagg.Parameters, announcement: Announcement) -> bytes:
        """The context of the session in the journal; NetworkError if that is no part of this run."""
        try:
            offer = _offer_in(journal)
            begun = decode_announcement(offer.extra)
        except (LinkError, AnnouncementError) as error:
            raise NetworkError(f"{journal.path} is no journal of a training: {error}") from None
        is_ours = isinstance(begun, Announcement) and offer.params == params
        # More rounds may be asked for than when it began; all else is the same.
        if not is_ours or replace(announcement, rounds=begun.rounds) != begun:  # type: ignore[union-attr]
            raise NetworkError(
                f"{journal.path} holds round {offer.number} of another run or model, and round {announcement.round} is "
                "due: delete it to give its session up"
            )
        self._say(f"round {announcement.round} goes on where it was")
        return round_context(offer.number, offer.extra)


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


def _offer_in(journal: Journal) -> Offer:
    """LinkError if the journal begins with something else."""
    payload = journal.header.offer
    offer = decode_server_frame(payload, len(payload))
    if not isinstance(offer, Offer):
        raise LinkError("it begins with no offer")
    return offer
