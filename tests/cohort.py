"""A cohort of clients and a server that exchange encoded bytes in lockstep, with hooks to lose or change messages."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

import secagg
from secagg import (
    SERVER,
    Client,
    ClientDropped,
    InputRequested,
    Parameters,
    RemoteProtocolError,
    Send,
    Server,
    ServerPhase,
    UnmaskReady,
)
from secagg.params import required_ring_bits

# What a client does last, by the round in which it is missing.
BEFORE_KEYS, BEFORE_SHARES, BEFORE_INPUT, BEFORE_UNMASKING = range(4)
NEVER = 4


def make_params(num_clients=5, threshold=3, vector_length=10, value_bits=8, ring_bits=None, modular=False) -> Parameters:
    return Parameters(
        num_clients=num_clients,
        threshold=threshold,
        degree=num_clients - 1,
        vector_length=vector_length,
        value_bits=value_bits,
        ring_bits=required_ring_bits(num_clients, value_bits) if ring_bits is None else ring_bits,
        modular=modular,
    )


def seeded_entropy(seed: str) -> Callable[[int], bytes]:
    """A repeatable source: SHAKE-256 of the seed and a counter. For tests alone."""
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(size)

    return draw


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


@dataclass
class Cohort:
    """Runs one session. ``uplink``/``downlink`` may replace a message, or return None to lose it."""

    params: Parameters
    inputs: dict[int, np.ndarray]
    missing_from: dict[int, int] = field(default_factory=dict)
    uplink: Callable[[int, object], object | None] = lambda client_id, message: message
    downlink: Callable[[int, object], object | None] = lambda client_id, message: message
    context: bytes = b"test"
    client_contexts: dict[int, bytes] = field(default_factory=dict)
    entropy_seed: str | None = None
    suspend: bool = False
    workers: int = 1
    parts: int = 0

    def run(self) -> Outcome:
        params = self.params
        entropy = {} if self.entropy_seed is None else {"entropy": seeded_entropy(f"{self.entropy_seed}/server")}
        self.server = Server(params, self.inputs.keys(), context=self.context, **entropy)
        self.clients = {}
        self.dropped: dict[int, ClientDropped] = {}
        self.refused: dict[int, RemoteProtocolError] = {}
        for client_id in self.inputs:
            if self.entropy_seed is not None:
                entropy = {"entropy": seeded_entropy(f"{self.entropy_seed}/{client_id}")}
            context = self.client_contexts.get(client_id, self.context)
            self.clients[client_id] = Client(params, client_id, context=context, **entropy)
        for client_id, client in self.clients.items():
            if self._present(client_id, BEFORE_KEYS):
                self._from_client(client_id, client.start())
        for stage in (BEFORE_SHARES, BEFORE_INPUT, BEFORE_UNMASKING, NEVER):
            end = self._close(stage)
            if end is not None:
                return Outcome(end, self.dropped, self.refused, self.server, self.clients)
        raise AssertionError("the session did not end")

    def _present(self, client_id: int, stage: int) -> bool:
        return self.missing_from.get(client_id, NEVER) > stage

    def _close(self, stage: int):
        for event in self.server.close_round():
            match event:
                case ClientDropped():
                    self.dropped[event.client_id] = event
                case Send():
                    if self._present(event.to, stage):
                        self._to_client(event.to, event.message)
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
        message = self.downlink(client_id, message)
        if message is None:
            return
        data = secagg.encode(message, self.params)
        assert len(data) <= secagg.max_message_bytes(self.params)
        decoded = secagg.decode_server_message(data, self.params)
        try:
            self._from_client(client_id, self._client(client_id).receive(decoded))
        except RemoteProtocolError as error:
            self.refused[client_id] = error

    def _client(self, client_id: int) -> Client:
        if self.suspend:
            self.clients[client_id] = Client.resume(self.clients[client_id].suspend())
        return self.clients[client_id]

    def _from_client(self, client_id: int, events) -> None:
        for event in events:
            match event:
                case InputRequested():
                    client = self._client(client_id)
                    self._from_client(client_id, client.submit_input(self.inputs[client_id]))
                case Send():
                    assert event.to is SERVER
                    message = self.uplink(client_id, event.message)
                    if message is None:
                        continue
                    data = secagg.encode(message, self.params)
                    assert len(data) <= secagg.max_message_bytes(self.params)
                    for drop in self.server.receive(client_id, secagg.decode_client_message(data, self.params)):
                        self.dropped[client_id] = drop
