"""The mask generator: AES-128 in counter mode (NIST SP 800-38A), seekable by chunk.

Chunk i, of 256 KiB, is the keystream whose first counter block is BE96(i) || BE32(2).  A chunk has 2^14 blocks, so the
32-bit counter never wraps and no counter block serves two chunks.  It is plain AES-CTR; here it is drawn
through AES-GCM with nonce BE96(i), whose data counter starts at exactly that block (SP 800-38D, section 7.1),
because OpenSSL's wide-vector code for GCM is about twice as fast as its CTR.  The tag is discarded.
"""

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 16
# Measured (docs/decisions/0027-chunks-of-256-kib.md): buffer and accumulator stay in the core's cache, and two threads
# seldom wait for the interpreter lock, which each call takes.
CHUNK_BYTES = 1 << 18

_TAG_BYTES = 16
_ZEROS = memoryview(bytes(CHUNK_BYTES))


def chunk_buffer(size: int = CHUNK_BYTES) -> bytearray:
    """Return a buffer for the first ``size`` bytes of a chunk and the tag that `Keystream.chunk_into` discards."""
    return bytearray(size + _TAG_BYTES)


class Keystream:
    """The keystream of one 16-byte key."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key of the mask generator must be {KEY_BYTES} bytes")
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "Keystream(<redacted>)"

    def chunk_into(self, index: int, buffer: memoryview, size: int) -> None:
        """Write the first ``size`` <= CHUNK_BYTES bytes of chunk ``index`` to the start of ``buffer``.

        The 16 bytes after them are overwritten too.  The interpreter lock is released during the work.
        """
        self._cipher.encrypt_into(index.to_bytes(12, "big"), _ZEROS[:size], None, buffer[: size + _TAG_BYTES])


class KeystreamReader:
    """Read a keystream from its start, as a source of bytes: the same key always gives the same bytes."""

    __slots__ = ("_keystream", "_position")

    def __init__(self, key: bytes) -> None:
        self._keystream = Keystream(key)
        self._position = 0

    def __repr__(self) -> str:
        return "KeystreamReader(<redacted>)"

    def __call__(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        read = bytearray()
        while len(read) < size:
            chunk, start = divmod(self._position, CHUNK_BYTES)
            stop = min(CHUNK_BYTES, start + size - len(read))
            # A chunk is always drawn from its start. Readers ask for much at once, so little is drawn twice.
            buffer = chunk_buffer(stop)
            self._keystream.chunk_into(chunk, memoryview(buffer), stop)
            read += memoryview(buffer)[start:stop]
            self._position += stop - start
        return bytes(read)
