"""How large updates may be: a bound for each tensor and one for the weights, and the counts that they follow.

An update's elements are rounded to steps between minus and plus a bound, and its weight is relative to a bound on all
weights.  A bound far above what clients send wastes resolution; one below it clips.  So clients say how large their
updates are, and the next round's bounds follow.  What they say reaches the server as a sum only: for each tensor, how
many clients' largest elements lie in each of a few ranges (`Ranges`), and how many clients' weights do.  The first
bounds come from a session that sums such counts and nothing else.

`Scales.following` is the rule.  The tenth of the clients that changes a tensor most (at least one, of three or more)
is set aside, and the bound is what the others need.  Where bits can be spared it is larger, up to what those set aside
need.  So a client that diverges, or lies within the format, costs the others no resolution that they need.  A client
that forges its counts moves a bound by a few bits a round, upwards or downwards; it could as well add anything to the
sum itself.  docs/threat-model.md says what the rule does not do.  `ScaleTracker` applies it from round to round.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.aggregation.counters import IntegerVector
from fl.errors import ConfigError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

MIN_CLIP, MAX_CLIP = 1e-20, 1e20
"""Bounds that can be: float32 models need none beyond, and all arithmetic with them stays finite."""

MAX_WEIGHT = 1 << 32
"""The largest bound on weights."""

# Upper ends of the counted ranges, as powers of two: absolute in a session that measures, else relative to the present
# bounds. What lies above the last one is taken to be at most four times as large.
_RANGES_ALONE = 2.0 ** np.arange(-62, 63)
_RANGES_AROUND = 2.0 ** np.array([-12, -10, -8, -6, -4, -2, 0, 2, 4, 6])

# With so many bits the rounding noise is below 1% of an average even of one client, whose largest element is 8 times
# the usual one. Bits beyond these can be spared for outliers and for growth, but for no more than can be seen: whoever
# is in the lowest range may be far below it, and a bound must come down until the others are above it.
_NEEDED_BITS = 10
_MOST_SPARED = 10
# The fewest of them that each tensor gets.
_LEAST_SPARED = 2
# If a tensor that nobody changed is changed, its ranges are around this part of the largest bound.
_REFERENCE_OF_UNCHANGED = 2.0**-8
# By this factor a weight that was sent may grow in the next round without being cut.
_BEYOND = 4.0


@dataclass(frozen=True, slots=True)
class Scales:
    """What updates are clipped to.

    Attributes:
        bounds: for each tensor; its elements are brought into [-bound, bound], in the model's units: a few are clipped,
            many are made smaller together (`UpdateEncoding.encode`). 0: nobody changes the tensor, and its mean change
            is exactly 0.
        max_weight: a weight, usually a number of examples, that is larger counts as this.

    Raises:
        ConfigError: a number out of range.
    """

    bounds: tuple[float, ...]
    max_weight: int

    def __post_init__(self) -> None:
        for bound in self.bounds:
            # Not "bound < MIN_CLIP": a comparison with NaN is false.
            if bound != 0 and not MIN_CLIP <= bound <= MAX_CLIP:
                raise ConfigError(f"a clipping bound must be between {MIN_CLIP:g} and {MAX_CLIP:g}, not {bound}")
        if not 1 <= self.max_weight <= MAX_WEIGHT:
            raise ConfigError(
                f"the bound on weights must be at least one, and at most {MAX_WEIGHT}, not {self.max_weight}"
            )

    @classmethod
    def following(
        cls, ranges: "Ranges", value_bits: int, present: "Scales | None" = None, total_weight: int | None = None
    ) -> "Scales":
        """The bounds for the next round.

        Args:
            ranges: how large the updates of the last session were.
            value_bits: that elements are rounded to.
            present: the bounds of that session; None if it only measured. Bounds that fit well enough stay.
            total_weight: the sum of that session's weights, if it is known.
        """
        votes = ranges.votes
        # Of all clients with a weight: else one client would have a tensor to itself that no other changes.
        set_aside = max(1, int(votes[-1]) // 10) if votes[-1] >= 3 else 0
        largest, others = ranges.held_by(1), ranges.held_by(set_aside + 1)
        if present is not None and total_weight is not None and total_weight < present.max_weight:
            # Whose weight is said to be larger has not sent it.
            largest[-1], others[-1] = np.minimum(total_weight, (largest[-1], others[-1]))
        headroom = 2.0 ** max(1, min(value_bits - _NEEDED_BITS, _MOST_SPARED) // 3)
        # What the bound on weights is above the others' costs resolution like all tensors' bounds.
        most_weight = others[-1] * 2.0**_MOST_SPARED
        if present is not None and total_weight is not None:
            # A weight far above the others' counts if it was sent: if the others cannot make up the total.
            sent = max(0.0, total_weight - (float(ranges.ends[-1] @ ranges.counts[-1]) - ranges.held_by(1)[-1]))
            spared = 2.0 ** np.clip(value_bits - _NEEDED_BITS - _LEAST_SPARED, 1, _MOST_SPARED)
            most_weight = min(most_weight, max(others[-1] * spared, sent * _BEYOND))
        weight = min(largest[-1] * min(headroom, 4.0), most_weight)
        taken = int(np.log2(weight / others[-1])) if others[-1] else 0
        most = others * 2.0 ** np.clip(value_bits - _NEEDED_BITS - taken, _LEAST_SPARED, _MOST_SPARED)
        # What those set aside change alone may be as large as what others change of other tensors.
        most = np.where(others > 0, most, most[:-1].max(initial=0.0) or np.inf)
        needed = np.minimum(largest * headroom, most)
        most[-1], needed[-1] = most_weight, weight
        if present is not None:
            now = np.append(np.array(present.bounds), present.max_weight)
            fits = (np.minimum(largest, most) <= now) & (needed > now / 2) & (needed <= now * 4)
            needed = np.where(fits | (votes == 0), now, needed)
        bounds = np.where(needed > 0, np.clip(needed, MIN_CLIP, MAX_CLIP), 0.0)[:-1]
        return cls(tuple(bounds.tolist()), int(np.clip(np.ceil(needed[-1]), 1, MAX_WEIGHT)))

    def references(self) -> Floats:
        """What ranges are relative to: the bounds, and that of the weights; float64, shape (tensors + 1,)."""
        bounds = np.array(self.bounds, dtype=np.float64)
        unchanged = max((float(bounds.max(initial=0.0)) or 1.0) * _REFERENCE_OF_UNCHANGED, MIN_CLIP)
        return np.append(np.where(bounds > 0, bounds, unchanged), float(self.max_weight))


@dataclass(frozen=True, slots=True)
class Ranges:
    """How many clients' updates are how large.

    Attributes:
        ends: upper ends of the ranges, ascending in each row, float64, shape (tensors + 1, ranges); a row for each
            tensor, and the last one for the weights. Larger values are counted in the last range, too.
        counts: how many clients' largest absolute elements (or weights) are in each range, int64, same shape. Zeros
            are in none.
    """

    ends: Floats
    counts: Counts

    @property
    def votes(self) -> Counts:
        """How many clients are in any range, shape (tensors + 1,): who changes a tensor, and who has a weight."""
        votes: Counts = self.counts.sum(axis=1)
        return votes

    def held_by(self, ranks: Counts | int) -> Floats:
        """The upper end of the range that holds the client of that rank, 1 for the largest; 0 if there are fewer."""
        or_larger = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1]
        places = (or_larger >= np.reshape(ranks, (-1, 1))).sum(axis=1) - 1
        return np.where(places < 0, 0.0, self.ends[np.arange(len(self.ends)), places])

    def above(self, bounds: Floats) -> Counts:
        """How many clients are in ranges that end above ``bounds``, shape (tensors + 1,)."""
        return np.asarray(np.where(self.ends > np.reshape(bounds, (-1, 1)), self.counts, 0).sum(axis=1))


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A bound that clients were above: what they sent was clipped, or their weight counted as the bound.

    Attributes:
        clients: how many.
        bound: the bound.
        enough: one that would have done for all of them, to a factor of 4; None if it is not known, and above 64 times
            the bound.
    """

    clients: int
    bound: float
    enough: float | None


