"""What a site has answered: against a server that lies, no session is entered twice, and no round answered twice.

A session that measures is an answer of its own kind.  Each round has at most one of them, before its update and of the
same content: of two that differ in one site, the difference would be how large that site's update is.
"""

import hashlib

from fl.integrations.nvflare.announcement import Announcement
from transport import ClientRecord, Participation, RepeatedSessionError

_LABEL = b"secagg/fl/nvflare-ranges/1"


class SiteRecord:
    """The record of one site in one job, which lasts beyond its processes.

    Args:
        participation: the record that it is part of.
        site: the site's identity key, or its name where it has none.
        training: the site's own name for what the rounds are of.
        job_id: of the job, whose rounds have numbers of their own.
        max_rounds: the most rounds that it answers in the training, all jobs together; each kind of answer has as many.
    """

    def __init__(
        self, participation: Participation, site: bytes, *, training: str, job_id: str, max_rounds: int
    ) -> None:
        self._participation = participation
        self._site = site
        self._updates, self._measured = (
            ClientRecord(participation, site, training=name, run=job_id, max_rounds=max_rounds)
            for name in (training, f"ranges of {training}")
        )

    def enter(self, session_id: bytes) -> None:
        """Note that the site takes part in a session, before its first message goes out.

        Raises:
            RepeatedSessionError: it has taken part in it before.
        """
        self._updates.enter(session_id)

    def check(self, announcement: Announcement) -> None:
        """Raise RepeatedSessionError, before anybody trains, if `answer` would."""
        self._series(announcement).check_round(announcement.round)
        self._check_other_answer(announcement)

    def answer(self, session_id: bytes, announcement: Announcement) -> None:
        """Note that the round is answered, before the shares that open the sum go out.

        Raises:
            RepeatedSessionError: it was answered before, or a later one; or its measuring and its update do not go
                together. The shares must not go out.
        """
        self._series(announcement).answer(session_id, announcement.round)
        if announcement.encoding.measures:
            self._participation.use(self._key(announcement))
        # Last: of two processes that answer at once, one at least finds what the other has noted.
        self._check_other_answer(announcement)

    def _series(self, announcement: Announcement) -> ClientRecord:
        return self._measured if announcement.encoding.measures else self._updates

    def _check_other_answer(self, announcement: Announcement) -> None:
        """RepeatedSessionError if the round's update was sent before it is measured, or another content measured."""
        if announcement.encoding.measures:
            self._updates.check_round(announcement.round)
            return
        last = self._measured.last_answered()
        if last is not None and last >= announcement.round and not self._participation.is_used(self._key(announcement)):
            raise RepeatedSessionError(
                f"this site has said how large its updates are up to round {last}, and to round {announcement.round} "
                "as it is announced now it has not: it sends no update to it"
            )

    def _key(self, announcement: Announcement) -> bytes:
        return _LABEL + hashlib.sha256(self._site).digest() + hashlib.sha256(announcement.asked).digest()
