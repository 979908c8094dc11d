"""Bounds on updates, one for each tensor and one for the weights, and the counts from which they are computed.

An update's elements are rounded to steps between minus and plus a bound, and its weight is relative to a bound on all
weights.  A bound far above the clients' values wastes resolution; a bound below them clips.  So clients report the size
of their updates, and the next round's bounds are computed from the reports.  The server learns only their sum: for each
tensor, the number of clients whose largest element lies in each of a few ranges (`Ranges`), and the same for weights.
The first bounds come from a session that sums only such counts.

`Scales.following` is the rule.  The tenth of the clients that changes a tensor most (at least one, of three or more) is
set aside, and the bound is the one that the others need.  If bits can be spared it is larger, up to the need of the
clients set aside.  So a client that diverges, or lies within the format, costs the others no resolution that they need.
A client that forges its counts moves a bound by a few bits per round, up or down; it could equally add any value to the
sum itself.  docs/threat-model.md lists the limits of the rule.  `ScaleTracker` applies it from round to round.
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
"""The smallest and largest bound. They suffice for float32 models and keep all arithmetic finite."""

MAX_WEIGHT = 1 << 32
"""The largest bound on weights."""

# Upper ends of the counted ranges, as powers of two: absolute in a session that measures, otherwise relative to the
# present bounds. Values above the last end are assumed to be at most four times as large.
_RANGES_ALONE = 2.0 ** np.arange(-62, 63)
_RANGES_AROUND = 2.0 ** np.array([-12, -10, -8, -6, -4, -2, 0, 2, 4, 6])

# With this number of bits the rounding noise is below 1%, even for the average of one client whose largest element is 8
# times the usual one. Further bits can be spared for outliers and growth, but only as far as the ranges show: a client
# in the lowest range may be far below it, so a bound must come down until the others are above that range.
_NEEDED_BITS = 10
_MOST_SPARED = 10
# The minimum number of spared bits for each tensor.
_LEAST_SPARED = 2
# The ranges of an unchanged tensor are relative to this fraction of the largest bound, in case a client changes it.
_REFERENCE_OF_UNCHANGED = 2.0**-8
# A weight that was sent may grow by this factor in the next round without being cut.
_BEYOND = 4.0


@dataclass(frozen=True, slots=True)
class Scales:
    """The bounds to which updates are clipped.

    Attributes:
        bounds: one for each tensor, in the model's units. Elements are brought into [-bound, bound]: a few are clipped,
            many are scaled down together (`UpdateEncoding.encode`). 0: no client changes the tensor, and its mean
            change is exactly 0.
        max_weight: the bound on weights, usually numbers of examples; larger weights count as this one.

    Raises:
        ConfigError: a number is out of range.
    """

    bounds: tuple[float, ...]
    max_weight: int

    def __post_init__(self) -> None:
        for bound in self.bounds:
            # Not "bound < MIN_CLIP", since a comparison with NaN is false.
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
        """Return the bounds for the next round.

        Args:
            ranges: sizes of the updates of the last session.
            value_bits: bits of a rounded element.
            present: the bounds of that session; None if it only measured. Bounds that fit well enough are kept.
            total_weight: the sum of that session's weights, or None if unknown.
        """
        votes = ranges.votes
        # Count all clients with a weight. Otherwise one client would decide alone on a tensor that no other changes.
        set_aside = max(1, int(votes[-1]) // 10) if votes[-1] >= 3 else 0
        largest, others = ranges.held_by(1), ranges.held_by(set_aside + 1)
        if present is not None and total_weight is not None and total_weight < present.max_weight:
            # A client that reported a larger weight than the total did not send that weight.
            largest[-1], others[-1] = np.minimum(total_weight, (largest[-1], others[-1]))
        headroom = 2.0 ** max(1, min(value_bits - _NEEDED_BITS, _MOST_SPARED) // 3)
        # The excess of the weight bound over the others' weights costs all tensors resolution, so limit it.
        most_weight = others[-1] * 2.0**_MOST_SPARED
        if present is not None and total_weight is not None:
            # A weight far above the others' counts only if it was sent: if the others cannot add up to the total.
            sent = max(0.0, total_weight - (float(ranges.ends[-1] @ ranges.counts[-1]) - ranges.held_by(1)[-1]))
            spared = 2.0 ** np.clip(value_bits - _NEEDED_BITS - _LEAST_SPARED, 1, _MOST_SPARED)
            most_weight = min(most_weight, max(others[-1] * spared, sent * _BEYOND))
        weight = min(largest[-1] * min(headroom, 4.0), most_weight)
        taken = int(np.log2(weight / others[-1])) if others[-1] else 0
        most = others * 2.0 ** np.clip(value_bits - _NEEDED_BITS - taken, _LEAST_SPARED, _MOST_SPARED)
        # A tensor changed only by clients set aside gets a bound up to the largest of the other tensors.
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
        """Return the reference values of the ranges: the bounds, last for weights; float64, shape (tensors + 1,)."""
        bounds = np.array(self.bounds, dtype=np.float64)
        unchanged = max((float(bounds.max(initial=0.0)) or 1.0) * _REFERENCE_OF_UNCHANGED, MIN_CLIP)
        return np.append(np.where(bounds > 0, bounds, unchanged), float(self.max_weight))


@dataclass(frozen=True, slots=True)
class Ranges:
    """Counts of the sizes of the clients' updates.

    Attributes:
        ends: upper ends of the ranges, ascending in each row, float64, shape (tensors + 1, ranges); a row for each
            tensor, and the last one for the weights. Larger values also count in the last range.
        counts: number of clients whose largest absolute element (or weight) is in each range, int64, same shape. Zeros
            are not counted.
    """

    ends: Floats
    counts: Counts

    @property
    def votes(self) -> Counts:
        """Return how many clients change each tensor, and how many have a weight, shape (tensors + 1,)."""
        votes: Counts = self.counts.sum(axis=1)
        return votes

    def held_by(self, ranks: Counts | int) -> Floats:
        """Return the upper end of the range with the client of that rank (1: the largest); 0 if there are fewer."""
        or_larger = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1]
        places = (or_larger >= np.reshape(ranks, (-1, 1))).sum(axis=1) - 1
        return np.where(places < 0, 0.0, self.ends[np.arange(len(self.ends)), places])

    def above(self, bounds: Floats) -> Counts:
        """Return the number of clients in ranges that end above ``bounds``, shape (tensors + 1,)."""
        return np.asarray(np.where(self.ends > np.reshape(bounds, (-1, 1)), self.counts, 0).sum(axis=1))


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A bound that clients exceeded: their elements were clipped, or their weight counted as the bound.

    Attributes:
        clients: number of these clients.
        bound: the bound.
        enough: a bound sufficient for all of them, up to a factor of 4; None if it is unknown and above 64 times the
            bound.
    """

    clients: int
    bound: float
    enough: float | None


