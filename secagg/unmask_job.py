"""Compute the masks that are left in the sum, whole or in parts: the server's job (paper, section 4, round 4)."""

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
from secagg.primitives.prg import CHUNK_BYTES

# What else a job costs, in bytes of keystream that take as long: a key agreement, and a byte of a part's result that
# goes to another process and is added there. Measured; docs/scaling.md says how.
_AGREEMENT_BYTES = 300_000
_MOVE = 5


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
        first: the element of the whole vector that it begins with.
    """

    session_id: bytes
    num_masks: int
    vector: RingVector
    first: int = 0

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
        first: the element of the whole vector that a part begins with.
    """

    session_id: bytes
    ring_bits: int
    vector_length: int
    self_mask_seeds: tuple[tuple[ClientId, bytes], ...]
    recovered: tuple[RecoveredMaskKey, ...]
    first: int = 0

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
        """At most ``parts`` jobs of about equal work whose results, put together by `combine`, are this job's result.

        Each has some of the masks, or all of them in a range of coordinates, whichever is less work: a range needs
        all key agreements, and some masks a whole vector to be sent back and added.
        """
        if type(parts) is not int or parts < 1:
            raise LocalProtocolError(f"a job is split into a positive number of parts, not {parts!r}")
        if parts > 1 and self._work_of_a_range(parts) < self._work_of_some_masks(parts):
            return self._by_ranges(parts)
        return self._by_masks(parts)

    def combine(self, results: Iterable[MaskSum]) -> MaskSum:
        """The sum of the parts' results. LocalProtocolError if they are not all of this job's parts."""
        total = ring.zeros(self.vector_length, self.ring_bits)
        # How many masks more an element has than the one before it.
        steps = {0: 0, self.vector_length: 0}
        for result in results:
            if not isinstance(result, MaskSum) or result.session_id != self.session_id:
                raise LocalProtocolError("combine() takes the results of this job's parts")
            size = np.size(result.vector)
            start = result.first - self.first
            if not ring.is_vector(result.vector, size, self.ring_bits) or not 0 <= start <= self.vector_length - size:
                raise LocalProtocolError(
                    f"a part's vector is a range of the job's {self.vector_length} elements, of the ring's dtype"
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
        """The largest part's, in bytes of keystream: its share of the masks, and a vector for the sum."""
        vector_bytes = self.vector_length * CHUNK_BYTES // self._chunk_length
        masks, agreements = -(-self.num_masks // parts), -(-self.num_agreements // parts)
        return masks * vector_bytes + agreements * _AGREEMENT_BYTES + _MOVE * vector_bytes

    def _work_of_a_range(self, parts: int) -> int:
        """The same of a part with all masks, and its range of the vector."""
        range_bytes = -(-self._num_chunks // parts) * CHUNK_BYTES
        return self.num_masks * range_bytes + self.num_agreements * _AGREEMENT_BYTES + _MOVE * range_bytes

    def _by_masks(self, parts: int) -> tuple["UnmaskJob", ...]:
        return tuple(self._slice(start, stop) for start, stop in _equal_ranges(self.num_masks, parts))

    def _by_ranges(self, parts: int) -> tuple["UnmaskJob", ...]:
        """Ranges of whole chunks, which the mask generator can begin with."""
        cuts = [
            (start * self._chunk_length, min(stop * self._chunk_length, self.vector_length))
            for start, stop in _equal_ranges(self._num_chunks, parts)
        ]
        return tuple(replace(self, first=self.first + start, vector_length=stop - start) for start, stop in cuts)

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
        accumulate(total, self._masks(), self.first)
        ring.reduce_in_place(total, self.ring_bits)
        return MaskSum(self.session_id, self.num_masks, total, self.first)


def _equal_ranges(total: int, parts: int) -> list[tuple[int, int]]:
    """At most ``parts`` ranges of about equal length that cover 0..total-1."""
    cuts = sorted({total * i // parts for i in range(parts + 1)})
    return list(pairwise(cuts)) or [(0, 0)]
