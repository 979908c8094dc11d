"""msgpack from a stranger: its objects are counted before one of them is made.

A byte of msgpack can be a whole dictionary, so that 8 MiB of it take 600 MiB of memory.  `msgpack`'s own bounds are for
each container by itself, and containers nest.
"""

from typing import Any

import msgpack

# By an object's first byte: the bytes that follow it; the width of the length that follows it, of strings; and of
# containers, with the objects for each of its entries. Other first bytes, those of extension types, are refused.
_VALUES = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8} | {
    0xD0 + power: 1 << power for power in range(4)
}
_STRINGS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def unpack_bounded(data: bytes | memoryview, *, max_items: int, use_list: bool = True) -> Any:
    """The one object that ``data`` is, as `msgpack.unpackb` gives it.

    Args:
        data: untrusted bytes.
        max_items: the most objects that it may be made of: itself, all that its containers hold, keys of maps too.
        use_list: whether arrays become lists, and not tuples.

    Raises:
        ValueError: it is no msgpack, has more objects, or bytes follow it.
    """
    value, rest = unpack_first(data, max_items=max_items, use_list=use_list)
    if len(rest):
        raise ValueError(f"{len(rest)} bytes after the end")
    return value


def unpack_first(data: bytes | memoryview, *, max_items: int, use_list: bool = True) -> tuple[Any, memoryview]:
    """The object that ``data`` begins with, and the bytes after it, which are not copied.

    Arguments and errors: as for `unpack_bounded`.
    """
    view = memoryview(data).toreadonly().cast("B")
    size = _first_size(view, max_items)
    try:
        return msgpack.unpackb(view[:size], use_list=use_list), view[size:]
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"not msgpack: {error}") from None


def _first_size(view: memoryview, max_items: int) -> int:
    """The bytes of the object that ``view`` begins with; ValueError as above."""
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
