"""The server's shell: carries frames between the connections of a `Listener` and a `SessionHost`.

Connections only pass their frames to the host; one loop, `SessionServer.run`, gathers those of a few milliseconds,
makes them durable together, and then sends the results.  A connection that is in no session is in the `Lobby`.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from secagg import ClientId
from transport.certificates.exclusion import Exclusions
from transport.certificates.reading import Credentials
from transport.durable import frames as link
from transport.durable.server_host import Close, Outgoing, SessionHost
from transport.errors import LinkError
from transport.tcp.connection import PING, PONG, Connection, CutOffError
from transport.tcp.listener import Listener
from transport.tcp.lobby import Lobby, OpenVisits, Visit
from transport.tcp.proxy_protocol import Network
from transport.tcp.session_loop import Host, SessionLoop
from transport.tcp.settings import Address, Limits, Plaintext
from transport.tcp.stream import StalledError, Stream
from transport.tcp.tls import TlsRefusedError

logger = logging.getLogger("transport.tcp")

# Number of PINGs in a row that are answered without the host, which counts those that it receives.
_PINGS = 8

# Queue limit of a connection that is in no session: a few small frames.
_LOBBY_BYTES = 1 << 13

_STOPPING = link.Refused(link.RefusalCode.STOPPING, "the server is being stopped")


class ClientsHost(Host, Protocol):
    """A session's host as connections with clients need it; see `transport.SessionHost`, which is one."""

    def expects(self, client_id: ClientId) -> bool:
        """Return whether the session would still serve a client that begins again."""

    def connected(self, client_id: ClientId, now: float, number: int | None = None) -> int:
        """Note a client's new connection, and return its number."""

    def left(self, client_id: ClientId, now: float, connection: int | None = None) -> None:
        """Note that a connection ended."""

    def frame_received(
        self, client_id: ClientId, payload: bytes | memoryview, now: float, connection: int | None = None
    ) -> None:
        """Take a frame from a connection."""


# Pause of a client that seems to wait at two servers of one session.
_MOVED_SECONDS = 1

HostObserver: TypeAlias = Callable[[SessionHost], None]
"""A function that is called after each commit, for progress and metrics; its errors end the session's run."""


