"""A cohort of clients and a server that exchange encoded bytes in lockstep, with hooks to lose or change messages."""

import hashlib
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

import secagg
from secagg import (
    SERVER,
    Adversary,
    Client,
    ClientDropped,
    CodecError,
    DropReason,
    Identity,
    InputRequested,
    Parameters,
    PinnedKeys,
    RemoteProtocolError,
    Send,
    Server,
    ServerPhase,
    SharesDisputed,
    UnmaskReady,
)
from secagg.params import required_ring_bits

# What a client does last, by the round in which it is missing.
BEFORE_KEYS, BEFORE_SHARES, BEFORE_INPUT, BEFORE_CONSISTENCY, BEFORE_UNMASKING = range(5)
NEVER = 5


def make_params(
    num_clients=5,
    threshold=3,
    vector_length=10,
    value_bits=8,
    ring_bits=None,
    modular=False,
    degree=None,
    adversary=Adversary.HONEST_BUT_CURIOUS,
) -> Parameters:
    """Parameters of the complete graph, if no ``degree`` is given, and of the smallest ring, if no ``ring_bits``."""
    return Parameters(
        num_clients=num_clients,
        threshold=threshold,
        degree=num_clients - 1 if degree is None else degree,
        vector_length=vector_length,
        value_bits=value_bits,
        ring_bits=required_ring_bits(num_clients, value_bits) if ring_bits is None else ring_bits,
        modular=modular,
        adversary=adversary,
    )


def any_session(offer: object) -> None:
    """Accept every offer: most tests are not about what clients agree to."""


def identity_of(client_id: int) -> Identity:
    """A client's identity, the same in every session of the tests."""
    return Identity(hashlib.sha256(f"identity/{client_id}".encode()).digest())


def directory_of(client_ids: Iterable[int]) -> PinnedKeys:
    """Everyone's identity keys."""
    return PinnedKeys({client_id: identity_of(client_id).public_key for client_id in client_ids})


class SeededEntropy:
    """A repeatable source that records what it gave: SHAKE-256 of the seed and a counter. For tests alone.

    The record is kept outside the object: whoever walks over what a machine reaches must not find it there.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0
        _DRAWS[self] = []

    def __call__(self, size: int) -> bytes:
        self._count += 1
        drawn = hashlib.shake_256(f"{self._seed}/{self._count}".encode()).digest(size)
        _DRAWS[self].append(drawn)
        return drawn

    @property
    def draws(self) -> list[bytes]:
        """What the source has given so far, in order."""
        return list(_DRAWS[self])


_DRAWS: weakref.WeakKeyDictionary[SeededEntropy, list[bytes]] = weakref.WeakKeyDictionary()


def seeded_entropy(seed: str) -> SeededEntropy:
    """A repeatable, recording source."""
    return SeededEntropy(seed)


def random_inputs(params: Parameters, seed: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        client_id: rng.integers(0, (1 << params.value_bits) - 1, params.vector_length, dtype=np.uint64, endpoint=True)
        for client_id in range(params.num_clients)
    }


def exact_sum(params: Parameters, inputs: Iterable[np.ndarray]) -> list[int]:
    """The sum in the ring, with Python's own integers."""
    return [sum(map(int, column)) % params.modulus for column in zip(*inputs, strict=True)]


@dataclass
class Outcome:
    """What a session came to."""

    end: secagg.Completed | secagg.Aborted
    dropped: dict[int, ClientDropped]
    refused: dict[int, RemoteProtocolError]
    server: Server
    clients: dict[int, Client]
    disputed: SharesDisputed | None = None


