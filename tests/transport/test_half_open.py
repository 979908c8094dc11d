"""Connections that have not shown an identity: they keep no client out, and close only their own connections."""

import asyncio
import contextlib
import errno
import socket
import ssl

import pytest

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import check_exact, deadlines, deployment, join, raw_stream, served
from transport.certificates.reading import Credentials
from transport.tcp import Limits, SessionServer
from transport.tcp.half_open import HalfOpenConnections
from transport.tcp.tls import client_context

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 3)


@pytest.fixture
def table():
    """Return a table of four places that records which connections were ended."""

    class Table(HalfOpenConnections):
        ended: list[str] = []  # noqa: RUF012 - a new class for each test

        def come(self, peer, name):
            return self.enter(peer, lambda: self.ended.append(name))

    return Table(4)


def test_the_oldest_of_the_address_that_has_most_makes_room(table):
    for name in ("a1", "b1", "a2", "a3", "a4", "c1", "b2"):
        table.come(f"192.0.2.{'abc'.index(name[0])}", name)
    assert table.ended == ["a1", "a2", "a3"]
    assert len(table) == 4


def test_silent_connections_are_closed_before_those_that_spoke(table):
    places = [table.come("192.0.2.1", name) for name in ("1", "2", "3", "4")]
    places[0].speak()
    places[1].speak()
    for name in ("5", "6", "7"):
        table.come("192.0.2.1", name).speak()
    assert table.ended == ["3", "4", "1"]


def test_among_equal_addresses_silent_connections_are_closed_first(table):
    for number in range(4):
        place = table.come(f"192.0.2.{number}", f"first of {number}")
        if number != 2:
            place.speak()
    table.come("192.0.2.9", "newcomer")
    assert table.ended[-1] == "first of 2"


def test_a_newcomer_is_not_closed(table):
    for number in range(4):
        table.come(f"192.0.2.{number}", str(number)).speak()
    table.come("192.0.2.9", "newcomer")
    assert table.ended == ["0"]


def test_a_network_of_ipv6_addresses_counts_as_one(table):
    table.come("192.0.2.1", "alone")
    for number in range(8):
        table.come(f"2001:db8::{number:x}", str(number))
    assert table.ended == ["0", "1", "2", "3", "4"]
    table.come("2001:db8:0:1::1", "of another")
    assert table.ended[-1] == "5"


def test_a_connection_that_has_left_is_not_ended(table):
    first = table.come("192.0.2.1", "first")
    for name in ("2", "3", "4"):
        table.come("192.0.2.1", name)
    table.leave(first)
    table.leave(first)
    table.come("192.0.2.2", "5")
    assert table.ended == []
    assert len(table) == 4


def test_without_room_the_limit_falls_from_then_on():
    ended = []
    table = HalfOpenConnections(1000)
    for number in range(100):
        table.enter("192.0.2.1", lambda number=number: ended.append(number))
    table.shrink()
    assert ended == list(range(25))
    table.enter("192.0.2.1", lambda: None)
    assert len(table) == 75
    for _ in range(20):
        table.shrink()
    assert len(table) == 16


def test_one_network_has_no_more_than_its_part_although_there_is_room():
    ended = []
    table = HalfOpenConnections(100, per_network=3)
    for number, peer in enumerate(["192.0.2.1"] * 5 + ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"]):
        table.enter(peer, lambda number=number: ended.append(number))
    assert ended == [0, 1, 5]
    assert len(table) == 6


def test_places_come_back_with_each_connection_that_ends_by_itself():
    ended = []
    table = HalfOpenConnections(100)
    places = [table.enter("192.0.2.1", lambda: ended.append(None)) for _ in range(100)]
    table.shrink()
    assert (len(table), len(ended)) == (75, 25)
    # One that was pushed out leaves no room: its place was already taken.
    for place in places[:25]:
        table.leave(place)
    table.enter("192.0.2.1", lambda: ended.append(None))
    assert (len(table), len(ended)) == (75, 26)
    for place in places[40:70]:
        table.leave(place)
    for _ in range(100):
        table.enter("192.0.2.1", lambda: ended.append(None))
    # Never more than at first.
    assert len(table) == 100


@contextlib.asynccontextmanager
async def idle(port, address, number, first=b""):
    """Open ``number`` connections from ``address`` that send only ``first``; yield tasks that last as long."""
    opened = [await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)) for _ in range(number)]
    for _, writer in opened:
        writer.write(first)
    tasks = [asyncio.create_task(reader.read()) for reader, _ in opened]
    try:
        yield tasks
    finally:
        for _, writer in opened:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


