"""Values that are made from files and made again when these change: certificates are renewed while a server runs."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from transport.errors import TransportError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Stamps: TypeAlias = list[tuple[Path, tuple[int, ...]]]

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
        check: called with the old and the new value; it raises `TransportError` if the old one must stay.
        settle_seconds: how long changed files must stay unchanged before they are read: half a text can be valid.
        clock: returns the time in Unix seconds.

    Raises:
        TransportError: from ``make``, the first time.
    """

    def __init__(
        self,
        make: Callable[[], _T],
        files: Callable[[], Iterable[Path]],
        trouble: Callable[[_T], str] = lambda value: "",
        *,
        check: Callable[[_T, _T], None] = lambda value, new: None,
        settle_seconds: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._make = make
        self._files = files
        self._trouble = trouble
        self._check = check
        self._settle_seconds, self._clock = settle_seconds, clock
        self._lock = threading.Lock()
        self._pause, self._again_at = 0.0, math.inf
        self._said = ""
        self._stamps = self._seen = self._stamped()
        self._since = math.inf
        self._value = make()

    def current(self) -> _T:
        """Return the value; any thread may call. The cost is one stat call for each file."""
        with self._lock:
            # Noted before the files are read: what changes meanwhile is seen the next time.
            stamps, now = self._stamped(), self._clock()
            if stamps != self._seen:
                self._seen, self._since = stamps, _changed_at(stamps)
            # A file can seem to be of the future: another machine wrote it, or the clock was set.
            self._since = min(self._since, now)
            if stamps != self._stamps:
                if now - self._since >= self._settle_seconds:
                    self._pause = 0.0
                    self._load(stamps)
            elif time.monotonic() >= self._again_at:
                self._load(stamps)
            return self._value

    def _load(self, stamps: _Stamps) -> None:
        value = self._value
        try:
            value = self._make()
            self._check(self._value, value)
            trouble = self._trouble(value)
        except TransportError as error:
            value, trouble = self._value, str(error)
        if self._settle_seconds and self._stamped() != stamps:
            return
        self._stamps, self._value = stamps, value
        if trouble and trouble != self._said:
            logger.warning(
                "changed files cannot be used; their old content stays in use as long as it is valid: %s",
                trouble,
                extra={"event": "not_reloaded"},
            )
        self._said = trouble
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) or _FIRST_PAUSE
        self._again_at = time.monotonic() + self._pause if trouble else math.inf

    def _stamped(self) -> _Stamps:
        return [(path, _stamp(path)) for path in self._files()]


def _changed_at(stamps: _Stamps) -> float:
    """When the last of the files changed, in Unix seconds; inf without one."""
    return max((stamp[-1] / 1e9 for _, stamp in stamps if stamp), default=math.inf)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return a value that changes when a file is replaced, written or given other permissions."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
