"""Download of one file over HTTP into memory: one try, a short timeout, no temporary files, no log."""

from __future__ import annotations

from io import BytesIO

import pooch  # type: ignore[import-untyped]

from fl.data.idx import MAX_BYTES
from fl.errors import DataError

# Seconds to connect, and between two pieces of the answer. Without a network the user should see the advice at once,
# not after a minute of retries.
_TIMEOUT = (4.0, 15.0)
_CHUNK = 1 << 16


class _BoundedBuffer(BytesIO):
    """A buffer of at most `MAX_BYTES`: a server may send more, but no more is kept."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self.tell() + len(data) > MAX_BYTES:
            raise DataError(f"the server sent more than {MAX_BYTES} bytes")
        return super().write(data)


def fetch(url: str) -> bytes:
    """Return the bytes at `url`, still compressed. Raises DataError with the reason if the download fails.

    pooch's downloader writes to memory, not to a file: a file may reach the cache only after the sum of its
    *uncompressed* bytes was checked, which `pooch.retrieve` cannot do.
    """
    downloader = pooch.HTTPDownloader(progressbar=False, chunk_size=_CHUNK, timeout=_TIMEOUT)
    with _BoundedBuffer() as buffer:
        try:
            downloader(url, buffer, None)
        # requests raises OSErrors, and ValueError for a URL that it cannot parse.
        except (OSError, ValueError) as error:
            raise DataError(f"{url}: {_reason(error)}") from error
        except DataError as error:
            raise DataError(f"{url}: {error}") from error
        return buffer.getvalue()


def _reason(error: BaseException) -> str:
    """Return the innermost cause in one line; the outer ones repeat it with object addresses."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__
