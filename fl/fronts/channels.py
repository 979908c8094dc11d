"""The server's channels to fronts on a Ray cluster, and the server over them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from fl.engines.ray.cluster import RayCluster, connected
from fl.engines.ray.recovery import RayRecovery
from fl.errors import ConfigError
from fl.fronts.actor import FrontActor
from fl.learning.cpu import available_cores
from transport.errors import MAX_ERROR_TEXT, printable
from transport.fronts.front import ChannelOpened, FrontSettings, FrontUnreachableError, SupersededError
from transport.fronts.items import Down, Up
from transport.fronts.server import FrontedServer

T = TypeVar("T")

NAMESPACE = "secagg"

# Seconds in which a front must answer. A session's beginning brings the announcement, which may be large; at first Ray
# starts a process for it.
_HEAR_SECONDS = 30.0
_TELL_SECONDS = 60.0
_OPEN_SECONDS = 180.0


class RayFront:
    """The channel to a front: a `transport.fronts.server.FrontChannel`."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor
        self._has_answered = False

    async def open(self, channel: int) -> ChannelOpened:
        """See `Front.open`; errors of listening are raised the first time, and later mean that it does not answer."""
        opening: ChannelOpened = await self._answer(lambda: self._actor.open.remote(channel), _OPEN_SECONDS)
        self._has_answered = True
        return opening

    async def tell(self, channel: int, said: Sequence[Down]) -> None:
        """See `Front.tell`."""
        await self._answer(lambda: self._actor.tell.remote(channel, said), _TELL_SECONDS)

    async def hear(self, channel: int) -> list[Up]:
        """See `Front.hear`."""
        heard: list[Up] = await self._answer(lambda: self._actor.hear.remote(channel), _HEAR_SECONDS)
        return heard

    async def stop(self, channel: int) -> None:
        """See `Front.stop`; unless it is another coordinator's, it ends in any case, also while Ray starts it again."""
        is_ours = True
        try:
            await self._answer(lambda: self._actor.stop.remote(channel), _HEAR_SECONDS)
        except SupersededError:
            is_ours = False
            raise
        finally:
            if is_ours:
                ray.kill(self._actor)

    async def _answer(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await call()
        except TimeoutError:
            what = "" if self._has_answered else "; see `ray status`, whether a core is free for it"
            raise FrontUnreachableError(f"front {self.name}: no answer within {seconds:g} s{what}") from None
        except RayTaskError as error:
            if not self._has_answered or isinstance(error.cause, SupersededError):
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


@contextmanager
def fronted_server(
    settings: FrontSettings, count: int, key: str, address: str | None = None
) -> Iterator[tuple[FrontedServer, RayRecovery]]:
    """Yield a server over fronts on a cluster, which are not open yet, and the recovery of masks on the same machines.

    Args:
        settings, count, key: see `ray_fronts`.
        address: the cluster's address; None: Ray is started on this machine, and ends with this process.

    Raises:
        ConfigError: Ray is not reachable, or has too few cores.
    """
    # Ray sets its own handler, which would end this process without a word to the clients.
    handler = signal.getsignal(signal.SIGTERM)
    with connected(address, None if address else max(count, available_cores())) as cluster:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        if cluster.cores < count:
            raise ConfigError(f"{count} fronts need {count} cores, but the Ray cluster has {cluster.cores}")
        yield FrontedServer(ray_fronts(cluster, settings, count, key), settings.limits), RayRecovery(cluster)
