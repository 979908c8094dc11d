"""A front in a Ray actor. Its process loads neither torch nor what trains models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import ray

from transport.fronts.front import ChannelOpened, Front, FrontSettings
from transport.fronts.items import Down, Up

_LAST_WORD_SECONDS = 0.2


class FrontActor:
    """A `Front` in a Ray actor. Ray starts it again if its process or machine is lost."""

    def __init__(self, settings: FrontSettings) -> None:
        logging.basicConfig(level=logging.WARNING)
        self._settings = settings
        self._front: Front | None = None
        self._starting = asyncio.Lock()

    async def open(self, channel: int) -> ChannelOpened:
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

    async def stop(self, channel: int) -> None:
        """See `Front.stop`."""
        if self._front is not None:
            await self._front.stop(channel)
        else:
            _end()


def _end() -> None:
    """End this actor for good: it was stopped, or no coordinator spoke to it."""
    actor = ray.get_runtime_context().current_actor
    # The coordinator gets its answer first.
    asyncio.get_running_loop().call_later(_LAST_WORD_SECONDS, ray.kill, actor)