class SessionServer(SessionLoop):
    """A listening server that runs sessions one after another; clients that come in between wait for the next one.

    Use it as an asynchronous context manager: leaving it closes all connections::

        async with SessionServer(("", 7000), Credentials.of_server("certs")) as server:
            await server.run(host, pool)

    Args:
        address: the address to listen on; an empty host means all addresses of the computer, port 0 a port that the
            system chooses.
        tls: the server's certificate, or `PLAINTEXT` for a trial on one machine.
        limits: limits of time and memory for connections.
        enrolled: the clients of all sessions. Others are refused at HELLO; enrolled clients without a place in the
            present session, such as late ones, wait for the next one. By default each session decides.
        exclusions: clients that are refused at HELLO although they are enrolled, and cannot wait for a session.
        proxies: networks whose connections begin with a header of the PROXY protocol, which has their source.

    Raises (on entering):
        OSError: the server cannot listen on the address.
        CertificateError: see `server_context`.
        PlaintextError: there is no TLS, and the address is not loopback.
    """

    host = SessionHost
    """The kind of host that it runs."""

    def __init__(
        self,
        address: Address,
        tls: Credentials | Plaintext,
        limits: Limits | None = None,
        enrolled: Iterable[ClientId] | None = None,
        exclusions: Exclusions | None = None,
        proxies: Iterable[Network] = (),
    ) -> None:
        super().__init__(limits)
        self._listener = Listener(address, tls, self._limits, self._serve, self._failed, proxies)
        self._host: ClientsHost | None = None
        self._connections: dict[tuple[ClientId, int], Connection] = {}
        self._is_open = False
        self._visits = OpenVisits(self._limits.connections_per_client)
        self._lobby = Lobby(enrolled, exclusions)
        self._arrival = asyncio.Event()
        self._departed: list[tuple[ClientId, int]] = []
        self.bytes_received = self.bytes_sent = 0

    async def __aenter__(self) -> "SessionServer":
        self._is_open = True
        await self._listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        for visit in self._visits:
            visit.connection.dismiss(link.encode(_STOPPING))
        await self._listener.close()
        self._end_threads()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return the addresses on which it listens."""
        return self._listener.addresses

    @property
    def num_connections(self) -> int:
        """Return the number of open connections with an identified client."""
        return self._listener.num_connections

    @property
    def num_waiting(self) -> int:
        """Return the number of distinct clients that are enrolled, have sent HELLO, and wait for a session."""
        return len(self._lobby)

    @property
    def waiting(self) -> tuple[ClientId, ...]:
        """Return the ids of the clients that wait for a session, after refusing those that are excluded by now."""
        self._review()
        return self._lobby.client_ids

    @property
    def num_enrolled(self) -> int | None:
        """Return the number of enrolled clients; None if each session decides."""
        return None if self._lobby.enrolled is None else len(self._lobby.enrolled)

    async def gather(self, count: int) -> None:
        """Wait until this many clients wait for a session, and tell them this number."""
        self._lobby.needed = count
        try:
            while len(self._lobby) < count:
                self._arrival.clear()
                await self._arrival.wait()
        finally:
            self._lobby.needed = 0

    def announce(self, needed: int, elsewhere: int) -> None:
        """Tell waiting clients how many the next session needs, and count those that wait at other servers."""
        self._lobby.needed, self._lobby.elsewhere = needed, elsewhere

    def dismiss(self, client_id: ClientId) -> None:
        """Send away a client that waits here, as it seems to be at another server since; it may come again."""
        if (visit := self._lobby.of(client_id)) is not None:
            self._refuse(visit, link.Refused(link.RefusalCode.STOPPING, link.REPLACED_TEXT, _MOVED_SECONDS))

    async def wait_for_arrival(self, seconds: float) -> None:
        """Wait until a client has come, at most this time."""
        self._arrival.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrival.wait()

    def wake(self) -> None:
        """Have the running session's host asked for what it has to send."""
        self._news.set()

    @property
    def certificate_expiry(self) -> dict[str, float]:
        """Return the ends of validity (Unix time) of the `server`'s certificate and the first of its `authority`'s."""
        tls = self._listener.tls
        if tls is None:
            return {}
        return {"server": tls.expires.timestamp(), "authority": tls.authority_expires.timestamp()}

    @property
    def refusals(self) -> Counter[str]:
        """Return the numbers of connections that were refused or cut off, by reason."""
        return self._listener.refusals

    def _begun(self, host: ClientsHost) -> None:
        self._host, self._connections, self._departed = host, {}, []
        self._review()
        for visit in self._lobby.visits:
            self._enter(host, visit)

    def _was_free(self) -> None:
        departed, self._departed = self._departed, []
        for client_id, number in departed:
            if self._host is not None:
                self._host.left(client_id, self._now(), number)

    def _ended(self, host: ClientsHost) -> None:
        self._host = None
        for connection in self._connections.values():
            if not host.over:
                connection.dismiss(link.encode(_STOPPING))
            connection.finish()

    def _send(self, outgoing: Iterable[Outgoing]) -> None:
        for item in outgoing:
            connection = self._connections.get((item.client_id, item.connection))
            if connection is None:
                continue
            try:
                connection.send(item.parts, last=isinstance(item, Close))
            except CutOffError as error:
                connection.cut(error)
            if isinstance(item, Close):
                reason = item.code.name.lower().replace("_", "-")
                self._listener.refused(reason, item.text, peer=connection.peer, client_id=item.client_id)

    async def _serve(self, stream: Stream, client_id: ClientId | None, peer: str, number: int) -> None:
        """Serve one connection, from the handshake to its end."""
        connection = Connection(
            stream, self._limits, max_payload=link.SMALL_BYTES, max_queued=_LOBBY_BYTES, peer=peer, client_id=client_id
        )
        visit = Visit(connection, number)
        self._visits.enter(visit)
        if not self._is_open:
            connection.finish()
        try:
            await self._converse(visit)
        except BaseException:
            stream.abort()
            raise
        finally:
            self._visits.leave(visit)
            self.bytes_received += connection.bytes_received
            self.bytes_sent += connection.bytes_sent

    async def _converse(self, visit: Visit) -> None:
        connection = visit.connection
        reading = asyncio.create_task(self._read(visit))
        writing = asyncio.create_task(connection.write())
        error: BaseException | None = None
        try:
            done, _ = await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            error = next((found for task in done if (found := task.exception()) is not None), None)
        finally:
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            self._lobby.leave(visit)
            if connection.key is not None:
                self._connections.pop(connection.key, None)
                # The host ignores connections that it closed itself.
                if self._host is visit.host is not None and self._free.is_set():
                    visit.host.left(connection.key[0], self._now(), connection.key[1])
                    self._news.set()
                elif self._host is visit.host:
                    self._departed.append(connection.key)
            if error is not None:
                connection.stream.abort()
        if error is None:
            await connection.stream.close()
            return
        match error:
            case CutOffError():
                reason = error.reason
            case LinkError():
                reason = "bad-frame"
            case TlsRefusedError():
                reason = error.reason.name.lower().replace("_", "-")
            case StalledError():
                reason = "not-reading"
            case OSError():
                self._listener.lost(str(error), peer=connection.peer, client_id=connection.client_id)
                return
            case Exception() if visit.hello is None:  # Before HELLO, nothing ends the session.
                reason = "failed"
            case _:
                raise error
        detail = repr(error) if reason == "failed" else str(error)
        self._listener.refused(reason, detail, peer=connection.peer, client_id=connection.client_id)

    async def _read(self, visit: Visit) -> None:
        async for payload in visit.connection.frames():
            if visit.connection.client_id is None:
                # Without TLS a client names itself.
                visit.connection.client_id = link.decode_identify(payload).client_id
                self._visits.enter(visit)
            elif visit.host is not None:
                await self._hear(visit.host, visit, payload)
            elif not visit.is_refused:
                is_new = visit.hello is None
                if (refused := self._lobby.frame_received(visit, payload, self._now())) is not None:
                    self._refuse(visit, refused)
                elif is_new and visit.hello is not None:
                    await self._arrive(visit)
            # Connections that wait for their next frame must not hold masked inputs.
            del payload

    async def _hear(self, host: ClientsHost, visit: Visit, payload: memoryview) -> None:
        """Take a frame of a connection that is in a session."""
        connection = visit.connection
        assert connection.key is not None  # noqa: S101 - it has entered
        if payload == PING and not self._free.is_set() and visit.answered < _PINGS:
            # The host may work for seconds, and the client must see that the server is alive.
            connection.send((PONG,))
            visit.answered += 1
        elif payload != PONG:
            await self._turn()
            visit.answered = 0
            if self._host is host:
                host.frame_received(connection.key[0], payload, self._now(), connection.key[1])
                self._news.set()

    async def _arrive(self, visit: Visit) -> None:
        """Handle a client after its HELLO: it joins the running session, or waits for the next one."""
        await self._turn()
        is_waiting = self._host is None or not self._enter(self._host, visit)
        if is_waiting and (older := self._lobby.enter(visit)) is not None:
            self._refuse(older, link.Refused(link.RefusalCode.REPLACED, link.REPLACED_TEXT))
        self._arrival.set()

    def _enter(self, host: ClientsHost, visit: Visit) -> bool:
        """Tell the host of a connection; the caller must have waited for `_turn`. False: it waits for the next session.

        A client that returns to a session that is over is refused here: the host's word to one that is not on its list
        would be final, and this client may be asked for another session.
        """
        assert visit.hello is not None  # noqa: S101 - it has arrived
        connection, now, session_id = visit.connection, self._now(), visit.hello.session_id
        if session_id not in (b"", host.session_id):
            self._refuse(visit, link.NOT_THIS_SESSION)
            return True
        if self._lobby.enrolled is not None and not session_id and not host.expects(visit.client_id):
            return False
        self._lobby.leave(visit)
        connection.raise_bound()
        visit.host = host
        connection.key = (visit.client_id, host.connected(visit.client_id, now, visit.number))
        self._connections[connection.key] = connection
        host.frame_received(visit.client_id, b"".join(link.encode(visit.hello)), now, visit.number)
        self._news.set()
        return True

    def _refuse(self, visit: Visit, refused: link.Refused) -> None:
        """Refuse a connection that is in no session."""
        connection = visit.connection
        visit.is_refused = True
        self._lobby.leave(visit)
        connection.dismiss(link.encode(refused))
        reason = refused.code.name.lower().replace("_", "-")
        self._listener.refused(reason, refused.text, peer=connection.peer, client_id=connection.client_id)

    def _review(self) -> None:
        """Refuse waiting clients that are excluded by now."""
        for visit in self._lobby.visits:
            if (refused := self._lobby.refusal(visit)) is not None:
                self._refuse(visit, refused)

    def _failed(self, error: BaseException) -> None:
        # No peer can cause this error, so it ends the session.
        self._error = error
        self._news.set()
        logger.error("a connection failed: %r", error, extra={"event": "failed"})