class ScaleTracker:
    """The bounds of one training on the server, updated after each round.

    Args:
        num_tensors: number of tensors of an update.
        value_bits: bits of a rounded element.
        clip: a fixed bound for all elements; None: each tensor's bound follows the updates.
        max_weight: a fixed bound on weights; None: the bound follows the clients' weights.

    Attributes:
        scales: bounds of the next session; None if it must measure first.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self, num_tensors: int, value_bits: int, *, clip: float | None = None, max_weight: int | None = None
    ) -> None:
        self._num_tensors = num_tensors
        self._value_bits = value_bits
        self._clip = clip
        self._max_weight = max_weight
        # Check the fixed bounds.
        fixed = Scales((clip or 0.0,) * num_tensors, 1 if max_weight is None else max_weight)
        if clip == 0:
            raise ConfigError("a fixed clipping bound must be above 0")
        self.scales = None if clip is None or max_weight is None else fixed

    def follow(self, ranges: Ranges, total_weight: int | None = None) -> None:
        """Update the bounds from a session's ranges; the session only measured if there were no bounds."""
        found = Scales.following(ranges, self._value_bits, self.scales, total_weight)
        self.scales = Scales(
            found.bounds if self._clip is None else (self._clip,) * self._num_tensors,
            found.max_weight if self._max_weight is None else self._max_weight,
        )

    def exceeded(self, ranges: Ranges) -> list[Exceeded | None]:
        """Return, for each tensor and last for the weights, whether clients of the session exceeded its bound.

        Call it before `follow` updates the bounds.
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
        """Return the present bounds as plain values, for a checkpoint."""
        return None if self.scales is None else {"bounds": self.scales.bounds, "max_weight": self.scales.max_weight}

    def restore(self, values: dict[str, Any] | None) -> None:
        """Restore the value of `to_json`. Raises KeyError, TypeError or ConfigError if it does not fit."""
        if values is None:
            return
        scales = Scales(tuple(map(float, values["bounds"])), int(values["max_weight"]))
        if len(scales.bounds) != self._num_tensors:
            raise ConfigError(f"{len(scales.bounds)} clipping bounds for {self._num_tensors} tensors")
        self.scales = scales


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeEncoding:
    """Counts of ranges as small digits that add up in a ring.

    A count of n clients takes as many bits as n. All counts are concatenated in one large number, whose digits in base
    2^value_bits are the vector.

    Attributes:
        num_tensors: number of rows of ranges, without the row of the weights.
        num_clients: number of clients of the session.
        value_bits: bits of a digit.
        scales: the bounds to which the ranges are relative; None in a session that measures.
    """

    num_tensors: int
    num_clients: int
    value_bits: int
    scales: Scales | None

    @property
    def vector_length(self) -> int:
        """Return the number of digits of all counts."""
        return -(-self._num_counts * self._count_bits // self.value_bits)

    def encode(self, largest: Floats, weight: int) -> IntegerVector:
        """Return one client's digits, int64, shape (vector_length,), elements in [0, 2^value_bits).

        Args:
            largest: the largest absolute element of each tensor, shape (num_tensors,).
            weight: the client's weight.
        """
        values, ends = np.append(largest, float(min(weight, 1 << 63))), self._ends()
        counts = np.zeros(ends.shape, dtype=np.int64)
        places = np.minimum((ends < values[:, None]).sum(axis=1), ends.shape[1] - 1)
        counts[np.arange(len(ends)), places] = values > 0
        return _split(_joined(counts.ravel(), self._count_bits), self.value_bits, self.vector_length)

    def decode(self, total: IntegerVector) -> Ranges:
        """Return the counts in a sum of clients' digits, shape (vector_length,); they may be impossible ones."""
        number, digits, place = 0, total.astype(np.uint64), 0
        while digits.any():
            number += _joined(digits & np.uint64((1 << self.value_bits) - 1), self.value_bits) << place
            digits, place = digits >> np.uint64(self.value_bits), place + self.value_bits
        if number.bit_length() > (size := self._num_counts * self._count_bits):
            # Not the counts of clients. All ones are invalid too.
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
    """Return values of ``width`` bits, lowest first, joined into one number."""
    bits = (values[:, None] >> np.arange(width, dtype=values.dtype)) & values.dtype.type(1)
    return int.from_bytes(np.packbits(bits.astype(np.uint8), bitorder="little").tobytes(), "little")


def _split(number: int, width: int, count: int) -> Counts:
    """Return the lowest ``count`` values of ``width`` bits in a number from `_joined`, int64."""
    size = -(-width * count // 8)
    data = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")[: width * count]
    return bits.reshape(count, width).astype(np.int64) @ (np.int64(1) << np.arange(width, dtype=np.int64))
