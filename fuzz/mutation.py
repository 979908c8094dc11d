"""Read a fuzzer's bytes as decisions: the message, the field, the change."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from secagg import LocalProtocolError, Parameters, encode


class Cursor:
    """A reader of bytes from the front; it gives zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def pick(self, choices: list[Any]) -> Any:
        return choices[(self.byte() << 8 | self.byte()) % len(choices)]


def mutated(message: Any, cursor: Cursor, params: Parameters, pool: list[Any]) -> bytes:
    """Return the message's encoding with one field changed, or with one byte changed if that cannot be encoded."""
    field = cursor.pick(list(fields(message)))
    try:
        return encode(replace(message, **{field.name: _changed(getattr(message, field.name), cursor, pool)}), params)
    except LocalProtocolError:
        data = bytearray(encode(message, params))
        data[cursor.byte() % len(data)] ^= cursor.byte() or 1
        return bytes(data)


def _changed(value: Any, cursor: Cursor, pool: list[Any]) -> Any:
    if isinstance(value, np.ndarray):
        changed = value.copy()
        if changed.size:
            changed.flat[cursor.byte() % changed.size] ^= value.dtype.type(cursor.byte())
        return changed
    items = _items(value, cursor.byte())
    at = cursor.byte() % (len(items) or 1)
    match cursor.byte() % 6:
        case 0:
            return value[: at + 1] if isinstance(value, bytes) else value[:at]
        case 1:
            return _joined(value, items[:at] + items[at + 1 :])
        case 2:
            return _joined(value, items[: at + 1] + items[at:])
        case 3:
            return _joined(value, items[::-1])
        case 4:
            name = type(value)
            others = [getattr(m, f.name) for m in pool for f in fields(m) if isinstance(getattr(m, f.name), name)]
            return cursor.pick(others) if others else value
        case _:
            return _overwritten(value, at, cursor)


def _overwritten(value: Any, at: int, cursor: Cursor) -> Any:
    if isinstance(value, bytes):
        at = at * max(1, len(value) // 64) % (len(value) or 1)
        return value[:at] + cursor.take(cursor.byte() % 33) + value[at:] if at % 2 else _flip(value, at, cursor)
    if value and isinstance(value[0], bool):
        return (*value[:at], not value[at], *value[at + 1 :])
    return (*value[:at], int.from_bytes(cursor.take(4), "big"), *value[at + 1 :])


def _flip(value: bytes, at: int, cursor: Cursor) -> bytes:
    return value[:at] + bytes([value[at] ^ (cursor.byte() or 1)]) + value[at + 1 :] if value else value


def _items(value: Any, size: int) -> list[Any]:
    if not isinstance(value, bytes):
        return list(value)
    size = (1, 16, 18, 32, 52, 64)[size % 6]
    return [value[at : at + size] for at in range(0, len(value), size)]


def _joined(value: Any, items: list[Any]) -> Any:
    return b"".join(items) if isinstance(value, bytes) else tuple(items)
