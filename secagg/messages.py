"""Messages of the protocol, one frozen dataclass each. They hold values; the codec turns them into bytes.

The ids in `PeerKeys` do not travel again: later messages name peers in the order of that list, by flags (one for each
peer) and by concatenated items of fixed size.  ``session_id`` opens every message, so that a message of one session is
never taken for one of another.
"""

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import TypeAlias

import numpy as np

from secagg.algebra.ring import RingVector
from secagg.params import ClientId
from secagg.sharing import ShareArray

Flags: TypeAlias = tuple[bool, ...]
"""One flag for each peer, in the order of `PeerKeys.client_ids`."""


@unique
class MessageType(IntEnum):
    """Numbers of the messages on the wire."""

    ADVERTISE_KEYS = 1
    PEER_KEYS = 2
    SHARE_KEYS = 3
    PEER_SHARES = 4
    MASKED_INPUT = 5
    SURVIVOR_LIST = 6
    UNMASKING_SHARES = 7
    CONSISTENCY_CHECK = 8
    CONSISTENCY_PROOF = 9


@dataclass(frozen=True, slots=True)
class AdvertiseKeys:
    """Client to server, round AdvertiseKeys: c_u^PK and s_u^PK, 32 bytes each.

    In the signed modes also the client's identity key (32 bytes) and its signature (64 bytes) of
    `statements.advertised_keys`; in the other mode both are empty.
    """

    session_id: bytes
    channel_public_key: bytes
    mask_public_key: bytes
    identity_key: bytes = b""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """Server to client, opens ShareKeys: the keys of the receiver's neighbourhood, the receiver included.

    ``client_ids`` is in ascending order; the keys are concatenated in the same order, 32 bytes each. In the signed
    modes so are the identity keys (32 bytes each) and signatures (64 bytes each).
    """

    session_id: bytes
    client_ids: tuple[ClientId, ...]
    channel_public_keys: bytes
    mask_public_keys: bytes
    identity_keys: bytes = b""
    signatures: bytes = b""


@dataclass(frozen=True, slots=True)
class ShareKeys:
    """Client to server, round ShareKeys: e_uv for each peer except itself, ENCRYPTED_SHARES_BYTES bytes each.

    ``seed_commitment`` (32 bytes, `sharing.seed_commitment`) lets the server recognise a wrong self-mask seed. With
    noise components, ``noise_commitments`` (32 bytes each, `noise.commitment`) do so for their seeds, and
    ``noise_corrections`` holds what each holder from place t - 1 on needs beside its pad: SHARE_BYTES bytes for each
    component, holder after holder. Both are empty otherwise.
    """

    session_id: bytes
    seed_commitment: bytes
    encrypted_shares: bytes
    noise_commitments: bytes = b""
    noise_corrections: bytes = b""


@dataclass(frozen=True, slots=True)
class PeerShares:
    """Server to client, opens MaskedInputCollection: the peers that shared keys (U2), and e_vu of each of them."""

    session_id: bytes
    shared: Flags
    encrypted_shares: bytes


@dataclass(frozen=True, slots=True, eq=False)
class MaskedInput:
    """Client to server, round MaskedInputCollection: y_u, shape (vector_length,), dtype of the ring, reduced."""

    session_id: bytes
    masked_input: RingVector

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskedInput):
            return NotImplemented
        return self.session_id == other.session_id and np.array_equal(self.masked_input, other.masked_input)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class SurvivorList:
    """Server to client, opens ConsistencyCheck, or Unmasking if not signed: the clients in the sum (U3)."""

    session_id: bytes
    survivors: Flags


@dataclass(frozen=True, slots=True)
class ConsistencyCheck:
    """Client to server, round ConsistencyCheck: its signature (64 bytes) of `statements.view`."""

    session_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """Server to client, opens Unmasking in the signed modes: the peers that signed their view (U4), and the signatures.

    ``signatures`` holds those of the flagged peers except the receiver, 64 bytes each.  On a sparse graph, a peer's
    view differs from the receiver's: for each of these peers, ``common`` holds flags over the receiver's neighbourhood,
    packed to bytes, that mark the members of the peer's view too, and ``others`` holds the `statements.member` digests
    (32 bytes each) of the other members, peer after peer.  On the complete graph both are empty.
    """

    session_id: bytes
    consistent: Flags
    signatures: bytes
    common: bytes = b""
    others: bytes = b""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnmaskingShares:
    """Client to server, round Unmasking: one share for each peer that shared keys with this client.

    For a survivor it is the share of the self-mask seed, for a peer that vanished that of the mask key. `SurvivorList`
    decides which, and the message has room for only one.  ``held`` marks the peers whose share this client has;
    ``shares`` has shape (number held, LIMBS).  ``pairwise_keys`` holds the keys of the pairwise masks with the peers
    that shared keys and vanished, 16 bytes each; it is empty unless `Parameters.hands_over_pairwise_keys`.
    ``noise_pads`` holds the pads of each survivor that is held, SHARE_BYTES bytes for each of
    `noise.removed_components`.
    """

    session_id: bytes
    held: Flags
    shares: ShareArray
    pairwise_keys: bytes = b""
    noise_pads: bytes = b""

    def __repr__(self) -> str:
        return f"UnmaskingShares(held={sum(self.held)} of {len(self.held)}, <redacted>)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UnmaskingShares):
            return NotImplemented
        mine, theirs = ((one.session_id, one.held, one.pairwise_keys, one.noise_pads) for one in (self, other))
        return mine == theirs and np.array_equal(self.shares, other.shares)

    __hash__ = None  # type: ignore[assignment]


ClientMessage: TypeAlias = AdvertiseKeys | ShareKeys | MaskedInput | ConsistencyCheck | UnmaskingShares
"""Messages of a client, one in each round."""

ServerMessage: TypeAlias = PeerKeys | PeerShares | SurvivorList | ConsistencyProof
"""Messages of the server, one for each client in each round but the first."""

Message: TypeAlias = ClientMessage | ServerMessage
