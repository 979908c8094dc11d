"""Large messages that a server receives in pieces: the bytes of each, and the order of the clients. Sans-IO."""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

from secagg import ClientId, ClientMessage, Parameters, Round, max_message_bytes, rounds_of
from secagg.transcript import ROUND_OF
from transport.durable.frames import Message, decode_client_frame
from transport.durable.links import Link
from transport.durable.memory_budget import Room
from transport.durable.pieces import Large, Piece, Want
from transport.durable.transfers import Receiving
from transport.errors import LinkError

MAX_RESTARTS = 8
"""Number of times that a client may begin a changed or damaged message again in one session."""

_KIND_OF = {ROUND_OF[kind]: kind for kind in get_args(ClientMessage)}


def head_of(large: Large) -> Message:
    """Return the announced message without its body. LinkError if it is not a message."""
    head = decode_client_frame(large.head)
    if not isinstance(head, Message) or head.body:
        raise LinkError("a LARGE does not begin a message")
    return head


class Incoming:
    """The large messages of all clients of a session, within the memory that they may take.

    Only messages of the open round are accepted, so that others take no memory.

    Args:
        params: the session's parameters.
        links: the clients' links, which hold a message while it arrives.
        room: the memory for these messages, and the waiting line.
    """

    def __init__(self, params: Parameters, links: Mapping[ClientId, Link], room: Room) -> None:
        self._longest = {
            (number, round_): max_message_bytes(params, _KIND_OF[round_])
            for number, round_ in enumerate(rounds_of(params))
        }
        self._links = links
        self._room = room

    def announce(self, link: Link, large: Large, round_: Round) -> Want | None:
        """Note that a client has this message to send; return the WANT if it is the client's turn already.

        Raises:
            LinkError: it is not a message of the open round, or too long for that round.
        """
        longest = self._longest.get((len(link.digests), round_), 0)
        if large.size > longest:
            raise LinkError(f"a message in {round_.value} has {large.size} bytes, but at most {longest} are accepted")
        if link.receiving is None or link.receiving.large != large:
            if link.receiving is not None:
                self.forget(link)
                link.restarts += 1
            link.receiving = Receiving(large)
        self._room.enter(link.client_id, large.size, link.restarts + link.put_out)
        return link.receiving.restart() if self._room.holds(link.client_id) else None

    def add(self, link: Link, piece: Piece, now: float) -> Want | Message | None:
        """Take the next piece, and return the next WANT if there is one, or the message once it is whole.

        Raises:
            LinkError: the piece is not the next one, or the whole does not match the announcement.
        """
        receiving = link.receiving
        assert receiving is not None  # noqa: S101 - the caller saw it
        want = receiving.add(piece)
        self._room.moved(link.client_id, len(piece.body), now)
        if not receiving.is_whole:
            return want
        self.forget(link)
        try:
            body = receiving.body
        except LinkError:
            link.restarts += 1
            raise
        return replace(head_of(receiving.large), body=body)

    def forget(self, link: Link) -> None:
        """Forget a client's partial message."""
        link.receiving = None
        self._room.leave(link.client_id)

    def turn(self, now: float) -> tuple[Link, Want | None] | None:
        """Return the next client to ask and its WANT; without a WANT, a client that lost its place; None if nobody."""
        while (client_id := self._room.admit(now)) is not None:
            link = self._links[client_id]
            if link.greeted and link.receiving is not None:
                return link, link.receiving.restart()
            # It has left, and joins the line again.
            self._room.leave(client_id)
        if (client_id := self._room.overdue(now)) is None:
            return None
        link = self._links[client_id]
        self.forget(link)
        link.put_out += 1
        return link, None
