"""AES-128-GCM with keys that encrypt exactly one message, so that the nonce is constant and does not travel."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 16
TAG_BYTES = 16

_NONCE = bytes(12)


class AuthenticationError(Exception):
    """Raised when ciphertext, key or associated data differ from those of the sender."""


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Return the ciphertext with its tag, ``len(plaintext) + TAG_BYTES`` bytes. Never seal twice under one key."""
    return AESGCM(key).encrypt(_NONCE, plaintext, associated_data)


def open_sealed(key: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """Return the plaintext; AuthenticationError if it does not authenticate."""
    try:
        return AESGCM(key).decrypt(_NONCE, ciphertext, associated_data)
    except InvalidTag:
        raise AuthenticationError("a ciphertext does not authenticate") from None
