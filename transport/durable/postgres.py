"""Journals in a PostgreSQL database, so that another machine can go on with the sessions of a server that is lost.

A run belongs to one process at a time.  Its lease has two parts.  An advisory lock of the database session tells who
may begin: the database releases it when that session ends, so a second process is refused, or waits.  The number of the
holder is checked in each transaction: a process that has lost its lease without noticing, for instance because a
connection pooler gave it another session, cannot commit, and so sends nothing.

Rows are written with COPY, all of a commit at once, and data above a mebibyte in several parts.

Security: the database's administrators see what the server sees, so trust them like the server's.  Use TLS beyond
the own machine (``sslmode=verify-full``).  Texts of errors never show the password.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from transport.durable.postgres_connection import CONNECTION, SESSION, check_encrypted, journal_error, parsed, shown
from transport.durable.storage import Head, Row, RowSeries
from transport.errors import JournalError

_FORMAT = 1
# Guards the making of the tables.
_MAKING = 0x53416753

# Data is stored in parts of at most this many bytes, so that neither side needs much memory for one.
PART_BYTES = 1 << 20
# Rows wait in memory for the commit, up to this many bytes.
_WAITING_BYTES = 16 << 20

# A commit counts once it is on the disk, also on the disks of synchronous standbys. True: in this transaction.
_DURABLE = (
    "CASE WHEN current_setting('synchronous_commit') IN ('on', 'remote_apply') THEN '' "
    "ELSE set_config('synchronous_commit', 'on', %s) END"
)

_HEAD = 0
_TABLES = """
CREATE SCHEMA IF NOT EXISTS secagg;
CREATE TABLE secagg.format(version integer NOT NULL);
CREATE TABLE secagg.runs(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, holder bigint NOT NULL);
CREATE TABLE secagg.journals(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run bigint NOT NULL, name text NOT NULL, UNIQUE (run, name));
CREATE TABLE secagg.rows(
    journal bigint, series smallint, number bigint, part integer, kind smallint NOT NULL, client bigint NOT NULL,
    chain bigint NOT NULL, data bytea NOT NULL, PRIMARY KEY (journal, series, number, part));
CREATE TABLE secagg.files(
    run bigint, name text, part integer, data bytea NOT NULL, PRIMARY KEY (run, name, part));
