"""Clients whose work was done before: they send recorded messages over real connections, and compute nothing.

With the same nonce and the same randomness a server asks the same questions again, so the recorded answers fit and the
sum is exact. What is left of a client is its TLS and its frames.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secagg import Client, Completed, EntropySource, Parameters, Server
from transport import ClientDriver, Deadlines, ServerDriver
from transport.certificates.reading import Credentials
from transport.driver import Parts
from transport.durable import frames as link
from transport.durable.pieces import Large, Piece, Want
from transport.durable.transfers import Receiving, Sending, is_large
from transport.tcp import Address, Limits, Retry, SessionClient

NONCE = b"recorded"


def repeatable(name: str) -> EntropySource:
    """Return randomness that is the same each time."""
    counter = itertools.count()
    return lambda size: hashlib.shake_128(f"{name} {next(counter)}".encode()).digest(size)


def record(params: Parameters, folder: Path) -> npt.NDArray[Any]:
    """Run a session in memory, store each client's messages in the folder, and return the sum."""
    rng = np.random.default_rng(1)
    clients = {}
    for client_id in range(params.num_clients):
        vector = rng.integers(0, 1 << params.value_bits, params.vector_length)
        client = Client(params, client_id, nonce=NONCE, entropy=repeatable(f"client {client_id}"))
        clients[client_id] = ClientDriver(client, lambda vector=vector: vector)  # type: ignore[misc]
    bodies: dict[int, list[bytes]] = {client_id: [] for client_id in clients}
    driver = ServerDriver(Server(params, nonce=NONCE, entropy=repeatable("server")), Deadlines())
    driver.start(0.0)
    answers = [(client_id, parts) for client_id, client in clients.items() for parts in client.start()]
    while answers:
        deliveries = []
        for client_id, parts in answers:
            data = b"".join(parts)
            bodies[client_id].append(data)
            deliveries += driver.data_received(client_id, data, 0.0)
        answers = [(i, parts) for i, data in deliveries for parts in clients[i].data_received(data)]
    assert driver.job is not None
    driver.finish(driver.job.run(), 0.0)
    assert isinstance(driver.outcome, Completed)
    assert len(driver.outcome.included) == params.num_clients
    for client_id, recorded in bodies.items():
        (folder / f"{client_id}.messages").write_bytes(pickle.dumps(recorded))
    return driver.outcome.sum


class Replay:
    """One client, with the interface of `transport.ClientHost` that a `SessionClient` uses."""

    refused: link.Refused | None = None

    def __init__(self, recorded: list[bytes]) -> None:
        self._recorded = recorded
        self._session: bytes = b""
        self._sending: dict[bytes, Sending] = {}
        self._receiving: Receiving | None = None
        self.finished = False

    def connected(self) -> list[Parts]:
        """Return HELLO."""
        return [link.encode(link.Hello())]

    def left(self) -> None:
        """Fail: a benchmark with broken connections measures something else."""
        if not self.finished:
            raise RuntimeError("a connection broke")

    def frame_received(self, payload: bytes | memoryview) -> list[Parts]:
        """Answer with what was recorded."""
        match link.decode_server_frame(payload):
            case link.Offer():
                return self._say(0)
            case link.Message(sequence=sequence):
                return self._say(sequence + 1)
            case Large() as large:
                self._receiving = Receiving(large)
                return [link.encode(self._receiving.restart())]
            case Piece() as piece:
                assert self._receiving is not None
                want = self._receiving.add(piece)
                if self._receiving.is_whole:
                    head = link.decode_server_frame(self._receiving.large.head)
                    assert isinstance(head, link.Message)
                    return self._say(head.sequence + 1)
                return [] if want is None else [link.encode(want)]
            case Want() as want:
                return self._sending[want.digest].wanted(want)[0]
            case link.End():
                self.finished = True
            case link.Refused() as refused:
                raise RuntimeError(f"refused: {refused}")
        return []

    def _say(self, sequence: int) -> list[Parts]:
        parts = link.encode(link.Message(sequence, self._recorded[sequence]))
        if is_large(parts):
            sending = Sending(parts)
            self._sending[sending.large.digest] = sending
            parts = link.encode(sending.large)
        return [parts]


async def replay(folder: Path, own: list[int], addresses: list[Address], certs: Path) -> None:
    """Run recorded clients to the session's end."""
    limits, retry = Limits(handshake_seconds=120, idle_seconds=300), Retry(first=0.1, longest=1)

    async def one(client_id: int, recorded: list[bytes]) -> None:
        client = SessionClient(
            Replay(recorded),  # type: ignore[arg-type]
            client_id,
            address=addresses,
            tls=Credentials.of_client(certs, client_id),
            limits=limits,
            retry=retry,
        )
        await client.run()

    # Read before the clock starts.
    recorded = {i: pickle.loads((folder / f"{i}.messages").read_bytes()) for i in own}  # noqa: S301 - just written
    print('{"ready": true}', flush=True)
    await asyncio.to_thread(input)
    await asyncio.gather(*(one(i, recorded[i]) for i in own))
    print('{"done": true}', flush=True)
