"""A front's shell: a listening `SessionServer` whose sessions are `FrontHost`s, and the channel to the coordinator."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from secagg import ClientId
from transport.certificates.exclusion import Exclusions
from transport.certificates.reading import Credentials
from transport.errors import TransportError
from transport.fronts import items
from transport.fronts.front_host import FrontHost
from transport.fronts.items import Down, Up
from transport.recovery import RecoveryPool
from transport.tcp.proxy_protocol import Network
from transport.tcp.server import SessionServer
from transport.tcp.settings import Address, Limits, Plaintext

logger = logging.getLogger("transport.fronts")

HEAR_SECONDS = 2.0
"""Seconds after which `Front.hear` returns although there is nothing to say."""

ORPHAN_SECONDS = 120.0
"""Seconds without a coordinator after which a front sends its clients away and ends."""

_LOBBY_SECONDS = 0.25


class FrontUnreachableError(TransportError):
    """Raised when a front does not answer; its process may live, and hold inputs."""


class SupersededError(FrontUnreachableError):
    """Raised when a newer coordinator speaks to a front, which has clients and inputs for it."""

    def __init__(self) -> None:
        super().__init__("a newer coordinator speaks to it, or one whose clock was ahead of this one's")

    def __reduce__(self) -> tuple[type["SupersededError"], tuple[()]]:
        return SupersededError, ()


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """A front's answer to a new channel.

    Attributes:
        incarnation: names its process, beginning with the system's number of it.
        addresses: the addresses on which it listens.
    """

    incarnation: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """What a front needs to listen; see `SessionServer`. Paths must be valid on the front's machine."""

    address: Address
    tls: Credentials | Plaintext
    limits: Limits
    enrolled: frozenset[ClientId] | None = None
    excluded: Path | None = None
    revoked: Path | None = None
    proxies: tuple[Network, ...] = ()

    def with_whole_paths(self) -> "FrontSettings":
        """Return the settings with whole paths, for processes with another working directory."""
        tls = self.tls
        if isinstance(tls, Credentials):
            tls = replace(
                tls, **{name: Path(getattr(tls, name)).absolute() for name in ("certificate", "key", "authority")}
            )
        excluded, revoked = (None if path is None else path.absolute() for path in (self.excluded, self.revoked))
        return replace(self, tls=tls, excluded=excluded, revoked=revoked)

    def exclusions(self) -> Exclusions | None:
        """Return the clients that are refused."""
        if self.excluded is None and self.revoked is None:
            return None
        authority = self.tls.authority if isinstance(self.tls, Credentials) else None
        return Exclusions(listed=self.excluded, revoked=self.revoked, authority=authority)