ALTER TABLE secagg.rows ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE secagg.files ALTER COLUMN data SET STORAGE EXTERNAL
"""
_ROW_TYPES = ("int8", "int2", "int8", "int4", "int2", "int8", "int8", "bytea")

_POLL_SECONDS = 0.5


class PostgresStore:
    """The journals and files of one run in a database: a `transport.durable.storage.JournalStore`.

    ::

        with PostgresStore("service=secagg", "digits") as store:
            report = await serve_session(params, ..., journal=Journal(store.open("session 1")))

    Args:
        url: a connection string of libpq, such as ``postgresql://secagg@db.example/secagg`` or ``service=secagg``. Keep
            passwords out of it, in a password file (``PGPASSFILE``) or a service file.
        run: the name of the run in the database; each run needs its own.
        wait: seconds to wait for a process that holds the run.
        waiting: called once, if it has to wait.

    Raises:
        JournalError: the database cannot be reached, its tables are of another version, or another process holds the
            run.
    """

    def __init__(self, url: str, run: str, *, wait: float = 0.0, waiting: Callable[[], None] | None = None) -> None:
        if not run or not run.isprintable() or len(run) > 200:
            raise JournalError(f"a run in a database needs a printable name of 1 to 200 characters, not {run!r}")
        given = parsed(url)
        self._password = given.get("password") or ""
        self.address = shown(given)
        self.run = run
        self.name = f"run {run!r} in {self.address}"
        self._open_storage: PostgresStorage | None = None
        self._failed = False
        with self._errors("cannot be reached"):
            self._connection = psycopg.connect(**{**CONNECTION, **given}, autocommit=True)
        try:
            check_encrypted(self._connection, given, self.address)
            with self._errors("cannot be used"):
                self._prepare()
                self._lock(wait, waiting)
                self._run, self._holder = self._one(
                    "INSERT INTO secagg.runs(name, holder) VALUES (%s, 1) "
                    "ON CONFLICT (name) DO UPDATE SET holder = secagg.runs.holder + 1 RETURNING id, holder",
                    (run,),
                )
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        for name, value in SESSION.items():
            self._one("SELECT set_config(%s, %s, false)", (name, value))
        if self._one("SHOW fsync") == ("off",):
            raise JournalError(f"{self.address} has fsync turned off, and would lose commits: turn it on")
        self._one(f"SELECT {_DURABLE}", (False,))
        if not self._has_tables():
            with self._connection.transaction():
                self._one("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
                # Another process may have made them in the meantime.
                if not self._has_tables():
                    for statement in _TABLES.split(";"):
                        self._connection.execute(statement.encode())
                    self._connection.execute("INSERT INTO secagg.format VALUES (%s)", (_FORMAT,))
        if (stored := self._one("SELECT version FROM secagg.format")) != (_FORMAT,):
            raise JournalError(
                f"{self.address} has journals of format {stored[0]}, but this version reads format {_FORMAT}: use the "
                "version that made them, or another database"
            )

    def _has_tables(self) -> bool:
        # Not by to_regclass, whose answer may come from a cache.
        query = "SELECT count(*) > 0 FROM pg_tables WHERE schemaname = 'secagg' AND tablename = 'format'"
        return self._one(query) == (True,)

    def _lock(self, wait: float, waiting: Callable[[], None] | None) -> None:
        key = int.from_bytes(hashlib.sha256(b"secagg run\0" + self.run.encode()).digest()[:8], signed=True)
        until = time.monotonic() + wait
        while self._one("SELECT pg_try_advisory_lock(%s)", (key,)) != (True,):
            if time.monotonic() >= until:
                raise JournalError(
                    f"{self.name} is in use: another process serves it; end that process first, or choose another name"
                )
            if waiting is not None:
                waiting()
                waiting = None
            time.sleep(_POLL_SECONDS)

    # The journals and files.

    def exists(self, name: str) -> bool:
        """Return whether there is a journal with this name."""
        query = "SELECT count(*) FROM secagg.journals WHERE run = %s AND name = %s"
        with self._errors():
            return self._one(query, (self._run, name)) != (0,)

    def open(self, name: str) -> "PostgresStorage":
        """Return a journal's storage; only one may be open at a time."""
        if self._open_storage is not None:
            raise JournalError(f"{self._open_storage.name} is in use: close it before {name!r} is opened")
        with self._writing():
            values = (self._run, name)
            self._begin()
            self._connection.execute(
                "INSERT INTO secagg.journals(run, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", values
            )
            (journal,) = self._one("SELECT id FROM secagg.journals WHERE run = %s AND name = %s", values)
            self._connection.execute("COMMIT")
        self._open_storage = PostgresStorage(self, name, journal)
        return self._open_storage

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        query = "SELECT data FROM secagg.files WHERE run = %s AND name = %s ORDER BY part"
        with self._errors():
            parts = self._connection.execute(query, (self._run, name), binary=True).fetchall()
        return b"".join(data for (data,) in parts) if parts else None

    def replace(self, files: Mapping[str, bytes]) -> None:
        """Write files durably: all, or none."""
        with self._writing():
            self._begin()
            self._delete_files(list(files))
            with (
                self._connection.cursor() as cursor,
                cursor.copy("COPY secagg.files FROM STDIN (FORMAT BINARY)") as copy,
            ):
                copy.set_types(("int8", "text", "int4", "bytea"))
                for name, data in files.items():
                    for part, piece in enumerate(_pieces(data)):
                        copy.write_row((self._run, name, part, piece))
            self._connection.execute("COMMIT")

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        with self._writing():
            self._begin()
            self._delete_files([name])
            self._connection.execute("COMMIT")

    def _delete_files(self, names: list[str]) -> None:
        self._connection.execute("DELETE FROM secagg.files WHERE run = %s AND name = ANY(%s)", (self._run, names))

    def confirm(self) -> None:
        """Raise JournalError if this process has lost the run."""
        with self._errors():
            self._check(self._one("SELECT holder FROM secagg.runs WHERE id = %s", (self._run,)))

    def close(self) -> None:
        """Give the run up for other processes. May be called twice."""
        self._connection.close()

    def __enter__(self) -> "PostgresStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PostgresStore {self.name}>"

    # What the storages of the journals share.

    @property
    def in_transaction(self) -> bool:
        """Return whether a transaction is open, or has failed."""
        return self._failed or self._connection.info.transaction_status not in (
            TransactionStatus.IDLE,
            TransactionStatus.UNKNOWN,
        )

    def _begin(self) -> None:
        """Begin a transaction, unless one is open, and check that this process still holds the run."""
        if self._connection.info.transaction_status is not TransactionStatus.INTRANS:
            self._connection.execute("BEGIN")
            # A process that takes the run over waits for the end of this transaction. A pooler may have moved it to a
            # session that was never set up.
            query = f"SELECT holder, {_DURABLE} FROM secagg.runs WHERE id = %s FOR SHARE"  # noqa: S608 - ours
            self._check(self._one(query, (True, self._run))[:1])

    def _check(self, holder: tuple[Any, ...]) -> None:
        if holder != (self._holder,):
            raise JournalError(f"{self.name} was taken over by another process: this one sends nothing more; end it")

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self._connection.execute(query.encode(), values).fetchone()
        return () if row is None else row

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Refuse writes after an error: the transaction is lost, and they would rely on it."""
        if self._failed:
            raise JournalError(f"{self.name} could not be written earlier: start again to resume")
        self._failed = True
        with self._errors():
            yield
        self._failed = False

    @contextlib.contextmanager
    def _errors(self, what: str = "cannot be used") -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise journal_error(error, self.name, what, self._password) from None


class PostgresStorage:
    """One journal of a `PostgresStore`: a `transport.durable.storage.Storage`."""

    is_remote = True

    def __init__(self, store: PostgresStore, journal_name: str, journal: int) -> None:
        self._store = store
        self._journal_name = journal_name
        self._journal = journal
        self._waiting: list[tuple[Any, ...]] = []
        self._waiting_bytes = 0
        self._is_open = True

    @property
    def name(self) -> str:
        return f"journal {self._journal_name!r} of {self._store.name}"

    @property
    def is_dirty(self) -> bool:
        return self._is_open and (bool(self._waiting) or self._store.in_transaction)

    def head(self) -> Head | None:
        rows = list(self._stored(_HEAD))
        if not rows:
            return None
        offer, clients, session_id = (bytes(row.data) for row in rows) if len(rows) == 3 else (b"", b"", b"")
        return Head(offer, clients, session_id, rows[0].chain)

    def set_head(self, head: Head) -> None:
        for number, data in enumerate(head[:3]):
            self._add(_HEAD, Row(number, 0, 0, head.chain, data))

    def add(self, series: RowSeries, row: Row) -> None:
        self._add(series, row)

    def _add(self, series: int, row: Row) -> None:
        self._check_open()
        fixed = (row.kind, row.client_id, row.chain)
        for part, piece in enumerate(_pieces(row.data)):
            # A message is a view of a connection's buffer, which is used again.
            self._waiting.append((self._journal, series, row.number, part, *fixed, bytes(piece)))
        self._waiting_bytes += len(row.data)
        if self._waiting_bytes > _WAITING_BYTES:
            self._write()

    def _write(self) -> None:
        """Write the waiting rows in the open transaction."""
        store = self._store
        with store._writing():
            store._begin()
            with (
                store._connection.cursor() as cursor,
                cursor.copy("COPY secagg.rows FROM STDIN (FORMAT BINARY)") as copy,
            ):
                copy.set_types(_ROW_TYPES)
                for row in self._waiting:
                    copy.write_row(row)
        self._waiting, self._waiting_bytes = [], 0

    def rows(self, series: RowSeries) -> Iterator[Row]:
        return self._stored(series)

    def _stored(self, series: int) -> Iterator[Row]:
        """Yield the rows of a series, which are streamed; the connection has no other use before the last one."""
        self._check_open()
        query = (
            "COPY (SELECT number, part, kind, client, chain, data FROM secagg.rows "
            "WHERE journal = %s AND series = %s ORDER BY number, part) TO STDOUT (FORMAT BINARY)"
        )
        last: Row | None = None
        pieces: list[bytes] = []
        with (
            self._store._errors(),
            self._store._connection.cursor() as cursor,
            cursor.copy(query, (self._journal, int(series))) as copy,
        ):
            copy.set_types(("int8", "int4", "int2", "int8", "int8", "bytea"))
            for number, part, kind, client_id, chain, data in copy.rows():
                if part == 0:
                    if last is not None:
                        yield last._replace(data=b"".join(pieces))
                    last, pieces = Row(number, kind, client_id, chain, b""), []
                elif last is None or last.number != number or part != len(pieces):
                    # The first part is missing, or one in between: the row's checksum shows it.
                    last, pieces = Row(number, kind, client_id, -1, b""), []
                pieces.append(data)
            if last is not None:
                yield last._replace(data=b"".join(pieces))

    def commit(self) -> None:
        self._check_open()
        if self._waiting:
            self._write()
        with self._store._writing():
            if self._store.in_transaction:
                self._store._connection.execute("COMMIT")

    def confirm(self) -> None:
        self._store.confirm()

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open, self._waiting = False, []
        self._store._open_storage = None
        connection = self._store._connection
        # After an error nothing more is written anyway.
        with contextlib.suppress(psycopg.Error):
            if not connection.closed and connection.info.transaction_status is not TransactionStatus.IDLE:
                connection.execute("ROLLBACK")

    def delete(self) -> None:
        if not self._is_open:
            return
        self._waiting, store = [], self._store
        with store._writing():
            store._begin()
            for table, column in (("rows", "journal"), ("journals", "id")):
                store._connection.execute(
                    f"DELETE FROM secagg.{table} WHERE {column} = %s".encode(),  # noqa: S608 - two names of ours
                    (self._journal,),
                )
            store._connection.execute("COMMIT")
        self.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise JournalError(f"the {self.name} is closed")


def _pieces(data: bytes | memoryview) -> Iterator[bytes | memoryview]:
    """Yield the data in parts; one part if it is empty."""
    view = memoryview(data)
    for start in range(0, max(len(view), 1), PART_BYTES):
        yield view[start : start + PART_BYTES]
