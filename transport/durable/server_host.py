"""The server's side of a networked session: connections, link protocol and journal. Sans-IO except for the journal.

Frames go in, and nothing comes out until `SessionHost.commit` has made all inputs durable.  So a server that is killed
at any time and resumed from its journal knows all its acts that others can know: the messages that it acknowledged, the
clients that it dropped, the lists that it sent.  Clients send again the messages that were not committed.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Self

from secagg import (
    Aborted,
    ClientDropped,
    ClientId,
    Completed,
    Dispute,
    EntropySource,
    KeyDirectory,
    MaskSum,
    Parameters,
    Round,
    ServerProgress,
    ServerStatus,
    UnmaskJob,
)
from secagg.primitives.entropy import draw
from transport.driver import Deadlines
from transport.durable.conversations import Conversations
from transport.durable.frames import (
    Offer,
    check_announcement,
    decode_server_frame,
    encode,
)
from transport.durable.links import Close, Counters, Deliver, Outgoing
from transport.durable.memory_budget import DEFAULT_MEMORY_BYTES, Room
from transport.durable.partial_sums import answers_of
from transport.durable.replayed_machine import RecordedMachine, check_same, resumable
from transport.durable.server_journal import Header, Journal
from transport.errors import JournalError, LinkError

__all__ = ["Close", "Counters", "Deliver", "Outgoing", "SessionHost"]

_NONCE_BYTES = 16

# While others wait, a message must arrive at the latest within this part of the phase of masked inputs.
_SHARE_OF_PHASE = 1 / 4

# The goal closes the second of these; in the first, it ends the extra time for downloads.
_WITH_GOAL = (Round.ADVERTISE_KEYS, Round.MASKED_INPUT_COLLECTION)


class SessionHost:
    """One session of a server: tell it the events of the connections, and send the results of `commit`.

    ::

        host = SessionHost(params, deadlines=Deadlines(), now=now, context=model_hash, journal=Journal(path))
        number = host.connected(client_id, now)         # the id is the channel's, never a payload's
        host.frame_received(client_id, payload, now, number)
        host.left(client_id, now, number)               # not dropped: the client may return
        host.tick(now)                                  # when host.deadline has come
        for out in host.commit(now): ...                # after each batch of the above: send, and close where it says
        host.finish(pool.run(host.job), now)            # once host.job is set; commit again
        host.outcome                                    # once set, all clients told, the sum saved: journal.delete()

    ``now`` is in seconds on any clock that does not go back within this process.  Calls must not overlap, from
    any threads; if `commit_blocks` is true, `commit` takes time and may run in a thread.

    If `goal` is set, the round of masked inputs closes as soon as this many are in and the session can continue with
    them: the other clients are dropped, as by the deadline.  Once this many have advertised keys, AdvertiseKeys
    stays open for its own seconds only, and no longer for clients that are still downloading the announcement.

    A client is dropped only for a bad message or by the deadline of a phase, not for a lost connection.  A client that
    returns without the state in which it sent messages is dropped: it cannot continue, and must not begin again.

    Security: the journal holds random bytes, the directory's answers and all messages, so a resumed server is the same
    machine and never sends a second, different list of survivors.

    Args:
        params: the session's public parameters.
        client_ids: the ids of the clients; by default 0 .. num_clients - 1.
        deadlines: the seconds for which each phase stays open.
        context: bytes bound into the session id; the clients' applications pass their own.
        nonce: public bytes, fresh for each session; drawn by default.
        extra: the announcement for clients in the offer; opaque here, and public.
        number: the number of the session, for the application.
        directory: in malicious mode, the clients' identity keys.
        journal: an empty `Journal`; without one, a crash ends the session.
        entropy: the source of randomness; only tests replace `os.urandom`.

    Raises:
        secagg.LocalProtocolError: an argument has a wrong type or range.
        JournalError: the journal holds a session already, or cannot be written.
    """

    def __init__(
        self,
        params: Parameters,
        client_ids: Iterable[ClientId] | None = None,
        *,
        deadlines: Deadlines,
        now: float,
        context: bytes = b"",
        nonce: bytes | None = None,
        extra: bytes = b"",
        number: int = 0,
        directory: KeyDirectory | None = None,
        journal: Journal | None = None,
        entropy: EntropySource = os.urandom,
    ) -> None:
        if journal is not None and not journal.is_empty:
            raise JournalError(f"{journal.path} holds a session already: resume it, or choose another path")
        check_announcement(extra, number)
        offer = Offer(params, draw(entropy, _NONCE_BYTES) if nonce is None else nonce, extra, number)
        ids = tuple(range(params.num_clients) if client_ids is None else client_ids)
        machine = RecordedMachine(
            offer, ids, context=context, deadlines=deadlines, directory=directory, journal=journal, entropy=entropy
        )
        self._set_up(machine, offer, ids, journal, deadlines)
        machine.begin(Header(b"".join(encode(offer)), ids, machine.server.session_id), now)

    def _set_up(
        self,
        machine: RecordedMachine,
        offer: Offer,
        client_ids: tuple[ClientId, ...],
        journal: Journal | None,
        deadlines: Deadlines,
    ) -> None:
        self._machine = machine
        self._journal = journal
        self._offer = offer
        room = Room(DEFAULT_MEMORY_BYTES, _SHARE_OF_PHASE * deadlines.masked_input_collection)
        self._conversations = self._converse(machine, offer, client_ids, room)
        self.goal: int | None = None
        self.job: UnmaskJob | None = None
        self.outcome: Completed | Aborted | None = None

    def _converse(
        self, machine: RecordedMachine, offer: Offer, client_ids: tuple[ClientId, ...], room: Room
    ) -> Conversations:
        """Return the conversations with the clients; a subclass may let other processes have them."""
        return Conversations(machine, offer, client_ids, room)

    @classmethod
    def resume(
        cls,
        journal: Journal,
        *,
        deadlines: Deadlines,
        now: float,
        context: bytes,
        params: Parameters | None = None,
        client_ids: Iterable[ClientId] | None = None,
        nonce: bytes | None = None,
        extra: bytes | None = None,
        number: int | None = None,
        directory: KeyDirectory | None = None,
        entropy: EntropySource = os.urandom,
    ) -> Self:
        """Return the host of the session in ``journal`` as it was at its last commit, without connections.

        Masked inputs are read one at a time.  The open phase gets its whole deadline again, even after a long absence:
        clients could not reach the server in the meantime, clocks of two boots cannot be compared, and a deadline that
        passed in absence would drop all clients at once for the server's own failure.  The price is that crashes make
        a phase longer than its deadline.

        Args:
            journal: a journal with a session.
            context, directory: the same as when the session began.
            params, client_ids, nonce, extra, number: expected values of the session; None accepts any value.

        Raises:
            JournalError: the journal holds no session or another session than expected, is damaged, or was written by a
                version of this library that acts differently.
        """
        header = resumable(journal)
        try:
            offer = decode_server_frame(header.offer, len(header.offer))
        except LinkError as error:
            raise journal.mismatch(f"its offer: {error}") from None
        if not isinstance(offer, Offer):
            raise journal.mismatch("its offer is not an offer")
        ids = None if client_ids is None else tuple(client_ids)
        begun = (offer.params, header.client_ids, offer.nonce, offer.extra, offer.number)
        check_same(journal, begun, (params, ids, nonce, extra, number))
        machine = RecordedMachine(
            offer,
            header.client_ids,
            context=context,
            deadlines=deadlines,
            directory=directory,
            journal=journal,
            entropy=entropy,
        )
        if machine.server.session_id != header.session_id:
            raise JournalError(
                f"{journal.path} holds a session with another context: pass the context with which it began, "
                "such as the hash of the same model"
            )
        host = cls.__new__(cls)
        host._set_up(machine, offer, header.client_ids, journal, deadlines)
        for entry, deliveries in machine.replay(now):
            host._conversations.settle_replayed(answers_of(entry, offer.params), deliveries)
        host.job, host.outcome = machine.driver.job, machine.driver.outcome
        return host

    @property
    def offer(self) -> Offer:
        """Return the offer for clients."""
        return self._offer

    @property
    def memory(self) -> int:
        """Return the maximum bytes of clients' messages while they arrive; further messages are asked for later."""
        return self._conversations.room.size

    @memory.setter
    def memory(self, size: int) -> None:
        self._conversations.room.size = size

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        """Return the ids of the clients that may take part."""
        return tuple(self._conversations.links)

    @property
    def bytes_in_flight(self) -> int:
        """Return the part of `memory`, in bytes, for the messages that clients may send now."""
        return self._conversations.room.taken

    @property
    def session_id(self) -> bytes:
        """Return the session id, 32 bytes; public."""
        return self._machine.server.session_id

    @property
    def deadline(self) -> float | None:
        """Return the time at which `tick` is due; None while nothing is awaited."""
        deadlines = (self._machine.driver.deadline, self._conversations.room.deadline)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    @property
    def over(self) -> bool:
        """Return whether `outcome` is set."""
        return self.outcome is not None

    @property
    def round(self) -> Round:
        """Return the open round, or the last one."""
        return self._machine.driver.round

    @property
    def progress(self) -> ServerProgress:
        """Return what `status` has, without the part that takes long."""
        return self._machine.server.progress

    @property
    def status(self) -> ServerStatus:
        """Return the phase, and the numbers of messages that came, are awaited and are needed."""
        return self._machine.server.status

    @property
    def dropped(self) -> Mapping[ClientId, ClientDropped]:
        """Return the dropped clients with the reasons."""
        return self._machine.driver.dropped

    @property
    def counters(self) -> Counters:
        """Return the counts of events, for metrics."""
        return self._conversations.counters

    @property
    def declined(self) -> Mapping[ClientId, str]:
        """Return the clients that declined the offer, with their own reasons as short printable text.

        Reasons that an earlier process received are not stored.
        """
        return self._conversations.declined

    @property
    def disputes(self) -> tuple[Dispute, ...]:
        """Return the wrong shares."""
        return self._machine.driver.disputes

    @property
    def connected_clients(self) -> frozenset[ClientId]:
        """Return the ids of the clients that are connected now."""
        return frozenset(client_id for client_id, link in self._conversations.links.items() if link.connection)

    @property
    def untold(self) -> frozenset[ClientId]:
        """Return the clients that sent messages and were not told yet how the session ended; empty before its end."""
        if self.outcome is None:
            return frozenset()
        return (
            frozenset(i for i, link in self._conversations.links.items() if link.digests and not link.told)
            - self.dropped.keys()
        )

    def connected(self, client_id: ClientId, now: float, number: int | None = None) -> int:
        """Note a client's new connection, and return its number; an older connection of the client is closed.

        Args:
            number: a number above 0 that grows with each connection; by default, in the order of the calls.
        """
        return self._conversations.connected(client_id, now, number)

    def expects(self, client_id: ClientId) -> bool:
        """Return whether the session would still serve a client that begins again.

        It does not serve a client that is not on its list, was dropped, or was told the end: such a client waits for
        the next session.
        """
        return self._conversations.expects(client_id)

    def left(self, client_id: ClientId, now: float, connection: int | None = None) -> None:
        """Note that a client left (its connection ended; it may return). Ignore connections that the host closed."""
        self._conversations.left(client_id, now, connection)

    def frame_received(
        self, client_id: ClientId, payload: bytes | memoryview, now: float, connection: int | None = None
    ) -> None:
        """Take a frame from a connection, by default the client's present one.

        Frames of connections that the host closed are ignored. No frame of a client makes it raise.

        Raises:
            JournalError: the journal could not be written; start again and resume.
        """
        self._conversations.frame_received(client_id, payload, now, connection)

    def tick(self, now: float) -> None:
        """Close the open phase if its deadline has passed or its goal is met; `commit` does what takes long of it."""
        is_met = self._has_met_goal()
        if is_met and self.round is Round.ADVERTISE_KEYS:
            self._machine.driver.stop_waiting_for_downloads()
        is_due = is_met and self.round is Round.MASKED_INPUT_COLLECTION
        self._conversations.settle(self._machine.close_soon(now) if is_due else self._machine.tick(now))
        self._conversations.admit(now)

    def _has_met_goal(self) -> bool:
        machine = self._machine
        if self.goal is None or machine.driver.deadline is None or self.round not in _WITH_GOAL:
            return False
        # With no pending client the round closes by itself. The check whether it can continue costs more, so it is
        # last.
        server = machine.server
        return server.num_pending > 0 and server.num_received >= self.goal and server.status.ready

    def finish(self, masks: MaskSum, now: float) -> None:
        """Take the result of `job`; `commit` then sets `outcome` and tells the clients.

        Raises:
            secagg.LocalProtocolError: there is no job, or ``masks`` is not its whole result; call again.
        """
        self._machine.finish(masks, now)
        self._conversations.settle([])

    @property
    def commit_blocks(self) -> bool:
        """Return whether the next `commit` waits for the journal or computes; run it in a thread then."""
        return self._machine.driver.closing_due or (
            self._journal is not None and (self._journal.is_dirty or (self._journal.is_remote and self._tells))
        )

    @property
    def _tells(self) -> bool:
        """Return whether the next `commit` sends or reports anything."""
        driver = self._machine.driver
        return bool(self._conversations.outbox) or driver.job is not self.job or driver.outcome is not self.outcome

    def abort(self, now: float) -> None:
        """End the session without a sum and without unmasking. Do nothing if it has ended."""
        self._machine.abort()
        self._conversations.settle([])

    def commit(self, now: float) -> list[Outgoing]:
        """Make all events since the last call durable, and return the frames to send, in order.

        Only this call sets `job` and `outcome`, since a crash could undo earlier results.  It closes the open phase if
        that is due, which takes seconds if there are very many clients, or many wrong shares.

        Raises:
            JournalError: the journal could not be written. The host cannot be used then; start again and resume.
        """
        while self._machine.driver.closing_due:
            self._conversations.settle(self._machine.close_round(now))
        self.counters.commits += self._machine.commit(tells=self._tells)
        self.job, self.outcome = self._machine.driver.job, self._machine.driver.outcome
        return self._conversations.take_outbox()

    def __repr__(self) -> str:
        return f"<SessionHost {self._machine.server.phase.name}, {len(self.connected_clients)} clients connected>"
