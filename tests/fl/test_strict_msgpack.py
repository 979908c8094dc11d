"""Reading msgpack with a bound on its objects: the same values as `msgpack`, or ValueError."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.strict_msgpack import unpack_bounded, unpack_first

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.binary() | st.text()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=40,
)


def count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(count, value.values()))
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


@pytest.mark.slow
@given(VALUES)
def test_values_are_read_as_msgpack_reads_them_and_counted(value: Any) -> None:
    data, items = msgpack.packb(value), count(value)
    assert unpack_bounded(data, max_items=items) == value
    with pytest.raises(ValueError, match=f"more than {items - 1} objects"):
        unpack_bounded(data, max_items=items - 1)


@pytest.mark.slow
@given(VALUES, st.binary(max_size=20))
def test_trailing_bytes_are_returned_or_refused(value: Any, rest: bytes) -> None:
    data = msgpack.packb(value) + rest
    assert unpack_first(memoryview(data), max_items=1000) == (value, rest)
    if rest:
        with pytest.raises(ValueError, match=f"{len(rest)} bytes after the end"):
            unpack_bounded(data, max_items=1000)


@pytest.mark.slow
@given(VALUES)
def test_truncated_values_are_refused(value: Any) -> None:
    data = msgpack.packb(value)
    for end in range(min(len(data), 40)):
        with pytest.raises(ValueError, match=r"cut short|not msgpack"):
            unpack_bounded(data[:end], max_items=1000)


@given(st.binary(max_size=100))
def test_any_bytes_are_one_value_or_refused(data: bytes) -> None:
    try:
        value = unpack_bounded(data, max_items=50)
    except ValueError:
        return
    # NaN is not equal to itself.
    assert repr(value) == repr(msgpack.unpackb(data))


@pytest.mark.slow
@pytest.mark.parametrize("length", range(0, 70_000, 6_999))
def test_long_containers_and_strings(length: int) -> None:
    for value in ([1] * length, {str(i): i for i in range(length)}, "x" * length, b"x" * length):
        assert unpack_bounded(msgpack.packb(value), max_items=1 << 20) == value
    assert unpack_bounded(msgpack.packb([1] * length), max_items=1 << 20, use_list=False) == (1,) * length


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xdd\xff\xff\xff\xff", "more than 1000 objects"),
        (b"\xdf\xff\xff\xff\xff", "more than 1000 objects"),
        (b"\xdd\x00\x00\x01\x00" * 9, "more than 1000 objects"),
        (b"\xc6\xff\xff\xff\xff", "cut short"),
        (b"\xdb\xff\xff\xff\xffx", "cut short"),
        (b"\xd6\xff\x00\x00\x00\x00", "an object of kind 0xd6"),
        (msgpack.packb(msgpack.ExtType(1, b"x" * 40)), "an object of kind 0xc7"),
        (b"\xc1", "an object of kind 0xc1"),
        (b"\x81\x01\x02", "not msgpack"),
        (b"\xa1\xff", "not msgpack"),
    ],
)
def test_lengths_that_nothing_follows_and_kinds_that_have_no_place_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unpack_bounded(data, max_items=1000)


def test_nesting_without_end_is_refused() -> None:
    for depth in (900, 100_000):
        try:
            unpack_bounded(b"\x91" * depth + b"\x90", max_items=1 << 20)
        except ValueError:
            continue
        assert depth == 900
