"""HKDF with SHA-256 (RFC 5869)."""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(secret: bytes, *, salt: bytes, label: bytes, context: bytes = b"", length: int) -> bytes:
    """Return ``length`` bytes derived from ``secret``.

    The info string is one byte with the label's length, the label, then ``context``, whose size is fixed for each
    label; so different pairs (label, context) have different info strings.
    """
    info = len(label).to_bytes(1, "big") + label + context
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)
