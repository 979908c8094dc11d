"""Encode named arrays, metrics and a weight as one vector of small integers; decode the weighted mean from a sum.

For frameworks whose replies are records, not one flat update.  The vector's length depends on the room that the session
has, not on the reply, so it is known before anybody trains.  The vector holds first an `UpdateEncoding`, whose tensors
are the float arrays that the client was sent, and one more tensor for all other arrays; then the metrics, as weighted
fixed-point numbers in digits; then, for each metric, the weight of the client if it has that metric.  An array that was
sent travels as the difference from the sent one, so its bound limits the client's change.  Any other array travels as
it is, and an array that does not come back counts as unchanged.  Arrays and metrics are in the order of their names.
An encoding without bounds measures: its vector holds only the ranges of the arrays and the weight.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.aggregation.counters import CounterEncoding, IntegerVector
from fl.aggregation.encoding import ClientUpdate, UndecodableSumError, UpdateEncoding
from fl.aggregation.scales import MAX_WEIGHT, Ranges, Scales
from fl.errors import ConfigError
from fl.integrations.record_layout import (
    ArrayField,
    Arrays,
    Metric,
    MetricField,
    Metrics,
    RecordError,
    RecordLayout,
    RecordLayoutError,
    float_sizes,
    layout_of,
)

MOST_METRICS = 1 << 16
"""The most metrics of one reply."""

# Metrics are rounded to 2^-20, which is finer than the printed digits of a loss.
_FRACTION_BITS = 20

_MAX_METRIC_BOUND = 2.0**40


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply that a client would send in the clear: arrays and metrics in named records."""

    arrays: Arrays
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Average:
    """The weighted mean of the replies.

    Attributes:
        arrays: averages in the types of the replies; arrays without an average are as they were sent. The arrays that
            were sent come first, in the order in which they were sent; the others follow, in the order of the replies.
        metrics: floats, or lists of floats; in the place of the weight is its total, an int. A metric is averaged over
            the clients that have it, and is NaN if no client has it.
        total_weight: the sum of the weights of all clients.
        clipped: the fraction of array elements that were clipped.
        partial: the metrics that some clients lack, by name, each with the total weight of the clients that have it.
        kept: record and name of each array that has no average.
        not_sent: record and name of each array that was averaged as it is, since clients were not sent one of that
            name.
        noise: as in `fl.aggregation.encoding.Aggregate`.
        ranges: the sizes of the clients' changes: a row for each of the encoding's ``sizes``, and a last one for the
            weights.
    """

    arrays: dict[str, dict[str, npt.NDArray[Any]]]
    metrics: dict[str, dict[str, Metric]]
    total_weight: int
    clipped: float
    partial: dict[str, int] = field(default_factory=dict)
    kept: tuple[tuple[str, str], ...] = ()
    not_sent: tuple[tuple[str, str], ...] = ()
    noise: float = math.nan
    ranges: Ranges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEncoding:
    """The encoding of replies as integers; the same on the server and all clients.

    Attributes:
        sizes: elements of each float array that the clients are sent, sorted by record and name; a last number gives
            the room, in elements, for arrays that they are not sent, if there is such room. Empty: no room for arrays.
        num_clients: the most clients of a session.
        scales: the clipping bounds, one for each of the ``sizes``, and one for weights: a larger weight counts as that
            bound. None in a session that measures, whose sum gives `Ranges` and no average.
        weight: the name of the metric that is the weight, an integer; usually the number of examples.
        value_bits: bits of an encoded element.
        max_metrics: the most numbers that a reply may have as metrics.
        metric_bound: metrics must be in [-metric_bound, metric_bound].

    Raises:
        ConfigError: a number is out of range.
    """

    sizes: tuple[int, ...]
    num_clients: int
    scales: Scales | None
    weight: str
    value_bits: int
    max_metrics: int
    metric_bound: float

    def __post_init__(self) -> None:
        # The server chooses the number, and each metric needs memory before a reply exists.
        if not 0 <= self.max_metrics <= MOST_METRICS:
            raise ConfigError(f"max_metrics must be 0 to {MOST_METRICS}, not {self.max_metrics}")
        if not 0 < self.metric_bound <= _MAX_METRIC_BOUND:
            raise ConfigError(
                f"the metrics' bound must be above 0 and at most {_MAX_METRIC_BOUND:g}, not {self.metric_bound}"
            )
        # This checks the other numbers.
        self._elements  # noqa: B018

    @property
    def vector_length(self) -> int:
        """Return the number of elements of an encoded reply."""
        return self._elements.vector_length + (0 if self.scales is None else self._metrics.vector_length)

    @property
    def _elements(self) -> UpdateEncoding:
        # An `UpdateEncoding` needs at least one element.
        empty = () if sum(self.sizes) else (1,)
        scales = self.scales
        if scales is not None and empty:
            scales = Scales((*scales.bounds, 0.0), scales.max_weight)
        # Metrics of a reply travel in counters of its own.
        return UpdateEncoding(
            sizes=self.sizes + empty,
            num_clients=self.num_clients,
            value_bits=self.value_bits,
            scales=scales,
            figures=(),
        )

    @property
    def _metrics(self) -> CounterEncoding:
        """Return the digits of the weighted metrics and of their weights, with room for any bound on weights."""
        largest = (2 * self._steps * MAX_WEIGHT,) * self.max_metrics + (MAX_WEIGHT,) * self.max_metrics
        return CounterEncoding(largest, self.value_bits)

    @property
    def _steps(self) -> int:
        """Return the metrics' bound in steps."""
        return math.ceil(self.metric_bound * (1 << _FRACTION_BITS))

    def encode(self, reply: Reply, received: Arrays, rng: np.random.Generator) -> tuple[IntegerVector, RecordLayout]:
        """Return the encoded reply, int64 of shape (vector_length,) in [0, 2^value_bits), and its public layout.

        Args:
            reply: the client's reply.
            received: the arrays that were sent to the client.
            rng: draws the rounding. It protects nothing; the protocol's masks protect the reply.

        Raises:
            RecordLayoutError: the structure lacks a weight, needs more room, or has no average.
            RecordError: the weight or a metric is out of range.
            QuantizationError: an element is not finite.
        """
        self.check_sent(received)
        layout = layout_of(reply.arrays, reply.metrics, received=received, weight=self.weight)
        self._check_room(layout, received)
        examples = self._checked_weight(reply.metrics[layout.weight_record][self.weight])
        flat = np.zeros(self._elements.update_length, dtype=np.float32)
        for one, place in _places(layout, received):
            array = np.asarray(reply.arrays[one.record][one.name])
            sent = received.get(one.record, {}).get(one.name)
            change = array if sent is None else array.astype(np.float64) - sent
            # Values too large for float32 become infinite and are refused below.
            with np.errstate(over="ignore"):
                flat[place] = np.ravel(change)
        elements = self._elements.encode(ClientUpdate(flat, examples), rng)
        if self.scales is None:
            return elements, layout
        weight = min(examples, self.scales.max_weight)
        numbers = list(_numbers(layout.by_name, reply.metrics))
        given = [weight * math.isfinite(value) for _, value in numbers]
        values = [w and w * self._metric_steps(*number) for w, number in zip(given, numbers, strict=True)]
        unused = [0] * (self.max_metrics - len(numbers))
        return np.concatenate([elements, self._metrics.encode(values + unused + given + unused)]), layout

    def no_reply(self, layout: RecordLayout, received: Arrays) -> Reply:
        """Return a reply of this layout that leaves the average unchanged: for a client whose training failed."""
        arrays: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for one in layout.arrays:
            sent = received.get(one.record, {}).get(one.name)
            value = np.zeros(one.shape, one.dtype) if sent is None else sent
            arrays.setdefault(one.record, {})[one.name] = value.astype(one.dtype)
        metrics: dict[str, dict[str, Metric]] = {layout.weight_record: {self.weight: 0}}
        for field_ in layout.metrics:
            lacking = math.nan if field_.length is None else [math.nan] * field_.length
            metrics.setdefault(field_.record, {})[field_.name] = lacking
        return Reply(arrays, metrics)

    def decode(self, total: IntegerVector, num_clients: int, layout: RecordLayout, sent: Arrays) -> Average:
        """Return the average from a sum of ``num_clients`` encoded replies of one layout.

        Args:
            total: the sum, of shape (vector_length,); not of a session that measures.
            num_clients: the number of replies in the sum.
            layout: the layout of one reply; the others may differ in the order of their fields only.
            sent: the arrays that were sent to the clients.

        Raises:
            RecordError: the layout does not fit the encoding or the arrays that were sent.
            UndecodableSumError: ``num_clients`` valid replies cannot add up to it: a client sent an invalid one.
        """
        self.check_layout(layout, sent)
        end = self._elements.vector_length
        aggregate = self._elements.decode(total[:end], num_clients)
        weight, counters = aggregate.num_examples, self._metrics.decode(total[end:])
        given = counters[self.max_metrics :][: layout.num_metrics]
        pairs = list(zip(counters, given, strict=False))
        if any(w > weight or value > 2 * self._steps * w for value, w in pairs):
            raise UndecodableSumError("the sum of the metrics is too large: a client sent an invalid reply")
        metrics = [(value - self._steps * w) / (w << _FRACTION_BITS) if w else math.nan for value, w in pairs]
        arrays = _arrays(layout, aggregate.mean_delta, sent)
        if not all(np.isfinite(arrays[one.record][one.name]).all() for one in layout.arrays if one.travels):
            raise UndecodableSumError("the average is not finite: a client sent an invalid reply")
        names = [one.name for one in layout.by_name.metrics for _ in range(one.size)]
        used = max(1, layout.num_elements)
        return Average(
            arrays=arrays,
            metrics=_metric_records(layout, metrics, self.weight, weight),
            total_weight=weight,
            clipped=aggregate.clipped * len(aggregate.mean_delta) / used,
            partial={name: w for name, w in zip(names, given, strict=True) if w < weight},
            kept=tuple((one.record, one.name) for one in layout.arrays if not one.travels),
            not_sent=tuple((one.record, one.name) for one in layout.arrays if one.name not in sent.get(one.record, {})),
            noise=aggregate.noise,
            ranges=aggregate.ranges,
        )

    def decode_ranges(self, total: IntegerVector, num_clients: int) -> Ranges:
        """Return the ranges from a sum, of shape (vector_length,), of a session that measures.

        Raises:
            UndecodableSumError: ``num_clients`` valid replies cannot add up to it, or all weights are 0.
        """
        return self._elements.decode_ranges(total, num_clients)

    def check_sent(self, sent: Arrays) -> None:
        """Raise RecordLayoutError unless the encoding is for replies to these arrays."""
        own = tuple(float_sizes(sent).values())
        if self.sizes and (self.sizes[: len(own)] != own or len(self.sizes) > len(own) + 1):
            raise RecordLayoutError(
                f"the session is for {len(self.sizes)} arrays, of {sum(self.sizes)} elements in all, and not for the "
                f"{len(own)} float arrays, of {sum(own)} elements, that were sent"
            )

    def check_layout(self, layout: RecordLayout, sent: Arrays) -> None:
        """Raise RecordError unless replies of this layout have room and fit the arrays that were sent."""
        self._check_room(layout, sent)
        for one in layout.arrays:
            own = sent.get(one.record, {}).get(one.name)
            if (own is None and not one.travels) or (own is not None and own.shape != one.shape):
                raise RecordError(f"array {one.name!r} of record {one.record!r} differs from the one that was sent")

    def _check_room(self, layout: RecordLayout, sent: Arrays) -> None:
        own = float_sizes(sent) if self.sizes else {}
        others = {(one.record, one.name): one.size for one in layout.arrays if one.travels}
        for place in own:
            others.pop(place, None)
        if (needed := sum(others.values())) > (room := sum(self.sizes[len(own) :])):
            named = ", ".join(f"{name!r} of record {record!r}" for record, name in list(others)[:3])
            raise RecordLayoutError(
                f"the reply has {needed} elements in arrays that were not sent ({named}), and room for {room}: if they "
                "are the model, give them the names that were sent; else the server can give more `capacity`"
            )
        if layout.num_metrics > self.max_metrics:
            raise RecordLayoutError(
                f"the reply has {layout.num_metrics} metrics, and room for {self.max_metrics}: the server can give "
                "more `max_metrics`"
            )

    def _checked_weight(self, weight: Metric) -> int:
        # Not "weight < 0": a comparison with NaN is false. Infinity has no remainder.
        if not isinstance(weight, int | float) or not weight >= 0 or weight % 1 != 0:
            raise RecordError(f"{self.weight!r} must be a whole number of at least 0")
        return int(weight)

    def _metric_steps(self, name: str, value: float) -> int:
        """Return a metric, shifted to be non-negative, in steps of 2^-20."""
        if not abs(value) <= self.metric_bound:
            raise RecordError(
                f"metric {name!r} is not in [-{self.metric_bound:g}, {self.metric_bound:g}]: the server can raise "
                "`metric_bound`"
            )
        return round(value * (1 << _FRACTION_BITS)) + self._steps


