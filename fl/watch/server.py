"""The small HTTP server of the status page and the metrics: read only, bounded, on loopback unless told otherwise.

It has no log-in and no TLS: whoever can connect may read, which is why it listens on loopback. To show it to others,
put a proxy that asks who they are before it.
"""

import contextlib
import io
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from fl.watch.page import live_json, load_assets, rounds_json, status_json
from fl.watch.state import Watch

logger = logging.getLogger("fl.watch")

MAX_CONNECTIONS: Final = 32
MAX_STREAMS: Final = 16
"""Of the connections, so many may be pages that stay open; room is left for Prometheus and health checks."""

REQUEST_SECONDS: Final = 5.0
MAX_REQUEST_BYTES: Final = 8192
STALL_SECONDS: Final = 10.0
"""A reader that takes nothing for so long is cut off."""

UPDATE_SECONDS: Final = 0.25
"""At the least between two updates of a page: a session of a thousand clients changes faster than eyes see."""

HEARTBEAT_SECONDS: Final = 10.0
"""Without news a page is sent a comment so often, which also finds out that nobody reads any more."""

_JSON: Final = "application/json; charset=utf-8"
_HEADERS: Final = {
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


class WatchServer(ThreadingHTTPServer):
    """Serves one watch. `serve_watch` runs it."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, watch: Watch, address: tuple[str, int]) -> None:
        self.watch = watch
        self.closing = threading.Event()
        self.streams = threading.BoundedSemaphore(MAX_STREAMS)
        self.assets = load_assets()
        self.metrics = _metrics_of(watch)
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        host, port = address
        family, _, _, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__((str(where[0]), int(where[1])), _Handler)
        self.on_loopback = _is_loopback(str(self.server_address[0]))

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def server_bind(self) -> None:
        """Without the standard library's question to the name service, which may take long and which nobody needs."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for a connection, if there is room for one."""
        if not self._places.acquire(blocking=False):
            self.refused("too-many-connections", client_address)
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        with self._guard:
            self._open.add(request)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a connection raised: readers that went away are everyday, all else is a mistake of ours."""
        logger.debug("a connection of the status page ended early", exc_info=True)

    def refused(self, reason: str, client_address: Any) -> None:
        """Log a refusal: one line."""
        peer = str(client_address[0])
        logger.warning("refused %s: %s", peer, reason, extra={"event": "refused", "reason": reason, "peer": peer})

    def stop(self) -> None:
        """End all connections and their threads, and stop listening."""
        self.closing.set()
        self.watch.wake()
        self.shutdown()
        with self._guard:
            for request in self._open:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def _forget(self, request: socket.socket) -> None:
        with self._guard:
            self._open.discard(request)
        self._places.release()


@contextlib.contextmanager
def serve_watch(watch: Watch, address: tuple[str, int] = ("127.0.0.1", 9100)) -> Iterator[WatchServer]:
    """Serve `/` (the page), `/events` (its updates), `/status.json` and `/metrics` while the block runs.

    Args:
        watch: what is shown.
        address: where to listen; port 0 lets the system choose one, which `WatchServer.url` tells.

    Raises:
        OSError: the address cannot be listened at.
    """
    server = WatchServer(watch, address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="secagg-watch")
    thread.start()
    logger.info("the status page is at %s", server.url, extra={"event": "watching", "url": server.url})
    if not server.on_loopback:
        logger.warning("the status page is open to the network: it asks nobody who they are", extra={"event": "open"})
    try:
        yield server
    finally:
        server.stop()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One request a connection: the head is all that is read, and nothing that it says names a file."""

    server: WatchServer
    protocol_version = "HTTP/1.1"
    # Also for what is no request: with HTTP/0.9, the default, the refusal would go without its headers.
    default_request_version = "HTTP/1.1"
    server_version = "secagg"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        # A head that drips in would keep its thread for as long as it likes: all of it has one deadline.
        self.rfile.close()
        try:
            head = _head(self.connection, time.monotonic() + REQUEST_SECONDS)
        except _RefusedError as refusal:
            self.server.refused(str(refusal), self.client_address)
            head = b""
        self.rfile = io.BytesIO(head)
        self.connection.settimeout(STALL_SECONDS)

    def do_GET(self) -> None:
        """Answer, whatever the query."""
        self.close_connection = True
        if self.server.on_loopback and not _is_local_name(self.headers.get("Host", "")):
            # A name that somebody else's name server points here: their page would read ours.
            self.server.refused("wrong-host", self.client_address)
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"this page is called by its address only\n")
            return
        path = self.path.partition("?")[0]
        if path == "/events":
            self._events()
        elif path == "/status.json":
            self._answer(HTTPStatus.OK, _JSON, status_json(self.server.watch.snapshot()).encode())
        elif path == "/metrics":
            self._metrics()
        elif path in self.server.assets:
            self._answer(HTTPStatus.OK, *self.server.assets[path])
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Requests that are none, and methods other than GET and HEAD: a word, and nothing of what was sent."""
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        self._answer(status, "text/plain", f"{status.phrase.lower()}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Requests are not worth a line; who wants them asks for DEBUG. Quoted, since others wrote them."""
        logger.debug("%s: %r", self.client_address[0], format % args)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self._head(status, kind)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")

    def _metrics(self) -> None:
        if self.server.metrics is None:
            advice = b"metrics need prometheus-client: pip install '.[serve]' in the repository's folder\n"
            self._answer(HTTPStatus.NOT_IMPLEMENTED, "text/plain", advice)
            return
        kind, text = self.server.metrics
        self._answer(HTTPStatus.OK, kind, text())

    def _events(self) -> None:
        if not self.server.streams.acquire(blocking=False):
            self.server.refused("too-many-streams", self.client_address)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"too many pages are open\n")
            return
        try:
            self._head(HTTPStatus.OK, "text/event-stream; charset=utf-8")
            self.end_headers()
            if self.command != "HEAD":
                self._stream()
        finally:
            self.server.streams.release()

    def _stream(self) -> None:
        """Updates until the reader goes, or the server is stopped."""
        watch, closing = self.server.watch, self.server.closing
        version = rounds_version = -1
        self.wfile.write(b"retry: 1000\n\n")
        while not closing.is_set():
            snapshot = watch.snapshot()
            if snapshot.rounds_version != rounds_version:
                self._event("rounds", rounds_json(snapshot))
            if snapshot.version != version:
                self._event("live", live_json(snapshot))
            else:
                self.wfile.write(b": nothing new\n\n")
            version, rounds_version = snapshot.version, snapshot.rounds_version
            if not closing.wait(UPDATE_SECONDS):
                watch.wait(version, HEARTBEAT_SECONDS, closing)

    def _event(self, name: str, data: str) -> None:
        self.wfile.write(f"event: {name}\ndata: {data}\n\n".encode())


def _metrics_of(watch: Watch) -> tuple[str, Callable[[], bytes]] | None:
    """Content type and text; None where prometheus-client is not installed: the page goes without it."""
    try:
        from fl.watch.metrics import CONTENT_TYPE, Metrics
    except ModuleNotFoundError:
        logger.warning("no metrics: pip install '.[serve]' in the repository's folder", extra={"event": "no_metrics"})
        return None
    return CONTENT_TYPE, Metrics(watch).text


class _RefusedError(Exception):
    """A request that is not answered; the text is the reason, in a word."""


def _head(connection: socket.socket, deadline: float) -> bytes:
    """A request's head; nothing if the connection ends before it does."""
    head = bytearray()
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        if len(head) > MAX_REQUEST_BYTES:
            raise _RefusedError("long-request")
        try:
            # Not 0, which would mean something else: a deadline that has passed is one that passes at once.
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            data = connection.recv(4096)
        except TimeoutError:
            raise _RefusedError("slow-request") from None
        except OSError:
            return b""
        if not data:
            return b""
        head += data
    return bytes(head)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_local_name(host: str) -> bool:
    """Whether a Host header names this machine: `localhost` or a loopback address, with any port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name)
