"""A client's journal: its suspended machine and its last answer, encrypted, so that a killed client can continue.

State and answer are written together, before the answer is sent: a client that starts from the journal sends the same
bytes again, and never a second answer.

Security: the file is encrypted with AES-256-GCM under a key from a key file and a salt of this journal.  Rows are bound
to session, client, kind and place.  An older copy of the whole file is not detected: a client that is restored from a
backup could answer twice.  Keep journals out of backups.
"""

import contextlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg import ClientId
from transport.certificates.key_files import read_key_file
from transport.durable.database import MAX_BLOB_BYTES, Database, damaged
from transport.errors import JournalError

# "SAgC"
_APPLICATION_ID = 0x53416743
_FORMAT = 1

_SCHEMA = """
CREATE TABLE session(
    id INTEGER PRIMARY KEY CHECK (id = 0), client INTEGER, session_id BLOB, salt BLOB, nonce BLOB, offer BLOB);
CREATE TABLE state(id INTEGER PRIMARY KEY CHECK (id = 0), place INTEGER, nonces BLOB, state BLOB, answer BLOB)
"""

_LABEL = b"secagg client journal v1"
_SEED_LABEL = b"secagg client journal seed v1"
_KEY_BYTES = 32
_SALT_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16

# The kind of a row, which is authenticated with it.
_OFFER, _STATE, _ANSWER = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Saved:
    """The saved state of a client. All fields are secret except ``sequence`` and ``received``.

    Attributes:
        machine: the result of `secagg.Client.suspend`.
        sequence: the number of its last answer.
        answer: the bytes of that answer; they may have arrived already.
        received: SHA-256 of each message that it received from the server.
    """

    machine: bytes = field(repr=False)
    sequence: int
    answer: bytes = field(repr=False)
    received: tuple[bytes, ...] = field(repr=False)


