"""Share seeds by Shamir's scheme (16 bytes <-> 9 limbs of 15 bits <-> shares of 18 bytes), and encrypt the shares."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.algebra import shamir
from secagg.algebra.field import PRIME
from secagg.params import ClientId
from secagg.primitives import aead, digest, kdf, labels, prg
from secagg.primitives.agreement import SecretKey
from secagg.primitives.entropy import EntropySource, draw

SEED_BYTES = 16
LIMBS = 9
SHARE_BYTES = 2 * LIMBS

# A holder gets a share of the mask key's seed, then a share of the self-mask seed.
ENCRYPTED_SHARES_BYTES = 2 * SHARE_BYTES + aead.TAG_BYTES

_LIMB_BITS = 15
_WIRE_DTYPE = np.dtype(">u2")

ShareArray: TypeAlias = npt.NDArray[np.uint16]
"""Shares of seeds: shape (..., LIMBS), elements below the field's prime."""


class InvalidSharesError(Exception):
    """Raised for shares that are outside the field, or whose secret is not a seed."""


def share_seeds(seeds: tuple[bytes, ...], threshold: int, num_holders: int, entropy: EntropySource) -> ShareArray:
    """Return the shares of each 16-byte seed for each holder, shape (num_holders, len(seeds), LIMBS)."""
    limbs = np.concatenate([seed_to_limbs(seed) for seed in seeds])
    coefficients = uniform_field_elements((threshold - 1) * len(limbs), entropy).reshape(-1, len(limbs))
    return shamir.share(limbs, coefficients, num_holders).reshape(num_holders, len(seeds), LIMBS)


def seed_commitment(seed: bytes, session_id: bytes, client_id: ClientId) -> bytes:
    """Return a commitment to a client's self-mask seed, 32 bytes: it identifies the seed and does not reveal it."""
    return digest.labelled(labels.SEED_COMMITMENT, session_id, client_id.to_bytes(4, "big"), seed)


def coefficient_source(seed: bytes, session_id: bytes, client_id: ClientId) -> EntropySource:
    """Return the entropy source of a client's sharing polynomials, from a 16-byte seed drawn at its start.

    Sharing is then a function of the client's state: a host that resumes a stored client again after a crash encrypts
    the same shares, and never others under the same keys.
    """
    context = client_id.to_bytes(4, "big")
    key = kdf.derive(seed, salt=session_id, label=labels.SHARING_COEFFICIENTS, context=context, length=prg.KEY_BYTES)
    return prg.KeystreamReader(key)


def reconstruct_seeds(places: npt.NDArray[np.integer], shares: ShareArray) -> list[bytes | None]:
    """Return the seeds from exactly t shares each; None where the shares do not belong together.

    The caller must verify each seed: random shares give a seed with probability 2^-16 only, but a share that is wrong
    in a single limb goes unnoticed about half of the time.

    Args:
        places: places of the holders in the owners' neighbourhoods, shape (t,).
        shares: shape (t, s, LIMBS).
    """
    num_seeds = shares.shape[1]
    limbs = shamir.reconstruct(places, shares.reshape(len(places), num_seeds * LIMBS)).reshape(num_seeds, LIMBS)
    return [limbs_to_seed(row) for row in limbs]


def shares_to_bytes(shares: ShareArray) -> bytes:
    """Return the shares as big-endian 16-bit limbs, in C order."""
    return shares.astype(_WIRE_DTYPE).tobytes()


def shares_from_bytes(data: bytes | memoryview) -> ShareArray:
    """Return shares of shape (len(data) / SHARE_BYTES, LIMBS); InvalidSharesError if a limb is outside the field."""
    shares = np.frombuffer(data, dtype=_WIRE_DTYPE).astype(np.uint16).reshape(-1, LIMBS)
    if shares.size and int(shares.max()) >= PRIME:
        raise InvalidSharesError("a share is outside the field")
    return shares