class Front:
    """One front: connections, handshakes, lobby, framing, decoding, adding. All calls in one event loop.

    The coordinator calls `open`, then `tell` in the order of its words and `hear` again and again; a new `open` ends
    the channel before it. Without such calls for `ORPHAN_SECONDS` the front ends.

    Args:
        settings: what it needs to listen.
        on_end: called once it has ended.

    Raises (from `start`): as `SessionServer` on entering.
    """

    def __init__(self, settings: FrontSettings, on_end: Callable[[], None] | None = None) -> None:
        self._on_end = on_end
        self.incarnation = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._server = SessionServer(
            settings.address,
            settings.tls,
            settings.limits,
            settings.enrolled,
            settings.exclusions(),
            settings.proxies,
        )
        self._channel = 0
        self._is_over = False
        self._wake = asyncio.Event()
        self._host: FrontHost | None = None
        self._running: asyncio.Task[None] | None = None
        self._lobby: asyncio.Task[None] | None = None
        self._waiting: frozenset[ClientId] = frozenset()
        self._news: list[Up] = []
        self._figures: items.Figures | None = None
        self._listening: items.Listening | None = None
        self._called = 0.0

    async def start(self) -> tuple[Address, ...]:
        """Listen, and return the addresses."""
        await self._server.__aenter__()
        self._called = self._now()
        self._lobby = asyncio.create_task(self._watch())
        return self._server.addresses

    async def open(self, channel: int) -> ChannelOpened:
        """Begin a new channel; its number grows with each one of all coordinators."""
        if self._is_over:
            raise FrontUnreachableError("it has ended")
        if channel <= self._channel:
            raise SupersededError
        self._channel, self._called = channel, self._now()
        self._news, self._waiting, self._figures, self._listening = [], frozenset(), None, None
        self._wake.set()
        self._look()
        return ChannelOpened(self.incarnation, self._server.addresses)

    async def tell(self, channel: int, said: Iterable[Down]) -> None:
        """Take the coordinator's words. FrontUnreachableError if the channel is over."""
        self._check(channel)
        self._called = self._now()
        for item in said:
            match item:
                case items.Begin():
                    await self._begin(item)
                case items.Finish():
                    await self._finish(stopping=item.stopping)
                case items.Gather():
                    self._server.announce(item.needed, item.elsewhere)
                case items.Dismiss():
                    self._server.dismiss(item.client_id)
                case _ if self._host is not None:
                    self._host.items_received((item,), self._now())
        self._server.wake()

    async def hear(self, channel: int) -> list[Up]:
        """Return what the coordinator has to know, once there is something; at the latest after `HEAR_SECONDS`.

        FrontUnreachableError if the channel is over.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAR_SECONDS):
                while channel == self._channel and not self._is_over and not self._has_news():
                    self._wake.clear()
                    await self._wake.wait()
        self._check(channel)
        self._called = self._now()
        news, self._news = self._news, []
        if self._host is not None:
            news += self._host.take_items()
            if (figures := self._host.figures) != self._figures:
                self._figures = figures
                news.append(figures)
        server = self._server
        listening = items.Listening(
            dict(server.refusals),
            server.num_connections,
            server.bytes_received,
            server.bytes_sent,
            server.certificate_expiry,
        )
        if listening != self._listening:
            self._listening = listening
            news.append(listening)
        return news

    async def stop(self, channel: int) -> None:
        """End all connections; clients of a session are told to come back later.

        SupersededError if a newer coordinator speaks to it, which goes on with its clients and inputs.
        """
        if channel < self._channel:
            raise SupersededError
        await self._end()

    async def _end(self) -> None:
        if self._lobby is not None:
            self._lobby.cancel()
        await self._finish(stopping=True)
        self._is_over = True
        await self._server.__aexit__()
        self._wake.set()
        if self._on_end is not None:
            self._on_end()

    def _check(self, channel: int) -> None:
        if self._is_over or channel != self._channel:
            raise FrontUnreachableError("it has ended" if self._is_over else "it speaks over another channel")

    def _has_news(self) -> bool:
        return bool(self._news) or (self._host is not None and self._host.has_items)

    async def _begin(self, begin: items.Begin) -> None:
        if self._host is not None and self._host.session_id == begin.session_id:
            self._host.resume(begin)
            return
        await self._finish(stopping=True)
        self._host = host = FrontHost(begin)
        self._running = asyncio.create_task(self._server.run(host, RecoveryPool(1), lambda _: self._notice()))
        self._running.add_done_callback(self._noted)

    async def _finish(self, *, stopping: bool) -> None:
        """End the session's connections."""
        running, host = self._running, self._host
        self._running = self._host = None
        if running is None or host is None:
            return
        if host.num_held:
            logger.warning(
                "a session ended with %d inputs that the coordinator had not taken",
                host.num_held,
                extra={"event": "inputs_lost", "inputs": host.num_held},
            )
        if stopping:
            running.cancel()
        else:
            host.over = True
            self._server.wake()
        await asyncio.wait((running,))

    def _noted(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the front's session failed: %r", error, extra={"event": "failed"})

    def _notice(self) -> None:
        if self._has_news():
            self._wake.set()

    def _look(self) -> None:
        """Compare the waiting clients with those that the coordinator knows."""
        waiting = frozenset(self._server.waiting)
        if waiting != self._waiting:
            self._news.append(items.WaitingClients(tuple(waiting - self._waiting), tuple(self._waiting - waiting)))
            self._waiting = waiting
            self._wake.set()

    async def _watch(self) -> None:
        """Look at the lobby, and end without a coordinator."""
        while self._now() - self._called < ORPHAN_SECONDS:
            await self._server.wait_for_arrival(_LOBBY_SECONDS)
            self._look()
        logger.warning("no coordinator for %g s: this front ends", ORPHAN_SECONDS, extra={"event": "front_ended"})
        self._lobby = None
        await self._end()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