class ScaleTracker:
    """The bounds of one training, on the server's side, from round to round.

    Args:
        num_tensors: of an update.
        value_bits: that its elements are rounded to.
        clip: a fixed bound of all elements; None: each tensor's follows the updates.
        max_weight: a fixed bound on weights; None: it follows the clients' weights.

    Attributes:
        scales: of the next session; None if that must measure first.

    Raises:
        ConfigError: a number out of range.
    """

    def __init__(
        self, num_tensors: int, value_bits: int, *, clip: float | None = None, max_weight: int | None = None
    ) -> None:
        self._num_tensors = num_tensors
        self._value_bits = value_bits
        self._clip = clip
        self._max_weight = max_weight
        # Checks what is fixed.
        fixed = Scales((clip or 0.0,) * num_tensors, 1 if max_weight is None else max_weight)
        if clip == 0:
            raise ConfigError("a fixed clipping bound must be above 0")
        self.scales = None if clip is None or max_weight is None else fixed

    def follow(self, ranges: Ranges, total_weight: int | None = None) -> None:
        """Take what a session said, which measured if there were no bounds: the next one has these bounds."""
        found = Scales.following(ranges, self._value_bits, self.scales, total_weight)
        self.scales = Scales(
            found.bounds if self._clip is None else (self._clip,) * self._num_tensors,
            found.max_weight if self._max_weight is None else self._max_weight,
        )

    def exceeded(self, ranges: Ranges) -> list[Exceeded | None]:
        """For each tensor, and last for the weights: whether clients of the session were above its bound.

        To be asked before the bounds `follow`.
        """
        if self.scales is None:
            return [None] * (self._num_tensors + 1)
        bounds = np.append(np.array(self.scales.bounds), float(self.scales.max_weight))
        above, largest, last = ranges.above(bounds), ranges.held_by(1), ranges.ends[:, -1]
        return [
            Exceeded(count, bound, None if top == end else top) if count else None
            for count, bound, top, end in zip(
                above.tolist(), bounds.tolist(), largest.tolist(), last.tolist(), strict=True
            )
        ]

    def to_json(self) -> dict[str, Any] | None:
        """The present bounds as plain values, for a checkpoint."""
        return None if self.scales is None else {"bounds": self.scales.bounds, "max_weight": self.scales.max_weight}

    def restore(self, values: dict[str, Any] | None) -> None:
        """Take what `to_json` gave; KeyError, TypeError or ConfigError if it is none of this training's."""
        if values is None:
            return
        scales = Scales(tuple(map(float, values["bounds"])), int(values["max_weight"]))
        if len(scales.bounds) != self._num_tensors:
            raise ConfigError(f"{len(scales.bounds)} clipping bounds for {self._num_tensors} tensors")
        self.scales = scales


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeEncoding:
    """Counts of ranges as small digits that add up in a ring.

    A count of n clients takes as many bits as n does; all counts stand one behind the other in one large number, whose
    digits in base 2^value_bits are the vector.

    Attributes:
        num_tensors: the rows of ranges, but for the weights'.
        num_clients: of the session.
        value_bits: bits of a digit.
        scales: what the ranges are relative to; None in a session that measures.
    """

    num_tensors: int
    num_clients: int
    value_bits: int
    scales: Scales | None

    @property
    def vector_length(self) -> int:
        """Digits of all counts."""
        return -(-self._num_counts * self._count_bits // self.value_bits)

    def encode(self, largest: Floats, weight: int) -> IntegerVector:
        """One client's digits, int64, shape (vector_length,), elements in [0, 2^value_bits).

        Args:
            largest: the largest absolute element of each tensor, shape (num_tensors,).
            weight: the client's.
        """
        values, ends = np.append(largest, float(min(weight, 1 << 63))), self._ends()
        counts = np.zeros(ends.shape, dtype=np.int64)
        places = np.minimum((ends < values[:, None]).sum(axis=1), ends.shape[1] - 1)
        counts[np.arange(len(ends)), places] = values > 0
        return _split(_joined(counts.ravel(), self._count_bits), self.value_bits, self.vector_length)

    def decode(self, total: IntegerVector) -> Ranges:
        """The counts in a sum of clients' digits, shape (vector_length,); whether they can be true is not checked."""
        number, digits, place = 0, total.astype(np.uint64), 0
        while digits.any():
            number += _joined(digits & np.uint64((1 << self.value_bits) - 1), self.value_bits) << place
            digits, place = digits >> np.uint64(self.value_bits), place + self.value_bits
        if number.bit_length() > (size := self._num_counts * self._count_bits):
            # No clients' counts: all ones are none, either.
            number = (1 << size) - 1
        ends = self._ends()
        return Ranges(ends, _split(number, self._count_bits, self._num_counts).reshape(ends.shape))

    @property
    def _num_counts(self) -> int:
        return (self.num_tensors + 1) * len(_RANGES_ALONE if self.scales is None else _RANGES_AROUND)

    @property
    def _count_bits(self) -> int:
        return self.num_clients.bit_length()

    def _ends(self) -> Floats:
        if self.scales is None:
            return np.tile(_RANGES_ALONE, (self.num_tensors + 1, 1))
        return self.scales.references()[:, None] * _RANGES_AROUND


def _joined(values: npt.NDArray[np.integer], width: int) -> int:
    """Values of ``width`` bits, lowest first, as one number."""
    bits = (values[:, None] >> np.arange(width, dtype=values.dtype)) & values.dtype.type(1)
    return int.from_bytes(np.packbits(bits.astype(np.uint8), bitorder="little").tobytes(), "little")


def _split(number: int, width: int, count: int) -> Counts:
    """The lowest ``count`` values of ``width`` bits that `_joined` made one number of, int64."""
    size = -(-width * count // 8)
    data = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")[: width * count]
    return bits.reshape(count, width).astype(np.int64) @ (np.int64(1) << np.arange(width, dtype=np.int64))
