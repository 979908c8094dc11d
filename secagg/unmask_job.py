"""Compute the masks that remain in the sum, whole or in parts: the server's job (paper, section 4, round 4)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate as running_totals
from itertools import pairwise

import numpy as np

from secagg.algebra import ring
from secagg.algebra.ring import RingVector
from secagg.errors import LocalProtocolError
from secagg.masking import Mask, accumulate, mask_secret_key, pairwise_mask, self_mask
from secagg.params import ClientId
from secagg.primitives.prg import CHUNK_BYTES, KEY_BYTES

# Other costs of a job, in bytes of keystream that take the same time: a key agreement, and a byte of a part's result
# that is sent to another process and added there (docs/decisions/0010-split-unmasking.md).
_AGREEMENT_BYTES = 300_000
_MOVE = 5


@dataclass(frozen=True, slots=True, repr=False)
class RecoveredMaskKey:
    """The mask key seed of a vanished client, and the survivors whose pairwise masks with it remain in the sum."""

    client_id: ClientId
    seed: bytes
    peer_ids: tuple[ClientId, ...]
    peer_public_keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class MaskSum:
    """The result of an `UnmaskJob`, or of a part of one.

    Attributes:
        session_id: the session of the job.
        num_masks: number of masks in it; the count shows if a part is missing.
        vector: sum of the masks, shape (vector_length,), dtype of the ring, reduced.
        first: index of its first element in the whole vector.
    """

    session_id: bytes
    num_masks: int
    vector: RingVector
    first: int = 0

    def __repr__(self) -> str:
        return f"MaskSum(num_masks={self.num_masks}, <redacted>)"


@dataclass(frozen=True, slots=True, repr=False)
class UnmaskJob:
    """The masks that remain in the sum of the masked inputs, which the server has to recompute.

    It is plain data that can be sent to other processes or machines **of the server** only: it holds the reconstructed
    secrets, which together with a client's masked input would unmask that input.

    Attributes:
        session_id: id of the session, 32 bytes.
        ring_bits: bits of the ring.
        vector_length: number of elements of the vector.
        self_mask_seeds: (client id, seed) of each survivor.
        recovered: mask keys of the clients that vanished after they had shared keys, with the survivors that handed
            over no keys of their masks with them.
        added_keys, subtracted_keys: generator keys of pairwise masks that survivors handed over, 16 bytes each: of
            those that they added to the sum, and of those that they subtracted.
        first: index of a part's first element in the whole vector.
    """

    session_id: bytes
    ring_bits: int
    vector_length: int
    self_mask_seeds: tuple[tuple[ClientId, bytes], ...]
    recovered: tuple[RecoveredMaskKey, ...]
    added_keys: bytes = b""
    subtracted_keys: bytes = b""
    first: int = 0

    def __repr__(self) -> str:
        return f"UnmaskJob(num_masks={self.num_masks}, vector_length={self.vector_length}, <redacted>)"

    @property
    def num_masks(self) -> int:
        """Return the number of masks to expand, the unit of work."""
        handed_over = (len(self.added_keys) + len(self.subtracted_keys)) // KEY_BYTES
        return len(self.self_mask_seeds) + handed_over + self.num_agreements

    @property
    def num_agreements(self) -> int:
        """Return the number of masks that need a key agreement first, which holds the interpreter lock."""
        return sum(len(key.peer_ids) for key in self.recovered)

    def run(self, workers: int = 1) -> MaskSum:
        """Return the sum of the masks, for `Server.finish`.

        Args:
            workers: number of threads. Ciphers release the interpreter lock, key agreement does not: a job with many
                agreements runs faster by `split` over processes (`transport.RecoveryPool`).

        Raises:
            LocalProtocolError: ``workers`` is not a positive int.
        """
        parts = self.split(workers)
        if len(parts) == 1:
            return parts[0]._expand()
        # This import loads logging and queues; only callers that use threads pay for it.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=workers) as pool:
            return self.combine(list(pool.map(UnmaskJob._expand, parts)))

    def split(self, parts: int) -> tuple["UnmaskJob", ...]:
        """Split into at most ``parts`` jobs of about equal work; `combine` turns their results into this job's result.

        Each part has some of the masks, or a range of the elements of all masks, whichever is less work: a range
        needs all key agreements, while some of the masks need a whole vector to be sent back and added.
        """
        if type(parts) is not int or parts < 1:
            raise LocalProtocolError(f"parts must be a positive int, not {parts!r}")
        if parts > 1 and self._work_of_a_range(parts) < self._work_of_some_masks(parts):
            return self._by_ranges(parts)
        return self._by_masks(parts)

    def combine(self, results: Iterable[MaskSum]) -> MaskSum:
        """Return the sum of the parts' results; LocalProtocolError if they are not all parts of this job."""
        total = ring.zeros(self.vector_length, self.ring_bits)
        # The number of masks of each element, as differences to the element before.
        steps = {0: 0, self.vector_length: 0}
        for result in results:
            if not isinstance(result, MaskSum) or result.session_id != self.session_id:
                raise LocalProtocolError("combine() needs the results of this job's parts")
            size = np.size(result.vector)
            start = result.first - self.first
            if not ring.is_vector(result.vector, size, self.ring_bits) or not 0 <= start <= self.vector_length - size:
                raise LocalProtocolError(
                    f"a part's vector must be a range of the job's {self.vector_length} elements, in the ring's dtype"
                )
            np.add(total[start : start + size], result.vector, out=total[start : start + size])
            steps[start] = steps.get(start, 0) + result.num_masks
            steps[start + size] = steps.get(start + size, 0) - result.num_masks
        *counts, _ = running_totals(steps[place] for place in sorted(steps))
        if any(count != self.num_masks for count in counts):
            held = min(counts), max(counts)
            raise LocalProtocolError(
                f"the parts hold {held[0]} to {held[1]} masks of each element, but the job has {self.num_masks}"
            )
        ring.reduce_in_place(total, self.ring_bits)
        return MaskSum(self.session_id, self.num_masks, total, self.first)

    @property
    def _chunk_length(self) -> int:
        return CHUNK_BYTES // ring.word_dtype(self.ring_bits).itemsize

    @property
    def _num_chunks(self) -> int:
        return -(-self.vector_length // self._chunk_length)

    def _work_of_some_masks(self, parts: int) -> int:
        """Return the cost of the largest part in bytes of keystream: its masks, and a vector to send back."""
        vector_bytes = self.vector_length * CHUNK_BYTES // self._chunk_length
        masks, agreements = -(-self.num_masks // parts), -(-self.num_agreements // parts)
        return masks * vector_bytes + agreements * _AGREEMENT_BYTES + _MOVE * vector_bytes

    def _work_of_a_range(self, parts: int) -> int:
        """Return the cost of a part that has a range of all masks, in bytes of keystream."""
        range_bytes = -(-self._num_chunks // parts) * CHUNK_BYTES
        return self.num_masks * range_bytes + self.num_agreements * _AGREEMENT_BYTES + _MOVE * range_bytes

    def _by_masks(self, parts: int) -> tuple["UnmaskJob", ...]:
        return tuple(self._slice(start, stop) for start, stop in _equal_ranges(self.num_masks, parts))

    def _by_ranges(self, parts: int) -> tuple["UnmaskJob", ...]:
        """Return parts that have ranges of whole chunks, where the mask generator can start."""
        cuts = [
            (start * self._chunk_length, min(stop * self._chunk_length, self.vector_length))
            for start, stop in _equal_ranges(self._num_chunks, parts)
        ]
        return tuple(replace(self, first=self.first + start, vector_length=stop - start) for start, stop in cuts)

    def _slice(self, start: int, stop: int) -> "UnmaskJob":
        seeds = self.self_mask_seeds[start:stop]
        first = len(self.self_mask_seeds)
        handed_over = []
        for keys in (self.added_keys, self.subtracted_keys):
            handed_over.append(keys[KEY_BYTES * max(0, start - first) : KEY_BYTES * max(0, stop - first)])
            first += len(keys) // KEY_BYTES
        recovered = []
        for key in self.recovered:
            low, high = max(0, start - first), min(len(key.peer_ids), stop - first)
            if low < high:
                recovered.append(
                    replace(key, peer_ids=key.peer_ids[low:high], peer_public_keys=key.peer_public_keys[low:high])
                )
            first += len(key.peer_ids)
        added, subtracted = handed_over
        return replace(
            self,
            self_mask_seeds=seeds,
            recovered=tuple(recovered),
            added_keys=added,
            subtracted_keys=subtracted,
        )

    def _masks(self) -> Iterator[Mask]:
        for client_id, seed in self.self_mask_seeds:
            yield self_mask(seed, self.session_id, client_id)
        for keys, subtract in ((self.added_keys, False), (self.subtracted_keys, True)):
            for at in range(0, len(keys), KEY_BYTES):
                yield Mask(keys[at : at + KEY_BYTES], subtract)
        for key in self.recovered:
            secret_key = mask_secret_key(key.seed, self.session_id, key.client_id)
            for peer_id, peer_public_key in zip(key.peer_ids, key.peer_public_keys, strict=True):
                mask = pairwise_mask(secret_key, peer_public_key, self.session_id, key.client_id, peer_id)
                # The sum contains the survivor's side of the pair.
                yield replace(mask, subtract=not mask.subtract)

    def _expand(self) -> MaskSum:
        total = ring.zeros(self.vector_length, self.ring_bits)
        accumulate(total, self._masks(), self.first)
        ring.reduce_in_place(total, self.ring_bits)
        return MaskSum(self.session_id, self.num_masks, total, self.first)


def _equal_ranges(total: int, parts: int) -> list[tuple[int, int]]:
    """Return at most ``parts`` ranges of about equal length that cover 0..total-1."""
    cuts = sorted({total * i // parts for i in range(parts + 1)})
    return list(pairwise(cuts)) or [(0, 0)]
