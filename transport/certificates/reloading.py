"""What is made of files, and made anew when they change: certificates are renewed while a server goes on."""

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from transport.errors import TransportError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Reloading(Generic[_T]):
    """A value that is made of files, as they are now.

    Files that no longer work leave the value as it was, with a warning: several files are seldom replaced in one step,
    and for a moment they do not fit each other.

    Args:
        make: makes the value; a `TransportError` says that the files do not work.
        files: gives the files that it is made of.

    Raises:
        TransportError: from ``make``, the first time.
    """

    def __init__(self, make: Callable[[], _T], files: Callable[[], Iterable[Path]]) -> None:
        self._make = make
        self._files = files
        self._lock = threading.Lock()
        self._stamps = self._stamped()
        self._value = make()

    def current(self) -> _T:
        """The value; any thread may ask. It costs a look at each file's size and times."""
        with self._lock:
            stamps = self._stamped()
            if stamps != self._stamps:
                # Noted before the files are read: what changes meanwhile is seen the next time.
                self._stamps = stamps
                try:
                    self._value = self._make()
                except TransportError as error:
                    logger.warning(
                        "files that changed cannot be used, so what they were stays in use: %s",
                        error,
                        extra={"event": "not_reloaded"},
                    )
            return self._value

    def _stamped(self) -> list[tuple[Path, tuple[int, ...]]]:
        return [(path, _stamp(path)) for path in self._files()]


def _stamp(path: Path) -> tuple[int, ...]:
    """Another value for each content: a file that is replaced, written or given other rights has another one."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
