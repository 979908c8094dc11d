"""Read canonical msgpack: the few forms that messages have, each in its shortest encoding."""

import numpy as np

from secagg.errors import CodecError
from secagg.messages import Flags


class MessageReader:
    """Read canonical msgpack from front to back."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> memoryview:
        if size > len(self._data) - self._at:
            raise CodecError("the message is cut short")
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def _big_endian(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def array(self) -> int:
        """Read the length of an array of at most 15 items."""
        head = self._take(1)[0]
        if head & 0xF0 != 0x90:
            raise CodecError("a message is a msgpack array of at most 15 items")
        return head & 0x0F

    def uint(self) -> int:
        """Read an unsigned integer in its shortest form."""
        head = self._take(1)[0]
        if head < 0x80:
            return head
        if not 0xCC <= head <= 0xCF:
            raise CodecError("expected an unsigned integer")
        value = self._big_endian(1 << (head - 0xCC))
        smallest = (0x80, 0x100, 0x10000, 0x100000000)[head - 0xCC]
        if value < smallest:
            raise CodecError("an integer is not in its shortest form")
        return value

    def bin(self) -> memoryview:
        """Read a byte string whose length is in its shortest form; return a view, not a copy."""
        head = self._take(1)[0]
        if not 0xC4 <= head <= 0xC6:
            raise CodecError("expected a byte string")
        size = self._big_endian(1 << (head - 0xC4))
        if size < (0, 0x100, 0x10000)[head - 0xC4]:
            raise CodecError("a length is not in its shortest form")
        return self._take(size)

    def bin_of(self, size: int, what: str) -> memoryview:
        """Read a byte string of exactly ``size`` bytes."""
        data = self.bin()
        if len(data) != size:
            raise CodecError(f"{what}: {len(data)} bytes instead of {size}")
        return data

    def items(self, item_bytes: int, limit: int, what: str) -> memoryview:
        """Read whole items of ``item_bytes`` each, at most ``limit``."""
        data = self.bin()
        if len(data) % item_bytes:
            raise CodecError(f"{what}: {len(data)} bytes are not a multiple of {item_bytes}")
        if len(data) > limit * item_bytes:
            raise CodecError(f"{what}: {len(data) // item_bytes} items, but at most {limit}")
        return data

    def flags(self, limit: int) -> Flags:
        """Read a count, then a byte string of that many bits, least significant first, padded with zeros."""
        count = self.uint()
        if count > limit:
            raise CodecError(f"{count} flags, but at most {limit}")
        octets = np.frombuffer(self.bin_of((count + 7) // 8, "flags"), dtype=np.uint8)
        if count % 8 and int(octets[-1]) >> count % 8:
            raise CodecError("flags: the padding is not zero")
        return tuple(np.unpackbits(octets, count=count, bitorder="little").astype(bool).tolist())

    def end(self) -> None:
        if self._at != len(self._data):
            raise CodecError(f"{len(self._data) - self._at} bytes after the end of the message")
