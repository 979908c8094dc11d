"""Where a server's journals are kept: rows of bytes that become durable together, in a file or in a database.

`transport.durable.server_journal` knows what the rows mean and checks them; a storage only keeps them.
"""

import os
from collections.abc import Iterator, Mapping
from enum import IntEnum, unique
from typing import NamedTuple, Protocol

from transport.durable.database import Database

# "SAgS"
_APPLICATION_ID = 0x53416753
_FORMAT = 1

_SCHEMA = """
CREATE TABLE session(id INTEGER PRIMARY KEY CHECK (id = 0), offer BLOB, clients BLOB, session_id BLOB, chain INTEGER);
CREATE TABLE entries(id INTEGER PRIMARY KEY, kind INTEGER, client INTEGER, chain INTEGER, data BLOB);
CREATE TABLE answers(id INTEGER PRIMARY KEY, kind INTEGER, chain INTEGER, data BLOB)
"""


@unique
class RowSeries(IntEnum):
    """The two series of rows in a journal."""

    ENTRIES = 1
    ANSWERS = 2


class Row(NamedTuple):
    """One row of a series, as it is stored: a damaged storage may return values of other types.

    Attributes:
        number: its place in the series, from 0.
        kind, client_id, chain, data: see `transport.durable.server_journal`; answers have no client (0).
    """

    number: int
    kind: int
    client_id: int
    chain: int
    data: bytes | memoryview


class Head(NamedTuple):
    """The head of a journal, as it is stored."""

    offer: bytes
    clients: bytes
    session_id: bytes
    chain: int


class Storage(Protocol):
    """The rows of one journal. Only one process has them; all methods raise JournalError.

    Callers use one thread at a time.
    """

    @property
    def name(self) -> str:
        """Return its path or address for error texts, without a secret."""
        ...

    @property
    def is_dirty(self) -> bool:
        """Return whether there are writes that are not durable yet."""
        ...

    @property
    def is_remote(self) -> bool:
        """Return whether another machine could take it over, so that `confirm` is due before anything is sent."""
        ...

    def head(self) -> Head | None:
        """Return the head; None if there is none."""
        ...

    def set_head(self, head: Head) -> None:
        """Write the head, of a storage that has none."""
        ...

    def add(self, series: RowSeries, row: Row) -> None:
        """Write a row with the next number of its series."""
        ...

    def rows(self, series: RowSeries) -> Iterator[Row]:
        """Yield the rows of a series by number, one at a time in memory."""
        ...

    def commit(self) -> None:
        """Make all writes durable, or none. After an error it is unknown which: start again and resume."""
        ...

    def confirm(self) -> None:
        """Raise JournalError if another process has taken it over."""
        ...

    def close(self) -> None:
        """Close it; writes that were not committed are lost. May be called twice."""
        ...

    def delete(self) -> None:
        """Remove all rows, and close it. May be called twice."""
        ...


class SqliteStorage:
    """A journal in an SQLite file on a local disk, which one process has open."""

    is_remote = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.database = Database(path, application_id=_APPLICATION_ID, version=_FORMAT, schema=_SCHEMA)

    @property
    def name(self) -> str:
        return str(self.database.path)

    @property
    def is_dirty(self) -> bool:
        return self.database.is_dirty

    def head(self) -> Head | None:
        found = None
        for row in self.database.rows("SELECT offer, clients, session_id, chain FROM session"):
            found = Head(*row)
        return found

    def set_head(self, head: Head) -> None:
        self.database.write("INSERT INTO session VALUES (0, ?, ?, ?, ?)", head)

    def add(self, series: RowSeries, row: Row) -> None:
        if series is RowSeries.ENTRIES:
            self.database.write("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)
        else:
            values = (row.number, row.kind, row.chain, row.data)
            self.database.write("INSERT INTO answers VALUES (?, ?, ?, ?)", values)

    def rows(self, series: RowSeries) -> Iterator[Row]:
        query = (
            "SELECT id, kind, client, chain, data FROM entries ORDER BY id"
            if series is RowSeries.ENTRIES
            else "SELECT id, kind, 0, chain, data FROM answers ORDER BY id"
        )
        return (Row(*row) for row in self.database.rows(query))

    def commit(self) -> None:
        self.database.commit()

    def confirm(self) -> None:
        """Do nothing: no other process can open the file."""

    def close(self) -> None:
        self.database.close()

    def delete(self) -> None:
        self.database.delete()


class JournalStore(Protocol):
    """The journals of a run and the files beside them, by name; for one process at a time."""

    @property
    def name(self) -> str:
        """Return its path or address for error texts, without a secret."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether there is a journal with this name."""
        ...

    def open(self, name: str) -> Storage:
        """Return the journal's storage; it is made if it does not exist. JournalError if it cannot be used."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        ...

    def replace(self, files: Mapping[str, bytes]) -> None:
        """Write files durably: all, or none."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        ...
