"""Values that are made from files and made again when these change: certificates are renewed while a server runs."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from transport.errors import TransportError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Files that could not be used are tried again even if they do not change: the fault may be the system's.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0


class Reloading(Generic[_T]):
    """A value that is made from the present content of files.

    If the files cannot be used any more, the value stays and a warning is logged: several files are seldom replaced in
    one step, and for a moment they do not match. They are tried again after one second, then after twice as long, up
    to five minutes, and at once when one of them changes.

    Args:
        make: makes the value; it raises `TransportError` if the files cannot be used.
        files: returns the files from which the value is made.
        trouble: returns the faults of files that a value does without; "" if there are none, which is the default.

    Raises:
        TransportError: from ``make``, the first time.
    """

    def __init__(
        self,
        make: Callable[[], _T],
        files: Callable[[], Iterable[Path]],
        trouble: Callable[[_T], str] = lambda value: "",
    ) -> None:
        self._make = make
        self._files = files
        self._trouble = trouble
        self._lock = threading.Lock()
        self._pause, self._again_at = 0.0, math.inf
        self._said = ""
        self._stamps = self._stamped()
        self._value = make()

    def current(self) -> _T:
        """Return the value; any thread may call. The cost is one stat call for each file."""
        with self._lock:
            stamps = self._stamped()
            if stamps != self._stamps:
                # Noted before the files are read, so that changes in the meantime are seen the next time.
                self._stamps, self._pause = stamps, 0.0
                self._load()
            elif time.monotonic() >= self._again_at:
                self._load()
            return self._value

    def _load(self) -> None:
        try:
            self._value = self._make()
            trouble = self._trouble(self._value)
        except TransportError as error:
            trouble = str(error)
        if trouble and trouble != self._said:
            logger.warning(
                "changed files cannot be used; their old content stays in use as long as it is valid: %s",
                trouble,
                extra={"event": "not_reloaded"},
            )
        self._said = trouble
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) or _FIRST_PAUSE
        self._again_at = time.monotonic() + self._pause if trouble else math.inf

    def _stamped(self) -> list[tuple[Path, tuple[int, ...]]]:
        return [(path, _stamp(path)) for path in self._files()]


def _stamp(path: Path) -> tuple[int, ...]:
    """Return a value that changes when a file is replaced, written or given other permissions."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