async def closed(tasks, number):
    """Return which of them the server has closed, once ``number`` are."""
    async with asyncio.timeout(5):
        while len(found := [index for index, task in enumerate(tasks) if task.done()]) < number:
            await asyncio.sleep(0.01)
    return found


def client_hello(certs):
    outgoing = ssl.MemoryBIO()
    context = client_context(Credentials.of_client(certs, 0))
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("talking", [False, True])
def test_idle_sockets_of_strangers_keep_no_client_out(certs, talking):
    """There are many times as many sockets as places, from several addresses, and one of them is the clients' own."""
    limits = Limits(handshakes=8, farewell_seconds=0.5)
    params = make_params(3, 3)
    inputs = random_inputs(params, seed=0)
    first = client_hello(certs) if talking else b""

    async def scenario():
        async with (
            served(params, certs, limits=limits, deadlines=deadlines(8)) as serving,
            idle(serving.port, "127.0.0.1", 20, first) as ours,
            idle(serving.port, "127.0.0.2", 20, first) as theirs,
        ):
            gone = len(await closed([*ours, *theirs], 32))
            await asyncio.gather(*(join(serving.port, inputs[i], certs, i, limits=Limits()) for i in inputs))
            return gone, await serving.task

    gone, report = asyncio.run(scenario())
    assert gone == 32
    assert report.outcome.included == tuple(inputs)
    assert check_exact(params, inputs, report.outcome)
    assert report.refusals["pushed-out"] >= 32


def test_an_address_that_opens_many_closes_its_own(certs):
    async def scenario():
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), Limits(handshakes=6)) as server:
            port = server.addresses[0][1]
            async with idle(port, "127.0.0.3", 2) as few, idle(port, "127.0.0.2", 30) as many:
                first = await closed(many, 26)
                stream = await raw_stream(port, certs, 0)
                after = await closed([*few, *many], 27)
                while not server.num_connections:
                    await asyncio.sleep(0.01)
                # A client that is in does not count among them.
                counts = len(server._listener._half_open), server.num_connections
                stream.abort()
                return first, after, counts

    first, after, counts = asyncio.run(scenario())
    assert first == list(range(26))
    assert after == [*range(2, 29)]
    assert counts == (5, 1)


def test_a_silent_connection_has_less_time_than_a_handshake(certs):
    async def scenario():
        limits = Limits(first_byte_seconds=0.2, handshake_seconds=60)
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), limits) as server:
            port = server.addresses[0][1]
            async with idle(port, "127.0.0.1", 3) as silent, idle(port, "127.0.0.1", 2, b"\x16") as begun:
                await closed(silent, 3)
                return [task.done() for task in begun], dict(server.refusals)

    assert asyncio.run(scenario()) == ([False, False], {"timed-out": 3})


def test_when_files_run_out_strangers_make_room(certs, monkeypatch):
    """The descriptors of idle sockets are taken when a newcomer would get none."""
    lacking = []

    class Listening(socket.socket):
        def accept(self):
            if lacking:
                raise OSError(lacking.pop(), "Too many open files")
            return super().accept()

    monkeypatch.setattr(socket, "socket", Listening)

    async def scenario():
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), Limits()) as server:
            port = server.addresses[0][1]
            async with idle(port, "127.0.0.2", 40) as silent:
                while len(server._listener._half_open) < 40:
                    await asyncio.sleep(0.01)
                lacking.append(errno.EMFILE)
                stream = await raw_stream(port, certs, 0)
                stream.abort()
                return await closed(silent, 11)

    # A quarter of them, and one for the client.
    assert asyncio.run(scenario()) == list(range(11))
