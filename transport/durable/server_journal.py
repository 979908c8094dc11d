"""The server's journal: the inputs of the machine in their order, so that a replay gives the identical machine.

It holds the session's offer and list of clients, the messages, drops and closings that the machine received, and the
answers that it got from outside (random bytes, and the trust in identity keys).  Masked inputs stay on the disk: they
are read back one at a time.

Security: the file is the server's whole view of the session in the sense of the protocol's proofs: masked inputs and
shares, no client's input.  Only its owner can read it; delete it when the session has ended.
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
    """The kinds of entries: inputs of the machine, and checks of its results."""

    MESSAGE = 1
    """A client's message, as its bytes."""
    DROP = 2
    """A client was dropped by the host: name of the reason, newline, detail."""
    CLOSE = 3
    """The open round's deadline had passed."""
    ABORT = 4
    """The host ended the session."""
    CHECK = 5
    """SHA-256 of all results of the machine so far: a replay that differs stops here."""
    PARTIAL = 6
    """A sum of several clients' masked inputs (`transport.durable.partial_sums`)."""


@unique
class AnswerKind(IntEnum):
    """The kinds of answers from outside."""

    DRAW = 1
    """Random bytes."""
    TRUST = 2
    """The trust in an identity key as a client's: one byte, 0 or 1."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the journal, in the order of events."""

    kind: EntryKind
    client_id: ClientId
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Header:
    """The head of a session: the OFFER's payload, the clients, and the session id, which also binds the context."""

    offer: bytes = field(repr=False)
    client_ids: tuple[ClientId, ...]
    session_id: bytes


class Journal:
    """One session's journal.

    ``SessionHost(..., journal=journal)`` begins an empty one, ``SessionHost.resume(journal, ...)`` continues one with a
    session.  A running checksum over all rows finds damage that SQLite does not see.

    Args:
        path: the file, on a local disk, not a network file system; made if it does not exist.

    Raises:
        JournalError: the file is not a server's journal, is damaged, or is in use by another process; it is never
            overwritten.
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
        """Return the path of the file."""
        return str(self._database.path)

    @property
    def is_empty(self) -> bool:
        """Return whether the journal holds no session."""
        return self._header is None

    @property
    def header(self) -> Header:
        """Return the head of the session. JournalError if there is none."""
        if self._header is None:
            raise JournalError(f"{self.path} holds no session to resume")
        return self._header

    @property
    def is_dirty(self) -> bool:
        """Return whether there are records that are not durable yet."""
        return self._database.is_dirty

    def begin(self, header: Header) -> None:
        """Record the head of a session. JournalError if the journal holds one already."""
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
        """Add an answer from outside; durable with the next `commit`."""
        self._insert("answers", kind, 0, data)

    def _insert(self, table: str, kind: int, client_id: int, data: bytes | memoryview) -> None:
        if len(data) > MAX_BLOB_BYTES:
            raise JournalError(f"one message has {len(data)} bytes, but a journal takes at most {MAX_BLOB_BYTES}")
        number, chain = self._chains[table]
        chain = _next_chain(number, kind, client_id, chain, data)
        if table == "entries":
            self._database.write("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (number, kind, client_id, chain, data))
        else:
            self._database.write("INSERT INTO answers VALUES (?, ?, ?, ?)", (number, kind, chain, data))
        self._chains[table] = number + 1, chain

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in order, one at a time in memory. JournalError at the first damaged or missing one.

        Read them to the end before you record further entries.
        """
        query = "SELECT id, kind, client, chain, data FROM entries ORDER BY id"
        for kind, client_id, data in self._read("entries", query):
            try:
                yield Entry(EntryKind(kind), client_id, data)
            except ValueError:
                raise damaged(self._database.path, f"entry of kind {kind}") from None

    def answers(self) -> list[tuple[AnswerKind, bytes]]:
        """Return the answers from outside, in order."""
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
        """Make all records since the last call durable, with one write to the disk.

        JournalError if that fails: it is unknown then whether they are on the disk; start again and resume.
        """
        self._database.commit()

    def mismatch(self, what: str) -> JournalError:
        """Return the error for a replay whose results differ from the journal."""
        return damaged(self._database.path, what)

    def close(self) -> None:
        """Close the file; records that were not committed are lost. May be called twice."""
        self._database.close()

    def delete(self) -> None:
        """Remove the file, once the session has ended and all clients were told. May be called twice."""
        self._database.delete()

    def __repr__(self) -> str:
        return f"<Journal {self.path}>"


def _header_chain(*values: bytes) -> int:
    return zlib.crc32(b"".join(struct.pack(">Q", len(value)) + value for value in values))


def _next_chain(number: int, kind: int, client_id: int, chain: int, data: bytes | memoryview) -> int:
    """Return the next checksum: a row that is changed, missing or misplaced breaks it for all later rows."""
    return zlib.crc32(data, zlib.crc32(_LINK.pack(number, kind & 0xFF, client_id & 0xFFFFFFFF, chain)))
