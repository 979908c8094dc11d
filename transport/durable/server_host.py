"""The server's side of a networked session: connections, the link protocol, the journal. Sans-IO but for the journal.

Frames go in, and nothing comes out until `SessionHost.commit` has made durable all that went in.  So a server that is
killed at any moment and resumed from its journal knows of everything that anybody else can know of it: what it
acknowledged, whom it dropped, which lists it sent.  What it had not committed, nobody has heard of; clients send it
again.
"""

import os
from collections.abc import Iterable, Mapping

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
from transport.durable.replayed_machine import RecordedMachine, resumable
from transport.durable.server_journal import EntryKind, Header, Journal
from transport.errors import JournalError, LinkError

__all__ = ["Close", "Counters", "Deliver", "Outgoing", "SessionHost"]

_NONCE_BYTES = 16

# While others wait, a message has this part of the phase of masked inputs to come in.
_SHARE_OF_PHASE = 1 / 4


class SessionHost:
    """One session of a server: tell it what happens on the connections, and send what `commit` gives.

    ::

        host = SessionHost(params, deadlines=Deadlines(), now=now, context=model_hash, journal=Journal(path))
        number = host.connected(client_id, now)         # the id is the channel's, never a payload's
        host.frame_received(client_id, payload, now, number)
        host.disconnected(client_id, now, number)       # no dropout: the client may come back
        host.tick(now)                                  # when host.deadline has come
        for out in host.commit(now): ...                # after each batch of the above: send, and close where it says
        host.finish(pool.run(host.job), now)            # once host.job is set; commit again
        host.outcome                                    # once set, everyone told, the sum saved: journal.delete()

    ``now`` is in seconds on any clock that does not go back within this process.  Calls must not overlap, whatever
    thread they are from; `commit` takes its time where `commit_blocks` says so, and may do that in a thread.

    With `goal` set, masked inputs are taken until this many are in, if the session can go on with them: who has not
    sent its own by then is dropped, as by the deadline.

    A client is dropped for a bad message or by its phase's deadline only, not for a lost connection.  One that comes
    back without the state in which it had sent messages is dropped: it cannot go on, and must not begin again.

    Security: random bytes, the directory's answers and all messages are in the journal, so a resumed server is the
    same machine and never sends a second, different list of survivors.

    Args:
        params: the session's public parameters.
        client_ids: who may take part; by default 0 .. num_clients - 1.
        deadlines: how long each phase stays open.
        context: bytes bound into the session id; the clients' applications give their own.
        nonce: public bytes, fresh for each session; drawn by default.
        extra: what the offer announces to the clients; it is opaque here, and public.
        number: the session's, for the application.
        directory: in malicious mode, who knows the clients' identity keys.
        journal: an empty `Journal`; without one, a crash ends the session.
        entropy: the source of randomness; only tests pass another than `os.urandom`.

    Raises:
        secagg.LocalProtocolError: an argument of a wrong type or range.
        JournalError: the journal holds a session, or cannot be written.
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
        self._conversations = Conversations(machine, offer, client_ids, room)
        self.goal: int | None = None
        self.job: UnmaskJob | None = None
        self.outcome: Completed | Aborted | None = None

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
    ) -> "SessionHost":
        """The host of the session that is in ``journal``, as it was at its last commit, with nobody connected.

        Masked inputs are read one at a time.  The phase that was open gets its whole deadline again, however long the
        server was away: clients could not reach it meanwhile, clocks of two boots do not compare, and a deadline that
        passed in absence would drop everyone at once for the server's own failure.  The price is that a phase may stay
        open longer than it says, by as much as the server crashes.

        Args:
            journal: one that holds a session.
            context, directory: as given when the session began.
            params, client_ids, nonce, extra, number: what the session is to be of, where the caller says; by default
                whatever it is of.

        Raises:
            JournalError: the journal holds no session or another one than the arguments say, is damaged, or was written
                by a version of this library that acts differently.
        """
        header = resumable(journal)
        try:
            offer = decode_server_frame(header.offer, len(header.offer))
        except LinkError as error:
            raise journal.mismatch(f"its offer: {error}") from None
        if not isinstance(offer, Offer):
            raise journal.mismatch("its offer is none")
        ids = None if client_ids is None else tuple(client_ids)
        begun = (offer.params, header.client_ids, offer.nonce, offer.extra, offer.number)
        _check_same(journal, begun, (params, ids, nonce, extra, number))
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
                f"{journal.path} holds a session of another context: give the context that it began with, such as the "
                "hash of the same model"
            )
        host = cls.__new__(cls)
        host._set_up(machine, offer, header.client_ids, journal, deadlines)
        for entry, deliveries in machine.replay(now):
            client_id = entry.client_id if entry.kind is EntryKind.MESSAGE else None
            host._conversations.settle_replayed(client_id, entry.data, deliveries)
        host.job, host.outcome = machine.driver.job, machine.driver.outcome
        return host

    @property
    def offer(self) -> Offer:
        """What clients are offered."""
        return self._offer

    @property
    def memory(self) -> int:
        """Bytes that the messages of clients may take while they come in. Further ones are asked for afterwards."""
        return self._conversations.room.size

    @memory.setter
    def memory(self, size: int) -> None:
        self._conversations.room.size = size

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        """Who may take part."""
        return tuple(self._conversations.links)

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of the messages that clients have room to send now; of `memory`."""
        return self._conversations.room.taken

    @property
    def session_id(self) -> bytes:
        """The session's id, 32 bytes; public."""
        return self._machine.server.session_id

    @property
    def deadline(self) -> float | None:
        """When `tick` is due; None while there is nothing to wait for."""
        deadlines = (self._machine.driver.deadline, self._conversations.room.deadline)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    @property
    def round(self) -> Round:
        """The round that is open, or was last."""
        return self._machine.driver.round

    @property
    def status(self) -> ServerStatus:
        """Where the session stands: phase, and how many messages came in, are awaited and are needed."""
        return self._machine.server.status

    @property
    def dropped(self) -> Mapping[ClientId, ClientDropped]:
        """The clients without which the session went on, and why."""
        return self._machine.driver.dropped

    @property
    def counters(self) -> Counters:
        """What happened so far, for metrics."""
        return self._conversations.counters

    @property
    def declined(self) -> Mapping[ClientId, str]:
        """The clients that declined the offer, and why, as they say: text of theirs, printable and short.

        Nothing is kept of what an earlier process heard.
        """
        return self._conversations.declined

    @property
    def disputes(self) -> tuple[Dispute, ...]:
        """The shares that were wrong."""
        return self._machine.driver.disputes

    @property
    def connected_clients(self) -> frozenset[ClientId]:
        """Those that have a connection now."""
        return frozenset(client_id for client_id, link in self._conversations.links.items() if link.connection)

    @property
    def untold(self) -> frozenset[ClientId]:
        """Clients that took part to the end and were not yet told how it ended; empty before the end."""
        if self.outcome is None:
            return frozenset()
        return (
            frozenset(i for i, link in self._conversations.links.items() if link.digests and not link.told)
            - self.dropped.keys()
        )

    def connected(self, client_id: ClientId, now: float, number: int | None = None) -> int:
        """A client's connection was made; gives its number. The older one of two of the same client is closed.

        Args:
            number: above 0, another for each connection and higher for later ones; by default as they are told here.
        """
        return self._conversations.connected(client_id, now, number)

    def expects(self, client_id: ClientId) -> bool:
        """Whether the session has still something to say to a client that begins anew.

        To one that is not on its list, was dropped, or has heard the end, it has not: such a one waits for the next.
        """
        return self._conversations.expects(client_id)

    def disconnected(self, client_id: ClientId, now: float, connection: int | None = None) -> None:
        """A connection ended; that of a client that may come back. Connections that the host closed are ignored."""
        self._conversations.disconnected(client_id, now, connection)

    def frame_received(
        self, client_id: ClientId, payload: bytes | memoryview, now: float, connection: int | None = None
    ) -> None:
        """A frame came over a connection; by default over the client's present one.

        Frames of connections that the host closed are ignored. What a client sends never raises.

        Raises:
            JournalError: the journal could not be written; start again and resume.
        """
        self._conversations.frame_received(client_id, payload, now, connection)

    def tick(self, now: float) -> None:
        """Close the open phase if its deadline has passed or its goal is met; of Unmasking, `commit` does that."""
        deliveries = self._machine.close_round(now) if self._has_met_goal() else self._machine.tick(now)
        self._conversations.settle(deliveries)
        self._conversations.admit(now)

    def _has_met_goal(self) -> bool:
        machine = self._machine
        if self.goal is None or machine.driver.deadline is None or self.round is not Round.MASKED_INPUT_COLLECTION:
            return False
        # With nobody pending the round closes by itself. Whether it can go on is more costly to ask.
        server = machine.server
        return server.num_pending > 0 and server.num_received >= self.goal and server.status.ready

    def finish(self, masks: MaskSum, now: float) -> None:
        """The result of `job`; `commit` then sets `outcome` and tells the clients.

        Raises:
            secagg.LocalProtocolError: there is no job, or ``masks`` is not its whole result; call again.
        """
        self._machine.finish(masks, now)
        self._conversations.settle([])

    @property
    def commit_blocks(self) -> bool:
        """Whether the next `commit` waits for the disk, or computes: a thread is the place for it then."""
        return self._machine.driver.closing_due or (self._journal is not None and self._journal.is_dirty)

    def abort(self, now: float) -> None:
        """End the session without a sum; nothing is unmasked. Nothing happens if it has ended."""
        self._machine.abort()
        self._conversations.settle([])

    def commit(self, now: float) -> list[Outgoing]:
        """Make durable what happened since the last call, and give what is to be sent, in order.

        Sets `job` and `outcome` too: nobody is to act on what a crash could undo.  Closes Unmasking if that is due: it
        takes seconds where many shares are wrong.

        Raises:
            JournalError: it could not be written. The host is dead then; start again and resume.
        """
        if self._machine.driver.closing_due:
            self._conversations.settle(self._machine.close_round(now))
        self.counters.commits += self._machine.commit()
        self.job, self.outcome = self._machine.driver.job, self._machine.driver.outcome
        return self._conversations.take_outbox()

    def __repr__(self) -> str:
        return f"<SessionHost {self._machine.server.phase.name}, {len(self.connected_clients)} clients connected>"


def _check_same(journal: Journal, begun: tuple[object, ...], given: tuple[object, ...]) -> None:
    """JournalError if something that was given, and is not None, is not what the session began with."""
    names = ("parameters", "clients", "nonce", "announcement", "number")
    others = [name for name, was, now in zip(names, begun, given, strict=True) if now not in (None, was)]
    if others:
        raise JournalError(
            f"{journal.path} holds a session of other {', '.join(others)}: resume it with those that it began with, or "
            "choose another path"
        )
