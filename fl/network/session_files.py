"""The journal of a round's session and a marker that the session began, in the run's folder or in a database."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from fl.files import replace_file
from fl.network.announcement import decode_announcement
from fl.network.errors import AnnouncementError, AnnouncementVersionError
from secagg import ClientId
from transport import Journal, LinkError, Offer
from transport.durable.frames import decode_server_frame
from transport.durable.storage import JournalStore, SqliteStorage


class FolderStore:
    """The journals of a run in its folder: a `transport.durable.storage.JournalStore`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """Return the folder's path."""
        return str(self._folder)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.journal"

    def exists(self, name: str) -> bool:
        """Return whether there is a journal with this name."""
        return self._path(name).exists()

    def open(self, name: str) -> SqliteStorage:
        """Return the journal's storage; it is made if it does not exist."""
        return SqliteStorage(self._path(name))

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, files: Mapping[str, bytes]) -> None:
        """Write files, each in one step."""
        for name, data in files.items():
            replace_file(self._folder / name, data)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        (self._folder / name).unlink(missing_ok=True)


class SessionFiles:
    """The journal and marker with which one of a round's sessions survives the end of this process.

    Args:
        store: where they are kept.
        name: the journal's name. A file ``NAME.begun`` holds the number of the round whose session began: if the
            journal is missing then, the session has no result.
    """

    def __init__(self, store: JournalStore, name: str) -> None:
        self.name = name
        self._store = store
        self._begun = f"{name}.begun"

    @property
    def exists(self) -> bool:
        """Return whether there is a journal."""
        return self._store.exists(self.name)

    def open(self) -> Journal:
        """Return the journal; it is made if it does not exist."""
        return Journal(self._store.open(self.name))

    def begin(self, number: int) -> None:
        """Record that the session begins, before clients learn of it."""
        try:
            # An empty journal means that no client knows the session yet: a process that ends here loses nothing.
            self.open().close()
            self._store.replace({self._begun: str(number).encode()})
        except BaseException:
            # If the disk has no room for both files, keep neither; both are made once there is room.
            self.forget()
            raise

    def is_lost(self, number: int) -> bool:
        """Return whether clients may have answered the round in a session whose journal is missing."""
        return not self.exists and self._has_begun(number)

    def is_of_another_version(self) -> bool:
        """Return whether the announcement in the journal has a version that is not read here, after an upgrade."""
        if not self.exists:
            return False
        with contextlib.closing(self.open()) as journal:
            try:
                if not journal.is_empty:
                    decode_announcement(offer_in(journal).extra)
            except AnnouncementVersionError:
                return True
            except (LinkError, AnnouncementError):
                # The aggregator reports this error when it continues the session.
                pass
        return False

    def client_ids(self) -> tuple[ClientId, ...] | None:
        """Return the clients of the session in the journal; None if no client knows of a session yet."""
        if not self.exists:
            return None
        with contextlib.closing(self.open()) as journal:
            return None if journal.is_empty else journal.header.client_ids

    def forget(self) -> None:
        """Delete the files, since the session's result is safe, or it has none and may begin again."""
        self._store.remove(self._begun)
        if self.exists:
            self.open().delete()

    def forget_older(self, rounds_done: int) -> None:
        """Delete the files of rounds that are already in the checkpoint, after a crash between the two writes."""
        if not self._has_begun(rounds_done + 1):
            self._store.remove(self._begun)
        if self.exists:
            journal = self.open()
            try:
                is_empty = journal.is_empty
                if is_empty or offer_in(journal).number <= rounds_done:
                    journal.delete()
            finally:
                journal.close()
            if is_empty:
                self._store.remove(self._begun)

    def _has_begun(self, number: int) -> bool:
        return self._store.read(self._begun) == str(number).encode()


def offer_in(journal: Journal) -> Offer:
    """Return the offer at the start of a journal; LinkError if it begins with another frame."""
    payload = journal.header.offer
    offer = decode_server_frame(payload, len(payload))
    if not isinstance(offer, Offer):
        raise LinkError("it does not begin with an offer")
    return offer
