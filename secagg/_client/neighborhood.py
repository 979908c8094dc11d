"""Describe a client's neighbourhood: the clients it was listed with, itself included, and their public keys."""

from dataclasses import dataclass
from typing import Self

from secagg import statements
from secagg.messages import PeerKeys
from secagg.params import ClientId
from secagg.primitives import signing
from secagg.primitives.agreement import KEY_BYTES
from secagg.primitives.digest import DIGEST_BYTES


@dataclass(frozen=True, slots=True, repr=False)
class Neighborhood:
    """The parts of a checked `PeerKeys` that later rounds need. Public.

    Attributes:
        client_ids: ascending; all other fields are in their order.
        mask_public_keys: 32 bytes each.
        identity_keys: 32 bytes each; empty where nothing is signed.
        key_digests: `statements.keys_digest`, 32 bytes each; empty where nothing is signed.
    """

    client_ids: tuple[ClientId, ...]
    mask_public_keys: bytes
    identity_keys: bytes
    key_digests: bytes

    @classmethod
    def of(cls, message: PeerKeys, *, is_signed: bool) -> Self:
        """Return the neighbourhood that the message lists."""
        digests = _key_digests(message) if is_signed else b""
        return cls(message.client_ids, message.mask_public_keys, message.identity_keys, digests)

    def mask_public_key(self, place: int) -> bytes:
        """Return the mask key of the client in that place."""
        return self.mask_public_keys[KEY_BYTES * place : KEY_BYTES * (place + 1)]

    def split_identity_keys(self) -> list[bytes]:
        """Return the identity keys one by one."""
        return split(self.identity_keys, signing.KEY_BYTES)

    def split_key_digests(self) -> list[bytes]:
        """Return the key digests one by one."""
        return split(self.key_digests, DIGEST_BYTES)


def split(items: bytes, size: int) -> list[bytes]:
    """Split concatenated items of one size."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def _key_digests(message: PeerKeys) -> bytes:
    return b"".join(
        statements.keys_digest(message.session_id, peer_id, *keys)
        for peer_id, *keys in zip(
            message.client_ids,
            split(message.identity_keys, signing.KEY_BYTES),
            split(message.channel_public_keys, KEY_BYTES),
            split(message.mask_public_keys, KEY_BYTES),
            strict=True,
        )
    )
