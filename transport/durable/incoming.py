"""Large messages that come to a server in pieces: what is there of each, and whose turn it is. Sans-IO."""

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
"""How often a client may begin anew, in one session, messages that it has changed or spoilt."""

_KIND_OF = {ROUND_OF[kind]: kind for kind in get_args(ClientMessage)}


def head_of(large: Large) -> Message:
    """The message that is announced, without its body. LinkError if it is none."""
    head = decode_client_frame(large.head)
    if not isinstance(head, Message) or head.body:
        raise LinkError("a LARGE that is no message")
    return head


class Incoming:
    """Those of all clients of a session, within the room that there is for them.

    Only a message of the open round is taken: of what belongs to no round that is open, nothing need be held.

    Args:
        params: the session's.
        links: where a client's message is kept while it comes in.
        room: for how many bytes of messages there is room.
    """

    def __init__(self, params: Parameters, links: Mapping[ClientId, Link], room: Room) -> None:
        self._longest = {
            (number, round_): max_message_bytes(params, _KIND_OF[round_])
            for number, round_ in enumerate(rounds_of(params))
        }
        self._links = links
        self._room = room

    def announce(self, link: Link, large: Large, round_: Round) -> Want | None:
        """A client has this message, its next one, to send. What to ask for, if it is its turn already.

        Raises:
            LinkError: it is not a message of the open round, or longer than one of that round can be.
        """
        longest = self._longest.get((len(link.digests), round_), 0)
        if large.size > longest:
            raise LinkError(f"a message of {large.size} bytes in {round_.value}, but at most {longest} are accepted")
        if link.receiving is None or link.receiving.large != large:
            if link.receiving is not None:
                self.forget(link)
                link.restarts += 1
            link.receiving = Receiving(large)
        self._room.enter(link.client_id, large.size, link.restarts + link.put_out)
        return link.receiving.restart() if self._room.holds(link.client_id) else None

    def add(self, link: Link, piece: Piece, now: float) -> Want | Message | None:
        """Take the next piece. What to ask for then, if anything; or the message, once it is whole.

        Raises:
            LinkError: the piece is not the next one, or the whole is not what was announced.
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
        """Hold nothing more of a client's message."""
        link.receiving = None
        self._room.leave(link.client_id)

    def turn(self, now: float) -> tuple[Link, Want | None] | None:
        """Whom to ask for a message, as there is room now; without a WANT: who has lost its place. None: nobody."""
        while (client_id := self._room.admit(now)) is not None:
            link = self._links[client_id]
            if link.greeted and link.receiving is not None:
                return link, link.receiving.restart()
            # It has gone, and joins the line anew.
            self._room.leave(client_id)
        if (client_id := self._room.overdue(now)) is None:
            return None
        link = self._links[client_id]
        self.forget(link)
        link.put_out += 1
        return link, None
