"""A journal's SQLite file: made, checked, locked, committed and deleted in one way for both sides."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transport.errors import JournalError, JournalFullError

_WAIT_SECONDS = 30.0

_MEMORY = ":memory:"

_IF_DAMAGED = "its session cannot go on; keep the file to look into it, or delete it to give the session up"

# What the system says where a disk, or a user's part of it, is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

# SQLite's own limit for one value, unless it was built with another.
MAX_BLOB_BYTES = 10**9 - 2**12


class Database:
    """One file, one writer: the file stays locked while it is open, so that no second process resumes the same session.

    What is written becomes durable, all or nothing, with `commit`: write-ahead log, ``synchronous=FULL``, so that it
    survives a power cut and not only a crash.  The file and its log are readable by their owner alone.

    Args:
        path: the file; made if it is not there or empty, never overwritten.
        application_id, version: what the file must say it is, 32 bits each.
        schema: the statements that make the tables.
        shared: several processes may have the file open; each locks it only from `begin` to `commit`, and waits up to
            half a minute for the others. ``":memory:"`` is then a database of this process alone.
        if_damaged: what to do with a file that is damaged.

    Raises:
        JournalError: the file is of something else, of another version, damaged, or in use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        application_id: int,
        version: int,
        schema: str,
        shared: bool = False,
        if_damaged: str = _IF_DAMAGED,
    ) -> None:
        self.path = Path(path)
        self._shared = shared
        self._if_damaged = if_damaged
        self._connection: sqlite3.Connection | None = None
        self._failed = False
        with self._errors():
            if str(path) != _MEMORY:
                self._claim()
            # Whoever calls from several threads calls from one at a time; a commit may wait for the disk in a worker.
            connection = sqlite3.connect(
                self.path, isolation_level=None, timeout=_WAIT_SECONDS if shared else 0.0, check_same_thread=False
            )
            self._connection = connection
            try:
                self._open(connection, application_id, version, schema)
            except BaseException:
                self.close()
                raise

    def _claim(self) -> None:
        """Make the file, for its owner's eyes alone, if it is not there."""
        # A file that is there is not touched but by SQLite: closing it here would let go of a lock that SQLite holds.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            _sync_directory(self.path.parent)

    def _open(self, connection: sqlite3.Connection, application_id: int, version: int, schema: str) -> None:
        if not self._shared:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        # Read before anything is written: another program's file is not to be changed.
        # In one statement: another process may make the tables of a shared file at any moment.
        found, tables = connection.execute(
            "SELECT application_id, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id"
        ).fetchone()
        is_new = not found and not tables
        if not is_new and found != application_id:
            raise JournalError(f"{self.path} is a database of something else: choose another path; it was not changed")
        if not is_new and (stored := self._one("PRAGMA user_version")) != version:
            raise JournalError(
                f"{self.path} is a journal of format {stored}, and this version reads format {version}: finish its "
                "session with the version that began it, or delete the file to give the session up"
            )
        # Opened for a single row each time, a shared file is better off without a log beside it.
        if not self._shared and self._one("PRAGMA journal_mode=WAL") != "wal":
            raise JournalError(f"{self.path}: this file system has no write-ahead log; put the journal on a local disk")
        # Without a log, what makes a commit durable is that the rollback journal is gone from its folder, too.
        connection.execute(f"PRAGMA synchronous={'EXTRA' if self._shared else 'FULL'}")
        if self._shared and not is_new:
            return
        # Takes the lock, and keeps it unless the file is shared.
        connection.execute("BEGIN EXCLUSIVE")
        # Where it is shared, another process may have made the tables meanwhile.
        if is_new and not self._one("SELECT count(*) FROM sqlite_schema"):
            for statement in schema.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={application_id}")
            connection.execute(f"PRAGMA user_version={version}")
        connection.execute("COMMIT")

    def _one(self, query: str) -> Any:
        assert self._connection is not None  # noqa: S101 - called while it opens
        row = self._connection.execute(query).fetchone()
        return row[0]

    def begin(self) -> None:
        """Begin the transaction that `commit` ends, if none has begun: what is read in it stays true until then."""
        with self._writing():
            if not self._opened().in_transaction:
                self._opened().execute("BEGIN IMMEDIATE")

    def roll_back(self) -> None:
        """Take back what was not committed."""
        with self._errors():
            if self._opened().in_transaction:
                self._opened().execute("ROLLBACK")

    def write(self, statement: str, values: Sequence[object]) -> int:
        """Execute a statement within the transaction that `commit` ends; returns how many rows it changed."""
        self.begin()
        with self._writing():
            return self._opened().execute(statement, values).rowcount

    def rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The query's rows, one at a time: no more than one of them is in memory."""
        with self._errors():
            yield from self._opened().execute(query, values)

    @property
    def is_dirty(self) -> bool:
        """Whether something was written that is not durable yet."""
        return self._failed or (self._connection is not None and self._connection.in_transaction)

    def commit(self) -> None:
        """Make durable what was written. After a JournalError nobody knows whether it is: start again and resume."""
        with self._writing():
            if self._opened().in_transaction:
                self._opened().execute("COMMIT")

    def close(self) -> None:
        """Let go of the file; what was not committed is gone. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def delete(self) -> None:
        """Remove the file and what SQLite keeps beside it. May be called twice."""
        self.close()
        # The file itself goes first: a log without its database is nothing, a database without its log is an old state.
        for suffix in ("", "-wal", "-shm", "-journal"):
            with self._errors(), contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").unlink()
        with self._errors():
            _sync_directory(self.path.parent)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise JournalError(f"the journal {self.path} is closed")
        return self._connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """SQLite takes a whole transaction back after some errors: what follows one must not be written without it."""
        if self._failed:
            raise JournalError(f"{self.path} could not be written before: start again to resume")
        self._failed = True
        with self._errors():
            yield
        self._failed = False

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                whose = (
                    "others have been writing to it for too long"
                    if self._shared
                    else "another process runs its session"
                )
                raise JournalError(f"{self.path} is in use: {whose}") from None
            kind = JournalFullError if error.sqlite_errorcode == sqlite3.SQLITE_FULL else JournalError
            raise kind(f"{self.path} cannot be used ({error}): nothing that is not on the disk was sent; "
                       "see to the disk, then start again to resume") from None  # fmt: skip
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise JournalError(f"{self.path} is no journal: choose another path; it was left as it is") from None
            raise damaged(self.path, str(error), self._if_damaged) from None
        except sqlite3.Error as error:
            raise JournalError(f"{self.path} cannot be used: {error}") from None
        except OSError as error:
            kind = JournalFullError if error.errno in NO_ROOM else JournalError
            raise kind(f"{self.path} cannot be used: {error.strerror or error}") from None


def damaged(path: Path, what: str, advice: str = _IF_DAMAGED) -> JournalError:
    """The error for a file that holds something else than what was written to it."""
    return JournalError(f"{path} is damaged ({what}): {advice}")


def _sync_directory(directory: Path) -> None:
    """Make a file's appearing or disappearing durable, where the system can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
