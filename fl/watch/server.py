"""Serve the status page, metrics and health checks over HTTP: read-only, bounded, on loopback by default.

It has no login and no TLS: everyone who can connect can read. To show it to others, put a proxy with a login in front
of it. Uvicorn runs in its own thread and shares only the `Watch` with the training.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fl.formatting import json_line
from fl.watch.metrics import CONTENT_TYPE
from fl.watch.state import Watch
from transport.tcp.refusals import RefusalRate

logger = logging.getLogger("fl.watch")

MAX_CONNECTIONS: Final = 32
MAX_STREAMS: Final = 16
"""The most connections of open pages; the remaining connections are for Prometheus and health checks."""

REQUEST_SECONDS: Final = 5.0
MAX_REQUEST_BYTES: Final = 8192
STALL_SECONDS: Final = 10.0
"""Seconds after which a client that does not read is disconnected."""

UPDATE_SECONDS: Final = 0.25
"""The least seconds between two updates of a page."""

HEARTBEAT_SECONDS: Final = 10.0
"""Seconds between updates of a page without changes; these also find readers that have left."""

_HEADERS: Final = {
    "Server": "secagg",
    # One request per connection: an answered client cannot keep its place.
    "Connection": "close",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def load_assets() -> dict[str, tuple[str, bytes]]:
    """Return content type and bytes by path; all are read once, so requests never name a file."""
    folder = files("fl.watch") / "static"
    return {
        "/": ("text/html", (folder / "status.html").read_bytes()),
        "/status.css": ("text/css", (folder / "status.css").read_bytes()),
        "/status.js": ("text/javascript", (folder / "status.js").read_bytes()),
    }


class WatchServer(uvicorn.Server):
    """The HTTP server of one watch; `serve_watch` runs it.

    Attributes:
        server_address: host and port where it listens.
        assets: see `load_assets`.
    """

    def __init__(self, watch: Watch, address: tuple[str, int], hosts: Sequence[str] = ()) -> None:
        host, port = address
        family, _, _, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.socket = socket.create_server(where[:2], family=family, backlog=64)
        self.server_address = self.socket.getsockname()
        self.on_loopback = ipaddress.ip_address(str(self.server_address[0]).partition("%")[0]).is_loopback
        self.assets = load_assets()
        self._watch = watch
        self._hosts = tuple(hosts)
        self._streams, self._refusals = 0, _Refusals()
        super().__init__(
            uvicorn.Config(
                self._application(),
                http=type("Connection", (_Connection,), {"refusals": self._refusals}),
                ws="none",
                loop="asyncio",
                lifespan="off",
                # Do not let Uvicorn change the logging of the process. Refusals are logged below.
                log_config=None,
                log_level=logging.ERROR,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                headers=list(_HEADERS.items()),
                h11_max_incomplete_event_size=MAX_REQUEST_BYTES,
                timeout_graceful_shutdown=2,
            )
        )

    @property
    def url(self) -> str:
        """Return the address of the page."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def stop(self) -> None:
        """Stop listening and end all connections; `serve_watch` waits for the thread."""
        self.should_exit = True

    def _application(self) -> Starlette:
        watch, assets = self._watch, self.assets

        async def asset(request: Request) -> Response:
            kind, body = assets[request.url.path]
            return Response(body, media_type=kind)

        async def status(_: Request) -> Response:
            return _json(watch.status() | {"rounds": watch.rounds()})

        async def metrics(_: Request) -> Response:
            return Response(watch.metrics.text(), media_type=CONTENT_TYPE)

        async def healthz(_: Request) -> Response:
            return _checked("alive", watch.faults())

        async def readyz(_: Request) -> Response:
            # Run it in a thread, since it writes to the disk.
            return _checked("ready", await asyncio.to_thread(watch.hindrances))

        routes = [Route(path, asset) for path in assets]
        routes += [Route("/events", self._events), Route("/status.json", status), Route("/metrics", metrics)]
        routes += [Route("/healthz", healthz), Route("/readyz", readyz)]
        # Against DNS rebinding: a foreign name that points to loopback would let a foreign page read ours.
        names = ["localhost", "127.0.0.1", "[::1]", str(self.server_address[0]), *self._hosts]
        if not (self.on_loopback or self._hosts):
            names = ["*"]
        app = Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names)])
        app.router.redirect_slashes = False
        return app

    async def _events(self, request: Request) -> Response:
        if self._streams >= MAX_STREAMS:
            self._refusals.log("too-many-streams", request.client)
            return PlainTextResponse("too many pages are open\n", 503)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        self._streams += 1
        return _Stream(self._updates(), self._left)

    def _left(self) -> None:
        self._streams -= 1

    async def _updates(self) -> AsyncIterator[str]:
        """Yield the events for a page until the server stops."""
        version = rounds_version = -1
        quiet = 0.0
        yield "retry: 1000\n\n"
        while not self.should_exit:
            watch, quiet = self._watch, quiet + UPDATE_SECONDS
            if watch.rounds_version != rounds_version:
                rounds_version = watch.rounds_version
                yield f"event: rounds\ndata: {json_line(watch.rounds())}\n\n"
            if watch.version != version or quiet >= HEARTBEAT_SECONDS:
                version, quiet = watch.version, 0.0
                yield f"event: live\ndata: {json_line(watch.status())}\n\n"
            await asyncio.sleep(UPDATE_SECONDS)


