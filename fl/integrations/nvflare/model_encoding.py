"""A site's update, its metrics and its steps as one vector of small integers, and the mean from a sum of vectors.

Floating-point entries of the model travel as differences to what the site received, each clipped to a bound of its own;
integer entries (BatchNorm's counters, say) and those that are excluded stay as the server has them.  Metrics that were
declared travel as weighted values; a site that does not report one counts for it with no weight, as in NVFlare's own
average.  An encoding without bounds measures: its vector is the ranges of a site's changes and steps alone.
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
from fl.integrations.nvflare.errors import ModelError
from fl.integrations.record_layout import ArrayField, MetricField, RecordLayout, is_float
from fl.integrations.records import RecordEncoding, Reply

Model: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""A model's entries by name."""

_ARRAYS, _NUMBERS, _STEPS = "model", "metrics", "steps"
# Of the metrics' names: one of them may be that of the weight.
_METRIC = "metric:"


@dataclass(frozen=True, slots=True)
class SiteUpdate:
    """What a site would send in the clear.

    Attributes:
        entries: its model, or the difference to the one that it received.
        is_difference: which of the two.
        steps: its weight, `FLMetaKey.NUM_STEPS_CURRENT_ROUND`; 0 for an update that counts nothing.
        metrics: what it reported; those that are not declared, or no finite numbers within the bound, stay with it.
    """

    entries: Mapping[str, Any]
    is_difference: bool
    steps: float
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MeanUpdate:
    """What the server learns of a round.

    Attributes:
        differences: the weighted mean of the sites' changes, in the model's types, by name.
        metrics: the weighted mean of each metric that any site reported.
        total_steps: the steps of all sites together.
        clipped: the fraction of elements that were clipped.
        noise: as in `fl.aggregation.encoding.Aggregate`.
        ranges: how large the sites' changes were: a row for each averaged entry, by name, the last for the steps.
    """

    differences: dict[str, npt.NDArray[Any]]
    metrics: dict[str, float]
    total_steps: int
    clipped: float
    noise: float
    ranges: Ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEncoding:
    """How updates become integers; announced by the server, the same for all sites.

    Attributes:
        num_sites: in the session.
        scales: what is clipped to what: a bound for each entry that is averaged, by name; a site that made more steps
            than their bound counts as the bound. None in a session that measures, whose sum gives `Ranges` and no mean.
        value_bits: bits of an encoded element.
        metrics: names of the metrics that are averaged.
        metric_bound: they are in [-metric_bound, metric_bound].
        excluded: names of the model's entries that are not averaged, ascending. The server finds them by its
            ``exclude_vars``: a site that ran a server's regular expression could be kept busy for years.

    Raises:
        ConfigError: a number out of range, or a name that is there twice.
    """

    num_sites: int
    scales: Scales | None
    value_bits: int
    metrics: tuple[str, ...]
    metric_bound: float
    excluded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.metrics) or len(set(self.metrics)) != len(self.metrics):
            raise ConfigError("metrics are names, each of them once")
        if not all(isinstance(name, str) for name in self.excluded) or list(self.excluded) != sorted(
            set(self.excluded)
        ):
            raise ConfigError("entries that are not averaged are named in ascending order, each of them once")
        # Checks the numbers.
        self._records((1,) if self.scales is None else (1,) * len(self.scales.bounds))

    @property
    def measures(self) -> bool:
        """Whether sites say how large their updates are, and nothing else."""
        return self.scales is None

    def averaged(self, model: Model) -> dict[str, tuple[int, ...]]:
        """The shapes of the model's entries that are averaged, by name and in the order of their names."""
        return {field.name: field.shape for field in self._layout(model).arrays}

    def vector_length(self, model: Model) -> int:
        """Elements of an encoded update of this model; ModelError if the bounds are another model's."""
        return self._records_of(self._layout(model)).vector_length

    def encode(self, update: SiteUpdate, received: Model, rng: np.random.Generator) -> IntegerVector:
        """The encoded update, int64, shape (vector_length(received),), elements in [0, 2^value_bits).

        Args:
            update: the site's.
            received: the model that it was sent.
            rng: draws the rounding. It protects nothing: the protocol's masks do.

        Raises:
            ModelError: it has other entries, shapes or types than the model, or steps that are no weight.
            QuantizationError: elements that are not finite.
        """
        layout = self._layout(received)
        steps = whole(update.steps)
        if not isinstance(steps, int) or steps < 0:
            raise ModelError("NUM_STEPS_CURRENT_ROUND is no whole number of at least 0")
        numbers = {_METRIC + name: self._metric(update, name) for name in self.metrics} | {_STEPS: steps}
        reply = Reply({_ARRAYS: self._changes(update, received, layout)}, {_NUMBERS: numbers})
        vector, _ = self._records_of(layout).encode(reply, _zeros(layout), rng)
        return vector

    def to_keep(self, update: SiteUpdate, received: Model) -> SiteUpdate:
        """What of an update is averaged, in arrays of its own: the trainer may go on with those that it gave."""
        changes = self._changes(update, received, self._layout(received))
        return SiteUpdate(
            entries={name: np.array(change) for name, change in changes.items()},
            is_difference=True,
            steps=whole(update.steps),
            metrics={name: self._metric(update, name) for name in self.metrics},
        )

    def _changes(self, update: SiteUpdate, received: Model, layout: RecordLayout) -> dict[str, npt.NDArray[np.float32]]:
        """What the site changes, by name."""
        averaged = {field.name for field in layout.arrays}
        if missing := sorted(averaged - update.entries.keys()):
            raise ModelError(f"the update lacks {_listed(missing)}: leave them out of the average with exclude_vars")
        if extra := sorted(update.entries.keys() - received.keys()):
            raise ModelError(
                f"the update has {_listed(extra)}, which the model that was sent has not: take them out with a filter, "
                "such as NVFlare's ExcludeVars"
            )
        changes = {}
        for field in layout.arrays:
            entry = _numbers(field.name, update.entries[field.name])
            if entry.shape != field.shape:
                raise ModelError(f"{field.name!r} has shape {entry.shape}, but the one that was sent has {field.shape}")
            change = entry if update.is_difference else entry.astype(np.float64) - received[field.name]
            # What is too large for float32 is refused as it is encoded, as not finite.
            with np.errstate(over="ignore"):
                changes[field.name] = np.asarray(change, dtype=np.float32)
        return changes

    def metrics_left_out(self, update: SiteUpdate) -> list[str]:
        """The declared metrics that the site reports, but not as numbers that can be averaged."""
        return [name for name in self.metrics if name in update.metrics and math.isnan(self._metric(update, name))]

    def _metric(self, update: SiteUpdate, name: str) -> float:
        """The metric as it is averaged: NaN, which has no weight, unless it is a number within the bound."""
        value: Any = update.metrics.get(name)
        if isinstance(value, str | bytes | bool) or getattr(value, "ndim", 0) > 0:
            return math.nan
        try:
            number = float(value)
        except (ValueError, TypeError, RuntimeError, OverflowError):
            return math.nan
        return number if abs(number) <= self.metric_bound else math.nan

    def decode(self, total: IntegerVector, num_sites: int, model: Model) -> MeanUpdate:
        """The mean in a sum of ``num_sites`` encoded updates of ``model``."""
        layout = self._layout(model)
        average = self._records_of(layout).decode(total, num_sites, layout, _zeros(layout))
        numbers: Mapping[str, Any] = average.metrics[_NUMBERS]
        assert average.ranges is not None  # noqa: S101 - every sum has them
        return MeanUpdate(
            differences=average.arrays.get(_ARRAYS, {}),
            metrics={name: mean for name in self.metrics if math.isfinite(mean := numbers[_METRIC + name])},
            total_steps=average.total_weight,
            clipped=average.clipped,
            noise=average.noise,
            ranges=average.ranges,
        )

    def decode_ranges(self, total: IntegerVector, num_sites: int, model: Model) -> Ranges:
        """How large the changes are, from a sum of ``num_sites`` vectors of a session that measures.

        Raises:
            UndecodableSumError: no ``num_sites`` vectors add up to it, or no site made any steps.
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
    """What the changes are changes of; without memory of its own."""
    return {_ARRAYS: {one.name: np.broadcast_to(np.zeros((), one.dtype), one.shape) for one in layout.arrays}}


def as_model(params: object) -> dict[str, npt.NDArray[Any]]:
    """The entries of an NVFlare model, `FLModel.params`, as numpy arrays; copies, since trainers may train in place.

    Arrays are in C order and in this machine's byte order, so that models of one `digest` are one model to a trainer.

    ModelError for entries that are no arrays of numbers, and for tensors: jobs exchange numpy unless told otherwise.
    """
    if not isinstance(params, Mapping) or not params:
        raise ModelError("the model has no entries by name: give the job an initial model")
    model = {}
    for name, entry in params.items():
        if not isinstance(name, str):
            raise ModelError(f"an entry of the model has the name {name!r}, which is no string")
        if type(entry).__module__.partition(".")[0] in ("torch", "tensorflow"):
            raise ModelError(f"{name!r} is a tensor: use server_expected_format=ExchangeFormat.NUMPY, the default")
        array = np.array(_numbers(name, entry), order="C")
        model[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return model


def _numbers(name: str, entry: object) -> npt.NDArray[Any]:
    try:
        array = np.asarray(entry)
    # The last is a tensor's, whose gradients are on record.
    except (ValueError, TypeError, RuntimeError):
        raise ModelError(f"{name!r} is no array of numbers") from None
    if array.dtype.kind not in "fiub":
        raise ModelError(f"{name!r} is no array of numbers, but of type {array.dtype}")
    return array


def digest(model: Model) -> bytes:
    """SHA-256 of names, types, shapes and bytes of all entries, in their order, which some trainers go by."""
    hasher = hashlib.sha256()
    for name, array in model.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        # Self-delimiting: no two models have one encoding.
        hasher.update(msgpack.packb([name, array.dtype.name, array.shape, little.nbytes]))
        hasher.update(little.tobytes())
    return hasher.digest()


def whole(number: Any) -> Any:
    """A whole number of any numeric type, arrays and tensors without dimensions included, as an int.

    Anything else comes back as it is, and is refused where its range is checked.
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
