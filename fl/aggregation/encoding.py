"""Float updates and counters as vectors of small non-negative integers, and back: what makes them summable in a ring.

An element x of a tensor, within the tensor's bound [-c, c], with the client's weight
w = min(examples, max_weight) / max_weight, becomes

    q = floor(w (x + c) / step + u),   step = 2c / (2^value_bits - 1),   u uniform in [0, 1)

so that q is in [0, 2^value_bits) and unbiased: E[q] = w (x + c) / step.  The weighted mean follows from sums alone,
sum(w x) / sum(w) = step sum(q) / sum(w) - c.  Weighting before rounding keeps the ring small: the width of a sum
does not grow with the largest weight.

Behind the update travel the ranges that the client's elements and its weight lie in (`fl.aggregation.scales`), which
the next round's bounds follow, and counters (examples, correct predictions, loss, clipped elements).  All are digits in
base 2^value_bits, which add up like everything else; so the server learns only totals, the weights included.  An
encoding without bounds measures: its vectors are the ranges alone.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fl.aggregation.counters import LOSS_STEPS, MAX_LOSS, CounterEncoding, IntegerVector, loss_steps
from fl.aggregation.scales import MAX_WEIGHT, RangeEncoding, Ranges, Scales
from fl.errors import ConfigError, FLError

Vector: TypeAlias = npt.NDArray[np.float32]

_Number = TypeVar("_Number", bound=np.generic)

MIN_VALUE_BITS, MAX_VALUE_BITS = 4, 32


class QuantizationError(FLError):
    """An update that cannot be encoded: not finite, of another length, or of no possible counts."""


class UndecodableSumError(FLError):
    """A sum that inputs of the agreed form cannot add up to: a client sent something else, and there is no result."""


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What a client would send in the clear.

    Attributes:
        delta: its model less the server's, float32, shape (update_length,).
        num_examples: how many examples it trained on: its weight. An update of no examples changes no mean.
        loss_sum: the sum of its examples' training losses, in nats.
        correct: how many of them its model predicted rightly.
    """

    delta: Vector
    num_examples: int
    loss_sum: float
    correct: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What the server learns of a round.

    Attributes:
        mean_delta: the mean update, weighted by examples, float32, shape (update_length,).
        num_examples: the examples of all clients together.
        loss: the mean training loss an example, in nats.
        accuracy: the fraction of examples predicted rightly.
        clipped: the fraction of all update elements that were clipped; nan where nothing clips.
        noise: the rounding's standard deviation over the root mean square of the mean update, both in each tensor's
            bound; nan where nothing is rounded.
        ranges: how large the clients' updates were; None where nobody says.
    """

    mean_delta: Vector
    num_examples: int
    loss: float
    accuracy: float
    clipped: float
    noise: float = math.nan
    ranges: Ranges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateEncoding:
    """How updates become integers; the same on the server and all clients.

    Attributes:
        sizes: elements of each tensor of an update, in order.
        num_clients: of the session.
        value_bits: bits of an encoded element.
        scales: what is clipped to what; None in a session that measures, whose sum gives `Ranges` and no mean.

    Raises:
        ConfigError: a number out of range.
    """

    sizes: tuple[int, ...]
    num_clients: int
    value_bits: int
    scales: Scales | None

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
    def for_plan(cls, sizes: tuple[int, ...], num_clients: int, value_bits: int) -> "UpdateEncoding":
        """One that is as long as the encodings of such updates are, whatever their bounds will be."""
        scales = Scales((0.0,) * len(sizes), MAX_WEIGHT)
        return cls(sizes=sizes, num_clients=num_clients, value_bits=value_bits, scales=scales)

    @property
    def update_length(self) -> int:
        """Elements of an update."""
        return sum(self.sizes)

    @property
    def vector_length(self) -> int:
        """Elements of an encoded update: the update's, and the digits of ranges and counters."""
        length = self._ranges.vector_length
        if self.scales is not None:
            length += self.update_length + self._counters.vector_length
        return length

    def encode(self, update: ClientUpdate, rng: np.random.Generator) -> IntegerVector:
        """The encoded update, int64, shape (vector_length,), elements in [0, 2^value_bits).

        Args:
            update: what to encode.
            rng: draws the rounding, which protects nothing, and factors that nobody else may know: in a client's
                process it is seeded with its own secret.

        Raises:
            QuantizationError: see there.
        """
        delta = update.delta
        if delta.shape != (self.update_length,):
            raise QuantizationError(f"an update of shape {delta.shape}, but ({self.update_length},) was planned")
        if not np.isfinite(delta).all() or not np.isfinite(update.loss_sum):
            raise QuantizationError("an update with elements or a loss that are not finite: lower the learning rate")
        if not 0 <= update.correct <= update.num_examples:
            raise QuantizationError(f"{update.correct} correct predictions of {update.num_examples} examples")
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
            # In float64 from the start: in float32 the bound itself would be rounded, and with it the range left.
            scaled = tensor.astype(np.float64)
            if num_above > _most_clipped(len(tensor)):
                scaled *= _fitting(scaled, bound) * (1 + rng.random(1)[0]) / 2
            np.clip(scaled, -bound, bound, out=scaled)
            scaled += bound
            scaled *= weight / most / self._step(bound)
            scaled += rng.random(len(scaled))
            # The largest element plus its rounding can come out one ulp too high.
            place[:] = np.minimum(np.floor(scaled, out=scaled), (1 << self.value_bits) - 1, out=scaled)
        # A weight that was cut takes its part of the counters with it.
        correct = update.correct * weight // max(1, update.num_examples)
        loss = loss_steps(update.loss_sum * (weight / max(1, update.num_examples)), weight)
        counters = self._counters.encode((weight, correct, loss, num_clipped))
        encoded[self.update_length :] = np.concatenate([ranges, counters])
        return encoded

    def decode(self, total: IntegerVector, num_clients: int) -> Aggregate:
        """The aggregate in a sum of ``num_clients`` encoded updates, shape (vector_length,); not of such that measure.

        Raises:
            UndecodableSumError: no ``num_clients`` updates add up to it, or none of them has an example.
        """
        assert self.scales is not None  # noqa: S101 - measuring has no mean
        counters, most = self._counters, self.scales.max_weight
        ranges = self._decoded_ranges(total[self.update_length : len(total) - counters.vector_length], num_clients)
        num_examples, correct, loss, num_clipped = checked_totals(
            total,
            num_clients,
            counters,
            fewest_examples=max(1, int(ranges.votes[-1])),
            most_examples=num_clients * most,
        )
        elements = total[: self.update_length]
        # Each client's are at most its weight times the largest value, and one more by rounding.
        if int(elements.max()) > num_examples / most * ((1 << self.value_bits) - 1) + num_clients:
            raise UndecodableSumError(
                f"{num_clients} clients' inputs, of {num_examples} examples, cannot add up to an element of "
                f"{int(elements.max())}: a client sent what is no input"
            )
        mean = elements.astype(np.float64)
        noise = signal = 0.0
        for tensor, bound, voters in zip(self._tensors(mean), self.scales.bounds, ranges.votes, strict=False):
            if not bound or not voters:
                # Nobody changed it: without rounding noise it stays exactly as it is.
                tensor[:] = 0
                continue
            step = self._step(bound) * most / num_examples
            tensor *= step
            tensor -= bound
            # The variance of a rounding is 1/6 of a step squared, on average over where the value lies.
            noise += len(tensor) * num_clients / 6 * (step / bound) ** 2
            signal += float(np.square(tensor / bound).sum())
        return Aggregate(
            mean_delta=mean.astype(np.float32),
            num_examples=num_examples,
            loss=loss / LOSS_STEPS / num_examples,
            accuracy=correct / num_examples,
            clipped=num_clipped / (self.update_length * num_clients),
            noise=math.sqrt(noise / signal) if signal else 0.0,
            ranges=ranges,
        )

    def decode_ranges(self, total: IntegerVector, num_clients: int) -> Ranges:
        """The ranges in a sum of ``num_clients`` vectors of an encoding that measures, shape (vector_length,).

        Raises:
            UndecodableSumError: no ``num_clients`` vectors add up to it, or none of them has an example.
        """
        ranges = self._decoded_ranges(total, num_clients)
        if not ranges.votes[-1]:
            raise UndecodableSumError(f"none of {num_clients} clients has any examples, or one sent what is no input")
        return ranges

    def _decoded_ranges(self, digits: IntegerVector, num_clients: int) -> Ranges:
        ranges = self._ranges.decode(digits)
        with_weight = int(ranges.votes[-1])
        if with_weight > num_clients or int(ranges.votes.max()) > with_weight:
            raise UndecodableSumError(
                f"{num_clients} clients' ranges cannot add up to {with_weight} clients with examples, and "
                f"{int(ranges.votes.max())} that change a tensor: a client sent what is no input"
            )
        return ranges

    def _step(self, bound: float) -> float:
        return 2 * bound / ((1 << self.value_bits) - 1)

    def _tensors(self, vector: npt.NDArray[_Number]) -> list[npt.NDArray[_Number]]:
        """Views of a vector's tensors."""
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
    def _counters(self) -> CounterEncoding:
        """Of examples, correct ones, loss steps and clipped elements; with room for any bound on weights."""
        most = MAX_WEIGHT
        return CounterEncoding((most, most, most * MAX_LOSS * LOSS_STEPS, self.update_length), self.value_bits)


