"""The fields of the link protocol's frames: integers and byte strings in msgpack's shortest form, which is unique."""

from typing import TypeVar

import msgpack

from transport.errors import LinkError, printable

MAX_TEXT_BYTES = 400
"""Maximum length of the text of a refusal or an end, in UTF-8; longer texts are cut."""

_F = TypeVar("_F")


class Reader:
    """A reader of a frame's fields, from front to back."""

    def __init__(self, payload: bytes | memoryview) -> None:
        self._data = memoryview(payload).toreadonly().cast("B")
        self._at = 0

    def _take(self, size: int) -> memoryview:
        if size > len(self._data) - self._at:
            raise LinkError("a frame is cut short")
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def kind(self) -> int:
        return self._take(1)[0]

    def uint(self, what: str, limit: int) -> int:
        """Read an unsigned integer in its shortest form."""
        value = head = self._take(1)[0]
        if head >= 0x80:
            if not 0xCC <= head <= 0xCF:
                raise LinkError(f"{what} is not an unsigned integer")
            value = int.from_bytes(self._take(1 << (head - 0xCC)), "big")
            if value < (0x80, 0x100, 0x10000, 0x100000000)[head - 0xCC]:
                raise LinkError(f"{what}: not in its shortest form")
        if value > limit:
            raise LinkError(f"{what} is {value}, above {limit}")
        return value

    def bin(self, what: str, limit: int) -> bytes:
        """Read a byte string whose length is in its shortest form."""
        head = self._take(1)[0]
        if not 0xC4 <= head <= 0xC6:
            raise LinkError(f"{what} is not a byte string")
        size = int.from_bytes(self._take(1 << (head - 0xC4)), "big")
        if size < (0, 0x100, 0x10000)[head - 0xC4]:
            raise LinkError(f"{what}: its length is not in its shortest form")
        if size > limit:
            raise LinkError(f"{what} has {size} bytes, above {limit}")
        return bytes(self._take(size))

    def text(self) -> str:
        try:
            text = self.bin("a text", MAX_TEXT_BYTES).decode()
        except UnicodeDecodeError:
            raise LinkError("a text is not UTF-8") from None
        # It comes from the other side and is shown in logs and terminals.
        if printable(text, MAX_TEXT_BYTES) != text:
            raise LinkError("a text holds characters that cannot be printed")
        return text

    def rest(self) -> memoryview:
        return self._take(len(self._data) - self._at)

    def end(self, frame: _F) -> _F:
        if self._at != len(self._data):
            raise LinkError(f"{len(self._data) - self._at} bytes after the end of a frame")
        return frame


def pack(kind: int, *values: int | bytes) -> bytes:
    return bytes([kind]) + b"".join(map(msgpack.packb, values))


def pack_text(text: str) -> bytes:
    return printable(text, MAX_TEXT_BYTES).encode()[:MAX_TEXT_BYTES].decode(errors="ignore").encode()
