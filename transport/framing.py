"""Messages on a byte stream: length-prefixed frames with a checksum. Sans-IO.

A frame is ``length (4 bytes, big-endian) | CRC-32 of the payload (4 bytes, big-endian) | payload``.  The checksum
finds damage on a link without integrity protection; against an attacker a link needs TLS.
"""

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import TypeAlias

from transport.errors import FrameError

_HEADER = Struct(">II")
HEADER_BYTES = _HEADER.size

# Payloads of at least this size are returned as views of the buffer, without a copy.
_LARGE = 1 << 16


Payload: TypeAlias = bytes | memoryview | Sequence[bytes | memoryview]
"""The content of a frame: bytes, or the pieces that `secagg.encode_parts` returns, in order."""

Frame: TypeAlias = bytes | bytearray | memoryview
"""A frame, or any piece of a stream of frames."""


def frame_header(payload: Payload) -> bytes:
    """Return the bytes before ``payload`` in its frame; sending the header and the pieces in turn copies nothing."""
    parts = [payload] if isinstance(payload, bytes | memoryview) else payload
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return _HEADER.pack(sum(map(len, parts)), checksum)


def encode_frame(payload: Payload) -> bytes:
    """Return the frame with ``payload`` as one piece; this copies a large vector."""
    parts = [payload] if isinstance(payload, bytes | memoryview) else payload
    return b"".join((frame_header(parts), *parts))


class FrameDecoder:
    """A decoder that cuts a stream into payloads; feed it the bytes of the socket in pieces of any size.

    Args:
        max_payload: the largest payload to accept, in bytes (`secagg.max_message_bytes`): a frame that announces
            more is refused before any of it is stored. It may be changed at any time, for the next frame.
    """

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self._buffer = bytearray()
        self.broken: str | None = None

    @property
    def incomplete(self) -> bool:
        """Return whether the stream so far ends within a frame; at its end, this means that the sender broke off."""
        return bool(self._buffer)

    def feed(self, data: Frame) -> list[memoryview]:
        """Return the payloads that ``data`` completes, each the only view of its bytes.

        Raises:
            FrameError: a frame is too long or damaged; all later calls raise too. If payloads precede it in ``data``,
                they are returned first: `broken` is set at once, and the next call raises.
        """
        if self.broken is None:
            self._buffer += data
            payloads = []
            try:
                while (payload := self._next()) is not None:
                    payloads.append(payload)
            except FrameError as error:
                self.broken = str(error)
                self._buffer.clear()
            if payloads or self.broken is None:
                return payloads
        raise FrameError(self.broken)

    def _next(self) -> memoryview | None:
        if len(self._buffer) < HEADER_BYTES:
            return None
        length, checksum = _HEADER.unpack_from(self._buffer)
        if length > self.max_payload:
            raise FrameError(f"a frame announces {length} bytes, but at most {self.max_payload} are accepted")
        end = HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        payload = memoryview(self._buffer)[HEADER_BYTES:end].toreadonly()
        if length < _LARGE:
            payload = memoryview(bytes(payload))
            del self._buffer[:end]
        else:
            # A large payload stays in place, and the bytes after it are moved.
            self._buffer = self._buffer[end:]
        if zlib.crc32(payload) != checksum:
            raise FrameError("a frame is damaged: its checksum does not match")
        return payload