@contextlib.contextmanager
def serve_watch(
    watch: Watch, address: tuple[str, int] = ("127.0.0.1", 9100), hosts: Sequence[str] = ()
) -> Iterator[WatchServer]:
    """Serve `/` (the page), `/events` (its updates), `/status.json`, `/metrics`, `/healthz` and `/readyz`.

    Args:
        watch: the watch to show.
        address: host and port to listen at; for port 0 the system chooses one (see `WatchServer.url`).
        hosts: names by which it may be called, besides those of loopback and the address; without them, a server that
            listens beyond loopback answers to every name.

    Raises:
        OSError: the server cannot listen at the address.
    """
    server = WatchServer(watch, address, hosts)
    thread = threading.Thread(target=server.run, args=([server.socket],), name="secagg-watch", daemon=True)
    thread.start()
    logger.info("the status page is at %s", server.url, extra={"event": "watching", "url": server.url})
    if not server.on_loopback:
        logger.warning("the status page is open to the network, without a login", extra={"event": "open"})
    try:
        yield server
    finally:
        server.stop()
        thread.join()


class _Refusals:
    """A log of refusals: one line for each, and fewer lines during a flood."""

    def __init__(self) -> None:
        self._rate = RefusalRate()

    def log(self, reason: str, client: Any) -> None:
        """Log a refusal, unless many were logged in the last seconds."""
        peer = str(client[0]) if client else ""
        if (untold := self._rate.untold(peer, time.monotonic())) is not None:
            more = f" (and {untold} before it that were not logged)" if untold else ""
            fields = {"event": "refused", "reason": reason, "peer": peer}
            logger.warning("refused %s: %s%s", peer, reason, more, extra=fields)


class _Stream(StreamingResponse):
    """Server-sent events. Calls ``left`` when the reader has left, also before the first event."""

    def __init__(self, updates: AsyncIterator[str], left: Callable[[], None]) -> None:
        super().__init__(updates, media_type="text/event-stream")
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


class _Connection(H11Protocol):
    """Uvicorn's connection with limits that it lacks: number of connections, time for a head, time without reading."""

    refusals: _Refusals
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._cut_off_after(REQUEST_SECONDS, "slow-request")
        if len(self.connections) > MAX_CONNECTIONS:
            # Close a connection without a request, the oldest first, to make room: a flood of such connections locks
            # nobody out.
            silent = [one for one in self.connections if isinstance(one, _Connection) and one.cycle is None]
            oldest = min(silent, key=lambda one: one._timer.when() if one._timer else 0.0)
            if oldest is not self:
                oldest._cut_off("pushed-out")
                return
            self.refusals.log("too-many-connections", self.client)
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_started:
            self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cut_off_after(STALL_SECONDS, "not-reading")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The rest is in a buffer; the reader has this long to take it.
        self._cut_off_after(STALL_SECONDS, "not-reading")

    def send_400_response(self, msg: str) -> None:
        self.refusals.log("bad-request", self.client)
        super().send_400_response(msg)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _cut_off_after(self, seconds: float, reason: str) -> None:
        self._wait()
        self._timer = self.loop.call_later(seconds, self._cut_off, reason)

    def _cut_off(self, reason: str) -> None:
        self._wait()
        self.connections.discard(self)
        self.refusals.log(reason, self.client)
        self.transport.abort()


def _json(value: object, status: int = 200) -> Response:
    return Response(json_line(value), status, media_type="application/json; charset=utf-8")


def _checked(name: str, reasons: list[str]) -> Response:
    return _json({name: not reasons, "reasons": reasons}, 503 if reasons else 200)
