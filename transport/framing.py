"""Messages on a byte stream: length-prefixed frames with a checksum. Sans-IO.

A frame is ``length (4 bytes, big-endian) | CRC-32 of the payload (4 bytes, big-endian) | payload``.  The checksum
finds damage on a link that has no integrity of its own; against an attacker a link needs TLS.
"""

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import TypeAlias

from transport.errors import FrameError

_HEADER = Struct(">II")
HEADER_BYTES = _HEADER.size

# Payloads from this size on are handed out as they lie in the buffer, without a copy.
_LARGE = 1 << 16


Payload: TypeAlias = bytes | memoryview | Sequence[bytes | memoryview]
"""What a frame carries: bytes, or the pieces that `secagg.encode_parts` gives, in order."""


def frame_header(payload: Payload) -> bytes:
    """What goes before ``payload`` in its frame: whoever sends header and pieces in turn copies nothing."""
    parts = [payload] if isinstance(payload, bytes | memoryview) else payload
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return _HEADER.pack(sum(map(len, parts)), checksum)


def encode_frame(payload: Payload) -> bytes:
    """The frame that carries ``payload``, as one piece: a large vector is copied here."""
    parts = [payload] if isinstance(payload, bytes | memoryview) else payload
    return b"".join((frame_header(parts), *parts))


class FrameDecoder:
    """Cuts a stream into payloads; feed it whatever the socket gives, in pieces of any size.

    Args:
        max_payload: the largest payload to accept, in bytes (`secagg.max_message_bytes`): a frame that announces
            more is refused before anything of it is kept. It may be changed at any time, for the next frame.
    """

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self._buffer = bytearray()
        self.broken: str | None = None

    @property
    def incomplete(self) -> bool:
        """Whether the stream ends within a frame: if it does so for good, the sender broke off."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[memoryview]:
        """The payloads that ``data`` completes, each the only view of its bytes.

        Raises:
            FrameError: a frame that is too long or damaged; from then on always. Payloads that came before it in
                ``data`` are returned first: then the next call raises, and `broken` says so at once.
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
            # A large payload stays where it is, and what follows it is moved.
            self._buffer = self._buffer[end:]
        if zlib.crc32(payload) != checksum:
            raise FrameError("a frame is damaged: its checksum does not match")
        return payload
