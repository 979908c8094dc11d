"""The record of a site's answers: even for a lying server, no session is entered twice and no round answered twice.

A session that measures is a separate kind of answer.  Each round has at most one, before its update and with the same
content: the difference of two that differ in one site would be the size of that site's update.
"""

import hashlib

from fl.integrations.nvflare.announcement import TaskAnnouncement
from transport import ClientRecord, Participation, RepeatedSessionError

_LABEL = b"secagg/fl/nvflare-ranges/1"


class SiteRecord:
    """The durable record of one site in one job.

    Args:
        participation: the record that contains it.
        site: the site's identity key, or its name if it has no key.
        training: the site's own name for the training.
        job_id: the job's id; each job numbers its own rounds.
        max_rounds: the most rounds that it answers in the training, over all jobs, for each kind of answer.
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
            RepeatedSessionError: the site has taken part in it before.
        """
        self._updates.enter(session_id)

    def check(self, announcement: TaskAnnouncement) -> None:
        """Raise RepeatedSessionError before the training if `answer` would raise it."""
        self._series(announcement).check_round(announcement.round)
        self._check_other_answer(announcement)

    def answer(self, session_id: bytes, announcement: TaskAnnouncement) -> None:
        """Note that the round is answered, before the shares that open the sum go out.

        Raises:
            RepeatedSessionError: this round or a later one was answered before, or the update does not belong to what
                was measured. The shares must not go out.
        """
        self._series(announcement).answer(session_id, announcement.round)
        if announcement.measures:
            self._participation.use(self._key(announcement))
        # Check last: of two processes that answer at once, at least one finds the other's note.
        self._check_other_answer(announcement)

    def _series(self, announcement: TaskAnnouncement) -> ClientRecord:
        return self._measured if announcement.measures else self._updates

    def _check_other_answer(self, announcement: TaskAnnouncement) -> None:
        """Raise RepeatedSessionError if the update was sent before its measuring, or another content was measured."""
        if announcement.measures:
            self._updates.check_round(announcement.round)
            return
        last = self._measured.last_answered()
        if last is not None and last >= announcement.round and not self._participation.is_used(self._key(announcement)):
            raise RepeatedSessionError(
                f"this site has measured its updates up to round {last}, but not for round {announcement.round} as it "
                "is announced now, so it sends no update for it"
            )

    def _key(self, announcement: TaskAnnouncement) -> bytes:
        return _LABEL + hashlib.sha256(self._site).digest() + hashlib.sha256(announcement.asked).digest()
