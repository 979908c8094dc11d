"""Real sessions on loopback, to be watched."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fl.watch import Watch
from secagg import Parameters
from tests.support.sessions import make_params, random_inputs
from tests.transport.network import QUICK, deadlines, join
from transport import RecoveryPool, SessionHost
from transport.durable.links import Counters
from transport.tcp import PLAINTEXT, NetworkReport, SessionServer


def run_session(
    watch: Watch,
    *,
    clients: int = 5,
    threshold: int = 3,
    absent: tuple[int, ...] = (4,),
    seconds: float = 0.4,
    observer: Callable[[SessionHost], None] | None = None,
    during: Callable[[int], Any] | None = None,
) -> NetworkReport:
    """Run one session without ``absent`` clients; ``during`` is awaited with the port before the others come."""
    params = make_params(clients, threshold)
    return asyncio.run(_run(watch, params, absent, seconds, observer or watch.session, during))


async def _run(
    watch: Watch,
    params: Parameters,
    absent: tuple[int, ...],
    seconds: float,
    observer: Callable[[SessionHost], None],
    during: Callable[[int], Any] | None,
) -> NetworkReport:
    now = asyncio.get_running_loop().time
    began, inputs = now(), random_inputs(params, seed=0)
    host = SessionHost(params, deadlines=deadlines(seconds), now=began)
    with RecoveryPool(1) as pool:
        async with SessionServer(("127.0.0.1", 0), PLAINTEXT, QUICK) as server:
            watch.listener(server)
            running = asyncio.create_task(server.run(host, pool, observer))
            port = server.addresses[0][1]
            if during is not None:
                await during(port)
            joins = [join(port, inputs[i], PLAINTEXT, i) for i in inputs if i not in absent]
            await asyncio.gather(running, *joins, return_exceptions=True)
            running.result()
    assert host.outcome is not None
    return NetworkReport(host.outcome, dict(host.dropped), host.disputes, host.counters, server.refusals, now() - began)


def get(url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers with lower-case names, and body."""
    address, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request(method, f"/{path}", headers=headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


class StubHost:
    """The parts of a host that the page reads."""

    def __init__(self, **values: Any) -> None:
        self.counters = Counters()
        self.outcome = None
        self.offer = SimpleNamespace(params=make_params(3, 2))
        self.connected_clients: frozenset[int] = frozenset()
        self.bytes_in_flight = 0
        self.__dict__.update(values)
