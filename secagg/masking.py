"""Masks: from seeds to ring vectors, and the server's job of taking them off again (paper, sections 4 and 6)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np

from secagg.algebra import ring
from secagg.algebra.ring import RingVector
from secagg.errors import LocalProtocolError
from secagg.params import ClientId
from secagg.primitives import kdf, labels
from secagg.primitives.agreement import SecretKey
from secagg.primitives.prg import CHUNK_BYTES, KEY_BYTES, Keystream, chunk_buffer

# Masks that are expanded together, chunk by chunk: the accumulator's chunk stays in the cache meanwhile.
_BATCH = 64


@dataclass(frozen=True, slots=True, repr=False)
class Mask:
    """A mask by its generator's key, and whether it is added or subtracted."""

    key: bytes
    subtract: bool = False


def self_mask(seed: bytes, session_id: bytes, client_id: ClientId) -> Mask:
    """p_u = PRG(b_u), which its client adds."""
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
    """s_u^SK, derived from the seed that is shared in its stead."""
    context = client_id.to_bytes(4, "big")
    return SecretKey(kdf.derive(seed, salt=session_id, label=labels.MASK_KEY_PAIR, context=context, length=32))


def pairwise_mask(
    secret_key: SecretKey, peer_public_key: bytes, session_id: bytes, own_id: ClientId, peer_id: ClientId
) -> Mask:
    """p_uv as ``own_id`` applies it: the smaller id adds, the larger subtracts.

    ValueError if the peer's public key is of small order.
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


def accumulate(vector: RingVector, masks: Iterable[Mask]) -> None:
    """Add or subtract every mask to ``vector`` in place, modulo its word; the caller reduces to the ring.

    Element j of a mask is the j-th little-endian word of the keystream, chunk after chunk.
    """
    chunk_length = CHUNK_BYTES // vector.dtype.itemsize
    buffer = chunk_buffer(min(vector.nbytes, CHUNK_BYTES))
    view = memoryview(buffer)
    words = np.frombuffer(buffer, dtype=vector.dtype, count=min(len(vector), chunk_length))
    pending = iter(masks)
    while batch := [
        (Keystream(mask.key), np.subtract if mask.subtract else np.add) for mask in islice(pending, _BATCH)
    ]:
        for chunk, start in enumerate(range(0, len(vector), chunk_length)):
            part = vector[start : start + chunk_length]
            expanded = words[: len(part)]
            for keystream, apply in batch:
                keystream.chunk_into(chunk, view, part.nbytes)
                apply(part, expanded, out=part)


@dataclass(frozen=True, slots=True, repr=False)
class RecoveredMaskKey:
    """A vanished client's mask key seed, and the survivors whose pairwise masks with it are still in the sum."""

    client_id: ClientId
    seed: bytes
    peer_ids: tuple[ClientId, ...]
    peer_public_keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class MaskSum:
    """The result of an `UnmaskJob`, or of a part of one.

    Attributes:
        session_id: the job's session.
        num_masks: how many masks are in it: a part that got lost is noticed by its count.
        vector: their sum, shape (vector_length,), the ring's dtype, reduced.
    """

    session_id: bytes
    num_masks: int
    vector: RingVector

    def __repr__(self) -> str:
        return f"MaskSum(num_masks={self.num_masks}, <redacted>)"


