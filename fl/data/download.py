"""Fetch one file over HTTP into memory: one try, a short time-out, nothing left behind, nothing logged."""

from __future__ import annotations

from io import BytesIO

import pooch  # type: ignore[import-untyped]

from fl.data.idx import MAX_BYTES
from fl.errors import DataError

# Seconds to connect, and between two pieces of the answer. Without a network the user should read what to
# do about it at once, not after a minute of retries.
_TIMEOUT = (4.0, 15.0)
_CHUNK = 1 << 16


class _BoundedBuffer(BytesIO):
    """Memory that refuses to grow past `MAX_BYTES`: a server decides how much it sends, not how much we keep."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self.tell() + len(data) > MAX_BYTES:
            raise DataError(f"the server sent more than {MAX_BYTES} bytes")
        return super().write(data)


def fetch(url: str) -> bytes:
    """The bytes at `url`, as they come. Raises DataError, with the reason, if they do not come.

    pooch's downloader writes to memory rather than to a file, because what arrives may only reach the cache
    once the sum of its *uncompressed* bytes is right, which `pooch.retrieve` cannot check.
    """
    downloader = pooch.HTTPDownloader(progressbar=False, chunk_size=_CHUNK, timeout=_TIMEOUT)
    with _BoundedBuffer() as buffer:
        try:
            downloader(url, buffer, None)
        # requests' exceptions are OSErrors; a URL that it cannot parse is a ValueError.
        except (OSError, ValueError) as error:
            raise DataError(f"{url}: {_reason(error)}") from error
        except DataError as error:
            raise DataError(f"{url}: {error}") from error
        return buffer.getvalue()


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: the outer ones repeat it, wrapped in object addresses."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__
