"""Ed25519 signatures (RFC 8032)."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_FIELD_PRIME = 2**255 - 19
_ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022

# y-coordinates of the points of order 1, 2, 4 and 8; anyone can sign for such a key.
_SMALL_ORDER = frozenset((0, 1, _FIELD_PRIME - 1, _ORDER_8, _FIELD_PRIME - _ORDER_8))


class SigningKey:
    """An Ed25519 secret key."""

    __slots__ = ("_key",)

    def __init__(self, secret_key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret_key)

    def __repr__(self) -> str:
        return "SigningKey(<redacted>)"

    def public_key(self) -> bytes:
        """Return the public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, statement: bytes) -> bytes:
        """Return the signature, 64 bytes; the same statement always gets the same signature."""
        return self._key.sign(statement)


def is_valid_public_key(key: bytes) -> bool:
    """Return whether ``key`` is the canonical encoding of a y-coordinate, and not of a point of small order.

    Verifying a signature shows whether a point with that coordinate exists.
    """
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)
    return len(key) == KEY_BYTES and y < _FIELD_PRIME and y not in _SMALL_ORDER


def verify(public_key: bytes, signature: bytes, statement: bytes) -> bool:
    """Return whether ``signature`` is a signature of ``statement`` under a valid ``public_key``."""
    if not is_valid_public_key(public_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True
