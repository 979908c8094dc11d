"""Named arrays, metrics and a weight as one vector of small integers, and their weighted mean from a sum of vectors.

For frameworks whose replies are records instead of one flat update.  The vector's length does not depend on what the
reply holds, only on what it has room for, so that it is known before anybody has trained: array elements first, padded
with zeros; then the counters of `UpdateEncoding`, which carry the weight; then the metrics, as weighted fixed-point
numbers in digits.  An array that was sent to the client travels as the difference to what was sent, so ``clip`` bounds
what a client changes; any other array travels as it is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.counters import CounterEncoding, IntegerVector
from fl.errors import ConfigError
from fl.integrations.record_layout import Arrays, Metric, Metrics, RecordError, RecordLayout, layout_of
from fl.quantization import ClientUpdate, UndecodableSumError, UpdateEncoding

MOST_METRICS = 1 << 16
"""Metrics of a reply, at most."""

# Metrics are rounded to 2^-20 each, below what anyone prints of a loss.
_FRACTION_BITS = 20

_MAX_METRIC_BOUND = 2.0**40


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client would send in the clear: arrays and metrics in named records."""

    arrays: Arrays
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Average:
    """The weighted mean of the replies.

    Attributes:
        arrays: in the types of the replies; arrays without an average as they were sent.
        metrics: floats, or lists of floats; and the weight's total, an int, in the place of the weight.
        total_weight: the weights of all clients together.
        clipped: the fraction of array elements that were clipped.
    """

    arrays: dict[str, dict[str, npt.NDArray[Any]]]
    metrics: dict[str, dict[str, Metric]]
    total_weight: int
    clipped: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEncoding:
    """How replies become integers; the same on the server and all clients.

    Attributes:
        capacity: array elements that a reply has room for.
        weight: the name of the metric that is the weight, usually the number of examples; an integer.
        max_weight: a public bound on any client's weight.
        clip: elements are clipped to [-clip, clip].
        value_bits: bits of an encoded element.
        max_metrics: numbers that a reply has room for as metrics.
        metric_bound: metrics are in [-metric_bound, metric_bound].

    Raises:
        ConfigError: a number out of range.
    """

    capacity: int
    weight: str
    max_weight: int
    clip: float
    value_bits: int
    max_metrics: int
    metric_bound: float

    def __post_init__(self) -> None:
        # A server says how many, and each needs memory before there is a reply.
        if not 0 <= self.max_metrics <= MOST_METRICS:
            raise ConfigError(f"there can be room for 0 to {MOST_METRICS} metrics, not for {self.max_metrics}")
        if not 0 < self.metric_bound <= _MAX_METRIC_BOUND:
            raise ConfigError(
                f"the metrics' bound must be above 0, at most {_MAX_METRIC_BOUND:g}, not {self.metric_bound}"
            )
        # Checks the other numbers.
        self._elements  # noqa: B018

    @property
    def vector_length(self) -> int:
        """Elements of an encoded reply."""
        return self._elements.vector_length + self._metrics.vector_length

    @property
    def _elements(self) -> UpdateEncoding:
        return UpdateEncoding(
            update_length=max(1, self.capacity),
            max_examples=self.max_weight,
            clip=self.clip,
            value_bits=self.value_bits,
        )

    @property
    def _metrics(self) -> CounterEncoding:
        return CounterEncoding((2 * self._steps * self.max_weight,) * self.max_metrics, self.value_bits)

    @property
    def _steps(self) -> int:
        """Of the metrics' bound."""
        return math.ceil(self.metric_bound * (1 << _FRACTION_BITS))

    def encode(self, reply: Reply, received: Arrays, rng: np.random.Generator) -> tuple[IntegerVector, RecordLayout]:
        """The encoded reply, int64, shape (vector_length,), elements in [0, 2^value_bits); and its layout, public.

        Args:
            reply: the client's.
            received: the arrays that the client was sent.
            rng: draws the rounding. It protects nothing: the protocol's masks do.

        Raises:
            RecordError: it has no weight, no room, or no average.
            QuantizationError: elements that are not finite, or a weight out of range.
        """
        layout = layout_of(reply.arrays, reply.metrics, received=received, weight=self.weight)
        self._check_room(layout)
        weight = self._checked_weight(reply.metrics[layout.weight_record][self.weight])
        flat = np.zeros(max(1, self.capacity), dtype=np.float32)
        at = 0
        for field in layout.arrays:
            if field.travels:
                array = np.asarray(reply.arrays[field.record][field.name])
                sent = received.get(field.record, {}).get(field.name)
                change = array if sent is None else array.astype(np.float64) - sent
                # What is too large for float32 is refused below, as not finite.
                with np.errstate(over="ignore"):
                    flat[at : at + field.size] = np.ravel(change)
                at += field.size
        elements = self._elements.encode(ClientUpdate(flat, weight, loss_sum=0.0, correct=0), rng)
        counters = [weight * self._metric_steps(*place) for place in _numbers(layout, reply.metrics)]
        counters += [0] * (self.max_metrics - len(counters))
        return np.concatenate([elements, self._metrics.encode(counters)]), layout

    def decode(self, total: IntegerVector, num_clients: int, layout: RecordLayout, sent: Arrays) -> Average:
        """The average in a sum of ``num_clients`` encoded replies of one layout, shape (vector_length,).

        Args:
            total: the sum.
            num_clients: how many replies are in it.
            layout: theirs.
            sent: the arrays that they were sent.

        Raises:
            RecordError: the layout does not fit the encoding, or what was sent.
            UndecodableSumError: no ``num_clients`` replies add up to it, since a client sent what is none.
        """
        self.check_layout(layout, sent)
        end = self._elements.vector_length
        aggregate = self._elements.decode(total[:end], num_clients)
        weight, counters = aggregate.num_examples, self._metrics.decode(total[end:])[: layout.num_metrics]
        if max(counters, default=0) > 2 * self._steps * weight:
            raise UndecodableSumError("the metrics add up to more than they can: a client sent what is no reply")
        metrics = [(counter - self._steps * weight) / (weight << _FRACTION_BITS) for counter in counters]
        arrays = _arrays(layout, aggregate.mean_delta, sent)
        if not all(np.isfinite(arrays[field.record][field.name]).all() for field in layout.arrays if field.travels):
            raise UndecodableSumError("the average is not finite: a client sent what is no reply")
        used = max(1, layout.num_elements)
        return Average(
            arrays=arrays,
            metrics=_metric_records(layout, metrics, self.weight, weight),
            total_weight=weight,
            clipped=aggregate.clipped * max(1, self.capacity) / used,
        )

    def check_layout(self, layout: RecordLayout, sent: Arrays) -> None:
        """RecordError unless replies of this layout have room, and fit what was sent to the clients."""
        self._check_room(layout)
        for field in layout.arrays:
            own = sent.get(field.record, {}).get(field.name)
            if (own is None and not field.travels) or (own is not None and own.shape != field.shape):
                raise RecordError(f"array {field.name!r} of record {field.record!r} is not like the one that was sent")

    def _check_room(self, layout: RecordLayout) -> None:
        if layout.num_elements > self.capacity:
            raise RecordError(
                f"the reply has {layout.num_elements} array elements, and room for {self.capacity}, as many as were "
                "sent: the server can give more `capacity`"
            )
        if layout.num_metrics > self.max_metrics:
            raise RecordError(
                f"the reply has {layout.num_metrics} metrics, and room for {self.max_metrics}: the server can give "
                "more `max_metrics`"
            )

    def _checked_weight(self, weight: Metric) -> int:
        if not isinstance(weight, int | float) or weight != weight or weight not in range(1, self.max_weight + 1):
            raise RecordError(
                f"{self.weight!r} must be a whole number from 1 to {self.max_weight}, a bound that the server can raise"
            )
        return int(weight)

    def _metric_steps(self, name: str, value: float) -> int:
        """A metric, moved to be non-negative, in steps of 2^-20."""
        if not abs(value) <= self.metric_bound:
            raise RecordError(
                f"metric {name!r} is not in [-{self.metric_bound:g}, {self.metric_bound:g}]: the server can raise "
                "`metric_bound`, and what is not finite cannot be averaged"
            )
        return round(value * (1 << _FRACTION_BITS)) + self._steps


