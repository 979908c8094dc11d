"""Flower's records: their values as plain arrays and numbers, and back; and the digest that a session is bound to."""

import hashlib
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from fl.integrations.flower._flwr import Array, ArrayRecord, MetricRecord, RecordDict
from fl.integrations.record_layout import Arrays, RecordError
from fl.integrations.records import Average, Reply

_LABEL = b"secagg/fl/flower-content/2"


def arrays_of(content: RecordDict) -> Arrays:
    """All arrays, by record and name; RecordError for one that is no numpy array."""
    return {
        record: {name: ndarray_of(record, name, array) for name, array in named.items()}
        for record, named in content.array_records.items()
    }


def reply_of(content: RecordDict) -> Reply:
    """A reply's arrays and metrics; what it says in ConfigRecords stays where it is, since it has no average."""
    return Reply(arrays_of(content), {record: dict(values) for record, values in content.metric_records.items()})


def content_of(average: Average) -> RecordDict:
    """The average as a reply's content."""
    content = RecordDict()
    for record, arrays in average.arrays.items():
        content[record] = ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})
    for record, metrics in average.metrics.items():
        content[record] = MetricRecord(dict(metrics))
    return content


def content_digest(message_type: str, content: RecordDict) -> bytes:
    """SHA-256, 32 bytes, over a message's type and all records: what a client was sent, to the last bit.

    Records and their entries are taken by name; everything has its kind and its length before it, so that no two
    contents give the same bytes to hash.
    """
    hasher = hashlib.sha256(_LABEL)
    for part in _parts(message_type, content):
        hasher.update(struct.pack(">Q", len(part)))
        hasher.update(part)
    return hasher.digest()


def _parts(message_type: str, content: RecordDict) -> Iterable[bytes | memoryview]:
    yield message_type.encode()
    yield str(len(content)).encode()
    for record in sorted(content):
        values = content[record]
        yield record.encode()
        yield type(values).__name__.encode()
        yield str(len(values)).encode()
        # An array record's order is the order of a model's parameters to those who convert it to a list.
        for name in values if isinstance(values, ArrayRecord) else sorted(values):
            yield name.encode()
            value = values[name]
            if isinstance(value, Array):
                yield value.dtype.encode()
                yield value.stype.encode()
                yield str(tuple(value.shape)).encode()
                yield value.data
            else:
                yield _scalars(value)


def _scalars(value: Any) -> bytes:
    """A number, text, bytes, or a list of such; never two values with the same bytes."""
    if isinstance(value, list):
        items = [_scalars(item) for item in value]
        return b"list" + b"".join(struct.pack(">Q", len(item)) + item for item in items)
    if isinstance(value, bytes):
        return b"bytes" + value
    if isinstance(value, float):
        return b"float" + struct.pack(">d", value)
    return f"{type(value).__name__}:{value}".encode()


def ndarray_of(record: str, name: str, array: Array) -> np.ndarray[Any, Any]:
    """An array's values; RecordError if it holds anything but a numpy array."""
    try:
        return np.asarray(array.numpy())
    except (TypeError, ValueError) as error:
        raise RecordError(f"array {name!r} of record {record!r} is no numpy array: {error}") from None
