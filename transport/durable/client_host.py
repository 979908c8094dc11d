"""The client's side of a networked session: link protocol and encrypted journal. Sans-IO except for the journal."""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from secagg import (
    Client,
    ClientId,
    ClientPhase,
    EntropySource,
    Identity,
    KeyDirectory,
    LocalProtocolError,
    PolicyError,
    SecAggError,
    SessionPolicy,
)
from transport.driver import ClientDriver, InputVector, KeyedInput, Parts
from transport.durable.client_journal import ClientJournal
from transport.durable.client_transfers import ANOTHER_SESSION, ClientTransfers
from transport.durable.frames import (
    DEFAULT_MAX_EXTRA_BYTES,
    Ack,
    Decline,
    End,
    Hello,
    Message,
    Offer,
    Ping,
    Pong,
    RefusalCode,
    Refused,
    ServerFrame,
    Waiting,
    decode_server_frame,
    encode,
)
from transport.durable.participation import IN_MEMORY, ClientRecord
from transport.durable.pieces import Large, Piece, Want
from transport.durable.transfers import HeldAnnouncement
from transport.errors import JournalError, LinkError, OlderServerError, SessionRefusedError, TransportError

OfferedInput: TypeAlias = Callable[[Offer], InputVector | KeyedInput]
"""A function that returns the client's input when it is due: shape (vector_length,), integers in [0, 2^value_bits)."""

Accept: TypeAlias = SessionPolicy | Callable[[Offer], None]
"""A client's conditions for an offer: a policy, or a function that raises `SessionRefusedError` to decline."""

OfferRecord: TypeAlias = ClientRecord | Callable[[Offer], ClientRecord]
"""The record of a client's participation, or a function that returns the record for an offer."""

# Number of refusals in a row of this client's frames, with no success in between, after which it gives up.
_STRIKES = 3
# Another process, or a later version of one of the sides, may continue the session.
_KEEPS = frozenset((RefusalCode.REPLACED, RefusalCode.BAD_VERSION, RefusalCode.OLDER_SERVER))
_COME_BACK = frozenset((RefusalCode.BUSY, RefusalCode.STOPPING))