def _places(layout: RecordLayout, sent: Arrays) -> Iterator[tuple[ArrayField, slice]]:
    """Return the place of each array among the elements: first the arrays that were sent, then the others."""
    starts, end = {}, 0
    for place, size in float_sizes(sent).items():
        starts[place] = end
        end += size
    for one in layout.by_name.arrays:
        if one.travels:
            start = starts.get((one.record, one.name), end)
            yield one, slice(start, start + one.size)
            end += one.size if start == end else 0


def _numbers(layout: RecordLayout, metrics: Metrics) -> Iterator[tuple[str, float]]:
    """Return the metrics' names and numbers, in the layout's order."""
    for one in layout.metrics:
        value = metrics[one.record][one.name]
        for number in (value,) if isinstance(value, int | float) else value:
            yield one.name, number


def _arrays(
    layout: RecordLayout, mean: npt.NDArray[np.float32], sent: Arrays
) -> dict[str, dict[str, npt.NDArray[Any]]]:
    places = dict(_places(layout, sent))
    values = {
        one: _array(one, mean[places.get(one, slice(0))], sent.get(one.record, {}).get(one.name))
        for one in layout.arrays
    }
    sent_order = {(record, name): number for number, (record, name) in enumerate(_names(sent))}
    arrays: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for one in sorted(layout.arrays, key=lambda one: sent_order.get((one.record, one.name), len(sent_order))):
        arrays.setdefault(one.record, {})[one.name] = values[one]
    return arrays


