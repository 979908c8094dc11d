"""The server's side of the link protocol: the connections, the state of each client, and the frames to send."""

from collections.abc import Iterable, Mapping
from itertools import islice
from math import ceil
from typing import Protocol

from secagg import ClientDropped, ClientId, DropReason, Round
from transport.driver import Delivery
from transport.durable.frames import (
    MAX_RETRY_AFTER,
    NOT_THIS_SESSION,
    REPLACED_TEXT,
    TOO_MANY_FRAMES,
    Ack,
    ClientFrame,
    Decline,
    End,
    Hello,
    Message,
    Offer,
    Ping,
    Pong,
    RefusalCode,
    decode_client_frame,
    encode,
    refused_version,
)
from transport.durable.incoming import MAX_RESTARTS, Incoming, head_of
from transport.durable.links import Close, Counters, Deliver, Link, Outgoing, digest_of
from transport.durable.memory_budget import Room
from transport.durable.pieces import Large, Piece, Want
from transport.durable.transfers import step_bytes
from transport.errors import LinkError


class Machine(Protocol):
    """The server's machine as these conversations need it: in this process, or in another one."""

    @property
    def session_id(self) -> bytes:
        """Return the session id."""

    @property
    def round(self) -> Round:
        """Return the open round, or the last one."""

    @property
    def deadline(self) -> float | None:
        """Return the time at which the open round closes."""

    @property
    def dropped(self) -> Mapping[ClientId, ClientDropped]:
        """Return the dropped clients, in the order of their drops."""

    @property
    def end(self) -> End | None:
        """Return the frame that tells clients how the session ended; None before its end."""

    def downloading(self, now: float) -> None:
        """Note that a client received a part of the announcement."""

    def message(self, client_id: ClientId, data: bytes | memoryview, now: float, digest: bytes) -> list[Delivery]:
        """Take a client's message, whose SHA-256 is ``digest``."""

    def drop(self, client_id: ClientId, reason: DropReason, detail: str, now: float) -> list[Delivery]:
        """Drop a client for good."""


