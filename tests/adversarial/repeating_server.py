"""A server of `secagg join` that offers any session of any round, and the clients that it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secagg
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.held_out import held_out_encoding
from fl.aggregation.scales import MAX_WEIGHT, Scales
from fl.learning.own_code import make_model
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.serialization import model_to_bytes
from fl.learning.settings import Local
from fl.learning.task import CLASSIFICATION
from fl.network.announcement import Purpose, RoundAnnouncement, encode_announcement, round_context
from fl.network.client import Participant
from fl.network.local_data import LocalData
from fl.network.offers import JoinOptions
from fl.network.policy import Policy
from secagg import Adversary
from transport import Deadlines, RecoveryPool, SessionHost
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials, directory_from
from transport.tcp import SessionServer

CLIENTS, VICTIM = 5, 4
SHAPE, CLASSES = (1, 8, 8), 10
TRAINING = Local(epochs=1, batch_size=8, learning_rate=0.1)


def examples(client_id: int) -> LocalData:
    generator = torch.Generator().manual_seed(client_id)
    count = 20 + client_id
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return LocalData(torch.rand(count, *SHAPE, generator=generator), labels)


MODEL = make_model("logistic", image_shape=SHAPE, num_classes=CLASSES, seed=0)
SCALES = Scales((1.0, 1.0), 64)


def encoding(scales: Scales | None) -> UpdateEncoding:
    return UpdateEncoding(sizes=ParameterLayout.of(MODEL).sizes, num_clients=CLIENTS, value_bits=24, scales=scales)


SCORES = held_out_encoding(CLASSIFICATION.figures, MAX_WEIGHT, 24)


def params(scales: Scales | None, purpose: Purpose = "update") -> secagg.Parameters:
    length = (encoding(scales) if purpose == "update" else SCORES).vector_length
    return secagg.plan(
        num_clients=CLIENTS, vector_length=length, value_bits=24,
        adversary=Adversary.MALICIOUS, threshold=4,
    ).parameters  # fmt: skip


def announced(
    number: int, scales: Scales | None = SCALES, model: nn.Module = MODEL, purpose: Purpose = "update"
) -> bytes:
    return encode_announcement(
        RoundAnnouncement(
            round=number, rounds=9, model="logistic", image_shape=SHAPE, num_classes=CLASSES, value_bits=24,
            scales=scales, training=TRAINING, purpose=purpose, holdout=0.25 if purpose == "scores" else 0.0,
            model_bytes=model_to_bytes(model),
        )
    )  # fmt: skip


class Lie:
    """A server that offers any session, and its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certs = folder / "certs"
        Authority.create(self.certs).issue(server_names=["127.0.0.1"], client_ids=range(CLIENTS))
        self.said: dict[int, list[str]] = {i: [] for i in range(CLIENTS)}
        self.make: type[Participant] = Participant
        self._running: dict[int, asyncio.Task[None]] = {}

    def options(self, client_id: int, **changes: Any) -> JoinOptions:
        """Return the options of a program that does not know of records."""
        values: dict[str, Any] = {
            "client_id": client_id,
            "address": ("127.0.0.1", self.port),
            "tls": Credentials.of_client(self.certs, client_id),
            "identity_key": self.certs / f"client-{client_id}.key",
            "directory": self.certs,
            "policy": Policy(min_inputs=4),
            "max_model_bytes": 1 << 20,
            "give_up": 20.0,
        }
        return JoinOptions(**values | changes)

    def start(self, client_id: int, **changes: Any) -> None:
        """Start the client, or start it again: an earlier one left only what is on the disk."""
        participant = self.make(self.options(client_id, **changes), examples(client_id), self.said[client_id].append)
        self._running[client_id] = asyncio.create_task(participant.run())

    async def stop(self, client_id: int) -> None:
        task = self._running.pop(client_id)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def offer(
        self,
        number: int,
        clients: Collection[int] = range(CLIENTS),
        *,
        join_seconds: float = 8.0,
        training_seconds: float = 60.0,
        scales: Scales | None = SCALES,
        model: nn.Module = MODEL,
        purpose: Purpose = "update",
    ) -> Any:
        """Offer a session of this round; return how it ended for each client that came in time."""
        extra = announced(number, scales, model, purpose)
        host = SessionHost(
            params(scales, purpose),
            clients,
            deadlines=Deadlines(advertise_keys=join_seconds, masked_input_collection=training_seconds),
            now=asyncio.get_running_loop().time(),
            context=round_context(number, extra),
            extra=extra,
            number=number,
            directory=directory_from(self.certs, self.certs / "ca.pem"),
        )
        await self._server.run(host, self._pool)
        return host.outcome

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Run the scenario while the server listens."""

        async def whole() -> None:
            async with SessionServer(("127.0.0.1", 0), Credentials.of_server(self.certs)) as self._server:
                self.port = self._server.addresses[0][1]
                try:
                    await scenario()
                finally:
                    for client_id in list(self._running):
                        await self.stop(client_id)

        with RecoveryPool(1) as self._pool:
            asyncio.run(whole())


def trained(said: list[str], number: int) -> int:
    return sum(line.startswith(f"round {number}/9: training") for line in said)
