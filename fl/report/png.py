"""Small pictures inside the page, as PNG in a data URL."""

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB = 0, 2


def data_url(pixels: npt.NDArray[np.float32]) -> str:
    """float32 (H, W), gray, or (H, W, 3) in 0..1, pixel for pixel: whoever shows it chooses the size."""
    levels = np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
    height, width = levels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, _GRAY if levels.ndim == 2 else _RGB, 0, 0, 0)
    # Every row begins with its filter; 0 is none.
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(_SIGNATURE + chunks).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
