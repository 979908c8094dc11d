"""The IDX parser: the files that it reads, and that it refuses all others with DataError."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl.data.idx import expand, parse_idx, read_uncompressed
from fl.errors import DataError

ToIdx = Callable[[np.ndarray], bytes]

arrays = st.sampled_from([np.uint8, np.int32]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
)


def test_reads_bytes_written_by_hand() -> None:
    labels = parse_idx(bytes.fromhex("00000801 00000003 05 00 ff"))
    assert labels.dtype == np.uint8
    assert labels.tolist() == [5, 0, 255]
    table = parse_idx(bytes.fromhex("00000c02 00000001 00000002 00000102 fffffffe"))
    assert table.dtype == np.int32
    assert table.dtype.isnative
    assert table.tolist() == [[258, -2]]


@given(array=arrays)
def test_gives_back_what_was_written(array: np.ndarray, to_idx: ToIdx) -> None:
    parsed = parse_idx(to_idx(array))
    assert parsed.dtype == array.dtype
    assert np.array_equal(parsed, array)
    assert parsed.flags.writeable


@given(array=arrays, data=st.data())
def test_refuses_any_other_length(array: np.ndarray, data: st.DataObject, to_idx: ToIdx) -> None:
    written = to_idx(array)
    shorter = written[: data.draw(st.integers(0, len(written) - 1))]
    longer = written + data.draw(st.binary(min_size=1, max_size=8))
    for wrong in (shorter, longer):
        with pytest.raises(DataError):
            parse_idx(wrong)


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda tail: b"\0\0\x08" + tail)))
def test_only_data_error_escapes(data: bytes) -> None:
    try:
        array = parse_idx(data)
    except DataError:
        return
    assert 4 + 4 * array.ndim + array.nbytes == len(data)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("00010801 00000001 00", "not an IDX file"),
        ("1f8b0801 00000001 00", "not an IDX file"),
        ("00000d01 00000001 00000000", "type 0x0d"),
        ("00000800", "0 dimensions"),
        ("00000805 00000001 00000001 00000001 00000001 00000001 00", "5 dimensions"),
        ("00000801 00000000", "empty"),
        # A naive product of these sizes wraps to 0 in 64 bits, and an empty array may not have them either.
        ("00000804 80000000 80000000 00000004 00000001", "there are 20"),
        ("00000803 00000000 ffffffff ffffffff", "empty"),
    ],
)
def test_says_what_is_wrong(header: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        parse_idx(bytes.fromhex(header), source="labels.idx")
    assert str(caught.value).startswith("labels.idx: ")


def test_allocates_nothing_for_sizes_that_are_only_declared() -> None:
    lie = bytes.fromhex("00000c02 00ffffff 000000ff")
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            parse_idx(lie)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_reads_raw_and_gzip_files_by_content(tmp_path: Path) -> None:
    (tmp_path / "raw.gz").write_bytes(b"plain")
    (tmp_path / "packed").write_bytes(gzip.compress(b"plain"))
    assert read_uncompressed(tmp_path / "raw.gz") == b"plain"
    assert read_uncompressed(tmp_path / "packed") == b"plain"


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than 1000000 bytes"):
            read_uncompressed(path, max_bytes=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    (tmp_path / "raw").write_bytes(bytes(1001))
    with pytest.raises(DataError, match=r"raw: more than 1000 bytes"):
        read_uncompressed(tmp_path / "raw", max_bytes=1000)
    assert len(expand(bytes(1000), source="exact", max_bytes=1000)) == 1000


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "trailing", "header only"])
def test_refuses_damaged_gzip(damage: str) -> None:
    packed = bytearray(gzip.compress(bytes(range(256)) * 4))
    if damage == "truncated":
        del packed[-9:]
    elif damage == "bit flipped":
        packed[-6] ^= 1  # in the checksum
    elif damage == "trailing":
        packed += b"more"
    else:
        del packed[5:]
    with pytest.raises(DataError, match=r"file\.gz: damaged gzip"):
        expand(bytes(packed), source="file.gz")


def test_unreadable_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_uncompressed(tmp_path)
