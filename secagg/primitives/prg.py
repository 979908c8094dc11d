"""The mask generator: AES-128 in counter mode (NIST SP 800-38A), seekable by chunk.

Chunk i, of 256 KiB, is the keystream whose first counter block is BE96(i) || BE32(2).  A chunk has 2^14 blocks, so
the 32-bit counter never wraps and no counter block serves two chunks.  It is plain AES-CTR; here it is drawn
through AES-GCM with nonce BE96(i), whose data counter starts at exactly that block (SP 800-38D, section 7.1),
because OpenSSL's wide-vector code for GCM is about twice as fast as its CTR.  The tag is discarded.
"""

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 16
CHUNK_BYTES = 1 << 18

_TAG_BYTES = 16
_ZEROS = memoryview(bytes(CHUNK_BYTES))


def chunk_buffer() -> bytearray:
    """A buffer for `Keystream.chunk_into`: one chunk, and room for the tag that is thrown away."""
    return bytearray(CHUNK_BYTES + _TAG_BYTES)


class Keystream:
    """The keystream of one 16-byte key."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the mask generator's key is {KEY_BYTES} bytes")
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "Keystream(<redacted>)"

    def chunk_into(self, index: int, buffer: memoryview, size: int) -> None:
        """Write the first ``size`` <= CHUNK_BYTES bytes of chunk ``index`` to the start of ``buffer``.

        The 16 bytes after them are overwritten too.  Releases the interpreter lock while it works.
        """
        self._cipher.encrypt_into(index.to_bytes(12, "big"), _ZEROS[:size], None, buffer[: size + _TAG_BYTES])


class KeystreamReader:
    """A keystream as a source of bytes, read from its beginning: the same key gives the same bytes again."""

    __slots__ = ("_buffer", "_chunk", "_keystream", "_used")

    def __init__(self, key: bytes) -> None:
        self._keystream = Keystream(key)
        self._buffer = chunk_buffer()
        self._chunk = -1
        self._used = CHUNK_BYTES

    def __repr__(self) -> str:
        return "KeystreamReader(<redacted>)"

    def __call__(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        read = bytearray()
        while len(read) < size:
            if self._used == CHUNK_BYTES:
                self._chunk += 1
                self._used = 0
                self._keystream.chunk_into(self._chunk, memoryview(self._buffer), CHUNK_BYTES)
            taken = self._buffer[self._used : min(CHUNK_BYTES, self._used + size - len(read))]
            self._used += len(taken)
            read += taken
        return bytes(read)
