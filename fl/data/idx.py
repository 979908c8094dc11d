"""The IDX format of MNIST and similar data sets: two zero bytes, type, number of dimensions, sizes, values.

All integers are big-endian. Only the types of those data sets are supported: uint8 (0x08) and int32 (0x0C), raw or
gzip. Nothing is executed, and at most `MAX_BYTES` are held.

Source: "The MNIST database of handwritten digits", LeCun, Cortes and Burges, "File formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.errors import DataError

MAX_BYTES = 1 << 26
"""Maximum bytes of an uncompressed file (the largest known one has 47,040,016); stops gzip bombs."""

_MAX_DIMENSIONS = 4
_GZIP_MAGIC = b"\x1f\x8b"
_DTYPES: dict[int, np.dtype[np.uint8 | np.int32]] = {0x08: np.dtype(">u1"), 0x0C: np.dtype(">i4")}

IdxArray = npt.NDArray[np.uint8 | np.int32]


def parse_idx(data: bytes, *, source: str = "IDX data") -> IdxArray:
    """Return the array in `data` (uncompressed): uint8 or native int32, in the declared shape, writable.

    Raises DataError, naming `source`, unless `data` is one complete array and nothing else.
    """
    if len(data) < 4:
        raise DataError(f"{source}: {len(data)} bytes are too few for an IDX header")
    zeros, type_code, num_dimensions = struct.unpack_from(">HBB", data)
    if zeros != 0:
        raise DataError(f"{source}: not an IDX file (starts with {data[:4].hex()})")
    if type_code not in _DTYPES:
        raise DataError(f"{source}: IDX type 0x{type_code:02x}; only uint8 (0x08) and int32 (0x0c) are supported")
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise DataError(f"{source}: {num_dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are supported")
    header_length = 4 + 4 * num_dimensions
    if len(data) < header_length:
        raise DataError(f"{source}: {len(data)} bytes are too few for {num_dimensions} dimensions")
    shape = struct.unpack_from(f">{num_dimensions}I", data, 4)
    if 0 in shape:
        raise DataError(f"{source}: an empty array of shape {shape}")
    dtype = _DTYPES[type_code]
    # Compare before allocating: the declared sizes are only a claim.
    declared = header_length + math.prod(shape) * dtype.itemsize
    if declared != len(data):
        raise DataError(f"{source}: shape {shape} of {dtype.name} needs {declared} bytes, but there are {len(data)}")
    values = np.frombuffer(data, dtype=dtype, offset=header_length).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def expand(data: bytes, *, source: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return `data`, decompressed if it is gzip. Raises DataError if it is damaged or exceeds `max_bytes`."""
    if data.startswith(_GZIP_MAGIC):
        try:
            with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
                data = stream.read(max_bytes + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{source}: damaged gzip file ({error})") from error
    if len(data) > max_bytes:
        raise DataError(f"{source}: more than {max_bytes} bytes uncompressed; no file of these data sets is that large")
    return data


def read_uncompressed(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the uncompressed bytes of a raw or gzip file; the content, not the name, tells which it is.

    Raises DataError if the file cannot be read, is damaged, or is longer than `max_bytes`.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return expand(data, source=str(path), max_bytes=max_bytes)
