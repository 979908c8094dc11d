"""A journal's SQLite file: both sides make, check, lock, commit and delete it in the same way."""

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

_IF_DAMAGED = "its session cannot go on; keep the journal to look into it, or delete it to give the session up"

# Error numbers for a full disk or an exhausted quota.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

# SQLite's default limit for one value.
MAX_BLOB_BYTES = 10**9 - 2**12


class Database:
    """A file with one writer: it stays locked while it is open, so that no second process resumes the same session.

    `commit` makes all writes durable, or none: with a write-ahead log and ``synchronous=FULL`` they survive power cuts,
    not only crashes.  Only the owner can read the file and its log.

    Args:
        path: the file; made if it does not exist or is empty, never overwritten.
        application_id, version: the numbers that the file must have, 32 bits each.
        schema: the statements that make the tables.
        shared: several processes may have the file open; each locks it only from `begin` to `commit`, and waits up to
            half a minute for the others. ``":memory:"`` is then a database of this process alone.
        if_damaged: advice for the user of a damaged file, for the error's text.

    Raises:
        JournalError: the file belongs to another program, has another version, is damaged, or is in use.
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
            # Callers use one thread at a time; a commit may wait for the disk in a worker thread.
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
        """Make the file, readable by its owner alone, if it does not exist."""
        # Only SQLite may open an existing file: closing it here would release a lock that SQLite holds.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            _sync_directory(self.path.parent)

    def _open(self, connection: sqlite3.Connection, application_id: int, version: int, schema: str) -> None:
        if not self._shared:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        # Read before anything is written, so that another program's file is not changed.
        # In one statement, since another process may make the tables of a shared file at any moment.
        found, tables = connection.execute(
            "SELECT application_id, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id"
        ).fetchone()
        is_new = not found and not tables
        if not is_new and found != application_id:
            raise JournalError(f"{self.path} is a database of another program: choose another path; it was not changed")
        if not is_new and (stored := self._one("PRAGMA user_version")) != version:
            raise JournalError(
                f"{self.path} is a journal of format {stored}, but this version reads format {version}: finish its "
                "session with the version that began it, or delete the file to give the session up"
            )
        # A shared file is opened for one row each time; a log beside it would only cost.
        if not self._shared and self._one("PRAGMA journal_mode=WAL") != "wal":
            raise JournalError(
                f"{self.path}: this file system does not support a write-ahead log; put the journal on a local disk"
            )
        # Without a log, a commit is durable only once the removal of the rollback journal from its folder is.
        connection.execute(f"PRAGMA synchronous={'EXTRA' if self._shared else 'FULL'}")
        if self._shared and not is_new:
            return
        # Take the lock, and keep it unless the file is shared.
        connection.execute("BEGIN EXCLUSIVE")
        # Another process may have made the tables of a shared file in the meantime.
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
        """Begin the transaction that `commit` ends, unless one has begun; no other process can write until then."""
        with self._writing():
            if not self._opened().in_transaction:
                self._opened().execute("BEGIN IMMEDIATE")

    def roll_back(self) -> None:
        """Undo all writes since the last `commit`."""
        with self._errors():
            if self._opened().in_transaction:
                self._opened().execute("ROLLBACK")

    def write(self, statement: str, values: Sequence[object]) -> int:
        """Execute a statement in the transaction that `commit` ends, and return the number of rows that it changed."""
        self.begin()
        with self._writing():
            return self._opened().execute(statement, values).rowcount

    def rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query; at most one of them is in memory at a time."""
        with self._errors():
            yield from self._opened().execute(query, values)

    @property
    def is_dirty(self) -> bool:
        """Return whether there are writes that are not durable yet."""
        return self._failed or (self._connection is not None and self._connection.in_transaction)

    def commit(self) -> None:
        """Make all writes durable. After a JournalError it is unknown whether they are: start again and resume."""
        with self._writing():
            if self._opened().in_transaction:
                self._opened().execute("COMMIT")

    def close(self) -> None:
        """Close the file; writes that were not committed are lost. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def delete(self) -> None:
        """Remove the file and SQLite's files beside it. May be called twice."""
        self.close()
        # Remove the file itself first: a log without its database is harmless, a database without its log is outdated.
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
        """Refuse writes after an error: SQLite undoes the whole transaction after some, and they would rely on it."""
        if self._failed:
            raise JournalError(f"{self.path} could not be written earlier: start again to resume")
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
                raise JournalError(f"{self.path} is not a journal: choose another path; it was not changed") from None
            raise damaged(self.path, str(error), self._if_damaged) from None
        except sqlite3.Error as error:
            raise JournalError(f"{self.path} cannot be used: {error}") from None
        except OSError as error:
            kind = JournalFullError if error.errno in NO_ROOM else JournalError
            raise kind(f"{self.path} cannot be used: {error.strerror or error}") from None


def damaged(path: Path | str, what: str, advice: str = _IF_DAMAGED) -> JournalError:
    """Return the error for a journal whose content is not the content that was written to it."""
    return JournalError(f"{path} is damaged ({what}): {advice}")


def _sync_directory(directory: Path) -> None:
    """Make the creation or removal of a file durable, if the system can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