def _array(one: ArrayField, mean: npt.NDArray[np.float32], sent: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return an array's average from the mean of its elements; or the array that was sent, in the clients' type."""
    # Values too large for the type become infinite and are refused later, if they travel.
    with np.errstate(over="ignore", invalid="ignore"):
        if one.travels:
            change = mean.reshape(one.shape).astype(np.float64)
            return np.asarray(change if sent is None else change + sent).astype(one.dtype)
        assert sent is not None  # noqa: S101 - checked with the layout
        return (np.rint(sent) if sent.dtype.kind == "f" else sent).astype(one.dtype)


def _names(arrays: Arrays) -> Iterator[tuple[str, str]]:
    for record, named in arrays.items():
        for name in named:
            yield record, name


def _metric_records(
    layout: RecordLayout, numbers: list[float], weight: str, total: int
) -> dict[str, dict[str, Metric]]:
    """Return the metrics by record and name, in the layout's order; ``numbers`` are in the order of the names."""
    values: dict[MetricField, Metric] = {}
    at = 0
    for one in layout.by_name.metrics:
        values[one] = numbers[at] if one.length is None else numbers[at : at + one.size]
        at += one.size
    records: dict[str, dict[str, Metric]] = {layout.weight_record: {weight: total}}
    for one in layout.metrics:
        records.setdefault(one.record, {})[one.name] = values[one]
    return records
