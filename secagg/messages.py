"""Define the messages, one frozen dataclass each: values only, of which the codec makes bytes.

Lists that both sides know from `PeerKeys` do not travel again: later messages speak of the peers in the order of
that list, by flags (one a peer) and by concatenated fixed-size items.  ``session_id`` opens every message, so
that nothing of one session is taken for another's.
"""

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import TypeAlias

import numpy as np

from secagg.algebra.ring import RingVector
from secagg.params import ClientId
from secagg.sharing import ShareArray

Flags: TypeAlias = tuple[bool, ...]
"""One flag a peer, in the order of `PeerKeys.client_ids`."""


@unique
class MessageType(IntEnum):
    """The messages' numbers on the wire."""

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

    Against a server that may lie also the client's identity key (32 bytes) and its signature (64 bytes) of
    `statements.advertised_keys`; in the other modes both are empty.
    """

    session_id: bytes
    channel_public_key: bytes
    mask_public_key: bytes
    identity_key: bytes = b""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """Server to client, opens ShareKeys: the keys of the receiver's neighbourhood, itself included.

    ``client_ids`` ascends; the keys are concatenated in its order, 32 bytes each; where they are signed, the identity
    keys (32 bytes each) and signatures (64 bytes each) too.
    """

    session_id: bytes
    client_ids: tuple[ClientId, ...]
    channel_public_keys: bytes
    mask_public_keys: bytes
    identity_keys: bytes = b""
    signatures: bytes = b""


@dataclass(frozen=True, slots=True)
class ShareKeys:
    """Client to server, round ShareKeys: e_uv for each peer but itself, ENCRYPTED_SHARES_BYTES bytes each.

    ``seed_commitment`` (32 bytes, `sharing.seed_commitment`) lets the server tell the self-mask seed from a wrong one.
    """

    session_id: bytes
    seed_commitment: bytes
    encrypted_shares: bytes


@dataclass(frozen=True, slots=True)
class PeerShares:
    """Server to client, opens MaskedInputCollection: who shared keys (U2), and e_vu of each of them but itself."""

    session_id: bytes
    shared: Flags
    encrypted_shares: bytes


@dataclass(frozen=True, slots=True, eq=False)
class MaskedInput:
    """Client to server, round MaskedInputCollection: y_u, shape (vector_length,), the ring's dtype, reduced."""

    session_id: bytes
    masked_input: RingVector

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskedInput):
            return NotImplemented
        return self.session_id == other.session_id and np.array_equal(self.masked_input, other.masked_input)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class SurvivorList:
    """Server to client: whose masked inputs are in the sum (U3). Opens ConsistencyCheck, or Unmasking without it."""

    session_id: bytes
    survivors: Flags


@dataclass(frozen=True, slots=True)
class ConsistencyCheck:
    """Client to server, round ConsistencyCheck: its signature (64 bytes) of `statements.view`."""

    session_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """Server to client, opens Unmasking where views are signed: who signed its own (U4), and the signatures.

    ``signatures`` has those of the flagged peers but the receiver, 64 bytes each.  On a sparse graph, a peer's view is
    not the receiver's: ``common`` has for each of these peers the flags of the receiver's neighbourhood, packed to
    bytes, that mark who is in the peer's too, and ``others`` the `statements.member` digests (32 bytes each) of the
    rest of the peer's, peer after peer.  On the complete graph both are empty.
    """

    session_id: bytes
    consistent: Flags
    signatures: bytes
    common: bytes = b""
    others: bytes = b""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnmaskingShares:
    """Client to server, round Unmasking: one share a peer that shared keys with this client.

    Of a survivor it is the share of the self-mask seed, of one that vanished that of the mask key: which of the
    two follows from `SurvivorList`, and there is room for one only.  ``held`` marks the peers whose share this
    client has; ``shares`` has shape (number held, LIMBS).
    """

    session_id: bytes
    held: Flags
    shares: ShareArray

    def __repr__(self) -> str:
        return f"UnmaskingShares(held={sum(self.held)} of {len(self.held)}, shares=<redacted>)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UnmaskingShares):
            return NotImplemented
        return (self.session_id, self.held) == (other.session_id, other.held) and np.array_equal(
            self.shares, other.shares
        )

    __hash__ = None  # type: ignore[assignment]


ClientMessage: TypeAlias = AdvertiseKeys | ShareKeys | MaskedInput | ConsistencyCheck | UnmaskingShares
"""What a client sends, one message a round."""

ServerMessage: TypeAlias = PeerKeys | PeerShares | SurvivorList | ConsistencyProof
"""What the server sends, one message a client and round; the first round has none."""

Message: TypeAlias = ClientMessage | ServerMessage
