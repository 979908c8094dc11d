"""Fixed randomness: SHAKE-256 streams (FIPS 202), one for each label."""

import hashlib

PREFIX = "secagg test vectors 1/"


class Stream:
    """A stream of bytes from its beginning: SHAKE-256 of PREFIX and the label in ASCII. Records its output."""

    def __init__(self, label: str) -> None:
        self._shake = hashlib.shake_256((PREFIX + label).encode("ascii"))
        self._used = 0
        self.draws: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        drawn = self._shake.digest(self._used + size)[self._used :]
        self._used += size
        self.draws.append(drawn)
        return drawn

    def integers(self, count: int, bits: int) -> list[int]:
        """Return integers of a number of bits, each from the low bits of 8 bytes read little-endian."""
        return [int.from_bytes(self(8), "little") % (1 << bits) for _ in range(count)]
