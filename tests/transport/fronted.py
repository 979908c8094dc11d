"""Shared by the tests of fronts: fronts in this process over TLS, whose channels can be killed, cut and slowed down."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from secagg import Parameters
from tests.transport.network import QUICK, deadlines, join
from transport import Journal, RecoveryPool
from transport.certificates.reading import Credentials
from transport.fronts.coordinator import Coordinator
from transport.fronts.front import Front, FrontSettings, FrontUnreachableError
from transport.fronts.server import FrontedServer


@dataclass
class LocalFront:
    """A front in this process behind a channel with faults; the address stays when it is killed and starts again."""

    name: str
    settings: FrontSettings
    front: Front | None = None
    is_cut: bool = False
    delay: float = 0.0
    port: int = 0
    told: list = field(default_factory=list)

    async def start(self) -> None:
        settings = self.settings
        if self.port:
            settings = FrontSettings(**{**_fields(settings), "address": ("127.0.0.1", self.port)})
        self.front = Front(settings)
        self.port = (await self.front.start())[0][1]

    async def kill(self) -> None:
        """End the process as kill -9 does: connections break, nothing is said."""
        front, self.front = self.front, None
        for visit in list(front._server._visits):
            visit.connection.stream.abort()
        front._server._listener._close_sockets()
        front._host = None
        front._lobby.cancel()
        for task in (*front._server._listener._accepting, *front._server._listener._serving, front._running):
            if task is not None:
                task.cancel()
        await asyncio.sleep(0)

    async def _there(self, call: Any) -> Any:
        if self.delay:
            await asyncio.sleep(self.delay)
        front = self.front
        if self.is_cut or front is None:
            raise FrontUnreachableError("it does not answer")
        found = await call(front)
        if self.is_cut or self.front is not front:
            raise FrontUnreachableError("it does not answer any more")
        return found

    async def open(self, channel: int) -> Any:
        return await self._there(lambda front: front.open(channel))

    async def tell(self, channel: int, said: Any) -> None:
        self.told += said
        await self._there(lambda front: front.tell(channel, said))

    async def hear(self, channel: int) -> Any:
        return await self._there(lambda front: front.hear(channel))

    async def stop(self) -> None:
        await self._there(lambda front: front.stop())


def _fields(settings: FrontSettings) -> dict:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


@dataclass
class Fronted:
    """Fronts, the server over them, and the task that runs a session."""

    params: Parameters
    certs: Path
    fronts: list[LocalFront]
    server: FrontedServer
    host: Coordinator | None = None
    task: asyncio.Task | None = None
    journal: Journal | None = None
    phases: list = field(default_factory=list)

    def run(self, journal: Path | None = None, seconds: float = 5, **options: Any) -> asyncio.Task:
        """Run a session, or resume the one in the journal."""
        now = asyncio.get_running_loop().time()
        self.journal = None if journal is None else Journal(journal)
        if self.journal is None or self.journal.is_empty:
            self.host = Coordinator(self.params, deadlines=deadlines(seconds), now=now, journal=self.journal, **options)
        else:
            self.host = Coordinator.resume(self.journal, deadlines=deadlines(seconds), now=now, context=b"", **options)
        self.task = asyncio.create_task(self._run())
        return self.task

    async def _run(self) -> Any:
        assert self.host is not None
        with RecoveryPool(1) as pool:
            await self.server.run(self.host, pool, lambda host: self.phases.append(host.round))
        return self.host.outcome

    def join(self, front: int, vector: Any, client_id: int, **options: Any) -> asyncio.Task:
        """Join at a front."""
        return asyncio.create_task(join(self.fronts[front].port, vector, self.certs, client_id, **options))


@contextlib.asynccontextmanager
async def fronted(
    params: Parameters, certs: Path, count: int = 2, limits: Any = QUICK, **settings: Any
) -> AsyncIterator[Fronted]:
    """Start fronts and the server over them; end everything."""
    own = FrontSettings(("127.0.0.1", 0), Credentials.of_server(certs), limits, **settings)
    fronts = [LocalFront(name, own) for name in "abcd"[:count]]
    for front in fronts:
        await front.start()
    # Clients of a front that was killed at the very end come back to hear of it.
    server = FrontedServer(fronts, replace(limits, farewell_seconds=20))
    world = Fronted(params, certs, fronts, server)
    try:
        async with server:
            yield world
    finally:
        if world.task is not None:
            world.task.cancel()
            await asyncio.gather(world.task, return_exceptions=True)
        if world.journal is not None:
            world.journal.close()
        for front in fronts:
            if front.front is not None:
                await front.front.stop()
