"""The frames that a client sends and receives in pieces. Sans-IO."""

import hashlib
from dataclasses import replace
from typing import TypeAlias

from secagg import max_message_bytes
from transport.driver import Parts
from transport.durable.frames import Message, Offer, ServerFrame, decode_server_frame, encode
from transport.durable.pieces import Large, Piece, Want
from transport.durable.transfers import HeldAnnouncement, Receiving, Sending, is_large
from transport.errors import LinkError, SessionRefusedError

ANOTHER_SESSION = "the server now offers another session than the one that this client is in"

Whole: TypeAlias = tuple[ServerFrame, bytes]
"""A frame with all its pieces, and its payload if it is an offer."""

_OFFER = b"\x02"


class ClientTransfers:
    """The transfers of one client in one session.

    Args:
        max_extra: maximum length of the announcement, in bytes.
        held: the announcement that the client holds.
    """

    def __init__(self, max_extra: int, held: HeldAnnouncement) -> None:
        self._max_extra = max_extra
        self._held = held
        self._extra: bytes | None = None
        self._max_message = 0
        self._receiving: Receiving | None = None
        self._sending: Sending | None = None

    def begin(self, offer: Offer) -> None:
        """Note that the client is in this session from now on."""
        self._extra, self._max_message = offer.extra, max_message_bytes(offer.params)

    def connected(self) -> None:
        """Note a new connection: received bytes stay, and the server announces its transfers again."""
        self._sending = None

    def forget(self) -> None:
        """Forget the session. The bytes of its announcement stay in `HeldAnnouncement`."""
        self._receiving = self._sending = None

    def send(self, message: Message) -> tuple[Parts, Parts]:
        """Return the frame to send for an answer, and the answer; a large answer is joined to one piece."""
        parts = encode(message)
        if not is_large(parts):
            return parts, parts[1:]
        self._sending = Sending(parts)
        return encode(self._sending.large), (self._sending.body,)

    def acknowledged(self) -> None:
        """Note that the answer has arrived."""
        self._sending = None

    def received(self, frame: Large | Piece | Want) -> tuple[list[Parts], Whole | None]:
        """Take a frame, and return the frames to send, or the frame that is complete now.

        Raises:
            LinkError: the server announces more bytes than are accepted, or the bytes are not the announced ones.
            SessionRefusedError: the server announces another session than the client's.
        """
        want: Want | None = None
        match frame:
            case Want():
                # A WANT for an acknowledged answer may still arrive.
                is_current = self._sending is not None and frame.digest == self._sending.large.digest
                return (self._sending.wanted(frame)[0] if is_current and self._sending else []), None
            case Large():
                self._receiving = self._expected(frame)
                if not self._receiving.is_whole:
                    want = self._receiving.restart()
            case Piece() if self._receiving is not None:
                want = self._receiving.add(frame)
        if want is not None:
            return [encode(want)], None
        # Nothing is being received: it is the last piece again, which a channel without integrity may deliver.
        return [], self._whole() if self._receiving is not None and self._receiving.is_whole else None

    def _expected(self, large: Large) -> Receiving:
        """Return the transfer for this LARGE, with the bytes that are held already."""
        is_offer = large.head[:1] == _OFFER
        longest = self._max_extra if is_offer else self._max_message
        if large.size > longest:
            raise LinkError(f"the server announces {large.size} bytes in pieces, but at most {longest} are accepted")
        if not is_offer:
            is_same = self._receiving is not None and self._receiving.large == large
            return self._receiving if self._receiving is not None and is_same else Receiving(large)
        if self._extra is None:
            return self._held.receiving(large)
        if large.size != len(self._extra) or large.digest != hashlib.sha256(self._extra).digest():
            raise SessionRefusedError(ANOTHER_SESSION)
        return Receiving(large, self._extra)

    def _whole(self) -> Whole:
        assert self._receiving is not None  # noqa: S101 - the caller saw it
        (large, receiving), self._receiving = (self._receiving.large, self._receiving), None
        try:
            body = receiving.body
        except LinkError:
            self._held.forget()
            raise
        if large.head[:1] != _OFFER:
            message = decode_server_frame(large.head)
            if not isinstance(message, Message) or message.body:
                raise LinkError("the server sent a frame in pieces that is neither an offer nor a message")
            return replace(message, body=body), b""
        payload = b"".join((large.head, body))
        offer = decode_server_frame(payload, large.size)
        if not isinstance(offer, Offer) or len(offer.extra) != large.size:
            self._held.forget()
            raise LinkError("the server sent more in pieces than an offer's announcement")
        self._held.keep(large, offer.extra)
        return offer, payload
