"""AES-128-GCM under keys that are used for exactly one message, so that the nonce is a constant and never travels."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 16
TAG_BYTES = 16

_NONCE = bytes(12)


class AuthenticationError(Exception):
    """The ciphertext, its key or its associated data is not what the sender used."""


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """The ciphertext with its tag, ``len(plaintext) + TAG_BYTES`` bytes. Never seal twice under one key."""
    return AESGCM(key).encrypt(_NONCE, plaintext, associated_data)


def open_sealed(key: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """The plaintext, or AuthenticationError."""
    try:
        return AESGCM(key).decrypt(_NONCE, ciphertext, associated_data)
    except InvalidTag:
        raise AuthenticationError("a ciphertext does not authenticate") from None