class ClientJournal:
    """One client's journal of one session.

    ``ClientHost(..., journal=journal)`` begins an empty one, ``ClientHost.resume(journal, ...)`` continues one with a
    session; the host deletes it when the session has ended.

    Args:
        path: the file, on a local disk; made if it does not exist.
        key_file: a file of 32 random bytes that only this user can read; made if it does not exist. One key file
            serves any number of journals and sessions.

    Raises:
        JournalError: the file is not a client's journal, is damaged, has another key, or is in use; or the key file is
            open to others or not a key. Nothing is overwritten.
    """

    def __init__(self, path: str | os.PathLike[str], key_file: str | os.PathLike[str]) -> None:
        self._key = _load_key(Path(key_file))
        self._database = Database(path, application_id=_APPLICATION_ID, version=_FORMAT, schema=_SCHEMA)
        self._cipher: AESGCM | None = None
        self._client_id: ClientId = 0
        self._session_id = b""
        self._salt = b""
        self._offer = b""
        self._place = 0
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
        return self._cipher is None

    @property
    def client_id(self) -> ClientId:
        """Return the id of its client, once a session has begun."""
        return self._client_id

    @property
    def session_id(self) -> bytes:
        """Return the session id, 32 bytes; empty before a session has begun."""
        return self._session_id

    @property
    def offer(self) -> bytes:
        """Return the payload of the OFFER with which the session began."""
        return self._offer

    def begin(self, client_id: ClientId, session_id: bytes, offer: bytes) -> None:
        """Record the head of a session; durable with the first `save`. JournalError if a session has begun."""
        if self._cipher is not None:
            raise JournalError(f"{self.path} holds a session already: resume it, or choose another path")
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        self._client_id, self._session_id, self._offer, self._salt = client_id, session_id, offer, salt
        self._cipher = _cipher(self._key, salt)
        sealed = self._cipher.encrypt(nonce, offer, self._associated(_OFFER, 0))
        values = (client_id, session_id, salt, nonce, sealed)
        self._database.write("INSERT INTO session VALUES (0, ?, ?, ?, ?, ?)", values)

    def save(self, machine: bytes, sequence: int, answer: Sequence[bytes | memoryview], received: list[bytes]) -> None:
        """Replace the saved state durably; after a crash, the journal holds either the new state or the old one.

        Args:
            machine, sequence, received: as in `Saved`.
            answer: the answer's bytes in pieces.
        """
        assert self._cipher is not None  # noqa: S101 - the host has called begin()
        size = sum(map(len, answer))
        if size > MAX_BLOB_BYTES:
            raise JournalError(f"an answer has {size} bytes, but a journal takes at most {MAX_BLOB_BYTES}")
        self._place += 1
        nonces = os.urandom(2 * _NONCE_BYTES)
        state = msgpack.packb([machine, sequence, received])
        sealed_state = self._cipher.encrypt(nonces[:_NONCE_BYTES], state, self._associated(_STATE, self._place))
        sealed_answer = self._cipher.encrypt(
            nonces[_NONCE_BYTES:], b"".join(answer), self._associated(_ANSWER, self._place)
        )
        self._database.write(
            "INSERT OR REPLACE INTO state VALUES (0, ?, ?, ?, ?)", (self._place, nonces, sealed_state, sealed_answer)
        )
        self._database.commit()

    def load(self) -> Saved:
        """Return the state that was saved last. JournalError if there is none, or it is damaged."""
        for place, nonces, sealed_state, sealed_answer in self._database.rows(
            "SELECT place, nonces, state, answer FROM state"
        ):
            is_typed = type(place) is int and all(type(v) is bytes for v in (nonces, sealed_state, sealed_answer))
            if not is_typed or not 0 <= place < 2**63 or len(nonces) != 2 * _NONCE_BYTES:
                raise damaged(self._database.path, "its state")
            state = self._open(nonces[:_NONCE_BYTES], sealed_state, _STATE, place)
            answer = self._open(nonces[_NONCE_BYTES:], sealed_answer, _ANSWER, place)
            self._place = place
            machine, sequence, received = msgpack.unpackb(state, use_list=False)
            return Saved(machine, sequence, answer, received)
        raise JournalError(f"{self.path} holds no session to resume")

    def derive_seed(self, purpose: bytes) -> bytes:
        """Return 32 secret bytes that only this journal gives, the same whenever its session is resumed.

        Use them for randomness of the application that must be the same after a crash, as in a training. JournalError
        if no session has begun.
        """
        if self._cipher is None:
            raise JournalError(f"{self.path} holds no session, so it has no randomness for one")
        return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=self._salt, info=_SEED_LABEL + purpose).derive(
            self._key
        )

    def _read_header(self) -> None:
        for client_id, session_id, salt, nonce, sealed in self._database.rows(
            "SELECT client, session_id, salt, nonce, offer FROM session"
        ):
            is_typed = type(client_id) is int and all(type(v) is bytes for v in (session_id, salt, nonce, sealed))
            if not is_typed or not 0 <= client_id < 2**32 or len(nonce) != _NONCE_BYTES:
                raise damaged(self._database.path, "its head")
            self._client_id, self._session_id, self._salt = client_id, session_id, salt
            self._cipher = _cipher(self._key, salt)
            self._offer = self._open(nonce, sealed, _OFFER, 0)

    def _open(self, nonce: bytes, sealed: bytes, kind: int, place: int) -> bytes:
        assert self._cipher is not None  # noqa: S101 - set with the header
        if len(sealed) >= _TAG_BYTES:
            with contextlib.suppress(InvalidTag):
                return self._cipher.decrypt(nonce, sealed, self._associated(kind, place))
        raise JournalError(
            f"{self.path} does not open with this key file: it was written with another one, or it is damaged. Give "
            "the right key file, or delete the journal to give its session up"
        )

    def _associated(self, kind: int, place: int) -> bytes:
        return _LABEL + struct.pack(">BIQ", kind, self._client_id, place) + self._session_id

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._database.close()

    def delete(self) -> None:
        """Remove the file after the session's end for this client. The key file stays. May be called twice."""
        self._database.delete()

    def __repr__(self) -> str:
        return f"<ClientJournal {self.path}>"


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    # One key for each journal, so that random nonces stay far below their limit.
    return AESGCM(HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=salt, info=_LABEL).derive(key))


def _load_key(path: Path) -> bytes:
    """Return the key in the file; make the file if it does not exist."""
    try:
        with contextlib.suppress(FileExistsError):
            if not path.exists():
                _make_key(path)
    except OSError as error:
        raise JournalError(f"the key file {path} cannot be used: {error.strerror or error}") from None
    key = read_key_file(path, raises=JournalError)
    if len(key) != _KEY_BYTES:
        raise JournalError(
            f"the key file {path} is not a key: it must have exactly {_KEY_BYTES} bytes; it was not changed"
        )
    return key


def _make_key(path: Path) -> None:
    # It gets its name only once it is whole; a link never replaces an existing file.
    made = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(made)
    finally:
        made.unlink()