def _numbers(layout: RecordLayout, metrics: Metrics) -> Iterator[tuple[str, float]]:
    """The metrics' names and numbers, in the layout's order."""
    for field in layout.metrics:
        value = metrics[field.record][field.name]
        for number in (value,) if isinstance(value, int | float) else value:
            yield field.name, number


def _arrays(
    layout: RecordLayout, mean: npt.NDArray[np.float32], sent: Arrays
) -> dict[str, dict[str, npt.NDArray[Any]]]:
    arrays: dict[str, dict[str, npt.NDArray[Any]]] = {}
    at = 0
    for field in layout.arrays:
        own = sent.get(field.record, {}).get(field.name)
        if field.travels:
            change = mean[at : at + field.size].reshape(field.shape).astype(np.float64)
            at += field.size
            # What is too large for the type is refused afterwards, as not finite.
            with np.errstate(over="ignore"):
                value = (change if own is None else change + own).astype(field.dtype)
        else:
            value = np.array(own)
        arrays.setdefault(field.record, {})[field.name] = value
    return arrays


def _metric_records(
    layout: RecordLayout, numbers: list[float], weight: str, total: int
) -> dict[str, dict[str, Metric]]:
    records: dict[str, dict[str, Metric]] = {layout.weight_record: {weight: total}}
    at = 0
    for field in layout.metrics:
        value = numbers[at : at + field.size]
        records.setdefault(field.record, {})[field.name] = value[0] if field.length is None else value
        at += field.size
    return records
