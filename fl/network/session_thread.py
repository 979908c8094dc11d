"""A listening server in a thread with its own event loop, which serves clients while the main thread trains."""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from secagg import Aborted, ClientId, Completed, KeyDirectory, Parameters
from transport import Deadlines, Journal, MaskRecovery, RecoveryPool, SessionHost
from transport.fronts.server import FrontedServer
from transport.tcp import Address, SessionServer
from transport.tcp.server import HostObserver

T = TypeVar("T")

# A cancelled session first tells its clients to come back later.
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """The parameters of a session to run; see `transport.SessionHost`.

    Attributes:
        journal: opens the journal.
        may_resume: checks a session that is already in the journal, and returns its context; raises if it is not the
            requested session.
        goal: the number of masked inputs with which the session continues without the other clients.
        is_past: its clients are already in a later session; they are not contacted if the journal suffices for the
            outcome.
    """

    params: Parameters
    client_ids: tuple[ClientId, ...]
    number: int
    extra: bytes
    context: bytes
    deadlines: Deadlines
    directory: KeyDirectory | None = None
    journal: Callable[[], Journal] | None = None
    may_resume: Callable[[Journal], bytes] | None = None
    goal: int | None = None
    is_past: bool = False


class SessionThread:
    """A server that runs one session after the other; all methods must be called from one thread, and block it.

    A keyboard interrupt while a method blocks ends the session; its clients are told to come back later.

    Args:
        server: the server, which is not listening yet.
        pool: recovers the masks; by default this machine's cores, until this ends.

    Raises (on entering): as the server.
    """

    def __init__(
        self,
        server: SessionServer | FrontedServer,
        pool: MaskRecovery | None = None,
    ) -> None:
        self._server = server
        self._pool = RecoveryPool(os.cpu_count() or 1) if pool is None else pool
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="secagg-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._call(self._server.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(self._server.__aexit__(None, None, None))
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        if not self._thread.is_alive():
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
        if isinstance(self._pool, RecoveryPool):
            self._pool.close()

    @property
    def server(self) -> SessionServer | FrontedServer:
        """The listening server, whose connections can be counted."""
        return self._server

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the server."""
        return self._loop

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses on which the server listens."""
        return self._server.addresses

    def wait_for_clients(self, count: int, seconds: float) -> tuple[ClientId, ...]:
        """Wait up to ``seconds`` until ``count`` enrolled clients wait for a session; return the waiting clients."""
        return self._call(self._gather(count, seconds))

    def run(self, request: SessionRequest, observer: HostObserver | None = None) -> SessionHost:
        """Run a session to its outcome, or continue the one in the journal; the journal is kept.

        Raises:
            TransportError, secagg.LocalProtocolError: as `transport.tcp.serve_session`.
        """
        return self._call(self._run(request, observer))

    async def _gather(self, count: int, seconds: float) -> tuple[ClientId, ...]:
        # Clients that are refused by now do not count.
        if len(self._server.waiting) >= count:
            return self._server.waiting
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._server.gather(count)
        return self._server.waiting

    async def _run(self, request: SessionRequest, observer: HostObserver | None) -> SessionHost:
        journal = None if request.journal is None else request.journal()
        try:
            host = self._host(request, journal)
            host.goal = request.goal
            if request.is_past and host.job is not None and host.outcome is None:
                masks = await self._loop.run_in_executor(None, self._pool.run, host.job)
                host.finish(masks, self._loop.time())
                host.commit(self._loop.time())
            if host.outcome is None or not request.is_past:
                await self._server.run(host, self._pool, observer)
        finally:
            if journal is not None:
                journal.close()
        assert isinstance(host.outcome, Completed | Aborted)  # noqa: S101 - the server returns only then
        return host

    def _host(self, request: SessionRequest, journal: Journal | None) -> SessionHost:
        now = self._loop.time()
        host: type[SessionHost] = self._server.host
        if journal is not None and not journal.is_empty:
            context = request.context if request.may_resume is None else request.may_resume(journal)
            return host.resume(
                journal, deadlines=request.deadlines, now=now, context=context, directory=request.directory
            )
        return host(
            request.params,
            request.client_ids,
            deadlines=request.deadlines,
            now=now,
            context=request.context,
            extra=request.extra,
            number=request.number,
            directory=request.directory,
            journal=journal,
        )

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's thread; if the wait is interrupted, cancel it and wait for its end."""
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        task: asyncio.Task[T] | None = None

        def begin() -> None:
            nonlocal task
            task = self._loop.create_task(work)
            task.add_done_callback(finish)

        def finish(done: "asyncio.Task[T]") -> None:
            if done.cancelled():
                result.set_exception(concurrent.futures.CancelledError())
            elif (error := done.exception()) is not None:
                result.set_exception(error)
            else:
                result.set_result(done.result())

        self._loop.call_soon_threadsafe(begin)
        try:
            return result.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(lambda: task is not None and task.cancel())
            concurrent.futures.wait((result,), _STOP_SECONDS)
            raise
