"""The record of participation of this computer's clients: they enter no session twice, and answer no round twice.

A client that takes part twice in one session, with one identity, can be isolated on a sparse graph; one that answers
one round in two sessions reveals its update in the difference of their sums (docs/threat-model.md).  The protocol's
machines cannot detect either, since each lives for one session.  Hosts keep this record between sessions, on the disk:
it outlives crashes and deleted journals.
"""

import hashlib
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transport.durable.database import Database
from transport.errors import BudgetSpentError, JournalError, RepeatedSessionError

# "SAgP"
_APPLICATION_ID = 0x53416750
_FORMAT = 1

_SCHEMA = """
CREATE TABLE used(key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE answered(
    client BLOB, training TEXT, run TEXT, number INTEGER, session_id BLOB, rounds INTEGER,
    PRIMARY KEY (client, training, run)) WITHOUT ROWID
"""

_LABEL = b"secagg/transport/participation/1"

_IF_DAMAGED = (
    "without it a client may be made to answer twice. Restore it; or delete it, if all trainings in it are over"
)

FILE_NAME = "participation.db"


class Participation:
    """The record of all clients on this computer, in one file that several processes may use at once.

    Args:
        path: the file, on a local disk; made if it does not exist. None keeps the record in memory, for this process
            alone: a client that is started again has then forgotten everything.

    Raises:
        JournalError: the file cannot be used, or others may write to it.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._memory: Database | None = None
        if self._path is None:
            self._memory = _open(":memory:")
            weakref.finalize(self, self._memory.close)
        # Faults of the file are found now, not in the middle of a session.
        with self._database():
            pass

    @classmethod
    def in_folder(cls, folder: str | os.PathLike[str]) -> "Participation":
        """Return the record in a folder that only this user can write to; make it if it does not exist.

        Raises:
            JournalError: the folder cannot be made, is a link, or others can write to it.
        """
        return cls(private_folder(folder) / FILE_NAME)

    def use(self, key: bytes) -> None:
        """Note that ``key`` is used; only its hash is stored. RepeatedSessionError if any client used it before."""
        with self._database() as database:
            if not database.write("INSERT OR IGNORE INTO used VALUES (?)", (_hashed(key),)):
                raise RepeatedSessionError("this was used before: it would be answered twice")
            database.commit()

    def is_used(self, key: bytes) -> bool:
        """Return whether `use` was called with ``key``."""
        with self._database() as database:
            return any(database.rows("SELECT 1 FROM used WHERE key = ?", (_hashed(key),)))

    @contextmanager
    def _database(self) -> Iterator[Database]:
        """Yield the open file; undo all writes that were not committed by the end."""
        with self._lock:
            if self._memory is not None:
                try:
                    yield self._memory
                finally:
                    self._memory.roll_back()
                return
            assert self._path is not None  # noqa: S101 - else it is in memory
            database = _open(self._path)
            try:
                yield database
            finally:
                database.close()

    def __repr__(self) -> str:
        return f"<Participation {self._path or 'in memory'}>"


class ClientRecord:
    """The record of one client.

    Args:
        participation: the record of all clients.
        client: name of the client across sessions: its public identity key, or another name if it has none.
        training: the client's own name for the training. The server must not choose it, or it could start again from
            round 0. None: sessions have no order, and only a session that is entered twice is refused.
        run: the part of the training in which rounds are numbered, if a framework starts the numbering again.
        max_rounds: maximum number of rounds to answer in the training, in all runs together, and maximum step of a
            round's number above the last one; None: no limit.
        before: another record of the same participation: rounds that are answered there are not answered here.
    """

    def __init__(
        self,
        participation: Participation,
        client: bytes,
        *,
        training: str | None = None,
        run: str = "",
        max_rounds: int | None = None,
        before: "ClientRecord | None" = None,
    ) -> None:
        self._participation = participation
        self._before = before
        self._client = client
        self._training = training
        self._run = run
        self._max_rounds = max_rounds

    def check(self, session_id: bytes) -> None:
        """Raise RepeatedSessionError if the client has entered this session before."""
        if self._participation.is_used(self._key(session_id)):
            raise RepeatedSessionError(_ENTERED)

    def enter(self, session_id: bytes, *, again: bool = False) -> None:
        """Note that the client takes part in a session, before its first message goes out.

        Args:
            session_id: of the session.
            again: whether this is the same client, resumed.

        Raises:
            RepeatedSessionError: the client has entered the session before.
        """
        try:
            self._participation.use(self._key(session_id))
        except RepeatedSessionError:
            if not again:
                raise RepeatedSessionError(_ENTERED) from None

    def settle(self, name: str, value: bytes) -> bool:
        """Note a value of the training under a name, once; return whether ``value`` is the one that was noted first.

        Only hashes are stored, so the value itself cannot be read again.
        """
        named = f"{self._training or ''}\0{name}".encode()
        first, this = (self._key(_SETTLED + hashlib.sha256(named).digest() + some) for some in (b"", b"=" + value))
        if self._participation.is_used(first):
            return self._participation.is_used(this)
        # A crash between the two leaves the name free, before anything followed from the value.
        for key in (this, first):
            with suppress(RepeatedSessionError):
                self._participation.use(key)
        return True

    def check_round(self, number: int) -> None:
        """Raise RepeatedSessionError for a round up to the last answered one, BudgetSpentError above the limit."""
        with self._participation._database() as database:
            self._check_round(database, number, b"")

    def answer(self, session_id: bytes, number: int) -> None:
        """Note that the round is answered, before UnmaskingShares are sent; repeating it for a session changes nothing.

        Raises:
            RepeatedSessionError: as for `check_round`. The shares must not be sent.
        """
        with self._participation._database() as database:
            database.begin()
            if self._check_round(database, number, session_id) and self._training is not None:
                database.write(
                    "INSERT INTO answered VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET "
                    "number = excluded.number, session_id = excluded.session_id, rounds = rounds + 1",
                    (*self._place, number, session_id),
                )
                database.commit()

    def last_answered(self) -> int | None:
        """Return the highest answered round; None before the first."""
        with self._participation._database() as database:
            return next((number for number, _ in self._rows(database)), None)

    def _check_round(self, database: Database, number: int, session_id: bytes) -> bool:
        """Return whether the round is new; RepeatedSessionError if it must not be answered."""
        if self._training is None:
            return True
        if not 0 <= number < 2**63:
            raise RepeatedSessionError(f"{number} is not the number of a round")
        before = 0
        for last, answered in self._rows(database):
            before = last
            if number == last and answered == session_id:
                return False
            if number <= last:
                raise RepeatedSessionError(
                    f"round {number} was offered, but this client has answered round {last} of {self._training!r}: "
                    "it answers no round twice. If a new training begins, give it a new name"
                )
        if self._max_rounds is not None and number - before > self._max_rounds:
            # Otherwise one round with a huge number would exclude this client from all later rounds.
            raise BudgetSpentError(
                f"round {number} was offered, which is more than {self._max_rounds}, this client's budget, above round "
                f"{before}: raise the budget if the training is that long"
            )
        (spent,) = next(
            database.rows("SELECT total(rounds) FROM answered WHERE client = ? AND training = ?", self._place[:2])
        )
        if self._max_rounds is not None and spent >= self._max_rounds:
            raise BudgetSpentError(
                f"this client has answered {int(spent)} rounds of {self._training!r}, and its budget is "
                f"{self._max_rounds}: raise it if the training may go on"
            )
        # In the transaction of the answer, since another process of this client may have answered in the meantime.
        return self._before is None or self._before._check_round(database, number, b"")

    def _rows(self, database: Database) -> Iterator[tuple[int, bytes]]:
        query = "SELECT number, session_id FROM answered WHERE client = ? AND training = ? AND run = ?"
        yield from database.rows(query, self._place)

    @property
    def _place(self) -> tuple[bytes, str, str]:
        return self._client, self._training or "", self._run

    def _key(self, session_id: bytes) -> bytes:
        return len(self._client).to_bytes(8, "big") + self._client + session_id


_SETTLED = b"settled value of a training"

_ENTERED = (
    "this client has taken part in this session before, and takes part in each session once: the server must open "
    "another one, with a new nonce"
)


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Return a folder that only this user can write to; make it, with its parents, if it does not exist.

    Raises:
        JournalError: the folder cannot be made, is a link, belongs to another user, or is open to others.
    """
    folder, user = Path(path), os.getuid() if hasattr(os, "getuid") else None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # lstat: a link from somebody else must not lead to a folder that this user owns.
        status = folder.lstat()
        if stat.S_ISLNK(status.st_mode) and status.st_uid == 0 and user != 0:
            # A link of the system, such as systemd makes for the state of a service.
            status = folder.stat()
    except OSError as error:
        raise JournalError(f"the folder {folder} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise JournalError(f"{folder} must be a folder, not a link to one")
    if user is not None and (status.st_uid != user or status.st_mode & 0o022):
        raise JournalError(f"the folder {folder} must be this user's, and writable for nobody else: chmod 700 it")
    return folder


def _open(path: str | Path) -> Database:
    return Database(
        path, application_id=_APPLICATION_ID, version=_FORMAT, schema=_SCHEMA, shared=True, if_damaged=_IF_DAMAGED
    )


def _hashed(key: bytes) -> bytes:
    return hashlib.sha256(_LABEL + key).digest()


IN_MEMORY = Participation(None)
"""The record for hosts without one, in the memory of this process."""