class ShareChannel:
    """Encrypted channels between this client and one peer, for one message in each direction.

    Each direction has a key, both from one key agreement; the associated data binds label, session, sender and
    receiver.  Where seeds of noise components are shared, each direction has a key of pads too.
    """

    __slots__ = ("_receive_key", "_receive_pad_key", "_send_key", "_send_pad_key")

    def __init__(
        self, send_key: bytes, receive_key: bytes, send_pad_key: bytes = b"", receive_pad_key: bytes = b""
    ) -> None:
        self._send_key = send_key
        self._receive_key = receive_key
        self._send_pad_key = send_pad_key
        self._receive_pad_key = receive_pad_key

    def __repr__(self) -> str:
        return "ShareChannel(<redacted>)"

    @property
    def receive_key(self) -> bytes:
        """Return the key that `open_shares` needs."""
        return self._receive_key

    @property
    def pad_keys(self) -> tuple[bytes, bytes]:
        """Return the keys of the pads of the peer for this client's seeds, and of this client for the peer's."""
        return self._send_pad_key, self._receive_pad_key

    @classmethod
    def agree(
        cls,
        secret_key: SecretKey,
        peer_public_key: bytes,
        session_id: bytes,
        own_id: ClientId,
        peer_id: ClientId,
        *,
        with_pads: bool = False,
    ) -> "ShareChannel":
        """Return the channel with a peer; ValueError if its public key has small order."""
        low, high = sorted((own_id, peer_id))
        keys = kdf.derive(
            secret_key.exchange(peer_public_key),
            salt=session_id,
            label=labels.CHANNEL_KEYS,
            context=_pair(low, high),
            length=(4 if with_pads else 2) * aead.KEY_BYTES,
        )
        upward, downward, *pads = (keys[at : at + aead.KEY_BYTES] for at in range(0, len(keys), aead.KEY_BYTES))
        return cls(upward, downward, *pads) if own_id == low else cls(downward, upward, *reversed(pads))

    def seal_shares(self, shares: bytes, session_id: bytes, own_id: ClientId, peer_id: ClientId) -> bytes:
        """Return the encrypted shares for a peer, ENCRYPTED_SHARES_BYTES bytes."""
        return aead.seal(self._send_key, shares, _share_data(session_id, own_id, peer_id))


def open_shares(
    receive_key: bytes, ciphertext: bytes, session_id: bytes, sender: ClientId, receiver: ClientId
) -> ShareArray:
    """Return a peer's shares, shape (2, LIMBS).

    Raises:
        AuthenticationError, InvalidSharesError: the ciphertext is not what the peer sent.
    """
    return shares_from_bytes(aead.open_sealed(receive_key, ciphertext, _share_data(session_id, sender, receiver)))


def _share_data(session_id: bytes, sender: ClientId, receiver: ClientId) -> bytes:
    return labels.SHARE_DATA + session_id + _pair(sender, receiver)


def _pair(first: ClientId, second: ClientId) -> bytes:
    return first.to_bytes(4, "big") + second.to_bytes(4, "big")


def seed_to_limbs(seed: bytes) -> npt.NDArray[np.uint16]:
    # Array operations take the same time for all seeds.
    bits = np.unpackbits(np.frombuffer(seed[::-1], dtype=np.uint8), bitorder="little")
    padded = np.zeros(LIMBS * _LIMB_BITS, dtype=np.uint16)
    padded[: len(bits)] = bits
    weights = np.left_shift(np.uint16(1), np.arange(_LIMB_BITS, dtype=np.uint16))
    limbs: npt.NDArray[np.uint16] = (padded.reshape(LIMBS, _LIMB_BITS) * weights).sum(axis=1, dtype=np.uint16)
    return limbs


def limbs_to_seed(limbs: npt.NDArray[np.uint16]) -> bytes | None:
    """Return the seed of LIMBS reconstructed limbs, or None if they do not encode a seed."""
    value = sum(int(limb) << (_LIMB_BITS * i) for i, limb in enumerate(limbs))
    if int(limbs.max()) >> _LIMB_BITS or value >> (8 * SEED_BYTES):
        return None
    return value.to_bytes(SEED_BYTES, "big")


def uniform_field_elements(count: int, entropy: EntropySource) -> npt.NDArray[np.uint16]:
    """Return ``count`` uniform field elements by rejection: a 16-bit word is rejected with probability 15/65536."""
    accepted = np.empty(count, dtype=np.uint16)
    filled = 0
    while filled < count:
        # Draw slightly more than needed, so that one draw is nearly always enough.
        words = np.frombuffer(draw(entropy, 2 * (count - filled + count // 1024 + 8)), dtype=_WIRE_DTYPE)
        words = words[words < PRIME][: count - filled]
        accepted[filled : filled + len(words)] = words
        filled += len(words)
    return accepted
