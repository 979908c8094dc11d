"""SHA-256 (FIPS 180-4)."""

from cryptography.hazmat.primitives.hashes import SHA256, Hash

DIGEST_BYTES = 32


def sha256(data: bytes | memoryview) -> bytes:
    """Return SHA-256 of the data alone, 32 bytes."""
    hasher = Hash(SHA256())
    hasher.update(data)
    return hasher.finalize()


def labelled(label: bytes, *parts: bytes | memoryview) -> bytes:
    """Return SHA-256 of one byte with the label's length, the label, and the parts.

    For each label, all parts except the last have fixed sizes, so different inputs have different encodings.
    """
    hasher = Hash(SHA256())
    hasher.update(len(label).to_bytes(1, "big") + label)
    for part in parts:
        hasher.update(part)
    return hasher.finalize()
