"""Sessions in lockstep: their parameters, identities and inputs, and the cohort that plays and records them."""

import hashlib
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from secagg import (
    SERVER,
    Aborted,
    Adversary,
    Client,
    ClientDropped,
    ClientPhase,
    CodecError,
    Completed,
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
    UnmaskJob,
    UnmaskReady,
    decode_client_message,
    decode_server_message,
    encode,
    max_message_bytes,
)
from secagg.events import ClientEvent, ServerEvent
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import required_ring_bits

# Each client's last message, by the round in which it is missing.
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
    noise_components=0,
    corrupt_clients=0,
) -> Parameters:
    """Return parameters: of the complete graph without ``degree``, and of the smallest ring without ``ring_bits``."""
    return Parameters(
        num_clients=num_clients,
        threshold=threshold,
        degree=num_clients - 1 if degree is None else degree,
        vector_length=vector_length,
        value_bits=value_bits,
        ring_bits=required_ring_bits(num_clients, value_bits) if ring_bits is None else ring_bits,
        modular=modular,
        adversary=adversary,
        noise_components=noise_components,
        corrupt_clients=corrupt_clients,
    )


def any_session(offer: object) -> None:
    """Accept every offer: most tests are not about clients' policies."""


def identity_of(client_id: int) -> Identity:
    """Return a client's identity, the same in every session of the tests."""
    return Identity(hashlib.sha256(f"identity/{client_id}".encode()).digest())


def directory_of(client_ids: Iterable[int]) -> PinnedKeys:
    """Return all clients' identity keys."""
    return PinnedKeys({client_id: identity_of(client_id).public_key for client_id in client_ids})


class SeededEntropy:
    """A repeatable source that records its output: SHAKE-256 of the seed and a counter. For tests only.

    The record is kept outside the object: a walk over all that a machine reaches must not find it.
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
        """Return the source's output so far, in order."""
        return list(_DRAWS[self])


_DRAWS: weakref.WeakKeyDictionary[SeededEntropy, list[bytes]] = weakref.WeakKeyDictionary()


def random_inputs(params: Parameters, seed: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        client_id: rng.integers(0, (1 << params.value_bits) - 1, params.vector_length, dtype=np.uint64, endpoint=True)
        for client_id in range(params.num_clients)
    }


def exact_sum(params: Parameters, inputs: Iterable[np.ndarray]) -> list[int]:
    """Return the sum in the ring, with Python's own integers."""
    return [sum(map(int, column)) % params.modulus for column in zip(*inputs, strict=True)]


AWAITED: dict[ServerPhase, type] = {
    ServerPhase.ADVERTISE_KEYS: AdvertiseKeys,
    ServerPhase.SHARE_KEYS: ShareKeys,
    ServerPhase.MASKED_INPUT_COLLECTION: MaskedInput,
    ServerPhase.CONSISTENCY_CHECK: ConsistencyCheck,
    ServerPhase.UNMASKING: UnmaskingShares,
}
"""The clients' message in each phase of the server."""