class ClientHost:
    """One client's part in one session, over any number of connections.

    ::

        host = ClientHost(client_id, provide_input, context=model_hash, journal=ClientJournal(path, key_file))
        send(host.connected())                      # HELLO
        send(host.frame_received(payload))          # each payload in turn; `left` when the connection ends
        host.finished                               # then `outcome` or `error` is set; until then, connect again

    With a journal, each answer is on the disk before it is returned, together with the machine that made it: a client
    that is killed and started again (`resume`) sends the same bytes again, and never another answer.

    Memory: the machine, the last answer until it is acknowledged, the announcement, and a message in pieces.

    Args:
        client_id: this client's number.
        provide_input: called with the offer when the input is due. After a crash it may be called once more; the input
            that was never sent is forgotten.
        accept: this client's conditions for an offer, checked first. By default `secagg.SessionPolicy`, which accepts
            sessions on the complete graph that are safe against a lying server, and declines all others; clients that
            trust the server pass ``SessionPolicy(adversary=Adversary.HONEST_BUT_CURIOUS)``.
        context: bytes bound into the session id, such as the hash of the model that this client has, or a function
            that returns them for the offer. Never copy them from the offer unchecked.
        identity, directory: in malicious mode, this client's key pair and the directory of the other clients' keys.
        journal: an empty `ClientJournal`; without one, a crash ends the client's part.
        record: the record of this client's participation: the client enters no malicious-mode session twice and, if
            its rounds are numbered, answers no round twice. By default the record is in this process's memory, so a
            client that is started again has forgotten it: pass one with a file (`transport.Participation`). A training
            with several series of numbered sessions passes a function that returns the record for the accepted offer.
        entropy: the source of randomness; only tests replace `os.urandom`.
        max_extra: maximum length of the announcement, in bytes.
        held: the announcement that this client holds, from one session to the next.

    Raises:
        JournalError: the journal holds a session already.
    """

    def __init__(
        self,
        client_id: ClientId,
        provide_input: OfferedInput,
        *,
        accept: Accept | None = None,
        context: bytes | Callable[[Offer], bytes] = b"",
        identity: Identity | None = None,
        directory: KeyDirectory | None = None,
        journal: ClientJournal | None = None,
        record: OfferRecord | None = None,
        entropy: EntropySource = os.urandom,
        max_extra: int = DEFAULT_MAX_EXTRA_BYTES,
        held: HeldAnnouncement | None = None,
    ) -> None:
        if journal is not None and not journal.is_empty:
            raise JournalError(f"{journal.path} holds a session already: resume it, or choose another path")
        self._client_id = client_id
        self._provide_input = provide_input
        self._accept = SessionPolicy() if accept is None else accept
        self._context = context
        self._identity = identity
        self._directory = directory
        self._journal = journal
        who = client_id.to_bytes(4, "big") if identity is None else identity.public_key
        self._record = ClientRecord(IN_MEMORY, who) if record is None else record
        self._entropy = entropy
        self._max_extra = max_extra
        self._transfers = ClientTransfers(max_extra, HeldAnnouncement() if held is None else held)
        self._client: Client | None = None
        self._offer: Offer | None = None
        self._offer_digest = b""
        self._received: list[bytes] = []
        self._sequence = -1
        self._answer: Parts | None = None
        self._offered = False
        self._dead = False
        self._strikes = 0
        self.refused: Refused | None = None
        self.outcome: End | None = None
        self.error: TransportError | SecAggError | None = None

    @classmethod
    def resume(
        cls,
        journal: ClientJournal,
        provide_input: OfferedInput,
        *,
        client_id: ClientId | None = None,
        identity: Identity | None = None,
        directory: KeyDirectory | None = None,
        record: OfferRecord | None = None,
        max_extra: int = DEFAULT_MAX_EXTRA_BYTES,
        held: HeldAnnouncement | None = None,
    ) -> "ClientHost":
        """Return the client in ``journal`` as it was at its last answer; the other arguments as for the constructor.

        Args:
            client_id: the client that the channel identifies; by default the journal's.

        Raises:
            JournalError: the journal holds no session, is damaged, or belongs to another client.
            secagg.LocalProtocolError: in malicious mode, ``identity`` is not the one with which the session began.
        """
        saved = journal.load()
        if client_id not in (None, journal.client_id):
            raise JournalError(f"{journal.path} belongs to client {journal.client_id}, not to client {client_id}")
        host = cls(
            journal.client_id,
            provide_input,
            identity=identity,
            directory=directory,
            record=record,
            max_extra=max_extra,
            held=held,
        )
        host._journal = journal
        offer = decode_server_frame(journal.offer, len(journal.offer))
        assert isinstance(offer, Offer)  # noqa: S101 - it is authentic, and was one when it was written
        host._offer, host._offer_digest = offer, _digest(journal.offer)
        host._transfers.begin(offer)
        host._client = Client.resume(saved.machine, identity=identity, directory=directory)
        host._sequence, host._answer, host._received = saved.sequence, (saved.answer,), list(saved.received)
        if host._client.params.has_identities:
            # The process may have ended before this was recorded; nothing had been sent then.
            host._record_of(offer).enter(host._client.session_id, again=True)
        return host

    @property
    def finished(self) -> bool:
        """Return whether the client has ended: then close the connection, and do not connect again."""
        return self.outcome is not None or self.error is not None

    @property
    def in_session(self) -> bool:
        """Return whether this client has accepted an offer: it has, or had, secrets of a session."""
        return self._client is not None

    @property
    def offer(self) -> Offer | None:
        """Return the accepted offer."""
        return self._offer

    def connected(self) -> list[Parts]:
        """Note a new connection, and return the frames to send on it."""
        self._offered, self.refused = False, None
        self._transfers.connected()
        if self.finished:
            return []
        session_id = b"" if self._client is None else self._client.session_id
        return [encode(Hello(session_id, len(self._received)))]

    def left(self) -> None:
        """Note that this client left: its connection ended. Unless `finished`, connect again: the session continues."""
        self._offered = False

    def frame_received(self, payload: bytes | memoryview) -> list[Parts]:
        """Take a frame, and return the frames to send; their content is durable.

        If the server breaks a rule, `error` is set, all secrets are forgotten and the journal is deleted.

        Raises:
            JournalError: the journal could not be written. Send nothing; start again and resume.
            Exception: any error of ``provide_input``. With a journal the client can be resumed.
        """
        if self._dead:
            raise JournalError("this client stopped in the middle of an answer: start again to resume")
        if self.finished:
            return []
        self._dead = True
        try:
            frames = self._handle(decode_server_frame(payload, self._max_extra), payload)
        except (LinkError, SessionRefusedError) as error:
            told = error.told if isinstance(error, SessionRefusedError) else None
            frames = [] if told is None else [encode(Decline(told))]
            self._fail(error)
        self._dead = False
        return frames

    def _handle(self, frame: ServerFrame, payload: bytes | memoryview) -> list[Parts]:
        match frame:
            case Ping():
                return [encode(Pong())]
            case Pong() | Waiting():
                return []
            case Refused():
                return self._refuse(frame)
            case End():
                self.outcome = frame
                self._forget()
                return []
            case Offer():
                return self._take_offer(frame, payload)
            case Large() | Piece() | Want():
                frames, whole = self._transfers.received(frame)
                return frames if whole is None else self._handle(*whole)
            case _ if not self._offered:
                raise LinkError(f"the server sent {type(frame).__name__.upper()} before an offer")
            case Message():
                return self._take_message(frame)
            case Ack(sequence=sequence):
                if sequence > self._sequence:
                    raise LinkError(f"the server acknowledges message {sequence}, which was not sent")
                self._strikes = 0
                if sequence == self._sequence:
                    self._answer = None
                    self._transfers.acknowledged()
                return []

    def _take_offer(self, offer: Offer, payload: bytes | memoryview) -> list[Parts]:
        if self._client is not None:
            if _digest(payload) != self._offer_digest:
                raise SessionRefusedError(ANOTHER_SESSION)
            if self._offered:
                # A repeated frame, which a channel without integrity may deliver.
                return []
            self._offered = True
            # The server sees by its number whether it arrived before the connection was lost.
            return [] if self._answer is None else [self._answer_frame()]
        self._check(offer)
        context = self._context(offer) if callable(self._context) else self._context
        try:
            client = Client(
                offer.params,
                self._client_id,
                context=context,
                nonce=offer.nonce,
                identity=self._identity,
                directory=self._directory,
                entropy=self._entropy,
            )
        except LocalProtocolError as error:
            raise SessionRefusedError(f"this client cannot take part in the session: {error}") from None
        # A second part in one session under one identity could be used against the first.
        if offer.params.has_identities:
            self._record_of(offer).check(client.session_id)
        if self._journal is not None:
            self._journal.begin(self._client_id, client.session_id, bytes(payload))
        self._client, self._offer, self._offer_digest, self._offered = client, offer, _digest(payload), True
        self._transfers.begin(offer)
        frames = self._answered(self._driver(client).start())
        # Last, so that a client that stops in between can be resumed, and before anything is sent.
        if offer.params.has_identities:
            self._record_of(offer).enter(client.session_id)
        return frames

    def _check(self, offer: Offer) -> None:
        """Raise SessionRefusedError unless this client accepts the offer."""
        if isinstance(self._accept, SessionPolicy):
            try:
                self._accept.check(offer.params)
            except PolicyError as error:
                raise SessionRefusedError(f"the offer was declined: {error}", told=str(error)) from None
        else:
            self._accept(offer)
        self._record_of(offer).check_round(offer.number)

    def _take_message(self, message: Message) -> list[Parts]:
        assert self._client is not None  # noqa: S101 - an offer was taken
        assert not isinstance(message.body, tuple)  # noqa: S101 - a decoded one is one view
        digest = _digest(message.body)
        if message.sequence < len(self._received):
            if digest != self._received[message.sequence]:
                raise LinkError(f"the server sent another message {message.sequence} than before")
            return []
        if message.sequence > len(self._received):
            raise LinkError(f"the server sent message {message.sequence} where message {len(self._received)} is due")
        driver = self._driver(self._client)
        answers = driver.data_received(message.body)
        if driver.error is not None:
            self._fail(driver.error)
            return []
        self._received.append(digest)
        return self._answered(answers)

    def _answered(self, answers: list[Parts]) -> list[Parts]:
        """Return the frames of an answer, once it and the machine are on the disk."""
        assert self._client is not None  # noqa: S101 - it has just answered
        assert self._offer is not None  # noqa: S101 - an offer was taken
        if self._client.phase is ClientPhase.FINISHED:
            # The answer releases shares: from now on the round may be in a sum.
            self._record_of(self._offer).answer(self._client.session_id, self._offer.number)
        # Each message of the server has exactly one answer.
        (self._answer,) = answers
        self._sequence += 1
        if self._journal is not None:
            machine = self._client.suspend()
            self._journal.save(machine, self._sequence, self._answer, self._received)
            self._client = Client.resume(machine, identity=self._identity, directory=self._directory)
        return [self._answer_frame()]

    def _answer_frame(self) -> Parts:
        assert self._answer is not None  # noqa: S101 - the callers know
        frame, self._answer = self._transfers.send(Message(self._sequence, self._answer))
        return frame

    def _record_of(self, offer: Offer) -> ClientRecord:
        return self._record if isinstance(self._record, ClientRecord) else self._record(offer)

    def _driver(self, client: Client) -> ClientDriver:
        assert self._offer is not None  # noqa: S101 - an offer was taken
        return ClientDriver(client, partial(self._provide_input, self._offer))

    def _refuse(self, refused: Refused) -> list[Parts]:
        self.refused = refused
        self._strikes += refused.code is RefusalCode.PROTOCOL_ERROR
        if refused.code is RefusalCode.PROTOCOL_ERROR and self._strikes < _STRIKES:
            # A new connection may help if a channel without integrity damaged our frames.
            return []
        # A server without a session may run one later; a server that ended this client's session will not resume it.
        if refused.code not in _COME_BACK and (self.in_session or refused.code is not RefusalCode.NO_SESSION):
            text = f"the server refused this client: {refused.code.name}{': ' if refused.text else ''}{refused.text}"
            kind = OlderServerError if refused.code is RefusalCode.OLDER_SERVER else SessionRefusedError
            self._fail(kind(text, refused.code, retry_after=refused.retry_after), keep=refused.code in _KEEPS)
        return []

    def _fail(self, error: TransportError | SecAggError, *, keep: bool = False) -> None:
        self.error = error
        self._forget(keep=keep)

    def _forget(self, *, keep: bool = False) -> None:
        """End the session for this client; ``keep`` the journal if another process may continue it."""
        if self._client is not None:
            self._client.abort()
        self._answer = None
        self._transfers.forget()
        if self._journal is None:
            return
        if keep:
            self._journal.close()
        else:
            self._journal.delete()

    def __repr__(self) -> str:
        phase = "no session" if self._client is None else self._client.phase.name
        return f"<ClientHost {self._client_id}, {phase}>"


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()
