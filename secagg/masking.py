"""Expand seeds to masks, and add masks to ring vectors (paper, section 4)."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from secagg.algebra.ring import RingVector
from secagg.params import ClientId
from secagg.primitives import kdf, labels
from secagg.primitives.agreement import SecretKey
from secagg.primitives.prg import CHUNK_BYTES, KEY_BYTES, Keystream, chunk_buffer

# Number of masks expanded together, chunk by chunk, so that the accumulator's chunk stays in the cache.
_BATCH = 64


@dataclass(frozen=True, slots=True, repr=False)
class Mask:
    """A mask, given by its generator's key, with its sign: added or subtracted."""

    key: bytes
    subtract: bool = False


def self_mask(seed: bytes, session_id: bytes, client_id: ClientId) -> Mask:
    """Return p_u = PRG(b_u), which its client adds."""
    return Mask(
        kdf.derive(
            seed,
            salt=session_id,
            label=labels.SELF_MASK,
            context=client_id.to_bytes(4, "big"),
            length=KEY_BYTES,
        )
    )


def mask_secret_key(seed: bytes, session_id: bytes, client_id: ClientId) -> SecretKey:
    """Return s_u^SK, derived from the seed that is shared in its place."""
    context = client_id.to_bytes(4, "big")
    return SecretKey(kdf.derive(seed, salt=session_id, label=labels.MASK_KEY_PAIR, context=context, length=32))


def pairwise_mask(
    secret_key: SecretKey, peer_public_key: bytes, session_id: bytes, own_id: ClientId, peer_id: ClientId
) -> Mask:
    """Return p_uv with the sign of ``own_id``: the smaller id adds, the larger subtracts.

    Raises:
        ValueError: the peer's public key has small order.
    """
    low, high = sorted((own_id, peer_id))
    key = kdf.derive(
        secret_key.exchange(peer_public_key),
        salt=session_id,
        label=labels.PAIRWISE_MASK,
        context=low.to_bytes(4, "big") + high.to_bytes(4, "big"),
        length=KEY_BYTES,
    )
    return Mask(key, subtract=own_id == high)


def accumulate(vector: RingVector, masks: Iterable[Mask], first: int = 0) -> None:
    """Add the masks to ``vector`` in place, or subtract them, modulo its word; the caller reduces to the ring.

    Element j of a mask is the j-th little-endian word of the keystream, chunk after chunk. ``vector`` may be a part of
    the whole vector; its first element then has index ``first``, the first element of a chunk.
    """
    chunk_length = CHUNK_BYTES // vector.dtype.itemsize
    buffer = chunk_buffer(min(vector.nbytes, CHUNK_BYTES))
    view = memoryview(buffer)
    words = np.frombuffer(buffer, dtype=vector.dtype, count=min(len(vector), chunk_length))
    pending = iter(masks)
    while batch := [
        (Keystream(mask.key), np.subtract if mask.subtract else np.add) for mask in islice(pending, _BATCH)
    ]:
        for chunk, start in enumerate(range(0, len(vector), chunk_length), first // chunk_length):
            part = vector[start : start + chunk_length]
            expanded = words[: len(part)]
            for keystream, apply in batch:
                keystream.chunk_into(chunk, view, part.nbytes)
                apply(part, expanded, out=part)
