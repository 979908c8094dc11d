"""The files of a round's session: its journal, and what says that there was one."""

import contextlib
from pathlib import Path

from fl.files import replace_file
from fl.network.announcement import decode_announcement
from fl.network.errors import AnnouncementError, AnnouncementVersionError
from secagg import ClientId
from transport import Journal, LinkError, Offer
from transport.durable.frames import decode_server_frame


class SessionFiles:
    """What makes one of a round's sessions survive the end of this process.

    Args:
        journal: the session's. Beside it, a file of the same name that ends in ``.begun`` says which round has such a
            session: if the journal is gone then, the session has no result.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self._begun = journal.with_suffix(".begun")

    def begin(self, number: int) -> None:
        """Note that clients will hear of the session."""
        try:
            # With an empty journal nobody has heard of it: a process that ends here has lost nothing.
            Journal(self.journal).close()
            replace_file(self._begun, str(number).encode())
        except BaseException:
            # Without room for both there is neither, and both are made when there is.
            self.forget()
            raise

    def is_lost(self, number: int) -> bool:
        """Whether clients may have answered the round in a session of which nothing is left."""
        return not self.journal.exists() and self._has_begun(number)

    def is_of_another_version(self) -> bool:
        """Whether the journal holds a session whose announcement is not read here: an upgrade came in between."""
        if not self.journal.exists():
            return False
        with contextlib.closing(Journal(self.journal)) as journal:
            try:
                if not journal.is_empty:
                    decode_announcement(offer_in(journal).extra)
            except AnnouncementVersionError:
                return True
            except (LinkError, AnnouncementError):
                # What it is then, the aggregator says that is to go on with it.
                pass
        return False

    def client_ids(self) -> tuple[ClientId, ...] | None:
        """Who takes part in the session that has begun; None if clients have heard of none yet."""
        if not self.journal.exists():
            return None
        with contextlib.closing(Journal(self.journal)) as journal:
            return None if journal.is_empty else journal.header.client_ids

    def forget(self) -> None:
        """The session's result is safe, or it has none and may begin again."""
        self._begun.unlink(missing_ok=True)
        if self.journal.exists():
            Journal(self.journal).delete()

    def forget_older(self, rounds_done: int) -> None:
        """Delete what is left of a round that is in the checkpoint already: a crash came between the two."""
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
    """LinkError if the journal begins with something else."""
    payload = journal.header.offer
    offer = decode_server_frame(payload, len(payload))
    if not isinstance(offer, Offer):
        raise LinkError("it begins with no offer")
    return offer