@dataclass(eq=False)
class Cohort:
    """A session in lockstep that keeps every message, so that a machine in any phase can be rebuilt.

    Every message is encoded and decoded. ``uplink`` and ``downlink`` may replace a message: by None to lose it, or by a
    list or tuple of messages and bytes. A client in ``missing_from`` vanishes before the given round; the server
    learns it from the deadline, or at once if the client is in ``disconnects`` too. The order of ``inputs`` is the
    order in which clients answer. With ``entropy_seed`` all randomness is repeatable.

    ``sent`` keeps the true message of each client, and ``told`` the messages that each client accepted: by type, then
    by client; ``noise_keys`` has each client's own.
    """

    params: Parameters
    inputs: dict[int, np.ndarray]
    missing_from: Mapping[int, int] = field(default_factory=dict)
    uplink: Callable[[int, Any], Any] = lambda client_id, message: message
    downlink: Callable[[int, Any], Any] = lambda client_id, message: message
    context: bytes = b"test"
    nonce: bytes = b""
    client_contexts: Mapping[int, bytes] = field(default_factory=dict)
    entropy_seed: str | None = None
    suspend: bool = False
    workers: int = 1
    parts: int = 0
    disconnects: Collection[int] = ()
    entropy: dict[int, SeededEntropy] = field(default_factory=dict, init=False)
    clients: dict[int, Client] = field(init=False)
    server: Server = field(init=False)
    sent: dict[type, dict[int, Any]] = field(default_factory=dict, init=False)
    told: dict[type, dict[int, Any]] = field(default_factory=dict, init=False)
    noise_keys: dict[int, tuple[bytes, ...]] = field(default_factory=dict, init=False)
    refused: dict[int, RemoteProtocolError | CodecError] = field(default_factory=dict, init=False)
    dropped: dict[int, ClientDropped] = field(default_factory=dict, init=False)
    disputed: SharesDisputed | None = field(default=None, init=False)
    job: UnmaskJob | None = field(default=None, init=False)
    end: Completed | Aborted | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.params.has_identities:
            self.nonce = self.nonce or b"nonce"
        if self.entropy_seed is not None:
            self.entropy = {client_id: self.source(client_id) for client_id in self.inputs}
        self.server = self.new_server()
        self.clients = {client_id: self.new_client(client_id, self.entropy.get(client_id)) for client_id in self.inputs}

    # --- The whole session --------------------------------------------------------------------------------------------

    def run(self) -> Self:
        """Play to the end, losing the clients that vanish."""
        self._lose(BEFORE_KEYS)
        self.start()
        consistency = (BEFORE_CONSISTENCY,) if self.params.is_signed else ()
        for stage in (BEFORE_SHARES, BEFORE_INPUT, *consistency, BEFORE_UNMASKING, NEVER):
            self._lose(stage)
            letters = self.open()
            if self.end is not None:
                return self
            self.deliver({client_id: letter for client_id, letter in letters.items() if self._stays(client_id, stage)})
        raise AssertionError("the session did not end")

    def _lose(self, stage: int) -> None:
        # A session without ConsistencyCheck loses a client there before Unmasking.
        lost = (stage, BEFORE_CONSISTENCY) if stage == BEFORE_UNMASKING and not self.params.is_signed else (stage,)
        for client_id in self.disconnects:
            if self.missing_from.get(client_id) in lost:
                self.note(self.server.drop(client_id, DropReason.DISCONNECTED))

    def _stays(self, client_id: int, stage: int) -> bool:
        return self.missing_from.get(client_id, NEVER) > stage

    # --- Step by step -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let all present clients advertise their keys."""
        for client_id in self.clients:
            if self._stays(client_id, BEFORE_KEYS):
                self._from_client(client_id, self._client(client_id).start())

    def open(self) -> dict[int, Any]:
        """Close the open round; return the server's messages, not delivered yet."""
        letters: dict[int, Any] = {}
        for event in self.server.close_round():
            match event:
                case Send(to=int() as client_id):
                    self._check_size(event.message)
                    letters[client_id] = event.message
                case ClientDropped():
                    self.note((event,))
                case SharesDisputed():
                    self.disputed = event
                case UnmaskReady():
                    assert self.server.phase is ServerPhase.RECOVERY
                    self.end = self._recover(event.job)
                case Aborted():
                    assert self.server.phase is ServerPhase.ABORTED
                    self.end = event
        return letters

    def _recover(self, job: UnmaskJob) -> Completed:
        self.job = job
        masks = job.combine([part.run() for part in job.split(self.parts)]) if self.parts else job.run(self.workers)
        (end,) = self.server.finish(masks)
        assert isinstance(end, Completed)
        assert self.server.phase is ServerPhase.COMPLETED
        return end

    def deliver(self, letters: Mapping[int, Any]) -> None:
        """Deliver to each client its message."""
        for client_id, message in letters.items():
            self.tell(client_id, *_listed(self.downlink(client_id, message)))

    def tell(self, client_id: int, *messages: Any) -> list[Any]:
        """Send messages or bytes to a client; return its answers. A client that was aborted does not answer."""
        released = []
        for message in messages:
            if self.clients[client_id].phase is ClientPhase.ABORTED:
                break
            client = self._client(client_id)
            try:
                arrived = decode_server_message(self._bytes(message), self.params)
                events = client.receive(arrived)
            except CodecError as error:
                self.refused[client_id] = error
                client.abort()
            except RemoteProtocolError as error:
                self.refused[client_id] = error
                assert client.phase is ClientPhase.ABORTED
            else:
                self.told.setdefault(type(arrived), {})[client_id] = arrived
                released += self._from_client(client_id, events)
        return released

    def forward(self, client_id: int, *messages: Any) -> None:
        """Give messages or bytes to the server, as if they came from this client."""
        for message in messages:
            try:
                arrived = decode_client_message(self._bytes(message), self.params)
            except CodecError as error:
                self.note(self.server.drop(client_id, DropReason.MALFORMED, str(error)))
            else:
                self.note(self.server.receive(client_id, arrived))

    def note(self, drops: Iterable[ServerEvent]) -> None:
        """Record why a client was dropped."""
        for drop in drops:
            assert isinstance(drop, ClientDropped)
            self.dropped.setdefault(drop.client_id, drop)

    def _client(self, client_id: int) -> Client:
        if self.suspend:
            given = self.host_of(client_id) | ({"entropy": self.entropy[client_id]} if self.entropy else {})
            self.clients[client_id] = Client.resume(self.clients[client_id].suspend(), **given)
        return self.clients[client_id]

    def _from_client(self, client_id: int, events: Iterable[ClientEvent]) -> list[Any]:
        said: list[Any] = []
        for event in events:
            if isinstance(event, InputRequested):
                client = self._client(client_id)
                self.noise_keys[client_id] = client.noise_keys()
                said += self._from_client(client_id, client.submit_input(self.inputs[client_id]))
            else:
                assert event.to is SERVER
                self._check_size(event.message)
                of_type = self.sent.setdefault(type(event.message), {})
                assert client_id not in of_type, "a client answers each round only once"
                of_type[client_id] = event.message
                said.append(event.message)
                self.forward(client_id, *_listed(self.uplink(client_id, event.message)))
        return said

    def _bytes(self, message: Any) -> bytes:
        return message if isinstance(message, bytes) else encode(message, self.params)

    def _check_size(self, message: Any) -> None:
        assert len(encode(message, self.params)) <= max_message_bytes(self.params, type(message))

    # --- Machines in any phase ----------------------------------------------------------------------------------------

    @property
    def session_id(self) -> bytes:
        return self.server.session_id

    def source(self, name: int | str) -> SeededEntropy:
        """Return a machine's randomness, from its beginning."""
        return SeededEntropy(f"{self.entropy_seed}/{name}")

    def new_client(self, client_id: int, entropy: SeededEntropy | None = None) -> Client:
        """Return a client at its start."""
        given = self.host_of(client_id) | ({"entropy": entropy} if entropy else {})
        context = self.client_contexts.get(client_id, self.context)
        return Client(self.params, client_id, context=context, nonce=self.nonce, **given)

    def new_server(self) -> Server:
        """Return a server at its start, with the randomness of the session."""
        given = self.trust | ({} if self.entropy_seed is None else {"entropy": self.source("server")})
        return Server(self.params, self.inputs.keys(), context=self.context, nonce=self.nonce, **given)

    @property
    def trust(self) -> dict[str, Any]:
        """Return a directory that knows all clients' identities."""
        return {"directory": directory_of(self.inputs)} if self.params.has_identities else {}

    def host_of(self, client_id: int) -> dict[str, Any]:
        """Return the arguments that the client's host passes at the start and when it resumes the client."""
        return {**self.trust, "identity": identity_of(client_id)} if self.params.has_identities else {}

    def client_in(self, phase: ClientPhase, client_id: int, entropy: SeededEntropy | None = None) -> Client:
        """Return a client that has received the recorded messages up to this phase."""
        client = self.new_client(client_id, entropy or self.source(client_id))
        steps: list[Callable[[], object]] = [
            client.start,
            lambda: client.receive(self.told[PeerKeys][client_id]),
            lambda: client.receive(self.told[PeerShares][client_id]),
            lambda: client.submit_input(self.inputs[client_id]),
            lambda: client.receive(self.told[SurvivorList][client_id]),
            lambda: client.receive(self.told[ConsistencyProof][client_id]),
        ]
        if phase in (ClientPhase.ABORTED, ClientPhase.SUSPENDED):
            client.start()
            (client.abort if phase is ClientPhase.ABORTED else client.suspend)()
        for step in steps:
            if client.phase is phase:
                break
            step()
        assert client.phase is phase
        return client

    def server_in(self, phase: ServerPhase) -> Server:
        """Return a server in this phase that has received no message of its round."""
        server = self.new_server()
        if phase is ServerPhase.ABORTED:
            server.abort()
        while server.phase is not phase:
            if server.phase is ServerPhase.RECOVERY:
                assert self.job is not None
                server.finish(self.job.run())
                continue
            for client_id, message in self.sent[AWAITED[server.phase]].items():
                server.receive(client_id, message)
            server.close_round()
        return server


def _listed(messages: Any) -> list[Any] | tuple[Any, ...]:
    if messages is None:
        return []
    return messages if isinstance(messages, list | tuple) else [messages]
