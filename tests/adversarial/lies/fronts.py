"""Connections to an honest client: the library's own machine, and the host around it in a process.

A front opens runs of clients and returns the line to each.  Only bytes pass.
"""

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np

from secagg import (
    Adversary,
    Client,
    ClientPhase,
    CodecError,
    InputRequested,
    Parameters,
    RemoteProtocolError,
    SessionPolicy,
    decode_server_message,
    encode,
)
from secagg.messages import UnmaskingShares
from tests.adversarial.lies.ledger import Line, Refused
from tests.support.sessions import SeededEntropy, directory_of, identity_of
from transport import ClientHost, ClientJournal, ClientRecord, Participation
from transport.durable.frames import Ack, End, EndCode, Hello, Message, Offer, RefusalCode, decode_client_frame
from transport.durable.frames import Refused as RefusedFrame
from transport.durable.frames import encode as encode_frame


@dataclass(frozen=True)
class Terms:
    """The server's announcement of a session; ``model`` is the application's part."""

    params: Parameters
    nonce: bytes
    model: bytes
    number: int


class Front(Protocol):
    """The place where the clients live.

    Attributes:
        answers_once: whether a client takes part in a session once, and answers a round once, for all servers.
        gives_numbers: whether the server assigns a client's number in a session.
        sizes: the inputs' sizes, by the names of `Parameters`; or a function of the number of clients.
    """

    answers_once: bool
    gives_numbers: bool
    sizes: Mapping[str, int] | Callable[[int], Mapping[str, int]]

    def open(self, client_id: int, owner: int, terms: Terms) -> tuple[Line, bytes]:
        """Let a client take part; return the line to it and its first message. `Refused` if it does not."""
        ...

    def context(self, terms: Terms) -> bytes:
        """Return what the application binds into the session."""
        ...

    def same_input(self, owner: int, terms: Terms) -> Hashable:
        """Return a value that is equal for runs with the same input; None: no two runs have the same input."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallGraphs(SessionPolicy):
    """A client's policy that accepts smaller sparse graphs than `secagg.plan` makes; lies get further in them."""

    def check(self, params: Parameters) -> None:
        if params.is_complete or params.adversary is not self.adversary:
            SessionPolicy.check(self, params)


def who(client_id: int, params: Parameters) -> dict[str, Any]:
    """Return a client's identity and directory, in the mode that has them."""
    if not params.has_identities:
        return {}
    return {"identity": identity_of(client_id), "directory": _DIRECTORY}


MOST_CLIENTS = 60

_DIRECTORY = directory_of(range(MOST_CLIENTS))

SMALL = {"vector_length": 4, "value_bits": 8}


def bound(terms: Terms) -> bytes:
    """Return the context of a session in which an application binds the model that it received."""
    return hashlib.sha256(terms.model).digest()


class LibraryLine:
    """A line to a `secagg.Client`, over encoded bytes."""

    def __init__(self, client_id: int, terms: Terms, context: bytes, seed: str) -> None:
        self._who = who(client_id, terms.params)
        self._params = terms.params
        self._vector = random_input(terms.params, seed)
        self.entropy = SeededEntropy(seed)
        self._client = Client(
            terms.params, client_id, context=context, nonce=terms.nonce, entropy=self.entropy, **self._who
        )
        self.basis = terms.model
        self.input: list[int] | None = None
        self._answered = False

    def start(self) -> bytes:
        return self._answer(self._client.start())

    def tell(self, data: bytes, *, again: bool = False) -> bytes:
        try:
            return self._answer(self._client.receive(decode_server_message(data, self._params)))
        except CodecError as error:
            self._client.abort()
            raise Refused(type(error).__name__) from None
        except RemoteProtocolError as error:
            assert self._client.phase is ClientPhase.ABORTED
            raise Refused(error.rule.name) from None

    def _answer(self, events: tuple[Any, ...]) -> bytes:
        (event,) = events
        if isinstance(event, InputRequested):
            self.input = self._vector.tolist()
            (event,) = self._client.submit_input(self._vector)
        self._answered = isinstance(event.message, UnmaskingShares)
        return encode(event.message, self._params)

    def crash(self) -> None:
        """Suspend the client to bytes, and resume it."""
        if not self._answered:
            self._client = Client.resume(self._client.suspend(), **self._who)


class LibraryFront:
    """A front of bare machines. Their host must see to it that no client takes part twice."""

    answers_once = False
    gives_numbers = False
    sizes = SMALL

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def open(self, client_id: int, owner: int, terms: Terms) -> tuple[Line, bytes]:
        self._count += 1
        line = LibraryLine(client_id, terms, bound(terms), f"{self._seed}/{self._count}")
        return line, line.start()

    def context(self, terms: Terms) -> bytes:
        return bound(terms)

    def same_input(self, owner: int, terms: Terms) -> None:
        return None

    def close(self) -> None:
        pass