@dataclass(frozen=True, slots=True, repr=False)
class UnmaskJob:
    """The masks that are left in the sum of the masked inputs: all that the server has to recompute.

    Plain data that can be sent to other processes or machines **of the server**: it holds what the shares gave
    back, which together with a client's masked input would unmask that one input.

    Attributes:
        session_id: the session's id, 32 bytes.
        ring_bits: the ring.
        vector_length: elements of the vector.
        self_mask_seeds: (client id, seed) of each survivor.
        recovered: the mask keys of those that vanished after they had shared keys.
    """

    session_id: bytes
    ring_bits: int
    vector_length: int
    self_mask_seeds: tuple[tuple[ClientId, bytes], ...]
    recovered: tuple[RecoveredMaskKey, ...]

    def __repr__(self) -> str:
        return f"UnmaskJob(num_masks={self.num_masks}, vector_length={self.vector_length}, <redacted>)"

    @property
    def num_masks(self) -> int:
        """How many masks have to be expanded: the unit of work."""
        return len(self.self_mask_seeds) + self.num_agreements

    @property
    def num_agreements(self) -> int:
        """How many of them need a key agreement first, which holds the interpreter lock."""
        return sum(len(key.peer_ids) for key in self.recovered)

    def run(self, workers: int = 1) -> MaskSum:
        """The sum of the masks, for `Server.finish`.

        Args:
            workers: threads. The ciphers release the interpreter lock, key agreement does not: a job of many
                agreements gains by `split` over processes (`transport.RecoveryPool`).

        Raises:
            LocalProtocolError: workers is not a positive int.
        """
        parts = self.split(workers)
        if len(parts) == 1:
            return parts[0]._expand()
        # Loads logging and queues: only those who use threads wait for it.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=workers) as pool:
            return self.combine(list(pool.map(UnmaskJob._expand, parts)))

    def split(self, parts: int) -> tuple["UnmaskJob", ...]:
        """At most ``parts`` jobs of about equal work whose results, added by `combine`, are this job's result."""
        if type(parts) is not int or parts < 1:
            raise LocalProtocolError(f"a job is split into a positive number of parts, not {parts!r}")
        total = self.num_masks
        cuts = sorted({total * i // parts for i in range(parts + 1)})
        ranges = list(pairwise(cuts)) or [(0, 0)]
        return tuple(self._slice(start, stop) for start, stop in ranges)

    def combine(self, results: Iterable[MaskSum]) -> MaskSum:
        """The sum of the parts' results. LocalProtocolError if they are not all of this job's parts."""
        total: RingVector | None = None
        num_masks = 0
        for result in results:
            if not isinstance(result, MaskSum) or result.session_id != self.session_id:
                raise LocalProtocolError("combine() takes the results of this job's parts")
            if not ring.is_vector(result.vector, self.vector_length, self.ring_bits):
                raise LocalProtocolError(f"a part's vector has {self.vector_length} elements of the ring's dtype")
            # The first is copied: a part's result stays as it is.
            total = result.vector.copy() if total is None else np.add(total, result.vector, out=total)
            num_masks += result.num_masks
        if total is None or num_masks != self.num_masks:
            raise LocalProtocolError(f"the parts hold {num_masks} masks, but the job has {self.num_masks}")
        ring.reduce_in_place(total, self.ring_bits)
        return MaskSum(self.session_id, num_masks, total)

    def _slice(self, start: int, stop: int) -> "UnmaskJob":
        seeds = self.self_mask_seeds[start:stop]
        first = len(self.self_mask_seeds)
        recovered = []
        for key in self.recovered:
            low, high = max(0, start - first), min(len(key.peer_ids), stop - first)
            if low < high:
                recovered.append(
                    replace(key, peer_ids=key.peer_ids[low:high], peer_public_keys=key.peer_public_keys[low:high])
                )
            first += len(key.peer_ids)
        return replace(self, self_mask_seeds=seeds, recovered=tuple(recovered))

    def _masks(self) -> Iterator[Mask]:
        for client_id, seed in self.self_mask_seeds:
            yield self_mask(seed, self.session_id, client_id)
        for key in self.recovered:
            secret_key = mask_secret_key(key.seed, self.session_id, key.client_id)
            for peer_id, peer_public_key in zip(key.peer_ids, key.peer_public_keys, strict=True):
                mask = pairwise_mask(secret_key, peer_public_key, self.session_id, key.client_id, peer_id)
                # What is in the sum is the survivor's side of the pair.
                yield replace(mask, subtract=not mask.subtract)

    def _expand(self) -> MaskSum:
        total = ring.zeros(self.vector_length, self.ring_bits)
        accumulate(total, self._masks())
        ring.reduce_in_place(total, self.ring_bits)
        return MaskSum(self.session_id, self.num_masks, total)
