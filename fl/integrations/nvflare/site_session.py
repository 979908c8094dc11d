"""A site's part in one session: the protocol's client, and its answers for a server that asks again."""

import hashlib
import threading
from collections.abc import Callable

from fl.integrations.nvflare.announcement import Announcement
from fl.integrations.nvflare.errors import AnnouncementError
from fl.integrations.nvflare.site_record import SiteRecord
from secagg import Client, ClientPhase, Identity
from secagg.identity import KeyDirectory
from transport.driver import ClientDriver, InputVector


class SiteSession:
    """One client's session, one answer to each task.

    NVFlare gives a task to a client again when it has not seen the result.  The same request then gets the same bytes;
    any other request out of turn costs the client the session, as the protocol has it.  Threads take turns.

    Args:
        announcement: the round.
        site: this site's name.
        identity, directory: in malicious mode.
        record: in signed modes, what this site has answered.

    Raises:
        RepeatedSessionError: it has taken part in this session, or answered this round or a later one, before; or see
            `SiteRecord`.
        JournalError: the record cannot be used.
    """

    def __init__(
        self,
        announcement: Announcement,
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
            # Before anything is out: a second part in one session, with one identity, could be played against this one.
            record.enter(self._client.session_id)

    @property
    def opening(self) -> bytes:
        """The client's first message; later tasks have other answers."""
        with self._lock:
            if self._answered:
                raise AnnouncementError("the server announced a round again that is in progress")
            return self._answer

    def answer(self, message: bytes, train: Callable[[], InputVector]) -> bytes:
        """The answer to a message of the server.

        Args:
            message: encoded.
            train: gives the encoded update, if this is the message that asks for it; may raise InputWithheldError.

        Raises:
            RemoteProtocolError, CodecError: the server broke the protocol.
            InputWithheldError: ``train`` did.
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
        # Every message of the server asks for exactly one; none comes of a session that has ended.
        if len(answers) != 1:
            raise AnnouncementError("the server sent a message of a session that has ended")
        if self._record is not None and self._client.phase is ClientPhase.FINISHED:
            # The answer releases shares: from here on the round may be in a sum.
            self._record.answer(self._client.session_id, self.announcement)
        self._answered, self._answer = request, b"".join(answers[0])
        return self._answer

    def _input(self) -> InputVector:
        assert self._train is not None  # noqa: S101 - set while a message is taken in
        return self._train()
