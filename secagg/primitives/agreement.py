"""X25519 key agreement (RFC 7748)."""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

KEY_BYTES = 32

_FIELD_PRIME = 2**255 - 19

# Canonical u-coordinates of order 1, 2, 4 or 8 on the curve and its twist; any exchange with them gives zero.
_SMALL_ORDER = frozenset(
    (
        0,
        1,
        _FIELD_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
)


def public_key(secret_key: bytes) -> bytes:
    """Return the 32-byte public key of a 32-byte secret key (any 32 bytes; X25519 clamps them)."""
    return X25519PrivateKey.from_private_bytes(secret_key).public_key().public_bytes_raw()


def is_valid_public_key(key: bytes) -> bool:
    """Return whether ``key`` is the canonical encoding of a point that does not have small order.

    RFC 7748 allows other encodings of the same point; here each point has one encoding, so that keys can be compared as
    bytes.
    """
    point = int.from_bytes(key, "little")
    return len(key) == KEY_BYTES and point < _FIELD_PRIME and point not in _SMALL_ORDER


class SecretKey:
    """An X25519 secret key, parsed once for exchanges with many peers."""

    __slots__ = ("_key",)

    def __init__(self, secret_key: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret_key)

    def __repr__(self) -> str:
        return "SecretKey(<redacted>)"

    def public_key(self) -> bytes:
        """Return the public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def exchange(self, peer_public_key: bytes) -> bytes:
        """Return the 32-byte shared secret; ValueError if it is all zero (RFC 7748, section 6.1)."""
        return self._key.exchange(X25519PublicKey.from_public_bytes(peer_public_key))
