"""Fronts of `secagg serve` as Ray actors: the connections with clients on the machines of a cluster.

Security: fronts see what the server sees, and what they say is unpickled in the server's process. So the cluster must
belong to the server alone, and its traffic must be encrypted (``RAY_USE_TLS=1``) or on a private network.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from fl.engines.ray.cluster import RayCluster
from transport.errors import MAX_ERROR_TEXT, printable
from transport.fronts.front import Front, FrontSettings, FrontUnreachableError, Opening
from transport.fronts.items import Down, Up

T = TypeVar("T")

NAMESPACE = "secagg"

# Seconds in which a front must answer; a session's beginning brings the announcement, which may be large.
_HEAR_SECONDS = 15.0
_TELL_SECONDS = 60.0
_LAST_WORD_SECONDS = 0.2


class FrontActor:
    """A `Front` in a Ray actor. Ray starts it again if its process or machine is lost."""

    def __init__(self, settings: FrontSettings) -> None:
        logging.basicConfig(level=logging.WARNING)
        self._settings = settings
        self._front: Front | None = None
        self._starting = asyncio.Lock()

    async def open(self, channel: int) -> Opening:
        """Listen, if it does not yet; then see `Front.open`."""
        async with self._starting:
            if self._front is None:
                front = Front(self._settings, _end)
                await front.start()
                self._front = front
        return await self._front.open(channel)

    async def tell(self, channel: int, said: Sequence[Down]) -> None:
        """See `Front.tell`."""
        if self._front is not None:
            await self._front.tell(channel, said)

    async def hear(self, channel: int) -> list[Up]:
        """See `Front.hear`."""
        return [] if self._front is None else await self._front.hear(channel)

    async def stop(self) -> None:
        """See `Front.stop`."""
        if self._front is not None:
            await self._front.stop()


def _end() -> None:
    """End this actor for good: it was stopped, or no coordinator spoke to it."""
    actor = ray.get_runtime_context().current_actor
    # The coordinator gets its answer first.
    asyncio.get_running_loop().call_later(_LAST_WORD_SECONDS, ray.kill, actor)


class RayFront:
    """The channel to a front: a `transport.fronts.server.FrontChannel`."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor
        self._has_answered = False

    async def open(self, channel: int) -> Opening:
        """See `Front.open`; errors of listening are raised the first time, and later mean that it does not answer."""
        opening: Opening = await self._answer(lambda: self._actor.open.remote(channel), _TELL_SECONDS)
        self._has_answered = True
        return opening

    async def tell(self, channel: int, said: Sequence[Down]) -> None:
        """See `Front.tell`."""
        await self._answer(lambda: self._actor.tell.remote(channel, said), _TELL_SECONDS)

    async def hear(self, channel: int) -> list[Up]:
        """See `Front.hear`."""
        heard: list[Up] = await self._answer(lambda: self._actor.hear.remote(channel), _HEAR_SECONDS)
        return heard

    async def stop(self) -> None:
        """See `Front.stop`."""
        await self._answer(lambda: self._actor.stop.remote(), _HEAR_SECONDS)

    async def _answer(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await call()
        except TimeoutError:
            raise FrontUnreachableError(f"no answer within {seconds:g} s") from None
        except RayTaskError as error:
            if not self._has_answered:
                raise error.cause from None
            raise FrontUnreachableError(printable(str(error.cause), MAX_ERROR_TEXT)) from None
        except RayError as error:
            raise FrontUnreachableError(str(error).strip().split("\n")[0]) from None


def ray_fronts(cluster: RayCluster, settings: FrontSettings, count: int, key: str) -> list[RayFront]:
    """Return fronts on a cluster, each with a core of its own, spread over the machines.

    Fronts outlive this process on a cluster that does: a server that comes back with the same key finds them with the
    inputs that they hold.

    Args:
        cluster: the server's machines.
        settings: those of the first front; each further one listens on the next port, unless the port is 0.
        count: number of fronts.
        key: names the server's run.
    """
    make = ray.remote(num_cpus=1, max_restarts=-1, scheduling_strategy="SPREAD")(FrontActor)
    host, port = settings.address
    fronts = []
    for number in range(count):
        name = f"secagg-front-{key}-{number}"
        own = replace(settings, address=(host, port + number if port else 0))
        # A front that was told to end may still be there under its name.
        actor = make.options(name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True).remote(own)
        fronts.append(RayFront(str(number), actor))
    return fronts