def _most_clipped(num_elements: int) -> int:
    """Return how many elements of a tensor may be clipped one by one: a twentieth, or a single one of a few.

    An element that is clipped is one of two values. If all clients' were, the sum of an element would be a subset sum
    of their weights, and show the sign of each client's change. So a tensor of which more is above its bound is made
    smaller as a whole, by a factor that its client alone knows.
    """
    return max(0, min(num_elements - 1, max(1, num_elements // 20)))


def _fitting(tensor: npt.NDArray[np.float64], bound: float) -> float:
    """Return the factor that brings all but the elements that may be clipped within the bound."""
    place = len(tensor) - 1 - _most_clipped(len(tensor))
    return bound / float(np.partition(np.abs(tensor), place)[place])


def checked_totals(
    total: IntegerVector,
    num_clients: int,
    counters: CounterEncoding,
    *,
    fewest_examples: int,
    most_examples: int,
) -> tuple[int, ...]:
    """The sums of the counters at the end of a sum of vectors.

    Args:
        total: the sum, shape (at least ``counters.vector_length``,).
        num_clients: how many vectors are in it.
        counters: of examples, correct predictions, loss steps, and any others.
        fewest_examples, most_examples: that all clients together can have.

    Raises:
        UndecodableSumError: no ``num_clients`` vectors add up to it.
    """
    sums = counters.decode(total[-counters.vector_length :])
    examples, correct, loss = sums[:3]
    wrong = ""
    if int(total.max()) > num_clients * ((1 << counters.value_bits) - 1):
        wrong = f"an element of {int(total.max())}"
    elif not fewest_examples <= examples <= most_examples:
        wrong = f"{examples} examples"
    elif correct > examples:
        wrong = f"{correct} correct predictions of {examples} examples"
    elif loss > examples * MAX_LOSS * LOSS_STEPS:
        wrong = f"a loss of {loss / LOSS_STEPS:g} over {examples} examples"
    elif any(found > num_clients * largest for found, largest in zip(sums, counters.largest, strict=True)):
        wrong = f"{max(sums[3:])} clipped elements"
    if wrong:
        raise UndecodableSumError(
            f"{num_clients} clients' inputs cannot add up to {wrong}: a client sent what is no input"
            + ("" if examples else ", or none of them has any")
        )
    return sums
