"""The files of a round's session: its journal, and a marker that the session began."""

import contextlib
from pathlib import Path

from fl.files import replace_file
from fl.network.announcement import decode_announcement
from fl.network.errors import AnnouncementError, AnnouncementVersionError
from secagg import ClientId
from transport import Journal, LinkError, Offer
from transport.durable.frames import decode_server_frame


class SessionFiles:
    """The files with which one of a round's sessions survives the end of this process.

    Args:
        journal: the path of the session's journal. Beside it, a file of the same name that ends in ``.begun`` holds the
            number of the round whose session began: if the journal is missing then, the session has no result.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self._begun = journal.with_suffix(".begun")

    def begin(self, number: int) -> None:
        """Record that the session begins, before clients learn of it."""
        try:
            # An empty journal means that no client knows the session yet: a process that ends here loses nothing.
            Journal(self.journal).close()
            replace_file(self._begun, str(number).encode())
        except BaseException:
            # If the disk has no room for both files, keep neither; both are made once there is room.
            self.forget()
            raise

    def is_lost(self, number: int) -> bool:
        """Return whether clients may have answered the round in a session whose journal is missing."""
        return not self.journal.exists() and self._has_begun(number)

    def is_of_another_version(self) -> bool:
        """Return whether the announcement in the journal has a version that is not read here, after an upgrade."""
        if not self.journal.exists():
            return False
        with contextlib.closing(Journal(self.journal)) as journal:
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
        if not self.journal.exists():
            return None
        with contextlib.closing(Journal(self.journal)) as journal:
            return None if journal.is_empty else journal.header.client_ids

    def forget(self) -> None:
        """Delete the files, since the session's result is safe, or it has none and may begin again."""
        self._begun.unlink(missing_ok=True)
        if self.journal.exists():
            Journal(self.journal).delete()

    def forget_older(self, rounds_done: int) -> None:
        """Delete the files of rounds that are already in the checkpoint, after a crash between the two writes."""
        if not self._has_begun(rounds_done + 1):
            self._begun.unlink(missing_ok=True)
        if self.journal.exists():
            journal = Journal(self.journal)
            try:
                is_empty = journal.is_empty
                if is_empty or offer_in(journal).number <= rounds_done:
                    journal.delete()
            finally:
                journal.close()
            if is_empty:
                self._begun.unlink(missing_ok=True)

    def _has_begun(self, number: int) -> bool:
        try:
            return self._begun.read_text() == str(number)
        except FileNotFoundError:
            return False


def offer_in(journal: Journal) -> Offer:
    """Return the offer at the start of a journal; LinkError if it begins with another frame."""
    payload = journal.header.offer
    offer = decode_server_frame(payload, len(payload))
    if not isinstance(offer, Offer):
        raise LinkError("it does not begin with an offer")
    return offer
