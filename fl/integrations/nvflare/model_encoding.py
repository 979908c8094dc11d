"""Encode a site's update, metrics and steps as one vector of small integers; decode the mean from a sum of vectors.

Floating-point entries of the model travel as differences from the received entries, each clipped to its own bound.
Integer entries (BatchNorm's counters, say) and excluded entries stay as the server has them.  Declared metrics travel
as weighted values; a site that does not report a metric has weight 0 for it, as in NVFlare's own average.  An encoding
without bounds measures: its vector holds only the ranges of a site's changes and steps.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack
import numpy as np
import numpy.typing as npt

from fl.aggregation.counters import IntegerVector
from fl.aggregation.scales import Ranges, Scales
from fl.errors import ConfigError
from fl.integrations.nvflare.errors import ModelError, TrainingFailedError
from fl.integrations.record_layout import ArrayField, MetricField, RecordLayout, is_float
from fl.integrations.records import RecordEncoding, Reply

Model: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""The entries of a model, by name."""

_ARRAYS, _NUMBERS, _STEPS = "model", "metrics", "steps"
# Prefix of the metrics' names, since a metric may have the name of the weight.
_METRIC = "metric:"


@dataclass(frozen=True, slots=True)
class SiteUpdate:
    """The update that a site would send in the clear.

    Attributes:
        entries: its model, or the difference from the received model.
        is_difference: True for a difference.
        steps: its weight, `FLMetaKey.NUM_STEPS_CURRENT_ROUND`; 0 for an update that does not count.
        metrics: its metrics; undeclared ones, and values that are not finite numbers within the bound, are not sent.
    """

    entries: Mapping[str, Any]
    is_difference: bool
    steps: float
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MeanUpdate:
    """The data that the server learns from a round.

    Attributes:
        differences: the weighted mean of the sites' changes, in the model's types, by name.
        metrics: the weighted mean of each metric that any site reported.
        total_steps: the sum of the steps of all sites.
        clipped: the fraction of elements that were clipped.
        noise: as in `fl.aggregation.encoding.Aggregate`.
        ranges: the sizes of the sites' changes: a row for each averaged entry, by name, and a last one for the steps;
            None in private rounds.
    """

    differences: dict[str, npt.NDArray[Any]]
    metrics: dict[str, float]
    total_steps: int
    clipped: float
    noise: float
    ranges: Ranges | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEncoding:
    """The encoding of updates as integers; the server announces it, the same for all sites.

    Attributes:
        num_sites: the number of sites in the session.
        scales: the clipping bounds: one for each averaged entry, by name, and one for steps: more steps count as that
            bound. None in a session that measures, whose sum gives `Ranges` and no mean.
        value_bits: bits of an encoded element.
        metrics: names of the metrics that are averaged.
        metric_bound: metrics must be in [-metric_bound, metric_bound].
        excluded: names of the model's entries that are not averaged, ascending. The server finds them by its
            ``exclude_vars``. Sites do not run that regular expression: a hostile one could take years.

    Raises:
        ConfigError: a number is out of range, or a name occurs twice.
    """

    num_sites: int
    scales: Scales | None
    value_bits: int
    metrics: tuple[str, ...]
    metric_bound: float
    excluded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.metrics) or len(set(self.metrics)) != len(self.metrics):
            raise ConfigError("metrics must be distinct names")
        if not all(isinstance(name, str) for name in self.excluded) or list(self.excluded) != sorted(
            set(self.excluded)
        ):
            raise ConfigError("excluded names must be distinct and in ascending order")
        # This checks the numbers.
        self._records((1,) if self.scales is None else (1,) * len(self.scales.bounds))

    @property
    def measures(self) -> bool:
        """Return whether the session only measures the sizes of updates."""
        return self.scales is None

    def averaged(self, model: Model) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the averaged entries of the model, by name, in the order of the names."""
        return {field.name: field.shape for field in self._layout(model).arrays}

    def vector_length(self, model: Model) -> int:
        """Return the number of elements of an encoded update; raise ModelError if the bounds are for another model."""
        return self._records_of(self._layout(model)).vector_length

    def encode(self, update: SiteUpdate, received: Model, rng: np.random.Generator) -> IntegerVector:
        """Return the encoded update, int64, shape (vector_length(received),), elements in [0, 2^value_bits).

        Args:
            update: the site's update.
            received: the model that was sent to it.
            rng: draws the rounding. It protects nothing; the protocol's masks protect the update.

        Raises:
            ModelError: its entries, shapes or types differ from the model's.
            TrainingFailedError: its steps are not a valid weight.
            QuantizationError: an element is not finite.
        """
        layout = self._layout(received)
        steps = whole(update.steps)
        if not isinstance(steps, int) or steps < 0:
            # Not a public error: the number may depend on the site's examples.
            raise TrainingFailedError("NUM_STEPS_CURRENT_ROUND is not a whole number of at least 0")
        numbers = {_METRIC + name: self._metric(update, name) for name in self.metrics} | {_STEPS: steps}
        reply = Reply({_ARRAYS: self._changes(update, received, layout)}, {_NUMBERS: numbers})
        vector, _ = self._records_of(layout).encode(reply, _zeros(layout), rng)
        return vector

    def no_update(self, received: Model) -> SiteUpdate:
        """Return what a site sends whose training failed: it leaves the mean and all metrics unchanged."""
        nothing = _zeros(self._layout(received))[_ARRAYS]
        return SiteUpdate(entries=nothing, is_difference=True, steps=0, metrics={})

    def to_keep(self, update: SiteUpdate, received: Model) -> SiteUpdate:
        """Return copies of the averaged parts of an update, since the trainer may go on using its arrays."""
        changes = self._changes(update, received, self._layout(received))
        return SiteUpdate(
            entries={name: np.array(change) for name, change in changes.items()},
            is_difference=True,
            steps=whole(update.steps),
            metrics={name: self._metric(update, name) for name in self.metrics},
        )

    def _changes(self, update: SiteUpdate, received: Model, layout: RecordLayout) -> dict[str, npt.NDArray[np.float32]]:
        """Return the site's changes, by name."""
        averaged = {field.name for field in layout.arrays}
        if missing := sorted(averaged - update.entries.keys()):
            raise ModelError(f"the update lacks {_listed(missing)}: leave them out of the average with exclude_vars")
        if extra := sorted(update.entries.keys() - received.keys()):
            raise ModelError(
                f"the update has {_listed(extra)}, which the model that was sent lacks: remove them with a filter, "
                "such as NVFlare's ExcludeVars"
            )
        changes = {}
        for field in layout.arrays:
            entry = _numbers(field.name, update.entries[field.name])
            if entry.shape != field.shape:
                raise ModelError(f"{field.name!r} has shape {entry.shape}, but the one that was sent has {field.shape}")
            change = entry if update.is_difference else entry.astype(np.float64) - received[field.name]
            # Values too large for float32 become infinite, and encoding refuses them.
            with np.errstate(over="ignore"):
                changes[field.name] = np.asarray(change, dtype=np.float32)
        return changes

    def metrics_left_out(self, update: SiteUpdate) -> list[str]:
        """Return the declared metrics that the site reports with values that cannot be averaged."""
        return [name for name in self.metrics if name in update.metrics and math.isnan(self._metric(update, name))]

    def _metric(self, update: SiteUpdate, name: str) -> float:
        """Return the metric as it is averaged: NaN, which has no weight, unless it is a number within the bound."""
        value: Any = update.metrics.get(name)
        if isinstance(value, str | bytes | bool) or getattr(value, "ndim", 0) > 0:
            return math.nan
        try:
            number = float(value)
        except (ValueError, TypeError, RuntimeError, OverflowError):
            return math.nan
        return number if abs(number) <= self.metric_bound else math.nan

    def num_elements(self, model: Model) -> int:
        """Return the number of averaged elements of the model."""
        return sum(field.size for field in self._layout(model).arrays)

    def flat_change(self, update: SiteUpdate, received: Model) -> npt.NDArray[np.float32]:
        """Return the site's change of all averaged entries as one vector, by name; errors as for `encode`."""
        return np.concatenate(
            [np.ravel(one) for one in self._changes(update, received, self._layout(received)).values()]
        )

    def of_flat(self, mean: npt.NDArray[np.float32], num_sites: int, model: Model) -> MeanUpdate:
        """Return the mean of ``num_sites`` flat changes, in which each site counts as one step."""
        differences, at = {}, 0
        for field in self._layout(model).arrays:
            differences[field.name] = mean[at : at + field.size].reshape(field.shape).astype(field.dtype)
            at += field.size
        return MeanUpdate(
            differences=differences, metrics={}, total_steps=num_sites, clipped=0.0, noise=math.nan, ranges=None
        )

    def decode(self, total: IntegerVector, num_sites: int, model: Model) -> MeanUpdate:
        """Return the mean from a sum of ``num_sites`` encoded updates of ``model``."""
        layout = self._layout(model)
        average = self._records_of(layout).decode(total, num_sites, layout, _zeros(layout))
        numbers: Mapping[str, Any] = average.metrics[_NUMBERS]
        return MeanUpdate(
            differences=average.arrays.get(_ARRAYS, {}),
            metrics={name: mean for name in self.metrics if math.isfinite(mean := numbers[_METRIC + name])},
            total_steps=average.total_weight,
            clipped=average.clipped,
            noise=average.noise,
            ranges=average.ranges,
        )

    def decode_ranges(self, total: IntegerVector, num_sites: int, model: Model) -> Ranges:
        """Return the sizes of the changes from a sum of ``num_sites`` vectors of a session that measures.

        Raises:
            UndecodableSumError: ``num_sites`` valid vectors cannot add up to it, or all steps are 0.
        """
        return self._records_of(self._layout(model)).decode_ranges(total, num_sites)

    def _records_of(self, layout: RecordLayout) -> RecordEncoding:
        if self.scales is not None and len(self.scales.bounds) != len(layout.arrays):
            raise ModelError(
                f"the round was announced with {len(self.scales.bounds)} clipping bounds, and the model has "
                f"{len(layout.arrays)} entries that are averaged"
            )
        return self._records(tuple(field.size for field in layout.arrays))

    def _records(self, sizes: tuple[int, ...]) -> RecordEncoding:
        return RecordEncoding(
            sizes=sizes,
            num_clients=self.num_sites,
            scales=self.scales,
            weight=_STEPS,
            value_bits=self.value_bits,
            max_metrics=len(self.metrics),
            metric_bound=self.metric_bound,
        )

    def _layout(self, model: Model) -> RecordLayout:
        excluded = frozenset(self.excluded)
        arrays = tuple(
            ArrayField(_ARRAYS, name, array.dtype.name, array.shape, travels=True)
            for name, array in sorted(model.items())
            if is_float(array.dtype.name) and name not in excluded
        )
        if not sum(field.size for field in arrays):
            raise ModelError("the model has no floating-point elements: there is nothing to average")
        numbers = tuple(MetricField(_NUMBERS, _METRIC + name, None) for name in self.metrics)
        return RecordLayout(arrays, numbers, _NUMBERS)


