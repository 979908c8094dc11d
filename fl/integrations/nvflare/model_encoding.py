"""A site's update, its metrics and its steps as one vector of small integers, and the mean from a sum of vectors.

Floating-point entries of the model travel as differences to what the site received; integer entries (BatchNorm's
counters, say) and those that are excluded stay as the server has them.  Metrics that were declared travel
as weighted values; a site that does not report one counts for it with no weight, as in NVFlare's own average.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack
import numpy as np
import numpy.typing as npt

from fl.counters import IntegerVector
from fl.errors import ConfigError
from fl.integrations.nvflare.errors import ModelError
from fl.integrations.record_layout import ArrayField, MetricField, RecordLayout, is_float
from fl.integrations.records import RecordEncoding, Reply

Model: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""A model's entries by name."""

_ARRAYS, _NUMBERS, _STEPS = "model", "metrics", "steps"
_VALUE, _GIVEN = "value:", "given:"


@dataclass(frozen=True, slots=True)
class SiteUpdate:
    """What a site would send in the clear.

    Attributes:
        entries: its model, or the difference to the one that it received.
        is_difference: which of the two.
        steps: its weight, `FLMetaKey.NUM_STEPS_CURRENT_ROUND`.
        metrics: what it reported; those that are not declared, or no finite numbers, stay with it.
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
    """

    differences: dict[str, npt.NDArray[Any]]
    metrics: dict[str, float]
    total_steps: int
    clipped: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEncoding:
    """How updates become integers; announced by the server, the same for all sites.

    Attributes:
        max_steps: a public bound on any site's steps; weights are relative to it.
        clip: each element of a change is clipped to [-clip, clip].
        value_bits: bits of an encoded element.
        metrics: names of the metrics that are averaged.
        metric_bound: they are in [-metric_bound, metric_bound].
        excluded: names of the model's entries that are not averaged, ascending. The server finds them by its
            ``exclude_vars``: a site that ran a server's regular expression could be kept busy for years.

    Raises:
        ConfigError: a number out of range, or a name that is there twice.
    """

    max_steps: int
    clip: float
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
        self._records(1)

    def vector_length(self, model: Model) -> int:
        """Elements of an encoded update of this model."""
        return self._records(self._layout(model).num_elements).vector_length

    def encode(self, update: SiteUpdate, received: Model, rng: np.random.Generator) -> IntegerVector:
        """The encoded update, int64, shape (vector_length(received),), elements in [0, 2^value_bits).

        Args:
            update: the site's.
            received: the model that it was sent.
            rng: draws the rounding. It protects nothing: the protocol's masks do.

        Raises:
            ModelError: it has other entries or shapes than the model.
            RecordError, QuantizationError: elements that are not finite, or a weight or metric out of range.
        """
        layout = self._layout(received)
        averaged = {field.name for field in layout.arrays}
        if missing := sorted(averaged - update.entries.keys()):
            raise ModelError(f"the update lacks {_listed(missing)}: leave them out of the average with exclude_vars")
        if extra := sorted(update.entries.keys() - received.keys()):
            raise ModelError(
                f"the update has {_listed(extra)}, which the model that was sent has not: take them out with a filter, "
                "such as NVFlare's ExcludeVars"
            )
        differences = {}
        for field in layout.arrays:
            entry = np.asarray(update.entries[field.name], dtype=np.float64)
            if entry.shape != field.shape:
                raise ModelError(f"{field.name!r} has shape {entry.shape}, but the one that was sent has {field.shape}")
            differences[field.name] = entry if update.is_difference else entry - received[field.name]
        numbers: dict[str, float] = {_STEPS: _whole(update.steps)}
        for name in self.metrics:
            value = _finite(update.metrics.get(name))
            numbers[_VALUE + name] = value or 0.0
            numbers[_GIVEN + name] = float(value is not None)
        reply = Reply({_ARRAYS: differences}, {_NUMBERS: numbers})
        vector, _ = self._records(layout.num_elements).encode(reply, {}, rng)
        return vector

    def decode(self, total: IntegerVector, num_sites: int, model: Model) -> MeanUpdate:
        """The mean in a sum of ``num_sites`` encoded updates of ``model``."""
        layout = self._layout(model)
        average = self._records(layout.num_elements).decode(total, num_sites, layout, {})
        numbers: Mapping[str, Any] = average.metrics[_NUMBERS]
        return MeanUpdate(
            differences=average.arrays.get(_ARRAYS, {}),
            metrics={
                name: numbers[_VALUE + name] / numbers[_GIVEN + name]
                for name in self.metrics
                if numbers[_GIVEN + name] > 0
            },
            total_steps=average.total_weight,
            clipped=average.clipped,
        )

    def _records(self, capacity: int) -> RecordEncoding:
        return RecordEncoding(
            capacity=capacity,
            weight=_STEPS,
            max_weight=self.max_steps,
            clip=self.clip,
            value_bits=self.value_bits,
            max_metrics=2 * len(self.metrics),
            metric_bound=max(1.0, self.metric_bound),
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
        numbers = tuple(MetricField(_NUMBERS, kind + name, None) for name in self.metrics for kind in (_VALUE, _GIVEN))
        return RecordLayout(arrays, numbers, _NUMBERS)


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
        try:
            array = np.array(entry, order="C")
        except ValueError:
            array = np.array(None)
        if array.dtype.kind not in "fiub":
            raise ModelError(f"{name!r} is no array of numbers")
        model[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return model


def digest(model: Model) -> bytes:
    """SHA-256 of names, types, shapes and bytes of all entries, in their order, which some trainers go by."""
    hasher = hashlib.sha256()
    for name, array in model.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        # Self-delimiting: no two models have one encoding.
        hasher.update(msgpack.packb([name, array.dtype.name, array.shape, little.nbytes]))
        hasher.update(little.tobytes())
    return hasher.digest()


def _whole(steps: float) -> float:
    """NVFlare's trainers report floats; the average needs a whole number, which is checked with its range later."""
    return int(steps) if isinstance(steps, float) and steps.is_integer() else steps


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    number = float(np.real(value))
    return number if math.isfinite(number) else None


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
