"""A site's part in one session: the protocol's client, and its answers in case the server asks again."""

import hashlib
import threading
from collections.abc import Callable

from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.errors import TaskAnnouncementError
from fl.integrations.nvflare.site_record import SiteRecord
from secagg import Client, ClientPhase, Identity
from secagg.identity import KeyDirectory
from transport.driver import ClientDriver, InputVector


class SiteSession:
    """One client's session, with one answer to each task.

    NVFlare sends a task to a client again if it has not seen the result.  The same request then gets the same bytes;
    any other request out of turn aborts the client's session, as the protocol requires.  A lock serializes threads.

    Args:
        announcement: the round.
        site: this site's name.
        identity, directory: in malicious mode.
        record: in signed modes, the record of this site's answers.

    Raises:
        RepeatedSessionError: the site has taken part in this session, or has answered this round or a later one; see
            `SiteRecord`.
        JournalError: the record cannot be used.
    """

    def __init__(
        self,
        announcement: TaskAnnouncement,
        site: str,
        *,
        identity: Identity | None = None,
        directory: KeyDirectory | None = None,
        record: SiteRecord | None = None,
    ) -> None:
        self.announcement = announcement
        self._record = record
        self._lock = threading.Lock()
        self._train: Callable[[], InputVector] | None = None
        self._client = Client(
            announcement.params,
            announcement.client_id(site),
            context=announcement.to_bytes(),
            nonce=announcement.nonce,
            identity=identity,
            directory=directory,
        )
        self._driver = ClientDriver(self._client, self._input)
        self._answered = b""
        (parts,) = self._driver.start()
        self._answer = b"".join(parts)
        if record is not None:
            record.check(announcement)
            # Note it before anything is sent: a server could play a second part in the session, with the same identity,
            # against this one.
            record.enter(self._client.session_id)

    @property
    def opening(self) -> bytes:
        """Return the client's first message."""
        with self._lock:
            if self._answered:
                raise TaskAnnouncementError("the server announced a round that is already in progress")
            return self._answer

    def answer(self, message: bytes, train: Callable[[], InputVector]) -> bytes:
        """Return the answer to a message of the server.

        Args:
            message: the encoded message.
            train: returns the encoded update, if this message asks for it; may raise InputWithheldError.

        Raises:
            RemoteProtocolError, CodecError: the server broke the protocol.
            InputWithheldError: ``train`` raised it.
            RepeatedSessionError, JournalError: the answer would release shares, but the record does not allow it.
        """
        with self._lock:
            return self._locked_answer(message, train)

    def _locked_answer(self, message: bytes, train: Callable[[], InputVector]) -> bytes:
        request = hashlib.sha256(message).digest()
        if request == self._answered:
            return self._answer
        self._train = train
        try:
            answers = self._driver.data_received(message)
        finally:
            self._train = None
        if self._driver.error is not None:
            raise self._driver.error
        # Each message of the server asks for exactly one answer; a session that has ended gives none.
        if len(answers) != 1:
            raise TaskAnnouncementError("the server sent a message of a session that has ended")
        if self._record is not None and self._client.phase is ClientPhase.FINISHED:
            # The answer releases shares, so from here on the update may be in a sum.
            self._record.answer(self._client.session_id, self.announcement)
        self._answered, self._answer = request, b"".join(answers[0])
        return self._answer

    def _input(self) -> InputVector:
        assert self._train is not None  # noqa: S101 - set while a message is taken in
        return self._train()
