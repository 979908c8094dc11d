"""The server's journal: what went into the machine, in order, so that a replay gives the identical machine.

It holds the session's offer and list of clients, the messages, drops and closings that the machine was given, and what
the outside answered when the machine asked (random bytes, whose identity key is whose).  Masked inputs stay on the
disk: reading them back takes one at a time.

Security: the file is the server's whole view of the session, as the protocol's proofs have it: masked inputs and
shares, no client's input.  It is readable by its owner alone, and is to be deleted when the session is over.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, unique

from secagg import ClientId
from transport.durable.database import MAX_BLOB_BYTES, Database, damaged
from transport.errors import JournalError

# "SAgS"
_APPLICATION_ID = 0x53416753
_FORMAT = 1

_SCHEMA = """
CREATE TABLE session(id INTEGER PRIMARY KEY CHECK (id = 0), offer BLOB, clients BLOB, session_id BLOB, chain INTEGER);
CREATE TABLE entries(id INTEGER PRIMARY KEY, kind INTEGER, client INTEGER, chain INTEGER, data BLOB);
CREATE TABLE answers(id INTEGER PRIMARY KEY, kind INTEGER, chain INTEGER, data BLOB)
"""

_LINK = struct.Struct(">QBIQ")


@unique
class EntryKind(IntEnum):
    """What the machine was given, or a note on what it must have done."""

    MESSAGE = 1
    """A client's message, as its bytes."""
    DROP = 2
    """A client was dropped from outside: reason's name, newline, detail."""
    CLOSE = 3
    """The open round's deadline had passed."""
    ABORT = 4
    """The host ended the session."""
    CHECK = 5
    """SHA-256 over all that the machine has given so far: a replay that differs stops here."""


@unique
class AnswerKind(IntEnum):
    """What the machine asked for."""

    DRAW = 1
    """Random bytes."""
    TRUST = 2
    """Whether an identity key is a client's: one byte, 0 or 1."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened, in the order in which it did."""

    kind: EntryKind
    client_id: ClientId
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Header:
    """What a session began with: the OFFER's payload, who may take part, and the session id that came of both and the
    context."""

    offer: bytes = field(repr=False)
    client_ids: tuple[ClientId, ...]
    session_id: bytes


