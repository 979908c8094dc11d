"""The status page's server: its answers, its refusals, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from fl.watch import RoundFigures, Watch, WatchServer, serve_watch
from fl.watch import server as server_module
from secagg import Aborted, AbortReason, Round
from tests.fl.watch.sessions import get
from tests.support.sessions import make_params

pytestmark = pytest.mark.live

ABORTED = Aborted(AbortReason.TOO_FEW_CLIENTS, Round.SHARE_KEYS, 3, 2)


@pytest.fixture
def watch() -> Watch:
    return Watch("digits", total_rounds=9)


@pytest.fixture
def server(watch: Watch) -> Iterator[WatchServer]:
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        yield server


class Events:
    """A reader of /events."""

    def __init__(self, server: WatchServer) -> None:
        self.connection = http.client.HTTPConnection(*server.server_address[:2], timeout=5)
        self.connection.request("GET", "/events")
        self.response = self.connection.getresponse()

    def next(self, name: str) -> Any:
        """Return the data of the next event of that name."""
        event = None
        for line in self.response:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                event = value
            elif field == "data" and event == name:
                return json.loads(value)
        raise EOFError

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@contextmanager
def raw(server: WatchServer, data: bytes) -> Iterator[socket.socket]:
    with closing(socket.create_connection(server.server_address[:2], timeout=5)) as sock:
        sock.sendall(data)
        yield sock


def answer_to(server: WatchServer, data: bytes) -> bytes:
    with raw(server, data) as sock:
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", "text/html; charset=utf-8"),
        ("status.css", "text/css; charset=utf-8"),
        ("status.js", "text/javascript; charset=utf-8"),
        ("status.json", "application/json; charset=utf-8"),
        ("metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("metrics?name[]=x", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_every_answer_has_strict_headers(server: WatchServer, path: str, kind: str) -> None:
    status, headers, body = get(server.url + path)
    assert (status, headers["content-type"]) == (200, kind)
    assert int(headers["content-length"]) == len(body) > 0
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "python" not in headers["server"].lower()
    assert "access-control-allow-origin" not in headers
    status, of_head, body = get(server.url + path, method="HEAD")
    assert (status, body, of_head["content-type"]) == (200, b"", kind)


@pytest.mark.parametrize(
    "path", ["nothing", "static/", "static/status.html", "status.html", "../pyproject.toml", "%2e%2e/", "metrics/"]
)
def test_other_paths_are_not_found(server: WatchServer, path: str) -> None:
    status, headers, body = get(f"{server.url}{path}")
    assert (status, body) == (404, b"Not Found")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_it_is_read_only(server: WatchServer, method: str) -> None:
    status, headers, _ = get(server.url, method=method)
    assert (status, sorted(headers["allow"].split(", "))) == (405, ["GET", "HEAD"])


def test_the_page_refers_to_nothing_outside(server: WatchServer) -> None:
    for kind, body in server.assets.values():
        text = body.decode().replace("http://www.w3.org/2000/svg", "")  # a namespace's name; no one fetches it
        assert "//" not in text.replace("// ", ""), kind
        assert "innerHTML" not in text


def test_an_invalid_request_gets_a_short_answer_and_no_echo(server: WatchServer) -> None:
    assert b"400 Bad Request" in answer_to(server, b"GET / HTTP/nonsense<script>\r\n\r\n")
    assert b"<script>" not in answer_to(server, b"GET / <script> HTTP/1.1\r\n\r\n")
    assert answer_to(server, b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert get(server.url)[0] == 200


def test_a_long_head_and_one_that_drips_in_are_cut_off(server: WatchServer, caplog, monkeypatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.3)
    # The unread rest makes the system reset the connection rather than end it.
    with contextlib.suppress(ConnectionError):
        assert answer_to(server, b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000).startswith(b"HTTP/1.1 400 ")
    with raw(server, b"GET /") as sock:
        began = time.monotonic()
        for _ in range(2):
            time.sleep(0.1)
            sock.sendall(b"x")
        assert sock.recv(10) == b""
    assert time.monotonic() - began < 1
    refusals = [record for record in caplog.records if getattr(record, "event", "") == "refused"]
    assert [record.reason for record in refusals] == ["bad-request", "slow-request"]
    assert {record.levelno for record in refusals} == {logging.WARNING}


def test_a_foreign_name_that_points_here_is_not_served(server: WatchServer) -> None:
    port = server.server_address[1]
    for host in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert get(server.url, headers={"Host": host})[0] == 200
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "", "[::1"):
        assert get(server.url, headers={"Host": host})[0] == 400


def test_open_to_the_network_any_name_is_served_and_a_warning_is_given(watch: Watch, caplog) -> None:
    with serve_watch(watch, ("0.0.0.0", 0)) as server:  # noqa: S104 - that is what is tested
        url = f"http://127.0.0.1:{server.server_address[1]}/status.json"
        assert get(url, headers={"Host": "server:9100"})[0] == 200
    assert "open to the network" in caplog.text


def test_open_to_the_network_only_the_names_that_are_given_are_served(watch: Watch) -> None:
    with serve_watch(watch, ("0.0.0.0", 0), ["server", "Stats.example.org"]) as server:  # noqa: S104 - as above
        port = server.server_address[1]
        url = f"http://127.0.0.1:{port}/status.json"
        for host in ("server", f"stats.example.org:{port}", f"localhost:{port}", "127.0.0.1"):
            assert get(url, headers={"Host": host})[0] == 200
        for host in ("rebound.evil.example", "other.server", ""):
            assert get(url, headers={"Host": host})[0] == 400


def test_connections_and_streams_are_bounded(watch: Watch, monkeypatch, caplog) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(server_module, "MAX_STREAMS", 2)
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        readers = [Events(server) for _ in range(2)]
        assert get(f"{server.url}events")[0] == 503
        assert get(f"{server.url}metrics")[0] == 200
        # Any number of idle connections make room for those that ask.
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(raw(server, b""))
            assert get(f"{server.url}metrics")[0] == 200
            assert len(server.server_state.connections) <= 4
        monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
        assert b"503" in answer_to(server, b"")
        for reader in readers:
            reader.close()
    reasons = {getattr(record, "reason", "") for record in caplog.records}
    assert {"too-many-streams", "too-many-connections", "pushed-out"} <= reasons


def test_a_flood_of_invalid_requests_is_a_few_lines(server: WatchServer, caplog) -> None:
    for _ in range(50):
        answer_to(server, b"nonsense\r\n\r\n")
    assert len([record for record in caplog.records if getattr(record, "reason", "") == "bad-request"]) <= 33


def test_a_reader_that_does_not_read_is_cut_off(server: WatchServer, watch: Watch, monkeypatch, caplog) -> None:
    monkeypatch.setattr(server_module, "STALL_SECONDS", 0.2)
    for number in range(1, 1001):
        watch.restore(RoundFigures(number=number, included=1, seconds=1.0, dropped={"x" * 8000: 1}))
    with raw(server, b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        while not any(getattr(record, "reason", "") == "not-reading" for record in caplog.records):
            time.sleep(0.01)
        while server.server_state.connections:
            time.sleep(0.01)
    assert get(f"{server.url}healthz")[0] == 200
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_events_tell_each_of_two_readers_what_changes(server: WatchServer, watch: Watch) -> None:
    readers = [Events(server), Events(server)]
    for reader in readers:
        assert reader.next("rounds") == []
        assert reader.next("live")["state"] == "waiting"
    watch.round_started(1, make_params(5, 3))
    for reader in readers:
        live = reader.next("live")
        assert (live["state"], live["round"], live["session"]["threshold"]) == ("running", 1, 3)
        assert "rounds" not in live
    watch.round_ended(1, ABORTED, 2.5, accuracy=0.25, loss=float("nan"))
    for reader in readers:
        (round_,) = reader.next("rounds")
        assert (round_["aborted"], round_["accuracy"], round_["loss"]) == ("too-few-clients", 0.25, None)
        reader.close()
    status = json.loads(get(f"{server.url}status.json")[2])
    assert status["rounds"] == [round_]


def test_many_changes_make_few_updates(server: WatchServer, watch: Watch) -> None:
    reader = Events(server)
    reader.next("live")
    for number in range(1, 1500):
        watch.restore(RoundFigures(number=number, included=1, seconds=1.0))
    assert len(reader.next("rounds")) == 1000
    assert watch.rounds()[0]["number"] == 500
    reader.close()


def test_a_reader_comes_back_after_a_restart(watch: Watch) -> None:
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        address = server.server_address[:2]
        reader = Events(server)
        reader.next("live")
    with pytest.raises((EOFError, OSError, http.client.HTTPException)):
        reader.next("live")
    reader.close()
    with serve_watch(watch, address) as server:
        assert server.server_address[:2] == address
        reader = Events(server)
        assert reader.next("live")["run"] == "digits"
        reader.close()


def test_stopping_is_quick_and_leaves_no_thread(watch: Watch) -> None:
    before = set(threading.enumerate())
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        readers = [Events(server) for _ in range(3)]
        for reader in readers:
            reader.next("live")
        time.sleep(0.3)  # they wait for news now
        with raw(server, b"GET /"):
            while len(server.server_state.connections) < 4:
                time.sleep(0.01)
            # For any number of connections.
            assert len(set(threading.enumerate()) - before) == 1
            began = time.monotonic()
            server.stop()
    assert time.monotonic() - began < 1.5
    assert set(threading.enumerate()) - before == set()
    for reader in readers:
        reader.close()


def test_a_taken_port_is_an_error_and_leaves_nothing(server: WatchServer, watch: Watch) -> None:
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="in use"), serve_watch(watch, server.server_address[:2]):
        pass
    assert set(threading.enumerate()) == before
