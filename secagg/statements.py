"""Build the statements that identities sign: their keys, and their view of the survivors.

The paper signs bare keys and the bare set of survivors. Here each statement also names the session and the round, so
that a signature of another session is worthless.  The view covers the keys of all its members, the signer included.  On
the sparse graph, signer and receiver have only some members in common; the receiver must check that both of them are
among these members, with the keys that the receiver knows.
"""

from collections.abc import Iterable
from enum import IntEnum, unique

from secagg.params import ClientId
from secagg.primitives import digest, labels


@unique
class Standing(IntEnum):
    """The progress of a member of a neighbourhood."""

    ADVERTISED = 0
    SHARED = 1
    SURVIVED = 2


def standing(shared: bool, survives: bool) -> Standing:
    """Return the standing of a member according to the two lists that the server sent."""
    return Standing.SURVIVED if survives else Standing.SHARED if shared else Standing.ADVERTISED


def advertised_keys(session_id: bytes, client_id: ClientId, channel_public_key: bytes, mask_public_key: bytes) -> bytes:
    """Return what a client signs in round AdvertiseKeys: these are my keys in this session."""
    return labels.ADVERTISED_KEYS + session_id + client_id.to_bytes(4, "big") + channel_public_key + mask_public_key


def keys_digest(
    session_id: bytes, client_id: ClientId, identity_key: bytes, channel_public_key: bytes, mask_public_key: bytes
) -> bytes:
    """Return the digest, 32 bytes, of one member's keys."""
    return digest.labelled(
        labels.MEMBER_KEYS,
        session_id,
        client_id.to_bytes(4, "big"),
        identity_key,
        channel_public_key,
        mask_public_key,
    )


def member(keys: bytes, standing: Standing) -> bytes:
    """Return the digest, 32 bytes, of one member with its standing; ``keys`` is its `keys_digest`."""
    return digest.labelled(labels.MEMBER, bytes([standing]), keys)


def view_digest(session_id: bytes, members: Iterable[bytes]) -> bytes:
    """Return the digest, 32 bytes, of a neighbourhood as its members see it.

    The members are sorted by their digests, so that a client that knows some members by name and the others by digest
    only computes the same statement.
    """
    return digest.labelled(labels.VIEW_DIGEST, session_id, b"".join(sorted(members)))


def view(session_id: bytes, signer_id: ClientId, view_digest: bytes) -> bytes:
    """Return what a survivor signs in round ConsistencyCheck: this is my neighbourhood, myself included."""
    return labels.VIEW + session_id + signer_id.to_bytes(4, "big") + view_digest