class Conversations:
    """A translator between the clients' frames and the machine's inputs and messages.

    Frames to send wait in `outbox`: the host returns them once the inputs that led to them are durable.
    """

    def __init__(self, machine: Machine, offer: Offer, client_ids: Iterable[ClientId], room: Room) -> None:
        self._machine = machine
        # Encoded once: the announcement may be large, and each HELLO is answered with it.
        self._offer = encode(offer)
        self._announcement_digest = digest_of(offer.extra)
        self._drops_told = 0
        self._connections = 0
        self._ended = False
        self.ending: list[tuple[Link, int]] = []
        self.links = {client_id: Link(client_id) for client_id in client_ids}
        self.room = room
        self._incoming = Incoming(offer.params, self.links, room)
        self.outbox: list[Outgoing] = []
        self.counters = Counters()
        self.declined: dict[ClientId, str] = {}

    def connected(self, client_id: ClientId, now: float, number: int | None = None) -> int:
        """Note a client's new connection, and return its number; an older connection of the client is closed."""
        if number is None:
            number = self._connections + 1
        self._connections = max(self._connections, number)
        self.counters.connections += 1
        link = self.links.get(client_id)
        if link is None:
            self._close(client_id, number, RefusalCode.UNKNOWN_CLIENT, "not on this session's list")
            return number
        if number < link.connection:
            self._close(client_id, number, RefusalCode.REPLACED, REPLACED_TEXT)
            return number
        if link.connection:
            self._refuse(link, RefusalCode.REPLACED, REPLACED_TEXT)
        self.counters.reconnects += link.was_connected
        link.connection, link.was_connected = number, True
        return number

    def expects(self, client_id: ClientId) -> bool:
        """Return whether the session would still serve this client if it began again."""
        link = self.links.get(client_id)
        if link is None or client_id in self._machine.dropped:
            return False
        return not self._ended or (bool(link.digests) and not link.told)

    def left(self, client_id: ClientId, now: float, connection: int | None = None) -> None:
        """Note that a client left (its connection ended; it may return). Ignore connections that the host closed."""
        link = self._of(client_id, connection)
        if link is not None:
            link.hang_up()

    def frame_received(
        self, client_id: ClientId, payload: bytes | memoryview, now: float, connection: int | None = None
    ) -> None:
        """Take a frame from a connection, by default the client's present one.

        Frames of connections that the host closed are ignored. No frame of a client makes it raise.
        """
        link = self._of(client_id, connection)
        if link is None:
            return
        self.counters.frames_up += 1
        self.counters.bytes_up += len(payload)
        try:
            self._act(link, decode_client_frame(payload), now)
        except LinkError as error:
            self._refuse(link, RefusalCode.PROTOCOL_ERROR, str(error))

    def _act(self, link: Link, frame: ClientFrame, now: float) -> None:
        """Act on a frame. LinkError if the client must not send it."""
        match frame:
            case Message() | Large() | Piece() if not link.greeted:
                raise LinkError("a message before HELLO")
            case Message():
                assert not isinstance(frame.body, tuple)  # noqa: S101 - a decoded one is one view
                self._message(link, frame, digest_of(frame.body), now)
            case Piece():
                self._piece(link, frame, now)
            case Want():
                self._wanted(link, frame, now)
            case Decline():
                self._declined(link, frame)
            case _ if not link.allowance.spend(now):
                self._refuse_too_many(link)
            case Large():
                self._large(link, frame, now)
            case Hello():
                self._hello(link, frame, now)
            case Ping():
                self.outbox.append(link.deliver(Pong()))

    def settle_replayed(self, answers: Iterable[tuple[ClientId, bytes]], deliveries: list[Delivery]) -> None:
        """Repeat the effect of `frame_received` for an input of the journal, with the messages' clients and SHA-256."""
        for client_id, digest in answers:
            if (link := self.links.get(client_id)) is not None:
                link.answered(digest)
        self.settle(deliveries)

    def take_outbox(self) -> list[Outgoing]:
        """Return all frames to send now, without those for ended connections."""
        for link, connection in self.ending:
            link.told |= link.connection == connection
        self.ending.clear()
        outgoing = [
            out
            for out in self.outbox
            if isinstance(out, Close) or self.links[out.client_id].connection == out.connection
        ]
        self.outbox.clear()
        self.counters.frames_down += len(outgoing)
        self.counters.bytes_down += sum(len(part) for out in outgoing for part in out.parts)
        return outgoing

    def _message(self, link: Link, message: Message, digest: bytes, now: float) -> None:
        assert not isinstance(message.body, tuple)  # noqa: S101 - a decoded one is one view
        if self._is_next(link, message.sequence, digest, now):
            self._incoming.forget(link)
            deliveries = self._machine.message(link.client_id, message.body, now, digest)
            link.answered(digest)
            self.declined.pop(link.client_id, None)
            if link.client_id not in self._machine.dropped:
                self._acknowledge(link, message.sequence)
            self.settle(deliveries)

    def _is_next(self, link: Link, sequence: int, digest: bytes, now: float) -> bool:
        """Return whether this message is new to the machine; acknowledge it again if it is the same as before."""
        if sequence < len(link.digests):
            self._repeated(link, sequence, digest, now)
            return False
        if sequence > len(link.digests):
            raise LinkError(f"message {sequence} where message {len(link.digests)} is due")
        return not self._ended

    def _large(self, link: Link, large: Large, now: float) -> None:
        """Handle the announcement of a message in pieces: ask for the missing bytes."""
        if self._is_next(link, head_of(large).sequence, large.digest, now):
            want = self._incoming.announce(link, large, self._machine.round)
            if link.restarts > MAX_RESTARTS:
                self._drop(link, DropReason.DEADLINE, f"its messages began again {link.restarts} times", now)
            elif want is not None:
                self.outbox.append(link.deliver(want))
            self.admit(now)

    def admit(self, now: float) -> None:
        """Ask for the messages that fit in memory now; clients that were too slow lose their places."""
        self.room.closes = self._machine.deadline
        while (turn := self._incoming.turn(now)) is not None:
            link, want = turn
            if want is not None:
                self.outbox.append(link.deliver(want))
            elif link.connection:
                self._refuse(link, RefusalCode.BUSY, "others wait for the memory that this message takes: begin again")

    def _piece(self, link: Link, piece: Piece, now: float) -> None:
        if link.receiving is None or piece.offset < link.receiving.have:
            # A repeated frame, which a channel without integrity may deliver.
            if not link.allowance.spend(now):
                self._refuse_too_many(link)
            return
        digest = link.receiving.large.digest
        match self._incoming.add(link, piece, now):
            case Message() as message:
                self._message(link, message, digest, now)
                self.admit(now)
            case Want() as want:
                self.outbox.append(link.deliver(want))

    def _declined(self, link: Link, decline: Decline) -> None:
        """Note that the client declines. Started again with another policy, it may accept the same offer."""
        if not link.greeted or link.digests:
            raise LinkError("it declines an offer that it did not get, or has accepted")
        self._incoming.forget(link)
        self.declined[link.client_id] = decline.text
        self._refuse(link, RefusalCode.DROPPED, f"it declined the offer: {decline.text or 'without a reason'}")

    def _wanted(self, link: Link, want: Want, now: float) -> None:
        """Send the pieces that a client asks for."""
        sending = link.sending.get(want.digest)
        frames, is_further = ([], False) if sending is None else sending.wanted(want)
        if not is_further and not link.allowance.spend(now):
            self._refuse_too_many(link)
            return
        self.outbox += [Deliver(link.client_id, link.connection, parts) for parts in frames]
        if want.digest == self._announcement_digest:
            self.counters.announcement_bytes += sum(len(part) for parts in frames for part in parts)
            if is_further and want.have >= link.downloaded + step_bytes():
                # Counted over all its connections, since it may send other frames on each new one.
                link.downloaded = want.have
                self._machine.downloading(now)

    def _repeated(self, link: Link, sequence: int, digest: bytes, now: float) -> None:
        """Acknowledge a known message again, without passing it to the machine."""
        self.counters.repeated += 1
        if digest != link.digests[sequence]:
            self._drop(link, DropReason.DUPLICATE, f"message {sequence} differs from the one that it sent before", now)
        elif link.allowance.spend(now):
            self._acknowledge(link, sequence)
        else:
            self._refuse_too_many(link)

    def _acknowledge(self, link: Link, sequence: int) -> None:
        """Tell a client that its message is durable, which it is once the outbox is sent."""
        self.outbox.append(link.deliver(Ack(sequence)))

    def _hello(self, link: Link, hello: Hello, now: float) -> None:
        missing = link.sent - hello.received
        if (refused := refused_version(hello)) is not None:
            self._refuse(link, refused.code, refused.text, refused.retry_after)
        elif link.greeted:
            # A repeated frame, which a channel without integrity may deliver, asks for nothing new.
            if hello != link.hello:
                self._refuse(link, RefusalCode.PROTOCOL_ERROR, "a second HELLO differs from the first")
        elif hello.session_id and hello.session_id != self._machine.session_id:
            self._refuse(link, NOT_THIS_SESSION.code, NOT_THIS_SESSION.text)
        elif link.client_id in self._machine.dropped:
            self._refuse_dropped(link, self._machine.dropped[link.client_id], self._seconds_left(now))
        elif not hello.session_id and self._ended:
            self._refuse_late(link)
        elif missing < 0:
            text = f"HELLO counts {hello.received} messages, but {link.sent} were sent"
            self._refuse(link, RefusalCode.PROTOCOL_ERROR, text)
        elif self._ended:
            link.greeted, link.hello = True, hello
            self._tell_end(link)
        elif self._has_lost_state(link, hello, missing):
            # It must not start again (it would answer twice), so drop it now.
            self._drop(link, DropReason.DISCONNECTED, "it returned without its earlier state", now)
        else:
            link.greeted, link.hello = True, hello
            self.outbox.append(link.deliver_parts(self._offer, self._announcement_digest))
            self.counters.announcement_bytes += sum(map(len, self.outbox[-1].parts))
            if missing:
                assert link.unanswered is not None  # noqa: S101 - else the state was lost
                self.outbox.append(link.deliver(Message(link.sent - 1, link.unanswered)))

    @staticmethod
    def _has_lost_state(link: Link, hello: Hello, missing: int) -> bool:
        """Return whether the client has fewer messages than its answers show that it had."""
        return (
            missing > 1 or (missing == 1 and link.unanswered is None) or (not hello.session_id and bool(link.digests))
        )

    def _drop(self, link: Link, reason: DropReason, detail: str, now: float) -> None:
        if self._ended:
            self._refuse(link, RefusalCode.DROPPED, f"{reason.value}: {detail}")
        else:
            self.settle(self._machine.drop(link.client_id, reason, detail, now))

    def settle(self, deliveries: list[Delivery]) -> None:
        """Turn the machine's messages into frames for the clients that are connected."""
        for client_id, data in deliveries:
            link = self.links[client_id]
            link.sent, link.unanswered = link.sent + 1, data
            if link.greeted:
                self.outbox.append(link.deliver(Message(link.sent - 1, data)))
        news = (
            islice(self._machine.dropped.values(), self._drops_told, None)
            if len(self._machine.dropped) > self._drops_told
            else ()
        )
        for drop in news:
            link = self.links[drop.client_id]
            link.unanswered = None
            self._incoming.forget(link)
            if link.connection:
                self._refuse_dropped(link, drop)
        self._drops_told = len(self._machine.dropped)
        if self._machine.end is not None and not self._ended:
            self._ended = True
            for link in self.links.values():
                link.unanswered = None
                self._incoming.forget(link)
                if not link.greeted:
                    continue
                if link.sending and not link.digests:
                    # It may not know the ended session yet: its offer is on its way.
                    self._refuse_late(link)
                else:
                    self._tell_end(link)

    def _tell_end(self, link: Link) -> None:
        end = self._machine.end
        assert end is not None  # noqa: S101 - the callers know
        self.outbox.append(link.deliver(end))
        self.ending.append((link, link.connection))

    def _refuse_late(self, link: Link) -> None:
        link.told = True
        self._refuse(link, RefusalCode.TOO_LATE, "the session is over")

    def _refuse_too_many(self, link: Link) -> None:
        self._refuse(link, TOO_MANY_FRAMES.code, TOO_MANY_FRAMES.text, TOO_MANY_FRAMES.retry_after)

    def _refuse_dropped(self, link: Link, drop: ClientDropped, retry_after: int = 0) -> None:
        code = RefusalCode.TOO_LATE if drop.reason is DropReason.DEADLINE else RefusalCode.DROPPED
        self._refuse(link, code, f"{drop.round.value}: {drop.reason.value}", retry_after)

    def _seconds_left(self, now: float) -> int:
        """Return the seconds left for the open phase; no other session begins before its end."""
        deadline = self._machine.deadline
        return 0 if deadline is None else min(MAX_RETRY_AFTER, max(0, ceil(deadline - now)))

    def _refuse(self, link: Link, code: RefusalCode, text: str, retry_after: int = 0) -> None:
        """Close a client's present connection."""
        self._close(link.client_id, link.connection, code, text, retry_after)
        link.hang_up()

    def _close(self, client_id: ClientId, connection: int, code: RefusalCode, text: str, retry_after: int = 0) -> None:
        self.counters.refused[code] += 1
        self.outbox.append(Close(client_id, connection, code, text, retry_after))

    def _of(self, client_id: ClientId, connection: int | None) -> Link | None:
        """Return the link whose present connection this is."""
        link = self.links.get(client_id)
        if link is None or not link.connection or connection not in (None, link.connection):
            return None
        return link
