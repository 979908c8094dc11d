"""Expand seeds to masks, and add masks to ring vectors (paper, section 4)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np

from secagg.algebra.ring import RingVector
from secagg.native.masks import MaskAdder, mask_adder, usable_instructions
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
    first_chunk = first * vector.dtype.itemsize // CHUNK_BYTES
    # Machine code would write to read-only memory too.
    add = _machine_code(8 * vector.dtype.itemsize) if vector.flags.carray else None
    pending = iter(masks)
    while batch := list(islice(pending, _BATCH)):
        added = [mask.key for mask in batch if not mask.subtract]
        subtracted = [mask.key for mask in batch if mask.subtract]
        (add or _add_in_two_passes)(vector, added, subtracted, first_chunk)


def _add_in_two_passes(
    vector: RingVector, added: Sequence[bytes], subtracted: Sequence[bytes], first_chunk: int
) -> None:
    """Add masks by their keys: expand a chunk of a mask to a buffer, then add the buffer to the vector."""
    chunk_length = CHUNK_BYTES // vector.dtype.itemsize
    buffer = chunk_buffer(min(vector.nbytes, CHUNK_BYTES))
    view = memoryview(buffer)
    words = np.frombuffer(buffer, dtype=vector.dtype, count=min(len(vector), chunk_length))
    keystreams = [(Keystream(key), np.add) for key in added] + [(Keystream(key), np.subtract) for key in subtracted]
    for chunk, start in enumerate(range(0, len(vector), chunk_length), first_chunk):
        part = vector[start : start + chunk_length]
        expanded = words[: len(part)]
        for keystream, apply in keystreams:
            keystream.chunk_into(chunk, view, part.nbytes)
            apply(part, expanded, out=part)


@cache
def _machine_code(word_bits: int) -> MaskAdder | None:
    """Return the fastest machine code that gives the same sums as pyca's cipher, on a chunk and a part of one."""
    vector = np.zeros(CHUNK_BYTES * 8 // word_bits + 3, dtype=f"<u{word_bits // 8}")
    arguments = [bytes(range(KEY_BYTES))], [bytes(range(KEY_BYTES, 2 * KEY_BYTES))], 1 << 40
    for instructions in usable_instructions():
        found, expected = vector.copy(), vector.copy()
        add = mask_adder(word_bits, CHUNK_BYTES, instructions)
        add(found, *arguments)
        _add_in_two_passes(expected, *arguments)
        if np.array_equal(found, expected):
            return add
    return None
