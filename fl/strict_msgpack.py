"""Decoding of untrusted msgpack: objects are counted before the first one is created.

One byte of msgpack can be a whole dictionary, so 8 MiB of it can take 600 MiB of memory.  The bounds of `msgpack`
itself apply to each container separately, and containers nest.
"""

from typing import Any

import msgpack

# By an object's first byte: the number of bytes that follow; for strings, the width of the length that follows; for
# containers, that width and the objects per entry. Other first bytes (extension types) are refused.
_VALUES = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8} | {
    0xD0 + power: 1 << power for power in range(4)
}
_STRINGS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def unpack_bounded(data: bytes | memoryview, *, max_items: int, use_list: bool = True) -> Any:
    """Return the one object in ``data``, as `msgpack.unpackb` does.

    Args:
        data: untrusted bytes.
        max_items: maximum number of objects in it: itself, and all contents of its containers, including keys of maps.
        use_list: whether arrays become lists; otherwise tuples.

    Raises:
        ValueError: the data are not msgpack, hold more objects, or have bytes after the object.
    """
    value, rest = unpack_first(data, max_items=max_items, use_list=use_list)
    if len(rest):
        raise ValueError(f"{len(rest)} bytes after the end")
    return value


def unpack_first(data: bytes | memoryview, *, max_items: int, use_list: bool = True) -> tuple[Any, memoryview]:
    """Return the first object in ``data``, and the bytes after it (a view, not a copy).

    Arguments and errors: as for `unpack_bounded`.
    """
    view = memoryview(data).toreadonly().cast("B")
    size = _first_size(view, max_items)
    try:
        return msgpack.unpackb(view[:size], use_list=use_list), view[size:]
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"not msgpack: {error}") from None


def _first_size(view: memoryview, max_items: int) -> int:
    """Return the length in bytes of the first object in ``view``. Raises ValueError as above."""
    at, seen, due = 0, 0, 1
    while seen < due:
        if due > max_items:
            raise ValueError(f"more than {max_items} objects")
        if at >= len(view):
            raise ValueError("cut short")
        head = view[at]
        at, seen = at + 1, seen + 1
        if head <= 0x7F or head >= 0xE0:
            continue
        if head <= 0x8F:
            due += 2 * (head & 0x0F)
        elif head <= 0x9F:
            due += head & 0x0F
        elif head <= 0xBF:
            at += head & 0x1F
        elif head in _VALUES:
            at += _VALUES[head]
        elif head in _STRINGS:
            width = _STRINGS[head]
            at += width + int.from_bytes(view[at : at + width], "big")
        elif head in _CONTAINERS:
            width, each = _CONTAINERS[head]
            due += each * int.from_bytes(view[at : at + width], "big")
            at += width
        else:
            raise ValueError(f"an object of kind 0x{head:02x}")
    if at > len(view):
        raise ValueError("cut short")
    return at
