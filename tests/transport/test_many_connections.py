"""Many connections of one client, or beyond the limit: they take a bounded number of places, and end only their own."""

import asyncio
import contextlib

import pytest

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import check_exact, deployment, join, raw_stream, served
from tests.transport.tcp_sessions import HELLO
from transport.certificates.reading import Credentials
from transport.durable import frames as link
from transport.framing import encode_frame
from transport.tcp import PLAINTEXT, Limits, SessionServer, listener
from transport.tcp.stream import Stream, connect_stream

pytestmark = pytest.mark.live

CLIENTS = 4
PARAMS = make_params(CLIENTS - 1, 2)
LIMITS = Limits(handshake_seconds=3, farewell_seconds=0.5)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def is_open(stream: Stream) -> bool:
    """Return whether the server has not closed the connection; its frames do not matter."""
    try:
        async with asyncio.timeout(0.2):
            while await stream.receive():
                pass
    except TimeoutError:
        return True
    except OSError:
        pass
    return False


@pytest.mark.parametrize("says_hello", [True, False])
@pytest.mark.parametrize("tls", [True, False])
def test_only_the_newest_connections_of_a_client_stay(certs, says_hello, tls):
    """None of them reads, or sends anything more."""

    async def connect(port: int) -> Stream:
        if tls:
            return await raw_stream(port, certs, 0)
        stream = await connect_stream("127.0.0.1", port, None, handshake_seconds=3, stall_seconds=3)
        await stream.send(encode_frame(link.encode(link.Identify(0))))
        return stream

    async def scenario():
        credentials = Credentials.of_server(certs) if tls else PLAINTEXT
        async with SessionServer(("127.0.0.1", 0), credentials, LIMITS, range(3)) as server:
            other = await raw_stream(server.addresses[0][1], certs, 1) if tls else None
            streams = []
            for number in range(12):
                streams.append(await connect(server.addresses[0][1]))
                if says_hello:
                    await streams[-1].send(HELLO)
                await until(lambda number=number: server._listener._accepted > number)
            bound = LIMITS.connections_per_client + (other is not None)
            await until(lambda: server.num_connections <= bound)
            await asyncio.sleep(0.1)
            kept = [await is_open(stream) for stream in streams]
            # A client that waits for a session has no older connection beside it.
            assert kept[-1]
            assert sum(kept) == (1 if says_hello else LIMITS.connections_per_client)
            assert kept == sorted(kept)
            assert other is None or await is_open(other)
            for stream in filter(None, (*streams, other)):
                stream.abort()
            await until(lambda: not server.num_connections)
            return server

    server = asyncio.run(scenario())
    assert server.refusals["replaced"] >= 12 - LIMITS.connections_per_client
    assert not list(server._visits)
    assert not server._visits._of


def test_a_session_continues_beside_a_client_that_connects_without_end(certs):
    inputs = random_inputs(PARAMS, seed=1)

    async def scenario():
        async with served(PARAMS, certs, limits=LIMITS) as serving:
            kept = []

            async def flood():
                while True:
                    with contextlib.suppress(Exception):
                        kept.append(await raw_stream(serving.port, certs, 3))
                    await asyncio.sleep(0)

            flooding = asyncio.create_task(flood())
            await asyncio.sleep(0.1)
            await asyncio.gather(*(join(serving.port, inputs[i], certs, i) for i in inputs))
            flooding.cancel()
            for stream in kept:
                stream.abort()
            return await serving.task

    report = asyncio.run(scenario())
    assert report.outcome.included == (0, 1, 2)
    assert check_exact(PARAMS, inputs, report.outcome)


def test_connections_beyond_the_limit_do_not_linger(certs, monkeypatch):
    """Each is told why, and waits a second for the client to read it: a bounded number at a time."""
    monkeypatch.setattr(listener, "_TURNED_AWAY_AT_ONCE", 3)
    limits = Limits(connections=2, handshake_seconds=3)

    async def scenario():
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), limits, range(3)) as server:
            port, most = server.addresses[0][1], 0
            streams = [await raw_stream(port, certs, i) for i in (0, 1)]
            await until(lambda: server.num_connections == 2)
            for _ in range(12):
                # TLS accepted its certificate; the test reads nothing from the server.
                streams.append(await raw_stream(port, certs, 2))
                most = max(most, len(server._listener._serving))
            await until(lambda: server.refusals["too-many-connections"] == 12)
            most = max(most, len(server._listener._serving))
            await until(lambda: len(server._listener._serving) == 2)
            assert all([await is_open(stream) for stream in streams[:2]])
            for stream in streams:
                stream.abort()
            return most

    # One more, whose handshake has just ended.
    assert asyncio.run(scenario()) <= 2 + 3 + 1
