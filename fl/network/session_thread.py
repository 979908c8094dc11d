"""A listening server in a thread with an event loop of its own: training waits in the main thread, and not for it."""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from secagg import Aborted, ClientId, Completed, KeyDirectory, Parameters
from transport import Deadlines, Journal, RecoveryPool, SessionHost
from transport.certificates.exclusion import Exclusions
from transport.certificates.reading import Credentials
from transport.tcp import Address, Limits, Network, Plaintext, SessionServer
from transport.tcp.server import HostObserver

T = TypeVar("T")

# A session that is cancelled says goodbye to its clients first.
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a session is begun with: see `transport.SessionHost`.

    Attributes:
        may_resume: looks at the session that is in the journal, if there is one, and raises if that is not this one.
        goal: with this many masked inputs it goes on without the others.
        is_past: its clients have gone on to a later one: if all that gives its outcome is in the journal, they are not
            told again.
    """

    params: Parameters
    client_ids: tuple[ClientId, ...]
    number: int
    extra: bytes
    context: bytes
    deadlines: Deadlines
    directory: KeyDirectory | None = None
    journal: Path | None = None
    may_resume: Callable[[Journal], bytes] | None = None
    goal: int | None = None
    is_past: bool = False


class SessionThread:
    """Serves one session after the other; all methods are called from one thread, and block it.

    An interrupt from the keyboard while one blocks ends the session: its clients are told to come back later.

    Args:
        address, tls, enrolled, limits, exclusions, proxies: as `transport.tcp.SessionServer` takes them.

    Raises (on entering): as `transport.tcp.SessionServer`.
    """

    def __init__(
        self,
        address: Address,
        tls: Credentials | Plaintext,
        enrolled: Iterable[ClientId],
        limits: Limits | None = None,
        exclusions: Exclusions | None = None,
        proxies: Iterable[Network] = (),
    ) -> None:
        self._server = SessionServer(address, tls, limits, enrolled, exclusions, proxies)
        self._pool = RecoveryPool(os.cpu_count() or 1)
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
        self._pool.close()

    @property
    def server(self) -> SessionServer:
        """The listening server, for those who count its connections."""
        return self._server

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it runs in."""
        return self._loop

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens."""
        return self._server.addresses

    def wait_for_clients(self, count: int, seconds: float) -> tuple[ClientId, ...]:
        """Wait until so many enrolled clients wait for a session, at most for so long; gives those who do."""
        return self._call(self._gather(count, seconds))

    def run(self, session: Session, observer: HostObserver | None = None) -> SessionHost:
        """Run a session to its outcome, or the one that is in the journal. The journal stays.

        Raises:
            TransportError, secagg.LocalProtocolError: as `transport.tcp.serve_session`.
        """
        return self._call(self._run(session, observer))

    async def _gather(self, count: int, seconds: float) -> tuple[ClientId, ...]:
        # Those who are shut out by now do not count.
        if len(self._server.waiting) >= count:
            return self._server.waiting
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._server.gather(count)
        return self._server.waiting

    async def _run(self, session: Session, observer: HostObserver | None) -> SessionHost:
        journal = None if session.journal is None else Journal(session.journal)
        try:
            host = self._host(session, journal)
            host.goal = session.goal
            if session.is_past and host.job is not None and host.outcome is None:
                masks = await self._loop.run_in_executor(None, self._pool.run, host.job)
                host.finish(masks, self._loop.time())
                host.commit(self._loop.time())
            if host.outcome is None or not session.is_past:
                await self._server.run(host, self._pool, observer)
        finally:
            if journal is not None:
                journal.close()
        assert isinstance(host.outcome, Completed | Aborted)  # noqa: S101 - that is when it returns
        return host

    def _host(self, session: Session, journal: Journal | None) -> SessionHost:
        now = self._loop.time()
        if journal is not None and not journal.is_empty:
            context = session.context if session.may_resume is None else session.may_resume(journal)
            return SessionHost.resume(
                journal, deadlines=session.deadlines, now=now, context=context, directory=session.directory
            )
        return SessionHost(
            session.params,
            session.client_ids,
            deadlines=session.deadlines,
            now=now,
            context=session.context,
            extra=session.extra,
            number=session.number,
            directory=session.directory,
            journal=journal,
        )

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine over there; if the wait is interrupted, it is cancelled, and its end awaited."""
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
