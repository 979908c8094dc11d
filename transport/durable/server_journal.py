"""The server's journal: the inputs of the machine in their order, so that a replay gives the identical machine.

It holds the session's offer and list of clients, the messages, drops and closings that the machine received, and the
answers that it got from outside (random bytes, and the trust in identity keys).  Masked inputs stay on the disk: they
are read back one at a time.

Security: the journal is the server's whole view of the session in the sense of the protocol's proofs: masked inputs and
shares, no client's input.  A file can be read by its owner alone, a database by its administrators too; delete the
journal when the session has ended.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, unique

from secagg import ClientId
from transport.durable.database import MAX_BLOB_BYTES, damaged
from transport.durable.storage import Head, Row, RowSeries, SqliteStorage, Storage
from transport.errors import JournalError

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
    session.  A running checksum over all rows finds damage that the storage does not see.

    Args:
        place: a file on a local disk, not a network file system, which is made if it does not exist; or a storage, such
            as one of `transport.durable.postgres.PostgresStore`.

    Raises:
        JournalError: the file is not a server's journal, is damaged, or is in use by another process; it is never
            overwritten.
    """

    def __init__(self, place: str | os.PathLike[str] | Storage) -> None:
        self._storage = SqliteStorage(place) if isinstance(place, str | os.PathLike) else place
        self._header: Header | None = None
        self._chains = {RowSeries.ENTRIES: (0, 0), RowSeries.ANSWERS: (0, 0)}
        try:
            self._read_header()
        except BaseException:
            self._storage.close()
            raise

    @property
    def path(self) -> str:
        """Return the path of the file, or the name of the storage."""
        return self._storage.name

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
        return self._storage.is_dirty

    @property
    def is_remote(self) -> bool:
        """Return whether another machine could take the session over, so that `confirm` talks to a database."""
        return self._storage.is_remote

    def begin(self, header: Header) -> None:
        """Record the head of a session. JournalError if the journal holds one already."""
        if self._header is not None:
            raise JournalError(f"{self.path} holds a session already: resume it, or choose another path")
        clients = struct.pack(f">{len(header.client_ids)}I", *header.client_ids)
        values = (header.offer, clients, header.session_id)
        self._storage.set_head(Head(*values, _header_chain(*values)))
        self._header = header

    def record(self, kind: EntryKind, client_id: ClientId = 0, data: bytes | memoryview = b"") -> None:
        """Add an entry; durable with the next `commit`."""
        self._add(RowSeries.ENTRIES, kind, client_id, data)

    def record_answer(self, kind: AnswerKind, data: bytes) -> None:
        """Add an answer from outside; durable with the next `commit`."""
        self._add(RowSeries.ANSWERS, kind, 0, data)

    def _add(self, series: RowSeries, kind: int, client_id: int, data: bytes | memoryview) -> None:
        if len(data) > MAX_BLOB_BYTES:
            raise JournalError(f"one message has {len(data)} bytes, but a journal takes at most {MAX_BLOB_BYTES}")
        number, chain = self._chains[series]
        chain = _next_chain(number, kind, client_id, chain, data)
        self._storage.add(series, Row(number, kind, client_id, chain, data))
        self._chains[series] = number + 1, chain

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in order, one at a time in memory. JournalError at the first damaged or missing one.

        Read them to the end before you record further entries.
        """
        for kind, client_id, data in self._read(RowSeries.ENTRIES):
            try:
                yield Entry(EntryKind(kind), client_id, data)
            except ValueError:
                raise self.mismatch(f"entry of kind {kind}") from None

    def answers(self) -> list[tuple[AnswerKind, bytes]]:
        """Return the answers from outside, in order."""
        try:
            return [(AnswerKind(kind), data) for kind, _, data in self._read(RowSeries.ANSWERS)]
        except ValueError:
            raise self.mismatch("an answer of an unknown kind") from None

    def _read(self, series: RowSeries) -> Iterator[tuple[int, int, bytes]]:
        number, chain = 0, 0
        for row in self._storage.rows(series):
            data = row.data
            if not isinstance(data, bytes) or any(type(value) is not int for value in row[:4]) or row.number != number:
                raise self.mismatch(f"row {number} of {series.name.lower()}")
            chain = _next_chain(number, row.kind, row.client_id, chain, data)
            if chain != row.chain:
                raise self.mismatch(f"row {number} of {series.name.lower()} does not match its checksum")
            number += 1
            yield row.kind, row.client_id, data
        self._chains[series] = number, chain

    def _read_header(self) -> None:
        if (head := self._storage.head()) is None:
            return
        is_typed = all(type(value) is bytes for value in head[:3])
        if not is_typed or len(head.clients) % 4 or head.chain != _header_chain(*head[:3]):
            raise self.mismatch("its head")
        clients = struct.unpack(f">{len(head.clients) // 4}I", head.clients)
        self._header = Header(head.offer, clients, head.session_id)

    def commit(self) -> None:
        """Make all records since the last call durable, in one step.

        JournalError if that fails: it is unknown then whether they are durable; start again and resume.
        """
        self._storage.commit()

    def confirm(self) -> None:
        """Raise JournalError if another process has taken the session over; nothing may be sent then."""
        self._storage.confirm()

    def mismatch(self, what: str) -> JournalError:
        """Return the error for a journal that is damaged, or whose replay gives other results."""
        return damaged(self.path, what)

    def close(self) -> None:
        """Close it; records that were not committed are lost. May be called twice."""
        self._storage.close()

    def delete(self) -> None:
        """Remove it, once the session has ended and all clients were told. May be called twice."""
        self._storage.delete()

    def __repr__(self) -> str:
        return f"<Journal {self.path}>"


def _header_chain(*values: bytes) -> int:
    return zlib.crc32(b"".join(struct.pack(">Q", len(value)) + value for value in values))


def _next_chain(number: int, kind: int, client_id: int, chain: int, data: bytes | memoryview) -> int:
    """Return the next checksum: a row that is changed, missing or misplaced breaks it for all later rows."""
    return zlib.crc32(data, zlib.crc32(_LINK.pack(number, kind & 0xFF, client_id & 0xFFFFFFFF, chain)))
