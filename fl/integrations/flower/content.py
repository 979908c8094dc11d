"""Convert Flower's records to plain arrays and numbers and back; compute the digest that a session is bound to."""

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
    """Return all arrays, by record and name; raise RecordError for one that is not a numpy array."""
    return {
        record: {name: ndarray_of(record, name, array) for name, array in named.items()}
        for record, named in content.array_records.items()
    }


def reply_of(content: RecordDict) -> Reply:
    """Return a reply's arrays and metrics, without ConfigRecords, which have no average."""
    return Reply(arrays_of(content), {record: dict(values) for record, values in content.metric_records.items()})


def content_of(average: Average) -> RecordDict:
    """Return the average as the content of a reply."""
    content = RecordDict()
    for record, arrays in average.arrays.items():
        content[record] = ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})
    for record, metrics in average.metrics.items():
        content[record] = MetricRecord(dict(metrics))
    return content


def content_digest(message_type: str, content: RecordDict) -> bytes:
    """Return SHA-256, 32 bytes, of a message's type and all its records, to the last bit.

    Records and their entries are hashed in the order of their names.  Each value has its kind and its length before it,
    so that two different contents never give the same bytes to hash.
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
        # Apps that convert an array record to a list rely on its order, which is that of the model's parameters.
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
    """Return a number, text, bytes or list of them as bytes; different values give different bytes."""
    if isinstance(value, list):
        items = [_scalars(item) for item in value]
        return b"list" + b"".join(struct.pack(">Q", len(item)) + item for item in items)
    if isinstance(value, bytes):
        return b"bytes" + value
    if isinstance(value, float):
        return b"float" + struct.pack(">d", value)
    return f"{type(value).__name__}:{value}".encode()


def ndarray_of(record: str, name: str, array: Array) -> np.ndarray[Any, Any]:
    """Return an array's values; raise RecordError if it holds anything but a numpy array."""
    try:
        return np.asarray(array.numpy())
    except (TypeError, ValueError) as error:
        raise RecordError(f"array {name!r} of record {record!r} is not a numpy array: {error}") from None