class HostLine:
    """A line to a `transport.ClientHost`, over the frames of the link protocol.

    ``revive`` returns the host of a process that was killed and started again; without it, only connections are lost.
    """

    def __init__(self, host: ClientHost, offer: Offer, revive: Callable[[], ClientHost] | None) -> None:
        self._host, self._offer, self._revive = host, offer, revive
        self._sent = 0
        self.basis = offer.extra
        self.input: list[int] | None = None

    def connect(self, offer: Offer | None = None) -> bytes | None:
        """Send HELLO and OFFER; return the client's frames after them."""
        self._host.left()
        for hello in self._host.connected():
            assert isinstance(decode_client_frame(b"".join(hello)), Hello)
            return self._frame(offer or self._offer)
        return None

    def offer_another(self, **changes: Any) -> None:
        """Lose the connection, and offer another session on the next one."""
        self.connect(replace(self._offer, **changes))

    def tell(self, data: bytes, *, again: bool = False) -> bytes | None:
        if again and self._sent:
            return self._frame(Message(self._sent - 1, data))
        self._sent += 1
        return self._frame(Message(self._sent - 1, data))

    def _frame(self, frame: Any) -> bytes | None:
        answers = self._host.frame_received(b"".join(encode_frame(frame)))
        if self._host.error is not None:
            error = self._host.error
            raise Refused(error.rule.name if isinstance(error, RemoteProtocolError) else type(error).__name__)
        if not answers:
            return None
        (answer,) = answers
        said = decode_client_frame(b"".join(answer))
        assert isinstance(said, Message)
        return bytes(said.body)

    def acknowledge(self, sequence: int) -> None:
        """Acknowledge the client's answer, as a server does when it is stored."""
        self._frame(Ack(sequence))

    def crash(self) -> bytes | None:
        """Kill and restart the client's process if it has a journal; otherwise lose its connection."""
        if self._revive is not None:
            self._host = self._revive()
        return self.connect()

    def end(self, included: int) -> None:
        """End the session normally."""
        if not self._host.finished:
            self._host.frame_received(b"".join(encode_frame(End(EndCode.COMPLETED, included))))

    def dismiss(self) -> None:
        """Tell the client that the session continues without it: it forgets everything but the record."""
        if not self._host.finished:
            self._host.frame_received(b"".join(encode_frame(RefusedFrame(RefusalCode.DROPPED))))


def offer_of(terms: Terms, extra: bytes) -> Offer:
    """Return the offer of a session, with the application's announcement."""
    return Offer(terms.params, terms.nonce, extra, terms.number)


@dataclass
class HostFront:
    """A front of clients in processes: one host at a time for each, and a record that outlives it.

    Some keep a journal.  A client that is asked for one round again has the same input for it.
    """

    mode: Adversary
    folder: Path
    rng: Random
    journals: float = 0.1
    answers_once: bool = True
    gives_numbers: bool = False
    sizes: Mapping[str, int] = field(default_factory=lambda: SMALL)
    _lines: dict[int, tuple[HostLine, ClientJournal | None]] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        self._participation = Participation(None)

    def _record(self, client_id: int) -> ClientRecord:
        return ClientRecord(self._participation, identity_of(client_id).public_key, training="training")

    def open(self, client_id: int, owner: int, terms: Terms) -> tuple[Line, bytes]:
        self._leave(client_id)
        self._count += 1
        journal = self._journal(client_id)
        line: HostLine

        def give(offer: Offer) -> np.ndarray:
            vector = random_input(offer.params, f"{client_id}/{offer.number}")
            line.input = vector.tolist()
            return vector

        def revive() -> ClientHost:
            newest, journal = self._lines[client_id]
            if newest is not line or journal is None:
                raise Refused("GONE")
            journal.close()
            reopened = self._journal(client_id, again=True)
            self._lines[client_id] = line, reopened
            arguments = who(client_id, terms.params)
            return ClientHost.resume(reopened, give, record=self._record(client_id), **arguments)

        host = ClientHost(
            client_id,
            give,
            accept=SmallGraphs(adversary=self.mode),
            context=lambda offer: hashlib.sha256(offer.extra).digest(),
            record=self._record(client_id),
            journal=journal,
            entropy=SeededEntropy(f"host/{self.rng.random()}"),
            **who(client_id, terms.params),
        )
        line = HostLine(host, offer_of(terms, terms.model), None if journal is None else revive)
        self._lines[client_id] = line, journal
        first = line.connect()
        assert first is not None
        return line, first

    def _journal(self, client_id: int, *, again: bool = False) -> ClientJournal | None:
        if not again and self.rng.random() >= self.journals:
            return None
        return ClientJournal(self.folder / f"client-{client_id}.journal", self.folder / "journal-key")

    def _leave(self, client_id: int) -> None:
        """Let the client leave its session: it takes part in one at a time."""
        if client_id in self._lines:
            line, journal = self._lines.pop(client_id)
            line.dismiss()
            if journal is not None:
                journal.delete()

    def context(self, terms: Terms) -> bytes:
        return bound(terms)

    def same_input(self, owner: int, terms: Terms) -> tuple[int, int]:
        return owner, terms.number

    def close(self) -> None:
        for client_id in list(self._lines):
            self._leave(client_id)


def random_input(params: Parameters, seed: str) -> np.ndarray:
    """Return any input that such a session accepts."""
    rng = np.random.default_rng(list(seed.encode()))
    return rng.integers(0, (1 << params.value_bits) - 1, params.vector_length, dtype=np.uint64, endpoint=True)