@dataclass
class Cohort:
    """Runs one session, message by message.

    ``uplink`` and ``downlink`` may replace a message, return None to lose it, or give a list of messages to send
    instead.  A client in ``missing_from`` vanishes before the given round; the server learns it from the deadline,
    or at once if the client is in ``disconnects`` too.  The order of ``inputs`` is the order in which clients answer.
    ``sent`` keeps what the clients meant to send, by type and client; ``entropy`` their sources, if they are seeded.
    """

    params: Parameters
    inputs: dict[int, np.ndarray]
    missing_from: dict[int, int] = field(default_factory=dict)
    uplink: Callable[[int, object], object | None] = lambda client_id, message: message
    downlink: Callable[[int, object], object | None] = lambda client_id, message: message
    context: bytes = b"test"
    nonce: bytes = b""
    client_contexts: dict[int, bytes] = field(default_factory=dict)
    entropy_seed: str | None = None
    suspend: bool = False
    workers: int = 1
    parts: int = 0
    disconnects: Collection[int] = ()
    entropy: dict[int, SeededEntropy] = field(default_factory=dict, init=False)
    sent: dict[type, dict[int, object]] = field(default_factory=dict, init=False)

    def run(self) -> Outcome:
        params = self.params
        server_entropy = {} if self.entropy_seed is None else {"entropy": seeded_entropy(f"{self.entropy_seed}/server")}
        if params.has_identities:
            self.nonce = self.nonce or b"nonce"
            self.directory = directory_of(self.inputs)
            server_entropy["directory"] = self.directory
        session = {"context": self.context, "nonce": self.nonce}
        self.server = Server(params, self.inputs.keys(), **session, **server_entropy)
        self.clients = {}
        self.disputed: SharesDisputed | None = None
        self.dropped: dict[int, ClientDropped] = {}
        self.refused: dict[int, RemoteProtocolError] = {}
        for client_id in self.inputs:
            if self.entropy_seed is not None:
                self.entropy[client_id] = seeded_entropy(f"{self.entropy_seed}/{client_id}")
            session["context"] = self.client_contexts.get(client_id, self.context)
            self.clients[client_id] = Client(params, client_id, **session, **self._source(client_id))
        self._disconnect(BEFORE_KEYS)
        for client_id in self.clients:
            if self._present(client_id, BEFORE_KEYS):
                self._from_client(client_id, self._client(client_id).start())
        consistency = (BEFORE_CONSISTENCY,) if params.is_signed else ()
        for stage in (BEFORE_SHARES, BEFORE_INPUT, *consistency, BEFORE_UNMASKING, NEVER):
            self._disconnect(stage)
            end = self._close(stage)
            if end is not None:
                return Outcome(end, self.dropped, self.refused, self.server, self.clients, self.disputed)
        raise AssertionError("the session did not end")

    def _source(self, client_id: int) -> dict[str, object]:
        source: dict[str, object] = {"entropy": self.entropy[client_id]} if client_id in self.entropy else {}
        if self.params.has_identities:
            source |= {"identity": identity_of(client_id), "directory": self.directory}
        return source

    def _disconnect(self, stage: int) -> None:
        for client_id in self.disconnects:
            if self.missing_from.get(client_id) in self._since(stage):
                self._note(self.server.drop(client_id, DropReason.DISCONNECTED))

    def _since(self, stage: int) -> tuple[int, ...]:
        """A session without ConsistencyCheck loses a client there before Unmasking."""
        return (stage, BEFORE_CONSISTENCY) if stage == BEFORE_UNMASKING and not self.params.is_signed else (stage,)

    def _note(self, drops) -> None:
        for drop in drops:
            assert isinstance(drop, ClientDropped)
            self.dropped.setdefault(drop.client_id, drop)

    def _present(self, client_id: int, stage: int) -> bool:
        return self.missing_from.get(client_id, NEVER) > stage

    def _close(self, stage: int):
        for event in self.server.close_round():
            match event:
                case ClientDropped():
                    self._note((event,))
                case Send():
                    if self._present(event.to, stage):
                        self._to_client(event.to, event.message)
                case SharesDisputed():
                    self.disputed = event
                case UnmaskReady():
                    assert self.server.phase is ServerPhase.RECOVERY
                    return self._finish(event.job)
                case _:
                    assert self.server.phase is ServerPhase.ABORTED
                    return event
        return None

    def _finish(self, job):
        masks = job.combine([part.run() for part in job.split(self.parts)]) if self.parts else job.run(self.workers)
        (end,) = self.server.finish(masks)
        assert self.server.phase is ServerPhase.COMPLETED
        return end

    def _to_client(self, client_id: int, message) -> None:
        for replaced in _listed(self.downlink(client_id, message)):
            try:
                self._from_client(client_id, self._client(client_id).receive(self._over_the_wire(replaced)))
            except RemoteProtocolError as error:
                self.refused[client_id] = error
                return

    def _client(self, client_id: int) -> Client:
        if self.suspend:
            blob = self.clients[client_id].suspend()
            self.clients[client_id] = Client.resume(blob, **self._source(client_id))
        return self.clients[client_id]

    def _from_client(self, client_id: int, events) -> None:
        for event in events:
            match event:
                case InputRequested():
                    client = self._client(client_id)
                    self._from_client(client_id, client.submit_input(self.inputs[client_id]))
                case Send():
                    assert event.to is SERVER
                    self.sent.setdefault(type(event.message), {})[client_id] = event.message
                    for message in _listed(self.uplink(client_id, event.message)):
                        try:
                            arrived = self._over_the_wire(message)
                        except CodecError as error:
                            self._note(self.server.drop(client_id, DropReason.MALFORMED, str(error)))
                        else:
                            self._note(self.server.receive(client_id, arrived))

    def _over_the_wire(self, message):
        data = secagg.encode(message, self.params)
        assert len(data) <= secagg.max_message_bytes(self.params, type(message))
        if isinstance(message, secagg.messages.ServerMessage):
            return secagg.decode_server_message(data, self.params)
        return secagg.decode_client_message(data, self.params)


def _listed(messages) -> list:
    if messages is None:
        return []
    return messages if isinstance(messages, list) else [messages]
