"""Connections of both ends: frames in and out, and limits for peers that are silent or too slow."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from secagg import ClientId
from transport.driver import Parts
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.errors import TransportError
from transport.framing import HEADER_BYTES, FrameDecoder, frame_header
from transport.tcp.settings import Limits
from transport.tcp.stream import CHUNK, Stream

PING = b"".join(link.encode(link.Ping()))
PONG = b"".join(link.encode(link.Pong()))
_WANT = link.encode(_pieces.Want(b"", 0, 0))[0][:1]
_URGENT = (PING, PONG, _WANT)

# Maximum queue for a peer that reads: the bytes that it asked for, twice.
_MAX_QUEUED_BYTES = 2 * _pieces.WINDOW_BYTES


class CutOffError(TransportError):
    """Raised when a connection was ended because the other side exceeded its limits.

    Attributes:
        reason: one word for logs and counters.
    """

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


class Connection:
    """Frames over a stream. `frames` and `write` run as one task each, until one of them ends.

    Args:
        stream: the byte stream.
        limits: limits of time and memory.
        max_payload: maximum payload to accept, in bytes.
        max_queued: maximum bytes that may wait behind the frame that is being sent; with more, the other side counts
            as not reading.
        patient: whether to wait for the first frame as for all others, instead of for `Limits.handshake_seconds`.
        peer: the other side's address, for logs.
        client_id: the client at the other end, if known.

    Attributes:
        key: the client, and the number that its host gave this connection.
    """

    def __init__(
        self,
        stream: Stream,
        limits: Limits,
        *,
        max_payload: int = link.MAX_PAYLOAD_BYTES,
        max_queued: int = _MAX_QUEUED_BYTES,
        patient: bool = False,
        peer: str = "",
        client_id: ClientId | None = None,
    ) -> None:
        self.stream = stream
        self.peer = peer
        self.client_id = client_id
        self.key: tuple[ClientId, int] | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self._limits = limits
        self._decoder = FrameDecoder(max_payload)
        self._max_queued = max_queued
        self._patient = patient
        # Frames in pieces, with the header first.
        self._queue: deque[Parts] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._last = False
        self._cut: CutOffError | None = None

    def send(self, parts: Parts, *, last: bool = False) -> None:
        """Queue a payload in pieces. Nothing is sent after the ``last`` one, and `write` returns once it is sent.

        Raises:
            CutOffError: too many bytes wait already.
        """
        if self._last:
            return
        size = sum(map(len, parts))
        if self._queue and self._queued_bytes + size > self._max_queued:
            raise CutOffError("not-reading", f"{self._queued_bytes} bytes wait to be sent to it")
        # These frames go first.
        (self._queue.appendleft if parts[0][:1] in _URGENT else self._queue.append)((frame_header(parts), *parts))
        self._queued_bytes += size
        self._last = last
        self._wake.set()

    def finish(self) -> None:
        """Send the queued frames, and nothing after them."""
        self._last = True
        self._wake.set()

    def dismiss(self, parts: Parts) -> None:
        """Send the reason, if the queue has room, and end the connection."""
        with contextlib.suppress(CutOffError):
            self.send(parts)
        self.finish()

    def cut(self, error: CutOffError) -> None:
        """Make `write` raise ``error`` at its next step."""
        self._cut = error
        self._wake.set()

    def raise_bound(self) -> None:
        """Accept frames of any length from the next one on, and raise the limit of queued bytes to match."""
        self._max_queued = _MAX_QUEUED_BYTES
        self._decoder.max_payload = link.MAX_PAYLOAD_BYTES

    async def write(self) -> None:
        """Send the queued frames until the last one is sent. OSError: the connection broke."""
        while True:
            while self._queue and self._cut is None:
                pieces = self._next_pieces()
                await self.stream.send(pieces)
                self.bytes_sent += sum(map(len, pieces))
            if self._cut is not None:
                raise self._cut
            if self._last:
                return
            self._wake.clear()
            await self._wake.wait()

    def _next_pieces(self) -> list[bytes | memoryview]:
        """Return the next frame with the small ones behind it, which are sent together."""
        pieces: list[bytes | memoryview] = []
        size = 0
        while self._queue and (not pieces or size + sum(map(len, self._queue[0])) <= CHUNK):
            frame = self._queue.popleft()
            pieces += frame
            size += sum(map(len, frame))
            self._queued_bytes -= sum(map(len, frame)) - HEADER_BYTES
        return pieces

    async def frames(self) -> AsyncIterator[memoryview]:
        """Yield the received payloads until the other side closes.

        Raises:
            CutOffError: it is silent, too slow, or sends bytes that are not a frame.
            TlsRefusedError: it refused us, or its bytes are not TLS.
            OSError: the connection broke.
        """
        clock = asyncio.get_running_loop().time
        limits = self._limits
        heard, asked, heard_frame = clock(), False, self._patient
        begun, arrived = 0.0, 0
        while True:
            if self._decoder.incomplete:
                due = begun + limits.frame_seconds + arrived / limits.minimum_rate
            elif not heard_frame:
                due = heard + limits.handshake_seconds
            else:
                due = heard + limits.idle_seconds + (limits.answer_seconds if asked else 0.0)
            try:
                async with asyncio.timeout_at(due):
                    data = await self.stream.receive()
            except TimeoutError:
                if self._decoder.incomplete:
                    raise CutOffError("slow-frame", f"a frame is too slow: {arrived} bytes of it have come") from None
                if not heard_frame:
                    raise CutOffError("no-hello", "nothing came over the connection") from None
                if self.stream.taken_at > heard:
                    heard, asked = self.stream.taken_at, False
                    continue
                if asked:
                    raise CutOffError("silent", f"no answer within {limits.answer_seconds:g} s") from None
                asked = True
                self.send((PING,))
                continue
            if not data:
                if self._decoder.incomplete:
                    raise CutOffError("broken-off", "the connection ended within a frame")
                return
            heard, asked = clock(), False
            if not self._decoder.incomplete:
                begun, arrived = heard, 0
            arrived += len(data)
            self.bytes_received += len(data)
            decoder = self._decoder
            payloads = deque(() if decoder.broken else _fed(decoder, data))
            # Hold no reference to this frame while the next one is awaited.
            del data
            if payloads:
                heard_frame = True
                begun, arrived = heard, 0
            while payloads:
                yield payloads.popleft()
            if decoder.broken:
                raise CutOffError("bad-frame", decoder.broken)


def _fed(decoder: FrameDecoder, data: bytes) -> list[memoryview]:
    try:
        return decoder.feed(data)
    except TransportError:
        return []  # `broken` has the reason