class Journal:
    """One session's journal.

    ``SessionHost(..., journal=journal)`` begins one that is empty, ``SessionHost.resume(journal, ...)`` goes on with
    one that is not.  A checksum runs through all rows, so that damage that SQLite does not see is found too.

    Args:
        path: the file, made if it is not there; on a local disk, not a network file system.

    Raises:
        JournalError: the file is none of this kind, damaged, or in use by another process; it is never overwritten.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._database = Database(path, application_id=_APPLICATION_ID, version=_FORMAT, schema=_SCHEMA)
        self._header: Header | None = None
        self._chains = {"entries": (0, 0), "answers": (0, 0)}
        try:
            self._read_header()
        except BaseException:
            self._database.close()
            raise

    @property
    def path(self) -> str:
        """The file."""
        return str(self._database.path)

    @property
    def is_empty(self) -> bool:
        """Whether no session has begun in it."""
        return self._header is None

    @property
    def header(self) -> Header:
        """What the session began with. JournalError if none has."""
        if self._header is None:
            raise JournalError(f"{self.path} holds no session to resume")
        return self._header

    @property
    def is_dirty(self) -> bool:
        """Whether something was recorded that is not durable yet."""
        return self._database.is_dirty

    def begin(self, header: Header) -> None:
        """Record what a session begins with. JournalError if one has begun."""
        if self._header is not None:
            raise JournalError(f"{self.path} holds a session already: resume it, or choose another path")
        clients = struct.pack(f">{len(header.client_ids)}I", *header.client_ids)
        values = (header.offer, clients, header.session_id)
        self._database.write("INSERT INTO session VALUES (0, ?, ?, ?, ?)", (*values, _header_chain(*values)))
        self._header = header

    def record(self, kind: EntryKind, client_id: ClientId = 0, data: bytes | memoryview = b"") -> None:
        """Add an entry; durable with the next `commit`."""
        self._insert("entries", kind, client_id, data)

    def record_answer(self, kind: AnswerKind, data: bytes) -> None:
        """Add what the outside answered; durable with the next `commit`."""
        self._insert("answers", kind, 0, data)

    def _insert(self, table: str, kind: int, client_id: int, data: bytes | memoryview) -> None:
        if len(data) > MAX_BLOB_BYTES:
            raise JournalError(f"{len(data)} bytes in one message, but a journal takes {MAX_BLOB_BYTES}")
        number, chain = self._chains[table]
        chain = _next_chain(number, kind, client_id, chain, data)
        if table == "entries":
            self._database.write("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (number, kind, client_id, chain, data))
        else:
            self._database.write("INSERT INTO answers VALUES (?, ?, ?, ?)", (number, kind, chain, data))
        self._chains[table] = number + 1, chain

    def entries(self) -> Iterator[Entry]:
        """The entries in order, one at a time in memory. JournalError at the first that is damaged or missing.

        Only after they were read to the end can more be recorded.
        """
        query = "SELECT id, kind, client, chain, data FROM entries ORDER BY id"
        for kind, client_id, data in self._read("entries", query):
            try:
                yield Entry(EntryKind(kind), client_id, data)
            except ValueError:
                raise damaged(self._database.path, f"entry of kind {kind}") from None

    def answers(self) -> list[tuple[AnswerKind, bytes]]:
        """What the outside answered, in order."""
        rows = self._read("answers", "SELECT id, kind, 0, chain, data FROM answers ORDER BY id")
        try:
            return [(AnswerKind(kind), data) for kind, _, data in rows]
        except ValueError:
            raise damaged(self._database.path, "an answer of an unknown kind") from None

    def _read(self, table: str, query: str) -> Iterator[tuple[int, int, bytes]]:
        number, chain = 0, 0
        for row_number, kind, client_id, row_chain, data in self._database.rows(query):
            types = (type(kind), type(client_id), type(row_chain), type(data))
            if types != (int, int, int, bytes) or row_number != number:
                raise damaged(self._database.path, f"row {number} of {table}")
            chain = _next_chain(number, kind, client_id, chain, data)
            if chain != row_chain:
                raise damaged(self._database.path, f"row {number} of {table} does not match its checksum")
            number += 1
            yield kind, client_id, data
        self._chains[table] = number, chain

    def _read_header(self) -> None:
        for offer, clients, session_id, chain in self._database.rows(
            "SELECT offer, clients, session_id, chain FROM session"
        ):
            is_typed = all(type(value) is bytes for value in (offer, clients, session_id))
            if not is_typed or len(clients) % 4 or chain != _header_chain(offer, clients, session_id):
                raise damaged(self._database.path, "its head")
            self._header = Header(offer, struct.unpack(f">{len(clients) // 4}I", clients), session_id)

    def commit(self) -> None:
        """Make durable what was recorded since the last call: one write to the disk for all of it.

        JournalError if that fails: nobody knows then whether it is on the disk; start again and resume.
        """
        self._database.commit()

    def mismatch(self, what: str) -> JournalError:
        """The error for a replay that did not do what the journal says had been done."""
        return damaged(self._database.path, what)

    def close(self) -> None:
        """Let go of the file; what was not committed is gone. May be called twice."""
        self._database.close()

    def delete(self) -> None:
        """Remove the file: the session is over, and everyone was told. May be called twice."""
        self._database.delete()

    def __repr__(self) -> str:
        return f"<Journal {self.path}>"


def _header_chain(*values: bytes) -> int:
    return zlib.crc32(b"".join(struct.pack(">Q", len(value)) + value for value in values))


def _next_chain(number: int, kind: int, client_id: int, chain: int, data: bytes | memoryview) -> int:
    """The running checksum: a row that is changed, missing or out of its place breaks it for all that follow."""
    return zlib.crc32(data, zlib.crc32(_LINK.pack(number, kind & 0xFF, client_id & 0xFFFFFFFF, chain)))
