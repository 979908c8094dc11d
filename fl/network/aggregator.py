"""One round of a `fl.rounds.FederatedRun` over the network: announced, aggregated, tried again if too few remain.

A round is tried again only while none of its clients can have released shares.  From Unmasking on, clients answer it no
second time (`transport.ClientRecord`), and two sums of one round could be subtracted: it has its one result, or none.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import secagg
from fl.aggregation import RoundRequest, RoundResult, SecureAggregator, decoded
from fl.files import replace_file
from fl.network.announcement import (
    Announcement,
    TrainingOver,
    decode_announcement,
    encode_announcement,
    round_context,
)
from fl.network.errors import AnnouncementError, NetworkError, RoundFailedError
from fl.network.session_thread import Session, SessionThread
from fl.quantization import UpdateEncoding
from fl.watch import Watch
from secagg import Aborted, ClientId, Completed, KeyDirectory, Round
from transport import Deadlines, Journal, LinkError, Offer, SessionHost
from transport.link import MAX_EXTRA_BYTES, decode_server_frame
from transport.tcp_server import HostObserver

# So long those who missed the last round have to hear that it was the last.
GOODBYE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRules:
    """How rounds are run; nothing in it changes what a sum is.

    Attributes:
        min_clients: so many connections are awaited before a round begins,
        wait: for so many seconds.
        retries: how often an aborted round is tried again.
        deadlines: of the protocol's rounds.
    """

    min_clients: int
    wait: float = 60.0
    retries: int = 3
    deadlines: Deadlines


class NetworkAggregator(SecureAggregator):
    """The protocol over the network, with a session's journal until its result is safe.

    Args:
        plan, encoding: as for `SecureAggregator`.
        sessions: the listening server.
        announce: gives the coming round's announcement.
        rules: see there.
        journal: a file that makes a round survive the end of this process. Beside it, a file of the same name that ends
            in ``.begun`` says which round has a session: if the journal is gone then, that round has no result.
        say: tells the user something, a line at a time.
        directory: in malicious mode, who knows the clients' identity keys.
        watch: is shown the sessions of the rounds.
        skip_to: rounds below are not begun, and have no result.
    """

    def __init__(
        self,
        plan: secagg.Plan,
        encoding: UpdateEncoding,
        *,
        sessions: SessionThread,
        announce: Callable[[], Announcement],
        rules: ServingRules,
        journal: Path,
        say: Callable[[str], None],
        directory: KeyDirectory | None = None,
        watch: Watch | None = None,
        skip_to: int = 0,
    ) -> None:
        super().__init__(plan, encoding)
        self._watch = watch
        self._sum_encoding = encoding
        self._sessions = sessions
        self._announce = announce
        self._rules = rules
        self._journal = journal
        self._begun = journal.with_suffix(".begun")
        self._skip_to = skip_to
        self._say = say
        self._directory = directory
        # Who took part in the last session to its end: the others have not heard how it ended.
        self._told: frozenset[ClientId] = frozenset()

    def aggregate(self, request: RoundRequest) -> RoundResult:
        """Run the round; clients train where they are, and nothing of ``request.train`` is used.

        A round whose shares may be out and that came to no mean is not tried again: its result says why.

        Raises:
            RoundFailedError: too few clients, as often as the rules allow.
            NetworkError: the journal holds another round than the checkpoint asks for.
            TransportError: the journal or an address cannot be used.
        """
        started = time.perf_counter()
        announcement = self._announce()
        if announcement.round < self._skip_to:
            return _without_result("it was skipped")
        if self._has_lost(announcement.round):
            return _without_result("it was going on, and its journal is gone: clients may have answered it")
        extra = encode_announcement(announcement)
        if len(extra) > MAX_EXTRA_BYTES:
            raise NetworkError(f"a model of {len(extra):,} bytes, but an offer carries at most {MAX_EXTRA_BYTES:,}")

        def observe(host: SessionHost) -> None:
            if self._watch is not None:
                self._watch.session(host)
            status = host.status
            if request.observer is not None:
                request.observer(host.round, status.received, status.received + status.pending)

        session = Session(
            params=self.plan.parameters,
            client_ids=request.client_ids,
            number=announcement.round,
            extra=extra,
            context=round_context(announcement.round, extra),
            deadlines=self._deadlines(),
            directory=self._directory,
            journal=self._journal,
            may_resume=lambda journal: self._check_journal(journal, announcement),
        )
        reason = ""
        for attempt in range(self._rules.retries + 1):
            if attempt:
                self._say(f"round {announcement.round} was aborted: {reason}; trying again")
            host, reason = self._attempt(session, observe)
            if host is not None:
                return self._result(host, len(extra), time.perf_counter() - started)
        raise RoundFailedError(
            f"round {announcement.round} was aborted {self._rules.retries + 1} times, the last time since {reason}"
        )

    def forget_round(self) -> None:
        """The round's result is safe, or it has none and may begin again: its journal is not needed any more."""
        self._begun.unlink(missing_ok=True)
        self._sessions.forget(self._journal)

    def forget_older(self, rounds_done: int) -> None:
        """Delete the journal of a round that is in the checkpoint already: a crash came between the two."""
        if not self._has_begun(rounds_done + 1):
            self._begun.unlink(missing_ok=True)
        if self._journal.exists():
            journal = Journal(self._journal)
            try:
                if journal.is_empty or _offer_in(journal).number <= rounds_done:
                    journal.delete()
            finally:
                journal.close()

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

    def _attempt(self, session: Session, observe: HostObserver) -> tuple[SessionHost | None, str]:
        """The session, if its round cannot begin again; or why it can."""
        rules = self._rules
        if not self._journal.exists():
            there = rules.min_clients
            if self._sessions.can_wait:
                there = self._sessions.wait_for_clients(rules.min_clients, rules.wait)
            if there < rules.min_clients:
                return None, f"{there} of {rules.min_clients} clients were there after {rules.wait:g} s"
            replace_file(self._begun, str(session.number).encode())
        host = self._sessions.run(session, observe)
        outcome, told = host.outcome, frozenset(session.client_ids) - host.dropped.keys()
        self._told = told if isinstance(outcome, Completed) else frozenset()
        if isinstance(outcome, Aborted) and outcome.round is not Round.UNMASKING:
            self.forget_round()
            return None, str(outcome).removeprefix("aborted ")
        return host, ""

    def _has_begun(self, number: int) -> bool:
        """Whether a session of this round was begun, and not forgotten."""
        try:
            return self._begun.read_text() == str(number)
        except FileNotFoundError:
            return False

    def _has_lost(self, number: int) -> bool:
        """Whether clients may have answered the round in a session of which nothing is left."""
        return not self._journal.exists() and self._has_begun(number)

    def _deadlines(self) -> Deadlines:
        """Where clients cannot wait for a session, the session's first round waits for them."""
        deadlines = self._rules.deadlines
        if self._sessions.can_wait:
            return deadlines
        return replace(deadlines, advertise_keys=max(deadlines.advertise_keys, self._rules.wait))

    def _check_journal(self, journal: Journal, announcement: Announcement) -> bytes:
        """The context of the session in the journal; NetworkError if that is no part of this run."""
        try:
            offer = _offer_in(journal)
            begun = decode_announcement(offer.extra)
        except (LinkError, AnnouncementError) as error:
            raise NetworkError(f"{journal.path} is no journal of a training: {error}") from None
        is_ours = isinstance(begun, Announcement) and offer.params == self.plan.parameters
        # More rounds may be asked for than when it began; all else is the same.
        if not is_ours or replace(announcement, rounds=begun.rounds) != begun:  # type: ignore[union-attr]
            raise NetworkError(
                f"{journal.path} holds round {offer.number} of another run or model, and round {announcement.round} is "
                "due: delete it to give its session up"
            )
        self._say(f"round {announcement.round} goes on where it was")
        return round_context(offer.number, offer.extra)

    def _result(self, host: SessionHost, extra_bytes: int, seconds: float) -> RoundResult:
        assert isinstance(host.outcome, Completed | Aborted)  # noqa: S101 - a session that was run has ended
        aggregate, included, aborted = decoded(host.outcome, self._sum_encoding)
        counters = host.counters
        # The model's downloads are counted apart.
        downloads = extra_bytes * counters.connections
        return RoundResult(
            aggregate=aggregate,
            included=included,
            aborted=aborted,
            dropped={client_id: drop.round for client_id, drop in host.dropped.items()},
            bytes_up=counters.bytes_up,
            bytes_down=max(0, counters.bytes_down - downloads),
            seconds=seconds,
        )


def _without_result(why: str) -> RoundResult:
    return RoundResult(aggregate=None, included=(), aborted=why)


def _offer_in(journal: Journal) -> Offer:
    """LinkError if the journal begins with something else."""
    payload = journal.header.offer
    offer = decode_server_frame(payload, len(payload))
    if not isinstance(offer, Offer):
        raise LinkError("it begins with no offer")
    return offer
