"""The structure of named arrays and metrics: the part of a client's reply that the server may see.

Fields are compared, and placed in vectors, by name.  The average keeps the order of the reply, since a list of arrays
has only its order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import msgpack
import numpy as np
import numpy.typing as npt

from fl.errors import FLError, PublicError
from fl.strict_msgpack import unpack_bounded

Arrays: TypeAlias = Mapping[str, Mapping[str, npt.NDArray[Any]]]
"""Named arrays in named records."""

Metric: TypeAlias = int | float | Sequence[int] | Sequence[float]
Metrics: TypeAlias = Mapping[str, Mapping[str, Metric]]
"""Named numbers, or lists of numbers, in named records."""

_VERSION = 1
_MAX_DIMENSIONS = 32
_MAX_NAME = 1 << 12
# The most items in a layout's bytes: an array has about ten, a metric four.
_MAX_ITEMS = 1 << 19


class RecordError(FLError):
    """Records that cannot be averaged, or whose structure differs from the agreed one; the text says which and why."""


class RecordLayoutError(RecordError, PublicError):
    """Records whose structure has no average, for any values."""


@dataclass(frozen=True, slots=True)
class ArrayField:
    """One array of a reply.

    Attributes:
        record, name: its record, and its name in it.
        dtype: its numpy name, such as ``float32``.
        shape: its numpy shape.
        travels: False for an array of integers or bools that came back in the shape that the client was sent: it has no
            average, so the server keeps its own array, in this type.
    """

    record: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    travels: bool

    @property
    def size(self) -> int:
        """Return the number of elements that travel."""
        size = 1
        for length in self.shape:
            size *= length
        return size if self.travels else 0


@dataclass(frozen=True, slots=True)
class MetricField:
    """One metric of a reply: a number, or a list of ``length`` numbers."""

    record: str
    name: str
    length: int | None

    @property
    def size(self) -> int:
        """Return the count of numbers that travel."""
        return 1 if self.length is None else self.length


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """All parts of a reply except the values.

    Attributes:
        arrays, metrics: the fields, in the reply's order; the metrics do not include the weight.
        weight_record: the metric record that holds the weight.
    """

    arrays: tuple[ArrayField, ...]
    metrics: tuple[MetricField, ...]
    weight_record: str

    @property
    def by_name(self) -> "RecordLayout":
        """Return the same fields, sorted by record and name: equal for all replies that can be added up."""
        return replace(
            self, arrays=tuple(sorted(self.arrays, key=_place)), metrics=tuple(sorted(self.metrics, key=_place))
        )

    @property
    def num_elements(self) -> int:
        """Return the number of array elements that travel."""
        return sum(field.size for field in self.arrays)

    @property
    def num_metrics(self) -> int:
        """Return the count of numbers that travel as metrics."""
        return sum(field.size for field in self.metrics)

    def to_bytes(self) -> bytes:
        """Return the layout as bytes; equal layouts give equal bytes."""
        arrays = [(f.record, f.name, f.dtype, f.shape, f.travels) for f in self.arrays]
        metrics = [(f.record, f.name, f.length) for f in self.metrics]
        return bytes(msgpack.packb([_VERSION, arrays, metrics, self.weight_record]))

    @classmethod
    def from_bytes(cls, data: bytes) -> "RecordLayout":
        """Return the layout that `to_bytes` encoded; raise RecordError for other bytes."""
        try:
            version, arrays, metrics, weight_record = unpack_bounded(data, max_items=_MAX_ITEMS, use_list=False)
            layout = cls(
                tuple(ArrayField(*field) for field in arrays), tuple(MetricField(*field) for field in metrics),
                weight_record,
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise RecordError("these bytes are not a layout of records") from error
        if version != _VERSION or not layout._is_valid() or layout.to_bytes() != data:
            raise RecordError("these bytes are not a layout of records of this version")
        return layout

    def _is_valid(self) -> bool:
        places = [*map(_place, self.arrays), *map(_place, self.metrics)]
        names = [self.weight_record, *(name for place in places for name in place)]
        return (
            all(isinstance(name, str) and len(name) <= _MAX_NAME for name in names)
            and len(set(places)) == len(places)
            and all(_is_array(field) for field in self.arrays)
            and all(field.length is None or _is_size(field.length) for field in self.metrics)
        )


def _place(field: ArrayField | MetricField) -> tuple[str, str]:
    return field.record, field.name


def is_float(dtype: str) -> bool:
    """Return whether arrays of this type (half, single or double precision) have an average."""
    return dtype in ("float16", "float32", "float64")


def float_sizes(arrays: Arrays) -> dict[tuple[str, str], int]:
    """Return the elements of each array that has an average, by record and name, sorted by both."""
    return {
        (record, name): arrays[record][name].size
        for record in sorted(arrays)
        for name in sorted(arrays[record])
        if is_float(arrays[record][name].dtype.name)
    }


def _is_array(field: ArrayField) -> bool:
    if not (isinstance(field.dtype, str) and isinstance(field.shape, tuple) and type(field.travels) is bool):
        return False
    if len(field.shape) > _MAX_DIMENSIONS or not all(_is_size(length) for length in field.shape):
        return False
    return field.travels == is_float(field.dtype)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


def layout_of(arrays: Arrays, metrics: Metrics, *, received: Arrays, weight: str) -> RecordLayout:
    """Return the layout of a reply, in its order.

    Args:
        arrays, metrics: the parts of the reply.
        received: the arrays that were sent to the client.
        weight: the name of the metric that weighs the reply in the average.

    Raises:
        RecordLayoutError: the weight is missing; an array's shape differs from the one that was sent under its name; or
            its type has no average.
    """
    weight_record = min((record for record, values in metrics.items() if weight in values), default=None)
    if weight_record is None:
        raise RecordLayoutError(f"the reply has no metric {weight!r}: without weights there is no average")
    fields = tuple(
        _array_field(record, name, array, received.get(record, {}).get(name))
        for record, named in arrays.items()
        for name, array in named.items()
    )
    numbers = tuple(
        MetricField(record, name, None if np.isscalar(value) else len(value))  # type: ignore[arg-type]
        for record, values in metrics.items()
        for name, value in values.items()
        if (record, name) != (weight_record, weight)
    )
    return RecordLayout(fields, numbers, weight_record)


def _array_field(record: str, name: str, array: npt.NDArray[Any], sent: npt.NDArray[Any] | None) -> ArrayField:
    dtype, where = array.dtype.name, f"array {name!r} of record {record!r}"
    if sent is not None and sent.shape != array.shape:
        raise RecordLayoutError(f"{where} has shape {array.shape}, but {sent.shape} was sent")
    travels = is_float(dtype)
    # A strategy's average may change the type of an array; the client's model changes it back.
    if not travels and (sent is None or array.dtype.kind not in "iub"):
        raise RecordLayoutError(f"{where} has type {dtype}, which has no average: send floats, or leave it out")
    return ArrayField(record, name, dtype, array.shape, travels)
