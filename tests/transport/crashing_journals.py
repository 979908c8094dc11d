"""Journals that end the process, or raise in its place, at one of their operations."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from transport.durable.client_journal import ClientJournal
from transport.durable.server_journal import Journal


class CrashError(Exception):
    """The process ended here, in the test's model."""


@contextlib.contextmanager
def journal_directory() -> Iterator[Path]:
    """Return a directory in memory if there is one: waiting for the disk is SQLite's task, and slow."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


class CrashingJournal(Journal):
    """A journal that ends the process before or after the k-th operation. Half of these are inside a host's call."""

    crash_at = -1
    operations = 0
    on_point: Callable[[], None] | None = None

    def _point(self) -> None:
        self.operations += 1
        if self.on_point is not None:
            self.on_point()
        if self.operations == self.crash_at:
            raise CrashError

    def record(self, *args, **kwargs) -> None:
        self._point()
        super().record(*args, **kwargs)
        self._point()

    def record_answer(self, *args) -> None:
        self._point()
        super().record_answer(*args)
        self._point()

    def commit(self) -> None:
        self._point()
        super().commit()
        self._point()


class CrashingClientJournal(ClientJournal):
    crash_at = -1
    operations = 0
    on_point: Callable[[], None] | None = None

    _point = CrashingJournal._point

    def begin(self, *args) -> None:
        self._point()
        super().begin(*args)

    def save(self, *args) -> None:
        self._point()
        super().save(*args)
        self._point()
