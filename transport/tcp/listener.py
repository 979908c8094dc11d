"""The listening side: it accepts connections, counts them, and identifies clients by TLS."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from secagg import ClientId
from transport.certificates.reading import Credentials
from transport.certificates.reloading import Reloading
from transport.durable import frames as link
from transport.errors import MAX_ERROR_TEXT, printable
from transport.framing import encode_frame
from transport.tcp.half_open import HalfOpenConnections
from transport.tcp.proxy_protocol import Network, ProxyHeaderError, is_listed, read_source
from transport.tcp.refusals import STRANGERS_PER_SECOND, RefusalRate, network_of
from transport.tcp.settings import Address, Limits, Plaintext, check_loopback
from transport.tcp.stream import Stream, accept_stream
from transport.tcp.tls import LoadedTls, TlsRefusedError, client_id_from, reloading_tls, server_context

logger = logging.getLogger("transport.tcp")

_BACKLOG = 1024
_ACCEPTED_AT_ONCE = 64
_NO_SUCH_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_GOODBYE_SECONDS = 2.0
_TURNED_AWAY_AT_ONCE = 64
# Port probes and health checks of load balancers are only counted; peers without TLS are logged, but rarely.
_PROBES = ("broken-off", "timed-out")
_NO_CLIENTS = ("no-tls", "pushed-out")
# A client with a certificate that is not enrolled is named once, however often it comes.
_SAID_ONCE = ("unknown-client",)
_MOST_SAID = 1024


class Listener:
    """Listening sockets, and the tasks of the connections that they accepted.

    Args:
        address: the address to listen on; an empty host means all addresses of the computer.
        tls: the server's certificate, or `PLAINTEXT`.
        limits: limits of time and memory for connections.
        serve: called for each connection with its stream, the client's id from its certificate (None in plaintext), the
            IP address and the connection's number, which grows in the order of acceptance; it must close the stream.
        failed: called with an error that ``serve`` raised: a bug here, or a failure of the disk.
        proxies: networks whose connections begin with a header of the PROXY protocol, which has their IP address.

    Raises:
        ValueError: there are proxies but no TLS.
    """

    def __init__(
        self,
        address: Address,
        tls: Credentials | Plaintext,
        limits: Limits,
        serve: Callable[[Stream, ClientId | None, str, int], Awaitable[None]],
        failed: Callable[[BaseException], None],
        proxies: Iterable[Network] = (),
    ) -> None:
        if (proxies := tuple(proxies)) and not isinstance(tls, Credentials):
            raise ValueError("proxies need TLS: connections without it are for trials on one machine")
        self._proxies = proxies
        self._address = address
        self._tls = tls
        self._limits = limits
        self._serve = serve
        self._failed = failed
        self._loaded: Reloading[LoadedTls] | None = None
        self._sockets: list[socket.socket] = []
        self._accepting: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._half_open = HalfOpenConnections(limits.handshakes, limits.handshakes_per_address)
        # Separate, so that a flood of strangers does not suppress the lines about clients at their address.
        self._strangers, self._clients = RefusalRate(STRANGERS_PER_SECOND), RefusalRate()
        self._said: set[tuple[str, ClientId | None]] = set()
        self._accepted = 0
        self._open: Counter[str] = Counter()
        self._turning_away = 0
        self.refusals: Counter[str] = Counter()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return the addresses on which it listens."""
        return tuple(sock.getsockname()[:2] for sock in self._sockets)

    @property
    def num_connections(self) -> int:
        """Return the number of open connections with an identified client."""
        return self._open.total()

    @property
    def tls(self) -> LoadedTls | None:
        """Return the certificates in use; None before it listens, and without TLS."""
        return None if self._loaded is None else self._loaded.current()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the server cannot listen on the address.
            CertificateError: see `server_context`.
            PlaintextError: there is no TLS, and the address is not loopback.
        """
        if isinstance(self._tls, Credentials):
            self._loaded = reloading_tls(server_context, self._tls)
        host, port = self._address
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        places = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        if self._loaded is None:
            for _, address in places:
                check_loopback(str(address[0]))
        try:
            for family, address in places:
                # A port that the system chose is used for all addresses.
                port = port or (self._sockets[0].getsockname()[1] if self._sockets else 0)
                try:
                    self._listen(family, (address[0], port, *address[2:]))
                except OSError as error:
                    # A name may resolve to an address of a family that this computer lacks.
                    if error.errno not in _NO_SUCH_FAMILY or (not self._sockets and address == places[-1][1]):
                        raise
        except BaseException:
            self._close_sockets()
            raise
        for sock in self._sockets:
            self._start(self._accept(sock), self._accepting)

    async def close(self) -> None:
        """Stop listening, let closing connections finish, and end all others."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._close_sockets()
        try:
            if self._serving:
                await asyncio.wait(self._serving, timeout=_GOODBYE_SECONDS)
        finally:
            remaining = list(self._serving)
            for task in remaining:
                task.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)

    def refused(self, reason: str, detail: str, *, peer: str, client_id: ClientId | None = None) -> None:
        """Count a refusal, and log it in one line unless there were many from that address recently."""
        self.refusals[reason] += 1
        if (client_id is None and reason in _PROBES) or (reason, client_id) in self._said:
            return
        if reason in _SAID_ONCE and len(self._said) < _MOST_SAID:
            self._said.add((reason, client_id))
        rate = self._strangers if reason in _NO_CLIENTS else self._clients
        untold = rate.untold(peer, asyncio.get_running_loop().time())
        if untold is None:
            return
        detail = printable(detail, MAX_ERROR_TEXT)
        if untold:
            detail += f" (and {untold} before it that were not logged)"
        who = peer if client_id is None else f"client {client_id} at {peer}"
        logger.warning(
            "refused %s: %s: %s",
            who,
            reason,
            detail,
            extra={"event": "refused", "reason": reason, "client_id": client_id, "peer": peer},
        )

    def lost(self, detail: str, *, peer: str, client_id: ClientId | None) -> None:
        """Log a connection that broke; this is neither a fault nor the end of the client's part."""
        logger.info(
            "lost client %s at %s: %s",
            client_id,
            peer,
            printable(detail, MAX_ERROR_TEXT),
            extra={"event": "lost", "reason": "connection-lost", "client_id": client_id, "peer": peer},
        )

    def _listen(self, family: int, address: tuple[Any, ...]) -> None:
        # asyncio sends small frames at once (TCP_NODELAY) only if the socket's protocol is TCP.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        self._sockets.append(sock)

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    def _start(self, work: Coroutine[Any, Any, None], tasks: "set[asyncio.Task[None]]") -> None:
        def ended(task: "asyncio.Task[None]") -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failed(error)

        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(ended)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = await _next_connection(listener)
            except OSError as error:
                # Other errors of accept() are connections that ended before they were accepted.
                if error.errno in _OUT_OF_FILES:
                    logger.warning("cannot accept connections: %s", error, extra={"event": "out_of_files"})
                    self._half_open.shrink()
                await asyncio.sleep(0.5 if error.errno in _OUT_OF_FILES else 0)
                continue
            sock.setblocking(False)
            self._accepted += 1
            self._start(self._greet(sock, str(address[0]), self._accepted), self._serving)
            if self._accepted % _ACCEPTED_AT_ONCE == 0:
                # Let other tasks run during a flood of connections.
                await asyncio.sleep(0)

    async def _greet(self, sock: socket.socket, peer: str, number: int) -> None:
        """Serve one connection from its first byte to its end."""
        if (identified := await self._identified(sock, peer, number)) is None:
            return
        stream, client_id, peer = identified
        limits, network = self._limits, network_of(peer)
        if self._open.total() >= limits.connections or self._open[network] >= limits.connections_per_address:
            detail = f"{self._open.total()} connections are open, {self._open[network]} of them from there"
            self.refused("too-many-connections", detail, peer=peer, client_id=client_id)
            await self._turn_away(stream)
            return
        self._open[network] += 1
        try:
            await self._serve(stream, client_id, peer, number)
        finally:
            self._open[network] -= 1
            if not self._open[network]:
                del self._open[network]

    async def _turn_away(self, stream: Stream) -> None:
        """Tell a few connections at a time that the server is full, and close the others without an answer."""
        if self._turning_away >= _TURNED_AWAY_AT_ONCE:
            stream.abort()
            return
        self._turning_away += 1
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await stream.send(encode_frame(link.encode(link.TOO_MANY_CONNECTIONS)))
            await stream.close()
        finally:
            self._turning_away -= 1

    async def _identified(
        self, sock: socket.socket, peer: str, number: int
    ) -> tuple[Stream, ClientId | None, str] | None:
        """Return the stream, the client and the IP address; None if the connection was refused."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs

        def push_out() -> None:
            task.cancel()
            self.refused("pushed-out", "its place was needed before it identified itself", peer=peer)

        is_proxied = is_listed(peer, self._proxies)
        # Until its proxy names the source, a connection belongs to no address, so that nobody can fill its share.
        half_open = self._half_open.enter(f"proxied {number}" if is_proxied else peer, push_out)

        async def introduce(reader: asyncio.StreamReader) -> None:
            nonlocal half_open, peer
            peer = await read_source(reader) or peer
            self._half_open.leave(half_open)
            half_open = self._half_open.enter(peer, push_out)

        try:
            stream = await accept_stream(
                sock,
                None if (tls := self.tls) is None else tls.context,
                first_byte_seconds=self._limits.first_byte_seconds,
                handshake_seconds=self._limits.handshake_seconds,
                stall_seconds=self._limits.stall_seconds,
                heard=lambda: half_open.speak(),
                introduce=introduce if is_proxied else None,
            )
            return stream, await self._client_of(stream), peer
        except TlsRefusedError as error:
            self.refused(error.reason.name.lower().replace("_", "-"), str(error), peer=peer)
        except ProxyHeaderError as error:
            self.refused("bad-proxy-header", str(error), peer=peer)
        except OSError as error:
            self.refused("broken-off", str(error), peer=peer)
        except Exception as error:  # noqa: BLE001 - a stranger's bytes end no session, whatever they meet here
            self.refused("failed", repr(error), peer=peer)
        finally:
            self._half_open.leave(half_open)
        return None

    async def _client_of(self, stream: Stream) -> ClientId | None:
        """Return the client at the other end; None without TLS. TlsRefusedError: it is not a client, and was told."""
        if stream.tls is None:
            return None
        try:
            return client_id_from(stream.tls)
        except TlsRefusedError as error:
            # TLS accepted it, so the refusal can say why, and that the client must not come back.
            text = str(error).replace("its", "your")
            frame = encode_frame(link.encode(link.Refused(link.RefusalCode.UNKNOWN_CLIENT, text)))
            with contextlib.suppress(OSError):
                await stream.send(frame)
            await stream.close()
            raise
        except Exception:
            stream.abort()
            raise


async def _next_connection(listener: socket.socket) -> tuple[socket.socket, Any]:
    """Accept a connection; `loop.sock_accept` can lose one if it is cancelled at the wrong moment."""
    with contextlib.suppress(BlockingIOError):
        return listener.accept()
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    try:
        loop.add_reader(listener, came.set)
    except NotImplementedError:
        # The event loop of Windows.
        return await loop.sock_accept(listener)
    try:
        await came.wait()
    finally:
        loop.remove_reader(listener)
    return listener.accept()