def _zeros(layout: RecordLayout) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Return zeros as the base of the changes, as a view without memory."""
    return {_ARRAYS: {one.name: np.broadcast_to(np.zeros((), one.dtype), one.shape) for one in layout.arrays}}


def as_model(params: object) -> dict[str, npt.NDArray[Any]]:
    """Return the entries of an NVFlare model, `FLModel.params`, as numpy arrays.

    They are copies, since trainers may train in place, in C order and in this machine's byte order, so that models with
    the same `digest` are the same to a trainer.

    Raise ModelError for entries that are not arrays of numbers, and for tensors: jobs exchange numpy by default.
    """
    if not isinstance(params, Mapping) or not params:
        raise ModelError("the model has no named entries: give the job an initial model")
    model = {}
    for name, entry in params.items():
        if not isinstance(name, str):
            raise ModelError(f"an entry of the model has the name {name!r}, which is not a string")
        if type(entry).__module__.partition(".")[0] in ("torch", "tensorflow"):
            raise ModelError(f"{name!r} is a tensor: use server_expected_format=ExchangeFormat.NUMPY, the default")
        array = np.array(_numbers(name, entry), order="C")
        model[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return model


def _numbers(name: str, entry: object) -> npt.NDArray[Any]:
    try:
        array = np.asarray(entry)
    # Tensors that require gradients raise the last of these.
    except (ValueError, TypeError, RuntimeError):
        raise ModelError(f"{name!r} must be an array of numbers") from None
    if array.dtype.kind not in "fiub":
        raise ModelError(f"{name!r} must be an array of numbers, but has type {array.dtype}")
    return array


def digest(model: Model) -> bytes:
    """Return SHA-256 of the names, types, shapes and bytes of all entries, in their order, which some trainers use."""
    hasher = hashlib.sha256()
    for name, array in model.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        # The encoding delimits itself: two different models never have the same bytes.
        hasher.update(msgpack.packb([name, array.dtype.name, array.shape, little.nbytes]))
        hasher.update(little.tobytes())
    return hasher.digest()


def whole(number: Any) -> Any:
    """Return a whole number of any numeric type, including arrays and tensors without dimensions, as an int.

    Return any other value as it is; the check of its range refuses it.
    """
    if getattr(number, "ndim", 0):
        return number
    try:
        as_int = int(number)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return number
    return as_int if as_int == number else number


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
