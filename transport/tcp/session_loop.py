"""The loop of a running session: events are made durable together, then their results are sent.

`transport.tcp.server.SessionServer` runs it over connections with clients, `transport.fronts.server.FrontedServer` over
other processes that have these connections.
"""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from secagg import MaskSum, UnmaskJob
from transport.recovery import MaskRecovery
from transport.tcp.cancellation import uninterrupted
from transport.tcp.settings import Limits


class Host(Protocol):
    """One session as the loop runs it; see `transport.SessionHost`, which is one."""

    memory: int
    job: UnmaskJob | None

    @property
    def session_id(self) -> bytes:
        """Return the session id."""

    @property
    def deadline(self) -> float | None:
        """Return the time at which `tick` is due."""

    @property
    def over(self) -> bool:
        """Return whether the session has its outcome."""

    @property
    def untold(self) -> frozenset[int]:
        """Return the clients that were not told yet how the session ended."""

    @property
    def commit_blocks(self) -> bool:
        """Return whether the next `commit` takes time."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def commit(self, now: float) -> list[Any]:
        """Make all events durable, and return what to send."""

    def finish(self, masks: MaskSum, now: float) -> None:
        """Take the result of `job`."""


H = TypeVar("H", bound=Host)


class SessionLoop:
    """Runs sessions one after another; a subclass sends, and passes events to the host (after `_turn`)."""

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits or Limits()
        self._error: BaseException | None = None
        self._news = asyncio.Event()
        # Calls of the host must not overlap: while a commit runs in a thread, they wait or are noted.
        self._free = asyncio.Event()
        self._free.set()
        # Separate threads: work of the application in asyncio's threads must not delay a commit.
        self._threads: ThreadPoolExecutor | None = None
        self._is_running = False

    async def run(self, host: H, pool: MaskRecovery, observer: Callable[[H], None] | None = None) -> None:
        """Run one session until it has its outcome, and all clients that return in time were told.

        Cancelling it tells the clients to come back later; with a journal the session can be resumed. It waits for a
        recovery of masks that is running.

        Raises:
            JournalError: an error of the host; nothing that is not durable was sent.
        """
        if self._is_running:
            raise RuntimeError("a server runs one session at a time")
        self._is_running, self._error = True, None
        host.memory = self._limits.memory
        if self._threads is None:
            # One thread for commits, one for the recovery of the masks.
            self._threads = ThreadPoolExecutor(2, "secagg-server")
        recovery: asyncio.Future[MaskSum] | None = None
        farewell: float | None = None
        self._news.set()
        try:
            self._begun(host)
            while True:
                await self._wait_for_news(host.deadline if farewell is None else farewell)
                host.tick(self._now())
                self._send(await self._committed(host))
                if self._error is not None:
                    raise self._error
                if observer is not None:
                    observer(host)
                if host.job is not None and recovery is None:
                    recovery = asyncio.get_running_loop().run_in_executor(self._threads, pool.run, host.job)
                    recovery.add_done_callback(lambda _: self._news.set())
                elif recovery is not None and recovery.done() and not host.over:
                    host.finish(recovery.result(), self._now())
                    self._news.set()
                if host.over:
                    farewell = farewell or self._now() + self._limits.farewell_seconds
                    if not host.untold or self._now() >= farewell:
                        return
        finally:
            self._is_running = False
            self._ended(host)
            if recovery is not None and not recovery.done():
                await asyncio.wait((recovery,))

    def _begun(self, host: Any) -> None:
        """Let those in that wait for a session."""
        raise NotImplementedError

    def _send(self, outgoing: list[Any]) -> None:
        """Send the results of a commit."""
        raise NotImplementedError

    def _was_free(self) -> None:
        """Pass on what was noted while a commit ran."""

    def _ended(self, host: Any) -> None:
        """End the connections of the session."""
        raise NotImplementedError

    async def _wait_for_news(self, until: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()
                # Frames of the next milliseconds become durable together with this one.
                await asyncio.sleep(self._limits.commit_seconds)
        self._news.clear()

    async def _committed(self, host: Host) -> list[Any]:
        """Run the host's commit, in a thread if it waits for the disk or computes, so that connections continue.

        A cancellation also waits for it, since a journal must not be closed while it is written.
        """
        if not host.commit_blocks:
            return host.commit(self._now())
        self._free.clear()
        try:
            writing = asyncio.get_running_loop().run_in_executor(self._threads, host.commit, self._now())
            return await uninterrupted(writing)
        finally:
            self._free.set()
            self._was_free()

    async def _turn(self) -> None:
        """Wait until the host may be called; call it before any further await."""
        while not self._free.is_set():
            await self._free.wait()

    def _end_threads(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
