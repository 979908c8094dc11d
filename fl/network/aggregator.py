"""One round of a `fl.rounds.FederatedRun` over the network: announced, aggregated, tried again if too few remain."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import secagg
from fl.aggregation import RoundRequest, RoundResult, SecureAggregator
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
from secagg import ClientId, Completed, KeyDirectory
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
        journal: a file that makes a round survive the end of this process.
        say: tells the user something, a line at a time.
        directory: in malicious mode, who knows the clients' identity keys.
        watch: is shown the sessions of the rounds.
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
    ) -> None:
        super().__init__(plan, encoding)
        self._watch = watch
        self._sum_encoding = encoding
        self._sessions = sessions
        self._announce = announce
        self._rules = rules
        self._journal = journal
        self._say = say
        self._directory = directory
        # Who took part in the last session to its end: the others have not heard how it ended.
        self._told: frozenset[ClientId] = frozenset()

    def aggregate(self, request: RoundRequest) -> RoundResult:
        """Run the round; clients train where they are, and nothing of ``request.train`` is used.

        Raises:
            RoundFailedError: too few clients, as often as the rules allow.
            NetworkError: the journal holds another round than the checkpoint asks for.
            TransportError: the journal or an address cannot be used.
        """
        started = time.perf_counter()
        announcement = self._announce()
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
            if host is not None and isinstance(host.outcome, Completed):
                return self._result(host, host.outcome, len(extra), time.perf_counter() - started)
        raise RoundFailedError(
            f"round {announcement.round} was aborted {self._rules.retries + 1} times, the last time since {reason}"
        )

    def forget_round(self) -> None:
        """The round's result is safe: its journal is not needed any more."""
        self._sessions.forget(self._journal)

    def forget_older(self, rounds_done: int) -> None:
        """Delete the journal of a round that is in the checkpoint already: a crash came between the two."""
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
        """The session, if it came to one, and why it has no sum."""
        rules = self._rules
        if self._sessions.can_wait and not self._journal.exists():
            there = self._sessions.wait_for_clients(rules.min_clients, rules.wait)
            if there < rules.min_clients:
                return None, f"{there} of {rules.min_clients} clients were there after {rules.wait:g} s"
        host = self._sessions.run(session, observe)
        self._told = frozenset(session.client_ids) - host.dropped.keys()
        if isinstance(host.outcome, Completed):
            return host, ""
        self.forget_round()
        return host, str(host.outcome).removeprefix("aborted ")

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

    def _result(self, host: SessionHost, outcome: Completed, extra_bytes: int, seconds: float) -> RoundResult:
        counters = host.counters
        # The model's downloads are counted apart.
        downloads = extra_bytes * counters.connections
        return RoundResult(
            aggregate=self._sum_encoding.decode(outcome.sum, len(outcome.included)),
            included=outcome.included,
            dropped={client_id: drop.round for client_id, drop in host.dropped.items()},
            bytes_up=counters.bytes_up,
            bytes_down=max(0, counters.bytes_down - downloads),
            seconds=seconds,
        )


def _offer_in(journal: Journal) -> Offer:
    """LinkError if the journal begins with something else."""
    payload = journal.header.offer
    offer = decode_server_frame(payload, len(payload))
    if not isinstance(offer, Offer):
        raise LinkError("it begins with no offer")
    return offer
