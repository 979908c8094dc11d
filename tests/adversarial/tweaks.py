"""One change to one field of one message, drawn by Hypothesis."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

# Sizes of the items in messages: keys and digests, encrypted shares, signatures, seeds' shares.
_ITEM_SIZES = (1, 16, 18, 32, 52, 64)


@st.composite
def tweaked(draw, message: Any, others: list[Any]) -> Any:
    """Return the message with one field changed, or its bytes; ``others`` are messages of its type from elsewhere."""
    if others and draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(others))
    name = draw(st.sampled_from([field.name for field in fields(message)]))
    value = getattr(message, name)
    foreign = [getattr(other, name) for other in others]
    if foreign and draw(st.integers(0, 4)) == 0:
        return replace(message, **{name: draw(st.sampled_from(foreign))})
    if isinstance(value, bytes):
        changed: Any = draw(_bytes(value))
    elif isinstance(value, np.ndarray):
        changed = draw(_array(value))
    else:
        changed = draw(_tuple(value))
    return replace(message, **{name: changed})


@st.composite
def flipped(draw, data: bytes) -> bytes:
    """Return bytes with one of them changed."""
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]


@st.composite
def _bytes(draw, value: bytes) -> bytes:
    if not value:
        return draw(st.binary(min_size=1, max_size=64))
    if draw(st.booleans()):
        return draw(flipped(value))
    size = draw(st.sampled_from([size for size in _ITEM_SIZES if len(value) % size == 0]))
    items = [value[at : at + size] for at in range(0, len(value), size)]
    return b"".join(draw(_list(items)))


@st.composite
def _tuple(draw, value: tuple) -> tuple:
    if value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        other = not value[at] if isinstance(value[at], bool) else draw(st.integers(0, 2**32 - 1))
        return (*value[:at], other, *value[at + 1 :])
    return tuple(draw(_list(list(value))))


@st.composite
def _list(draw, items: list) -> list:
    """Return a list with items swapped, dropped, doubled or reversed."""
    if not items:
        return items
    first, second = (draw(st.integers(0, len(items) - 1)) for _ in range(2))
    what = draw(st.sampled_from(["swap", "drop", "double", "overwrite", "reverse"]))
    if what == "swap":
        items[first], items[second] = items[second], items[first]
    elif what == "drop":
        del items[first]
    elif what == "double":
        items.insert(second, items[first])
    elif what == "overwrite":
        items[first] = items[second]
    else:
        items.reverse()
    return items


@st.composite
def _array(draw, value: np.ndarray) -> np.ndarray:
    value = value.copy()
    if not value.size:
        return value
    if value.ndim > 1 and draw(st.booleans()):
        rows = draw(_list(list(value)))
        return np.array(rows, dtype=value.dtype).reshape(-1, value.shape[1])
    at = draw(st.integers(0, value.size - 1))
    value.flat[at] ^= value.dtype.type(1 << draw(st.integers(0, 11)))
    return value
