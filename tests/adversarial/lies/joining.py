"""`secagg join` as a front: whole participants, which train, over the frames of their connections.

python -m tests.adversarial.lies.joining --sessions 500
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.learning.own_code import make_model
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.serialization import model_to_bytes
from fl.learning.settings import Local
from fl.network import client as joining
from fl.network.announcement import RoundAnnouncement, encode_announcement, round_context
from fl.network.client import Participant
from fl.network.local_data import LocalData
from fl.network.offers import JoinOptions
from fl.network.policy import Policy
from secagg import Adversary, Parameters
from tests.adversarial.lies.fronts import HostLine, SmallGraphs, Terms, offer_of, who
from tests.adversarial.lies.ledger import Line, Refused
from tests.adversarial.random_lies import MakeFront, main
from transport import ClientHost, Offer, tcp
from transport.tcp import PLAINTEXT

IMAGES, CLASSES = (1, 1, 2), 2

DATA = LocalData(torch.linspace(0, 1, 8).reshape(4, *IMAGES), torch.tensor([0, 1, 1, 0]))


@cache
def announced_model(seed: int) -> bytes:
    return model_to_bytes(make_model("logistic", image_shape=IMAGES, num_classes=CLASSES, seed=seed))


SIZES = ParameterLayout.of(make_model("logistic", image_shape=IMAGES, num_classes=CLASSES, seed=0)).sizes
SCALES = Scales((1.0,) * len(SIZES), 8)


def announcement_of(terms: Terms) -> bytes:
    (seed, *_) = terms.model
    return encode_announcement(
        RoundAnnouncement(
            round=terms.number, rounds=10**6, model="logistic", image_shape=IMAGES, num_classes=CLASSES,
            value_bits=8, scales=SCALES,
            training=Local(epochs=1, batch_size=4, learning_rate=0.5),
            model_bytes=announced_model(seed),
        )
    )  # fmt: skip


class SmallPolicy(Policy):
    """A policy like `SmallGraphs`."""

    def check(self, params: Parameters) -> None:
        SmallGraphs.check(self, params)


@dataclass
class Process:
    """One `secagg join`, with the host of its current or next session."""

    task: asyncio.Task[None]
    host: ClientHost | None = None
    line: HostLine | None = None
    left: asyncio.Future[None] | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryClient:
    """A replacement for `transport.tcp.SessionClient`: the host waits for frames that the test brings."""

    front: "JoinFront"

    def __init__(self, host: ClientHost, client_id: int, **connection: Any) -> None:
        self._host, self._client_id = host, client_id

    async def run(self) -> None:
        process = self.front.processes[self._client_id]
        process.host, process.line, process.left = self._host, None, asyncio.get_running_loop().create_future()
        provide = self._host._provide_input

        def watched(offer: Offer) -> np.ndarray:
            vector = provide(offer)
            assert isinstance(vector, np.ndarray)
            assert process.line is not None
            process.line.input = vector.tolist()
            return vector

        self._host._provide_input = watched
        process.arrived.set()
        await process.left


class JoinFront:
    """A front of clients 0, 1, ..., each a process; some keep journals."""

    answers_once = True
    gives_numbers = False

    @staticmethod
    def sizes(num_clients: int) -> dict[str, int]:
        encoding = UpdateEncoding(sizes=SIZES, num_clients=num_clients, value_bits=8, scales=SCALES)
        return {"vector_length": encoding.vector_length, "value_bits": 8}

    def __init__(self, mode: Adversary, folder: Path, rng: Random) -> None:
        self._mode, self._folder, self._rng = mode, folder, rng
        self._name = f"world {rng.random()}"
        self.processes: dict[int, Process] = {}
        self._loop = asyncio.new_event_loop()
        self._patches = ExitStack()

        async def no_time(seconds: float) -> None:
            pass

        memory_client = type("MemoryClientOfFront", (MemoryClient,), {"front": self})
        for place, name, stand_in in (
            (tcp, "SessionClient", memory_client),
            (asyncio, "sleep", no_time),
            # Certificates are tested elsewhere, and reading them takes longer than all the rest.
            (joining, "identity_from", lambda key_file: who(int(key_file.name), _ANY)["identity"]),
            (joining, "CertifiedKeys", lambda folder, authority: who(0, _ANY)["directory"]),
            (joining, "check_certificates", lambda folder, clients: None),
        ):
            self._patches.enter_context(patch.object(place, name, stand_in))

    # --- Processes ----------------------------------------------------------------------------------------------------

    def _start(self, owner: int) -> Process:
        has_journal = self._mode is not Adversary.HONEST_BUT_CURIOUS and owner % 8 == 0
        options = JoinOptions(
            client_id=owner, address=("localhost", 1), tls=PLAINTEXT, identity_key=Path(str(owner)), directory=Path(),
            state=self._folder / self._name / str(owner) if has_journal else None, training=self._name,
            policy=SmallPolicy(adversary=self._mode), max_model_bytes=1 << 20, give_up=10.0,
        )  # fmt: skip
        participant = Participant(options, DATA, lambda line: None)
        process = Process(self._loop.create_task(participant.run()))
        self.processes[owner] = process
        self._until_it_arrives(process)
        return process

    def _until_it_arrives(self, process: Process) -> None:
        """Wait until the frame arrives, or the process ends."""

        async def either() -> None:
            arrived = asyncio.ensure_future(process.arrived.wait())
            await asyncio.wait((arrived, process.task), return_when=asyncio.FIRST_COMPLETED)
            arrived.cancel()

        self._loop.run_until_complete(either())
        process.arrived.clear()

    def _next(self, owner: int) -> ClientHost:
        """Return the host of a session that this client waits for; a client that has ended starts again."""
        process = self.processes.get(owner)
        while True:
            if process is None or process.task.done():
                if process is not None:
                    # The user has read why it ended.
                    process.task.exception()
                process = self._start(owner)
            elif process.host is not None and not (process.host.in_session or process.host.finished):
                return process.host
            else:
                assert process.host is not None
                HostLine(process.host, Offer(_ANY), None).dismiss()
                assert process.left is not None
                process.left.set_result(None)
                self._until_it_arrives(process)

    def _kill(self, owner: int, line: HostLine) -> ClientHost:
        """Kill the process and start it again: it continues from its journal."""
        process = self.processes[owner]
        if process.line is not line:
            raise Refused("GONE")
        process.task.cancel()
        self._loop.run_until_complete(asyncio.wait((process.task,)))
        process = self._start(owner)
        if process.host is None or not process.host.in_session:
            raise Refused("GONE")
        process.line = line
        return process.host

    # --- The front ----------------------------------------------------------------------------------------------------

    def open(self, client_id: int, owner: int, terms: Terms) -> tuple[Line, bytes]:
        host = self._next(owner)
        has_journal = host._journal is not None
        revive: Callable[[], ClientHost] | None = (lambda: self._kill(owner, line)) if has_journal else None
        line: HostLine = HostLine(host, offer_of(terms, announcement_of(terms)), revive)
        self.processes[owner].line = line
        first = line.connect()
        assert first is not None
        return line, first

    def context(self, terms: Terms) -> bytes:
        return round_context(terms.number, announcement_of(terms))

    def same_input(self, owner: int, terms: Terms) -> tuple[int, int]:
        return owner, terms.number

    def close(self) -> None:
        for process in self.processes.values():
            process.task.cancel()
        tasks = [process.task for process in self.processes.values()]
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()
        self._patches.close()


_ANY = Parameters(
    num_clients=2, threshold=2, degree=1, vector_length=1, value_bits=1, ring_bits=2, adversary=Adversary.MALICIOUS
)


def join(folder: Path) -> MakeFront:
    """Return a front of `secagg join` (a `MakeFront`)."""
    return lambda mode, rng: JoinFront(mode, folder, rng)


if __name__ == "__main__":
    sys.exit(main({"join": join}))
