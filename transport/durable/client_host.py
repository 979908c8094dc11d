"""The client's side of a networked session: link protocol and encrypted journal. Sans-IO but for the journal."""

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
from transport.driver import ClientDriver, InputVector, Parts
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

OfferedInput: TypeAlias = Callable[[Offer], InputVector]
"""Gives the client's input when it is due: shape (vector_length,), integers in [0, 2^value_bits)."""

Accept: TypeAlias = SessionPolicy | Callable[[Offer], None]
"""What a client asks of an offer: a policy, or a function that raises `SessionRefusedError` to decline it."""

OfferRecord: TypeAlias = ClientRecord | Callable[[Offer], ClientRecord]
"""What a client has taken part in, or a function that gives the record that an offer belongs to."""

# So many refusals in a row for what this client sent, and nothing got through in between: it will not get better.
_STRIKES = 3
# Another process, or a later version on one of the sides, may go on with the session.
_KEEPS = frozenset((RefusalCode.REPLACED, RefusalCode.BAD_VERSION, RefusalCode.OLDER_SERVER))
_COME_BACK = frozenset((RefusalCode.BUSY, RefusalCode.STOPPING))


class ClientHost:
    """One client's part in one session, over as many connections as it takes.

    ::

        host = ClientHost(client_id, provide_input, context=model_hash, journal=ClientJournal(path, key_file))
        send(host.connected())                      # HELLO
        send(host.frame_received(payload))          # each payload in turn; `disconnected` when the connection ends
        host.finished                               # then `outcome` or `error`; until then, connect again

    With a journal, each answer is on the disk before it is given out, together with the machine that gave it: a client
    that is killed and started again (`resume`) gives the same bytes again, and never another answer.

    Memory: the machine, the last answer until it is acknowledged, the announcement, and a message that comes in pieces.

    Args:
        client_id: this client's number.
        provide_input: called with the offer when the input is due. After a crash it may be called once more; the input
            that was never sent is forgotten.
        accept: what this client asks of an offer, looked at before anything else. By default `secagg.SessionPolicy`,
            which takes sessions on the complete graph that are safe against a server that lies, and declines all
            others; whoever trusts the server passes ``SessionPolicy(adversary=Adversary.HONEST_BUT_CURIOUS)``.
        context: bytes bound into the session id, such as the hash of the model that this client has, or a function
            that gives them for the offer. Never take them from the offer unseen.
        identity, directory: in malicious mode, this client's key pair and who knows the others'.
        journal: an empty `ClientJournal`; without one, a crash ends the client's part.
        record: what this client has taken part in, so that it enters no malicious-mode session twice and, where its
            rounds are numbered, answers none twice. By default it is kept in this process's memory alone, and a client
            that is started again has forgotten it: give one with a file (`transport.Participation`). A function gives
            it for the offer that was accepted, where a training has several series of numbered sessions.
        entropy: the source of randomness; only tests pass another than `os.urandom`.
        max_extra: the longest announcement to take, in bytes.
        held: what this client holds of announcements, from one session to the next.

    Raises:
        JournalError: the journal holds a session.
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
        """The client that is in ``journal``, as it was when it last gave an answer out; other arguments as before.

        Args:
            client_id: whom the journal is to be of, where the channel says so; by default whoever's it is.

        Raises:
            JournalError: the journal holds no session, is damaged, or is another client's.
            secagg.LocalProtocolError: in malicious mode, ``identity`` is not the one that it began with.
        """
        saved = journal.load()
        if client_id not in (None, journal.client_id):
            raise JournalError(f"{journal.path} is that of client {journal.client_id}, and not of client {client_id}")
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
            # The end came, perhaps, before it was recorded; nothing had gone out then.
            host._record_of(offer).enter(host._client.session_id, again=True)
        return host

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: close the connection, and do not connect again."""
        return self.outcome is not None or self.error is not None

    @property
    def in_session(self) -> bool:
        """Whether this client has taken an offer: it has, or had, secrets of a session."""
        return self._client is not None

    @property
    def offer(self) -> Offer | None:
        """What was taken."""
        return self._offer

    def connected(self) -> list[Parts]:
        """A connection was made: returns what to send on it."""
        self._offered, self.refused = False, None
        self._transfers.connected()
        if self.finished:
            return []
        session_id = b"" if self._client is None else self._client.session_id
        return [encode(Hello(session_id, len(self._received)))]

    def disconnected(self) -> None:
        """The connection ended. Unless `finished`, connect again: the session goes on where it was."""
        self._offered = False

    def frame_received(self, payload: bytes | memoryview) -> list[Parts]:
        """A frame came: returns the frames to send, which are durable by then.

        What the server does wrong ends in `error`, with all secrets forgotten and the journal deleted.

        Raises:
            JournalError: the journal could not be written; nothing is to be sent. Start again and resume.
            Exception: whatever ``provide_input`` raises. With a journal the client can be resumed.
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
                # The same one again, as a channel without integrity may bring it.
                return []
            self._offered = True
            # Whether it arrived before the connection was lost, the server knows by its number.
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
            raise SessionRefusedError(f"a session that this client cannot take part in: {error}") from None
        # A second part in one session, with one identity, could be played against the first.
        if offer.params.has_identities:
            self._record_of(offer).check(client.session_id)
        if self._journal is not None:
            self._journal.begin(self._client_id, client.session_id, bytes(payload))
        self._client, self._offer, self._offer_digest, self._offered = client, offer, _digest(payload), True
        self._transfers.begin(offer)
        frames = self._answered(self._driver(client).start())
        # Last, so that a client that is stopped in between can be resumed; and before anything is out.
        if offer.params.has_identities:
            self._record_of(offer).enter(client.session_id)
        return frames

    def _check(self, offer: Offer) -> None:
        """SessionRefusedError unless this client agrees to the offer."""
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
        """The machine gave its answer: on the disk with both, and only then out."""
        assert self._client is not None  # noqa: S101 - it has just answered
        assert self._offer is not None  # noqa: S101 - an offer was taken
        if self._client.phase is ClientPhase.FINISHED:
            # The answer releases shares: from here on the round may be in a sum.
            self._record_of(self._offer).answer(self._client.session_id, self._offer.number)
        # Each message of the server's has exactly one answer.
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
            # What a channel without integrity did to our frames a new connection may cure.
            return []
        # A server that runs no session yet may run one later; one that no longer runs this client's will not.
        if refused.code not in _COME_BACK and (self.in_session or refused.code is not RefusalCode.NO_SESSION):
            text = f"the server refused this client: {refused.code.name}{': ' if refused.text else ''}{refused.text}"
            kind = OlderServerError if refused.code is RefusalCode.OLDER_SERVER else SessionRefusedError
            self._fail(kind(text, refused.code, retry_after=refused.retry_after), keep=refused.code in _KEEPS)
        return []

    def _fail(self, error: TransportError | SecAggError, *, keep: bool = False) -> None:
        self.error = error
        self._forget(keep=keep)

    def _forget(self, *, keep: bool = False) -> None:
        """The session is over for this client; ``keep`` the journal where another process may go on with it."""
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
