"""The coordinator's shell: runs sessions over channels to fronts, as `SessionServer` does over connections."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, Self

from secagg import ClientId
from transport.fronts import items
from transport.fronts.coordinator import Coordinator, ToFront
from transport.fronts.front import ChannelOpened, FrontUnreachableError
from transport.fronts.items import Down, Up
from transport.tcp.session_loop import SessionLoop
from transport.tcp.settings import Address, Limits

logger = logging.getLogger("transport.fronts")

# Pause before a front that cannot be reached is tried again.
_AGAIN_SECONDS = 0.5


class FrontChannel(Protocol):
    """A front as the coordinator reaches it: a `Front` in this process, or a proxy of one in another process.

    All methods raise FrontUnreachableError if the front does not answer.
    """

    @property
    def name(self) -> str:
        """Return a name that no other front has."""

    async def open(self, channel: int) -> ChannelOpened:
        """See `Front.open`."""

    async def tell(self, channel: int, said: Sequence[Down]) -> None:
        """See `Front.tell`."""

    async def hear(self, channel: int) -> list[Up]:
        """See `Front.hear`."""

    async def stop(self, channel: int) -> None:
        """See `Front.stop`."""


class _Channel:
    """What waits for a front."""

    def __init__(self, front: FrontChannel) -> None:
        self.front = front
        self.number = 0
        self.opening: ChannelOpened | None = None
        self.queue: list[Down] = []
        self.listening = items.Listening({}, 0, 0, 0, {})
        # What its earlier processes refused, received and sent.
        self.before = self.listening
        self.wake = asyncio.Event()
        self.said_lost = False
        self.incarnation = ""

    def tell(self, item: Down) -> None:
        if self.opening is not None:
            self.queue.append(item)
            self.wake.set()


class FrontedServer(SessionLoop):
    """Sessions over fronts, with the methods of `SessionServer` that programs use.

    Use it as an asynchronous context manager: entering waits until each front has answered once, leaving ends all
    fronts. A front that cannot be reached is tried again until then; sessions go on with the others.

    Args:
        fronts: the fronts, which listen already or will.
        limits: the limits of its sessions; fronts have their own.

    Raises (on entering):
        FrontUnreachableError: a front does not answer.
    """

    host = Coordinator
    """The kind of host that it runs."""

    def __init__(self, fronts: Iterable[FrontChannel], limits: Limits | None = None) -> None:
        super().__init__(limits)
        self._channels = {front.name: _Channel(front) for front in fronts}
        # Later coordinators have higher numbers, also after a crash: one that lost the run takes no front back.
        self._first_number = time.time_ns()
        self._host: Coordinator | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._lobby: dict[ClientId, str] = {}
        self._needed = 0
        self._arrival = asyncio.Event()

    async def __aenter__(self) -> Self:
        for channel in self._channels.values():
            await self._open(channel)
        self._tasks = [asyncio.create_task(self._attend(channel)) for channel in self._channels.values()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels.values():
            with contextlib.suppress(FrontUnreachableError):
                await channel.front.stop(channel.number)
        self._end_threads()

    # What programs ask a server.

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return the addresses on which the fronts listen, as of their last answers."""
        return tuple(one for channel in self._channels.values() if channel.opening for one in channel.opening.addresses)

    @property
    def num_connections(self) -> int:
        """Return the number of open connections with an identified client, at all fronts."""
        return sum(channel.listening.connections for channel in self._channels.values() if channel.opening)

    @property
    def refusals(self) -> Counter[str]:
        """Return the numbers of connections that fronts refused or cut off, by reason."""
        found: Counter[str] = Counter()
        for channel in self._channels.values():
            found.update(channel.before.refusals)
            found.update(channel.listening.refusals)
        return found

    @property
    def bytes_received(self) -> int:
        """Return the bytes that came over connections that have ended, at all fronts."""
        return sum(one.listening.bytes_received + one.before.bytes_received for one in self._channels.values())

    @property
    def bytes_sent(self) -> int:
        """Return the bytes that went over connections that have ended, at all fronts."""
        return sum(one.listening.bytes_sent + one.before.bytes_sent for one in self._channels.values())

    @property
    def num_waiting(self) -> int:
        """Return the number of distinct clients that wait for a session."""
        return len(self._lobby)

    @property
    def waiting(self) -> tuple[ClientId, ...]:
        """Return the ids of the clients that wait for a session."""
        return tuple(self._lobby)

    @property
    def num_enrolled(self) -> int | None:
        """Return None: the fronts know who is enrolled."""
        return None

    @property
    def certificate_expiry(self) -> dict[str, float]:
        """Return the earliest ends of validity of the fronts' certificates; see `SessionServer`."""
        found: dict[str, float] = {}
        for channel in self._channels.values():
            for whose, at in channel.listening.certificate_expiry.items():
                found[whose] = min(at, found.get(whose, at))
        return found

    async def gather(self, count: int) -> None:
        """Wait until this many clients wait for a session, and tell them this number."""
        self._needed = count
        self._tell_lobbies()
        try:
            while len(self._lobby) < count:
                self._arrival.clear()
                await self._arrival.wait()
        finally:
            self._needed = 0
            self._tell_lobbies()

    # The loop of a session.

    def _begun(self, host: Coordinator) -> None:
        self._host = host
        for name, channel in self._channels.items():
            if channel.opening is not None:
                host.front_up(name, channel.opening.incarnation, self._now())

    def _send(self, outgoing: list[ToFront]) -> None:
        for name, item in outgoing:
            self._channels[name].tell(item)

    def _ended(self, host: Coordinator) -> None:
        self._host = None
        for channel in self._channels.values():
            channel.tell(items.Finish(stopping=not host.over))

    # Channels.

    async def _open(self, channel: _Channel) -> None:
        channel.number = max(channel.number + 1, self._first_number)
        opening = await channel.front.open(channel.number)
        await self._turn()
        if opening.incarnation != channel.incarnation:
            channel.incarnation, last = opening.incarnation, channel.listening
            channel.listening = items.Listening({}, 0, 0, 0, {})
            channel.before = items.Listening(
                dict(Counter(channel.before.refusals) + Counter(last.refusals)),
                0,
                channel.before.bytes_received + last.bytes_received,
                channel.before.bytes_sent + last.bytes_sent,
                {},
            )
        channel.opening, channel.queue = opening, []
        self._leave_lobby(channel.front.name)
        if self._host is not None:
            self._host.front_up(channel.front.name, opening.incarnation, self._now())
            self._news.set()

    async def _attend(self, channel: _Channel) -> None:
        """Keep a channel to a front."""
        while True:
            try:
                if channel.opening is None:
                    await self._open(channel)
                    if channel.said_lost:
                        channel.said_lost = False
                        logger.warning(
                            "front %s answers again", channel.front.name,
                            extra={"event": "front_up", "front": channel.front.name},
                        )  # fmt: skip
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._speak(channel))
                    group.create_task(self._listen(channel))
            except* FrontUnreachableError as errors:
                await self._down(channel, str(errors.exceptions[0]))
            except* Exception as errors:  # noqa: BLE001 - it ends the session's run
                self._error = errors.exceptions[0]
                self._news.set()
                await self._down(channel, repr(self._error))
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _down(self, channel: _Channel, why: str) -> None:
        if not channel.said_lost:
            channel.said_lost = True
            logger.warning(
                "front %s cannot be reached: %s", channel.front.name, why,
                extra={"event": "front_down", "front": channel.front.name, "reason": why},
            )  # fmt: skip
        await self._turn()
        channel.opening, channel.queue = None, []
        self._leave_lobby(channel.front.name)
        if self._host is not None:
            self._host.front_down(channel.front.name, self._now())
            self._news.set()

    async def _speak(self, channel: _Channel) -> None:
        while True:
            while channel.queue:
                said, channel.queue = channel.queue, []
                await channel.front.tell(channel.number, said)
            channel.wake.clear()
            await channel.wake.wait()

    async def _listen(self, channel: _Channel) -> None:
        while True:
            heard = await channel.front.hear(channel.number)
            await self._turn()
            for item in heard:
                if isinstance(item, items.WaitingClients):
                    self._lobby_changed(channel, item)
                elif isinstance(item, items.Listening):
                    channel.listening = item
            if self._host is not None and heard:
                self._host.items_received(channel.front.name, heard, self._now())
                self._news.set()

    # The lobbies.

    def _lobby_changed(self, channel: _Channel, waiting: items.WaitingClients) -> None:
        name = channel.front.name
        for client_id in waiting.went:
            if self._lobby.get(client_id) == name:
                del self._lobby[client_id]
        for client_id in waiting.came:
            if (other := self._lobby.pop(client_id, name)) != name:
                self._channels[other].tell(items.Dismiss(client_id))
            self._lobby[client_id] = name
        self._tell_lobbies()
        self._arrival.set()

    def _leave_lobby(self, name: str) -> None:
        self._lobby = {client_id: front for client_id, front in self._lobby.items() if front != name}

    def _tell_lobbies(self) -> None:
        at = Counter(self._lobby.values())
        for name, channel in self._channels.items():
            channel.tell(items.Gather(self._needed, len(self._lobby) - at[name]))
