"""/healthz and /readyz: 200 while all is well, and every reason otherwise."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl.watch import Watch, serve_watch
from tests.fl.watch.sessions import get


class Listener:
    """A server that listens."""

    addresses: tuple[Any, ...] = (("127.0.0.1", 7000),)
    num_connections, num_waiting, num_enrolled = 0, 0, 4

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.certificate_expiry = {"server": time.time() + 60, "authority": time.time() + 60}


class Loop:
    """An event loop that turns when the test tells it to."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, work: Callable[[], None]) -> None:
        self.due.append(work)

    def call_later(self, _: float, work: Callable[[], None]) -> None:
        self.due.append(work)

    def turn(self) -> None:
        due, self.due = self.due, []
        for work in due:
            work()


def asked(watch: Watch, path: str) -> tuple[int, dict[str, Any]]:
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        status, headers, body = get(server.url + path)
    assert headers["content-type"] == "application/json; charset=utf-8"
    return status, json.loads(body)


def test_a_server_that_can_be_used_is_alive_and_ready(tmp_path: Path) -> None:
    watch = Watch("digits", 1, tmp_path)
    watch.listener(Listener())
    assert asked(watch, "healthz") == (200, {"alive": True, "reasons": []})
    assert asked(watch, "readyz") == (200, {"ready": True, "reasons": []})
    assert list(tmp_path.iterdir()) == []


def test_before_it_listens_it_is_alive_and_not_ready() -> None:
    watch = Watch("digits", 1)
    assert asked(watch, "healthz")[0] == 200
    assert asked(watch, "readyz") == (503, {"ready": False, "reasons": ["the server does not listen"]})


def test_all_reasons_are_listed(tmp_path: Path) -> None:
    watch, listener = Watch("digits", 1, tmp_path / "gone"), Listener()
    listener.certificate_expiry["server"] = time.time() - 1
    watch.listener(listener)
    assert asked(watch, "readyz") == (
        503,
        {
            "ready": False,
            "reasons": [
                "the certificate of the server has expired",
                "the run's folder cannot be written to: No such file or directory",
            ],
        },
    )
    assert asked(watch, "healthz")[0] == 200


def test_a_loop_that_does_not_turn_is_dead_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch, loop = Watch("digits", 1), Loop()
    watch.listener(Listener(), loop)  # type: ignore[arg-type]
    loop.turn()
    now += 1.5
    loop.turn()
    assert watch.status()["event_loop_lag_seconds"] == 0.5
    assert watch.faults() == []
    now += 61.0
    assert watch.faults() == ["the event loop has not turned for 60 s"]
    assert watch.hindrances() == watch.faults()
    loop.turn()
    now += 1.0
    loop.turn()
    assert watch.faults() == []
    assert watch.status()["event_loop_lag_seconds"] == 0.0


def test_a_real_loop_is_followed_and_let_go() -> None:
    watch = Watch("digits", 1)

    async def scenario() -> None:
        watch.listener(Listener(), asyncio.get_running_loop())
        await asyncio.sleep(0.05)
        assert watch.faults() == []
        assert watch.status()["event_loop_lag_seconds"] is not None

    asyncio.run(scenario())
    assert b"secagg_event_loop_lag_seconds" in watch.metrics.text()
