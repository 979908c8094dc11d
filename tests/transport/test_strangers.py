"""Thousands of idle sockets, and more of them every second: clients come in by their first connection all the same."""

import asyncio
import contextlib

import pytest

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import EAGER, check_exact, deadlines, deployment, join
from tests.transport.test_load import may_open
from transport import RecoveryPool
from transport.certificates.reading import Credentials
from transport.durable.server_host import SessionHost
from transport.tcp import Limits, SessionServer

pytestmark = pytest.mark.live

IDLE = 2000
A_SECOND = 40
# The clients' own is one of them.
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
CLIENTS, SESSIONS = 6, 3


class Strangers:
    """Sockets that are opened and never say anything; those that the server closes are not opened anew."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self.opened = 0

    async def open(self, number: int) -> None:
        for _ in range(number):
            address = ADDRESSES[self.opened % len(ADDRESSES)]
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(address, 0))
                self._writers.append(writer)
            self.opened += 1

    async def keep_coming(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            await self.open(A_SECOND // 10)

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def serve_beside_strangers(certs, limits):
    """Sessions while strangers fill the port; gives what was found, and how long each client took to come in."""
    params = make_params(CLIENTS, 4)
    loop = asyncio.get_running_loop()
    held: list[int] = []
    seconds: list[float] = []
    async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), limits, range(CLIENTS)) as server:
        port = server.addresses[0][1]
        strangers = Strangers(port)
        await strangers.open(IDLE)
        coming = asyncio.create_task(strangers.keep_coming())
        try:
            for seed in range(SESSIONS):
                held.append(len(server._listener._half_open))
                inputs = random_inputs(params, seed)
                began = loop.time()
                came = {"on_waiting": lambda _, began=began: seconds.append(loop.time() - began)}
                options = {"retry": EAGER, "limits": Limits(), **came}
                clients = [asyncio.create_task(join(port, inputs[i], certs, i, **options)) for i in inputs]
                await server.gather(CLIENTS)
                assert server.num_waiting == server.num_connections == CLIENTS
                host = SessionHost(params, deadlines=deadlines(30), now=loop.time())
                with RecoveryPool(1) as pool:
                    await asyncio.gather(server.run(host, pool), *clients)
                assert host.outcome.included == tuple(inputs)
                assert check_exact(params, inputs, host.outcome)
                # Nobody was cut off and had to come again.
                assert host.counters.connections == CLIENTS
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            strangers.close()
        return server, strangers, max(held), seconds


@pytest.mark.parametrize("limits", [Limits(), Limits(handshakes=64, handshakes_per_address=16)], ids=["usual", "few"])
def test_two_thousand_idle_sockets_keep_nobody_out(tmp_path, capsys, limits):
    if not may_open(2 * IDLE + 1000):
        pytest.skip("the system lets a process open too few files: raise `ulimit -n`")
    certs = deployment(tmp_path / "certs", CLIENTS)
    server, strangers, held, seconds = asyncio.run(serve_beside_strangers(certs, limits))
    accepted = server._listener._accepted
    assert accepted == strangers.opened + SESSIONS * CLIENTS
    assert held <= limits.handshakes
    assert set(server.refusals) <= {"timed-out", "broken-off", "pushed-out"}
    said = f"{strangers.opened} of {accepted} connections are idle: clients in after {max(seconds):.2f} s at most"
    with capsys.disabled():
        print(f"\n{said}")  # noqa: T201 - for people
