"""Encoding of float updates and counters as vectors of small non-negative integers, which can be summed in a ring.

An element x of a tensor, within the tensor's bound [-c, c], with the client's weight
w = min(examples, max_weight) / max_weight, becomes

    q = floor(w (x + c) / step + u),   step = 2c / (2^value_bits - 1),   u uniform in [0, 1)

so that q is in [0, 2^value_bits) and unbiased: E[q] = w (x + c) / step.  The weighted mean follows from sums only,
sum(w x) / sum(w) = step sum(q) / sum(w) - c.  Weighting before rounding keeps the ring small: the width of a sum
does not grow with the largest weight.

After the update follow the ranges of the client's elements and weight (`fl.aggregation.scales`), which determine the
next round's bounds, and counters (examples, metrics, loss, clipped elements).  All are digits in base 2^value_bits,
which add up like the elements, so the server learns only totals, also of the weights.  An encoding
without bounds is for measuring: its vectors hold only the ranges.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fl.aggregation.counters import IntegerVector
from fl.aggregation.scales import MAX_WEIGHT, RangeEncoding, Ranges, Scales
from fl.aggregation.totals import QuantizationError as QuantizationError
from fl.aggregation.totals import TotalsEncoding
from fl.aggregation.totals import UndecodableSumError as UndecodableSumError
from fl.errors import ConfigError
from fl.learning.figures import CLASSIFICATION_FIGURES, FigureRange, Total, ratio

Vector: TypeAlias = npt.NDArray[np.float32]

_Number = TypeVar("_Number", bound=np.generic)

MIN_VALUE_BITS, MAX_VALUE_BITS = 4, 32


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """A client's update in the clear.

    Attributes:
        delta: the client's model minus the server's, float32, shape (update_length,).
        num_examples: number of training examples, the weight of the update; 0 leaves the mean unchanged.
        loss_sum: the sum of the examples' training losses.
        metrics: each metric's numerator and denominator.
    """

    delta: Vector
    num_examples: int
    loss_sum: float = 0.0
    metrics: tuple[Total, ...] = ()


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The data that the server learns from a round.

    Attributes:
        mean_delta: the mean update, weighted by examples, float32, shape (update_length,).
        num_examples: the number of examples of all clients.
        loss: the mean training loss per example; nan if the clients report none.
        metrics: the metrics' values on the clients' examples, by name; nan without a denominator.
        clipped: the fraction of all update elements that were clipped; nan without clipping.
        noise: standard deviation of the rounding, divided by the root mean square of the mean update, both relative to
            each tensor's bound; nan without rounding.
        ranges: the sizes of the clients' updates; None if they are not reported.
        within_clip: in private runs, the share of clients whose update was within the clip, with noise; None if it is
            not reported.
        stddevs: in private runs, the standard deviation of the noise in the loss, in each metric and in
            ``within_clip``, by name.
    """

    mean_delta: Vector
    num_examples: int
    loss: float
    metrics: dict[str, float]
    clipped: float
    noise: float = math.nan
    ranges: Ranges | None = None
    within_clip: float | None = None
    stddevs: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """The fraction of examples predicted correctly; nan if it is not measured."""
        return self.metrics.get("accuracy", math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateEncoding:
    """The encoding of updates as integers; the same on the server and all clients.

    Attributes:
        sizes: number of elements of each tensor of an update, in order.
        num_clients: number of clients of the session.
        value_bits: bits of an encoded element.
        scales: the clipping bounds; None in a session that measures, whose sum gives `Ranges` and no mean.
        figures: the ranges of the loss and of each metric; empty if clients report none.

    Raises:
        ConfigError: a number is out of range.
    """

    sizes: tuple[int, ...]
    num_clients: int
    value_bits: int
    scales: Scales | None
    figures: tuple[FigureRange, ...] = CLASSIFICATION_FIGURES

    def __post_init__(self) -> None:
        if not MIN_VALUE_BITS <= self.value_bits <= MAX_VALUE_BITS:
            raise ConfigError(
                f"value bits must be between {MIN_VALUE_BITS} and {MAX_VALUE_BITS}, not {self.value_bits}"
            )
        if self.update_length < 1 or min(self.sizes) < 0 or self.num_clients < 1:
            raise ConfigError("an encoding needs at least one element and one client")
        if self.scales is not None and len(self.scales.bounds) != len(self.sizes):
            raise ConfigError(f"{len(self.scales.bounds)} clipping bounds for {len(self.sizes)} tensors")

    @classmethod
    def for_plan(
        cls,
        sizes: tuple[int, ...],
        num_clients: int,
        value_bits: int,
        figures: tuple[FigureRange, ...] = CLASSIFICATION_FIGURES,
    ) -> "UpdateEncoding":
        """Return an encoding with the length that encodings of such updates have with any bounds."""
        scales = Scales((0.0,) * len(sizes), MAX_WEIGHT)
        return cls(sizes=sizes, num_clients=num_clients, value_bits=value_bits, scales=scales, figures=figures)

    @property
    def update_length(self) -> int:
        """Return the number of elements of an update."""
        return sum(self.sizes)

    @property
    def vector_length(self) -> int:
        """Return the number of elements of an encoded update: the update's, and the digits of ranges and counters."""
        length = self._ranges.vector_length
        if self.scales is not None:
            length += self.update_length + self._totals.vector_length
        return length

    def no_update(self) -> ClientUpdate:
        """Return what a client sends that has no update: it leaves the mean and all figures unchanged."""
        nothing = np.zeros(self.update_length, dtype=np.float32)
        return ClientUpdate(nothing, 0, metrics=((0, 0),) * max(0, len(self.figures) - 1))

    def encode(self, update: ClientUpdate, rng: np.random.Generator) -> IntegerVector:
        """Return the encoded update, int64, shape (vector_length,), elements in [0, 2^value_bits).

        Args:
            update: the update to encode.
            rng: generator for the rounding, which need not be secret, and for factors that only the client may know; in
                a client's process it is seeded with the client's own secret.

        Raises:
            QuantizationError: the update cannot be encoded.
        """
        delta = update.delta
        if delta.shape != (self.update_length,):
            raise QuantizationError(f"the update has shape {delta.shape}, but ({self.update_length},) was planned")
        if not np.isfinite(delta).all() or not np.isfinite(update.loss_sum):
            raise QuantizationError("the update or its loss is not finite: lower the learning rate")
        if update.num_examples < 0:
            raise QuantizationError(f"{update.num_examples} examples")
        tensors = self._tensors(delta)
        largest = np.array([float(np.abs(tensor).max(initial=0.0)) for tensor in tensors])
        ranges = self._ranges.encode(largest if update.num_examples else np.zeros_like(largest), update.num_examples)
        if self.scales is None:
            return ranges
        most = self.scales.max_weight
        weight = min(update.num_examples, most)
        encoded = np.empty(self.vector_length, dtype=np.int64)
        num_clipped, places = 0, self._tensors(encoded)
        for tensor, place, peak, bound in zip(tensors, places, largest, self.scales.bounds, strict=True):
            num_above = int(np.count_nonzero(np.abs(tensor) > bound)) if peak > bound else 0
            num_clipped += num_above
            if not bound:
                place[:] = 0
                continue
            # In float64 from the start: float32 would round the bound itself, and values could leave the range.
            scaled = tensor.astype(np.float64)
            if num_above > _most_clipped(len(tensor)):
                scaled *= _fitting(scaled, bound) * (1 + rng.random(1)[0]) / 2
            np.clip(scaled, -bound, bound, out=scaled)
            scaled += bound
            scaled *= weight / most / self._step(bound)
            scaled += rng.random(len(scaled))
            # The largest element plus its rounding can be one ulp too high.
            place[:] = np.minimum(np.floor(scaled, out=scaled), (1 << self.value_bits) - 1, out=scaled)
        # If the weight was cut, cut the figures by the same factor.
        factor = weight / max(1, update.num_examples)
        metrics = [(numerator * factor, denominator * factor) for numerator, denominator in update.metrics]
        totals = self._totals.encode(weight, update.loss_sum * factor, metrics, (num_clipped,))
        encoded[self.update_length :] = np.concatenate([ranges, totals])
        return encoded

    def decode(self, total: IntegerVector, num_clients: int) -> Aggregate:
        """Return the aggregate in a sum of ``num_clients`` encoded updates, shape (vector_length,); not for measuring.

        Raises:
            UndecodableSumError: ``num_clients`` valid updates cannot add up to it, or none of them has an example.
        """
        assert self.scales is not None  # noqa: S101 - measuring has no mean
        totals, most = self._totals, self.scales.max_weight
        ranges = self._decoded_ranges(total[self.update_length : len(total) - totals.vector_length], num_clients)
        num_examples, figures, (num_clipped,) = totals.decode(
            total,
            num_clients,
            fewest_examples=max(1, int(ranges.votes[-1])),
            most_examples=num_clients * most,
        )
        values = {name: ratio(one) for name, one in figures.items()}
        elements = total[: self.update_length]
        # A client's elements are at most its weight times the largest value, plus one by rounding.
        if int(elements.max()) > num_examples / most * ((1 << self.value_bits) - 1) + num_clients:
            raise UndecodableSumError(
                f"{num_clients} clients' inputs, of {num_examples} examples, cannot add up to an element of "
                f"{int(elements.max())}: a client sent an invalid input"
            )
        mean = elements.astype(np.float64)
        noise = signal = 0.0
        for tensor, bound, voters in zip(self._tensors(mean), self.scales.bounds, ranges.votes, strict=False):
            if not bound or not voters:
                # No client changed this tensor, so it stays exactly the same, without rounding noise.
                tensor[:] = 0
                continue
            step = self._step(bound) * most / num_examples
            tensor *= step
            tensor -= bound
            # The variance of a rounding is 1/6 of a step squared, on average over the position of the value.
            noise += len(tensor) * num_clients / 6 * (step / bound) ** 2
            signal += float(np.square(tensor / bound).sum())
        return Aggregate(
            mean_delta=mean.astype(np.float32),
            num_examples=num_examples,
            loss=values.pop("loss", math.nan),
            metrics=values,
            clipped=num_clipped / (self.update_length * num_clients),
            noise=math.sqrt(noise / signal) if signal else 0.0,
            ranges=ranges,
        )

    def decode_ranges(self, total: IntegerVector, num_clients: int) -> Ranges:
        """Return the ranges from a sum of ``num_clients`` vectors of an encoding that measures, shape (vector_length,).

        Raises:
            UndecodableSumError: ``num_clients`` valid vectors cannot add up to it, or none of them has an example.
        """
        ranges = self._decoded_ranges(total, num_clients)
        if not ranges.votes[-1]:
            raise UndecodableSumError(f"none of {num_clients} clients has any examples, or one sent an invalid input")
        return ranges

    def _decoded_ranges(self, digits: IntegerVector, num_clients: int) -> Ranges:
        ranges = self._ranges.decode(digits)
        with_weight = int(ranges.votes[-1])
        if with_weight > num_clients or int(ranges.votes.max()) > with_weight:
            raise UndecodableSumError(
                f"{num_clients} clients' ranges cannot add up to {with_weight} clients with examples, and "
                f"{int(ranges.votes.max())} that change a tensor: a client sent an invalid input"
            )
        return ranges

    def _step(self, bound: float) -> float:
        return 2 * bound / ((1 << self.value_bits) - 1)

    def _tensors(self, vector: npt.NDArray[_Number]) -> list[npt.NDArray[_Number]]:
        """Return views of a vector's tensors."""
        return np.split(vector[: self.update_length], np.cumsum(self.sizes)[:-1])

    @property
    def _ranges(self) -> RangeEncoding:
        return RangeEncoding(
            num_tensors=len(self.sizes),
            num_clients=self.num_clients,
            value_bits=self.value_bits,
            scales=self.scales,
        )

    @property
    def _totals(self) -> TotalsEncoding:
        """Return the counters of examples, figures and clipped elements, wide enough for all weights."""
        return TotalsEncoding(self.figures, MAX_WEIGHT, (("clipped elements", self.update_length),), self.value_bits)


def _most_clipped(num_elements: int) -> int:
    """Return how many elements of a tensor may be clipped one by one: a twentieth, and at least one.

    A clipped element has one of two values. If all clients clipped an element, its sum would be a subset sum of their
    weights, and would show the sign of each client's change. So a tensor with more elements above its bound is scaled
    down as a whole, by a factor that only its client knows.
    """
    return max(0, min(num_elements - 1, max(1, num_elements // 20)))


def _fitting(tensor: npt.NDArray[np.float64], bound: float) -> float:
    """Return the factor that scales all elements within the bound, except those that may be clipped."""
    place = len(tensor) - 1 - _most_clipped(len(tensor))
    return bound / float(np.partition(np.abs(tensor), place)[place])
