"""Journals that end the process, or what stands for it, at one of their operations."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from transport.durable.client_journal import ClientJournal
from transport.durable.server_journal import Journal


class CrashError(Exception):
    """The process ended here, as far as the test is concerned."""


@contextlib.contextmanager
def journal_directory() -> Iterator[Path]:
    """A directory in memory where there is one: that the disk is waited for is SQLite's affair, and slow."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


class CrashingJournal(Journal):
    """Ends the process before or after the k-th of its operations. Half of them are inside what a host calls one."""

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
