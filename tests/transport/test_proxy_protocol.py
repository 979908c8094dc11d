"""Behind proxies that name their clients: the limits are the clients' own, and only listed proxies are believed."""

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fl.commands.app import app
from tests.support.sessions import make_params, random_inputs
from tests.transport.fronted import fronted
from tests.transport.network import QUICK, check_exact, deployment, join, raw_stream, served
from transport.certificates.reading import Credentials
from transport.tcp import PLAINTEXT, Limits, SessionServer, proxy_networks
from transport.tcp.proxy_protocol import MAX_BODY_BYTES, ProxyHeaderError, body_bytes, is_listed, source_of

pytestmark = pytest.mark.live

CLIENTS = 3
PARAMS = make_params(CLIENTS, 2)
LOOPBACK = proxy_networks("127.0.0.1")
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def header(source: str = "192.0.2.1", extra: bytes = b"", *, version_command: int = 0x21) -> bytes:
    """Return haproxy's header for TCP, with the ports 50,000 and 7000."""
    address = ipaddress.ip_address(source)
    ends = address.packed + ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1").packed
    return raw(version_command, 0x21 if address.version == 6 else 0x11, ends + struct.pack(">HH", 50_000, 7000) + extra)


def raw(version_command: int, family: int, body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return SIGNATURE + struct.pack(">BBH", version_command, family, length) + body


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def read(data: bytes) -> str | None:
    assert body_bytes(data[:16]) == len(data) - 16
    return source_of(data[:16], data[16:])


def refused(caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", "") == "refused"]


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


@contextlib.asynccontextmanager
async def proxy(port: int, sent: bytes, step: int | None = None):
    """Run a proxy that begins its connections with these bytes, in one piece or several; yield its port."""
    ends = []

    async def pass_on(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def connect(reader, writer):
        ends.append(writer)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        for start in range(0, len(sent), step or len(sent)):
            up_writer.write(sent[start : start + (step or len(sent))])
            await asyncio.sleep(0.001 if step else 0)
        try:
            await asyncio.gather(pass_on(reader, up_writer), pass_on(up_reader, writer))
        finally:
            up_writer.transport.abort()
            writer.transport.abort()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in ends:
            writer.transport.abort()
        await asyncio.sleep(0.02)


async def exact_session(serving, certs, inputs, *first):
    """Assert the honest end: all clients come through a proxy, each from its own address."""
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(proxy(serving.port, *given)) for given in first]
        await asyncio.gather(*(join(port, inputs[i], certs, i) for i, port in enumerate(ports)))
        report = await serving.task
    assert check_exact(PARAMS, inputs, report.outcome)
    assert report.outcome.included == tuple(inputs)
    return report


def own_addresses():
    return [(header(f"192.0.2.{i}"),) for i in range(CLIENTS)]


def test_fronts_keep_the_clients_own_addresses(certs, caplog):
    """Limits and log lines of a front are of the addresses in the headers, as in one process."""
    caplog.set_level(logging.INFO, "transport.tcp")
    inputs = random_inputs(PARAMS, seed=1)
    limits = dataclasses.replace(QUICK, connections_per_address=1)

    async def scenario():
        async with (
            fronted(PARAMS, certs, limits=limits, proxies=LOOPBACK) as world,
            contextlib.AsyncExitStack() as stack,
        ):
            session = world.run()
            places = [(world.fronts[i % 2].port, header(f"192.0.2.{i}")) for i in inputs]
            ports = [await stack.enter_async_context(proxy(*place)) for place in places]
            again = await stack.enter_async_context(proxy(world.fronts[0].port, header("2001:db8::7")))
            streams = [await raw_stream(again, certs, 0) for _ in range(2)]
            async with asyncio.timeout(5):
                while not any(getattr(line, "reason", "") == "too-many-connections" for line in caplog.records):
                    await asyncio.sleep(0.01)
            for stream in streams:
                stream.abort()
            await asyncio.gather(*(join(port, inputs[i], certs, i) for i, port in enumerate(ports)))
            outcome = await session
            assert check_exact(PARAMS, inputs, outcome)
            assert outcome.included == tuple(inputs)

    asyncio.run(scenario())
    peers = {line.peer for line in caplog.records if getattr(line, "reason", "") == "too-many-connections"}
    assert peers == {"2001:db8::7"}


def test_a_front_refuses_what_its_proxies_must_not_send(certs, caplog):
    caplog.set_level(logging.INFO, "transport.tcp")

    async def scenario():
        for proxies in (LOOPBACK, ()):
            async with fronted(PARAMS, certs, count=1, proxies=proxies) as world:
                # A listed proxy without a header; a header of a proxy that is not listed.
                sent = b"" if proxies else header("203.0.113.9")
                reader, writer = await asyncio.open_connection("127.0.0.1", world.fronts[0].port)
                writer.write(sent + bytes(16))
                async with asyncio.timeout(5):
                    assert not await reader.read()
                writer.close()

    asyncio.run(scenario())
    lines = [line.__dict__ for line in refused(caplog)]
    assert [line["reason"] for line in lines] == ["bad-proxy-header", "no-tls"]
    assert {line["peer"] for line in lines} == {"127.0.0.1"}


def test_limits_and_logs_are_of_the_clients_own_addresses(certs, caplog):
    """One connection an address, of three clients behind one proxy; a fourth connection is one too many of its own."""
    caplog.set_level(logging.INFO, "transport.tcp")
    inputs = random_inputs(PARAMS, seed=1)
    limits = Limits(connections_per_address=1, farewell_seconds=0.5)

    async def scenario():
        async with served(PARAMS, certs, limits=limits, proxies=LOOPBACK) as serving:
            async with proxy(serving.port, header("2001:db8::7")) as port:
                streams = [await raw_stream(port, certs, 0) for _ in range(2)]
                async with asyncio.timeout(5):
                    while not any(getattr(line, "reason", "") == "too-many-connections" for line in caplog.records):
                        await asyncio.sleep(0.01)
                for stream in streams:
                    stream.abort()
            return await exact_session(serving, certs, inputs, *own_addresses())

    asyncio.run(scenario())
    peers = {line.peer for line in caplog.records if getattr(line, "reason", "") == "too-many-connections"}
    assert peers == {"2001:db8::7"}


@pytest.mark.parametrize(
    "first",
    [
        (header("192.0.2.1", extension(0x04, b"\0" * 7) + extension(0x20, b"x" * 2000)),),
        (header("2001:db8::1", extension(0xEA, b"")),),
        (header("192.0.2.1"), 1),
        # A health check, or a connection of which the proxy knows nothing, counts as the proxy's own.
        (raw(0x20, 0x00, b""),),
        (raw(0x20, 0xFF, b"anything"),),
        (raw(0x21, 0x00, b"anything"),),
    ],
    ids=["extensions", "IPv6", "byte by byte", "LOCAL", "LOCAL with more", "unspecified"],
)
def test_a_session_continues_behind_proxies_that_follow_the_specification(certs, first):
    inputs = random_inputs(PARAMS, seed=1)

    async def scenario():
        async with served(PARAMS, certs, proxies=LOOPBACK) as serving:
            return await exact_session(serving, certs, inputs, *[first] * CLIENTS)

    assert not asyncio.run(scenario()).refusals


BAD = {
    "none": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(30), "does not begin with a PROXY header"),
    "version 1": (b"PROXY TCP4 192.0.2.1 127.0.0.1 50000 7000\r\n", "does not begin with a PROXY header"),
    "version 3": (header(version_command=0x31), "version 3 and command 1"),
    "an unknown command": (header(version_command=0x22), "version 2 and command 2"),
    "UDP": (raw(0x21, 0x12, bytes(12)), "0x12, which is not TCP"),
    "a UNIX socket": (raw(0x21, 0x31, bytes(216)), "0x31, which is not TCP"),
    "an unknown family": (raw(0x21, 0x41, bytes(216)), "0x41, which is not TCP"),
    "addresses cut short": (raw(0x21, 0x11, bytes(11)), "has 11 bytes, but addresses and ports need 12"),
    "IPv6 in IPv4's length": (raw(0x21, 0x21, bytes(12)), "has 12 bytes, but addresses and ports need 36"),
    "a cut extension": (header(extra=extension(4, b"four")[:-1]), "cut short"),
    "half an extension's head": (header(extra=b"\x04\x00"), "cut short"),
    "too long": (raw(0x21, 0x11, b"", MAX_BODY_BYTES + 1), "4097 more bytes"),
    "far too long": (raw(0x20, 0x00, b"", 0xFFFF), "65535 more bytes"),
    "ended in the signature": (SIGNATURE[:5], "ended within its PROXY header"),
    "ended in the addresses": (header()[:-1], "ended within its PROXY header"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_listed_proxys_bad_header_is_refused_and_costs_nobody_else(certs, caplog, what):
    inputs = random_inputs(PARAMS, seed=1)
    sent, why = BAD[what]

    async def scenario():
        async with served(PARAMS, certs, proxies=LOOPBACK) as serving:
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writer.write(sent)
            writer.write_eof()
            async with asyncio.timeout(2):
                with contextlib.suppress(OSError):
                    assert await reader.read() == b""
            writer.transport.abort()
            return await exact_session(serving, certs, inputs, *own_addresses())

    assert asyncio.run(scenario()).refusals == {"bad-proxy-header": 1}
    (line,) = refused(caplog)
    assert why in line.getMessage()
    assert vars(line)["peer"] == "127.0.0.1"


@pytest.mark.parametrize("sent", [b"", header()[:20]], ids=["nothing", "a part"])
def test_a_header_that_does_not_come_is_not_waited_for(certs, sent):
    limits = Limits(first_byte_seconds=0.2, farewell_seconds=0.5)
    inputs = random_inputs(PARAMS, seed=1)

    async def scenario():
        async with served(PARAMS, certs, limits=limits, proxies=LOOPBACK) as serving:
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writer.write(sent)
            async with asyncio.timeout(2):
                with contextlib.suppress(OSError):
                    assert await reader.read() == b""
            writer.transport.abort()
            return await exact_session(serving, certs, inputs, *own_addresses())

    assert asyncio.run(scenario()).refusals == {"timed-out": 1}


def test_a_silent_probe_is_not_logged(certs, caplog):
    """As without a proxy: a health check that only connects."""

    async def scenario():
        tls = Credentials.of_server(certs)
        async with SessionServer(("127.0.0.1", 0), tls, QUICK, proxies=LOOPBACK) as server:
            _, writer = await asyncio.open_connection(*server.addresses[0])
            writer.close()
            async with asyncio.timeout(2):
                while not server.refusals:
                    await asyncio.sleep(0.01)
            return server.refusals

    assert asyncio.run(scenario()) == {"broken-off": 1}
    assert not caplog.records


@pytest.mark.parametrize("proxies", [(), proxy_networks("192.0.2.0/24")], ids=["nobody is listed", "another is"])
def test_headers_of_unlisted_proxies_are_refused(certs, caplog, proxies):
    inputs = random_inputs(PARAMS, seed=1)

    async def scenario():
        async with served(PARAMS, certs, proxies=proxies) as serving:
            async with proxy(serving.port, header()) as port:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                async with asyncio.timeout(2):
                    while not refused(caplog):
                        await asyncio.sleep(0.01)
                writer.transport.abort()
            # And it is served as before.
            await asyncio.gather(*(join(serving.port, inputs[i], certs, i) for i in inputs))
            return await serving.task

    report = asyncio.run(scenario())
    assert report.refusals == {"no-tls": 1}
    assert check_exact(PARAMS, inputs, report.outcome)
    assert [vars(line)["peer"] for line in refused(caplog)] == ["127.0.0.1"]


def test_strangers_behind_a_proxy_push_out_only_their_own(certs, caplog):
    """Two silent ones an address: of eight from one address, six go, and those from another stay."""
    inputs = random_inputs(PARAMS, seed=1)
    limits = Limits(handshakes_per_address=2, farewell_seconds=0.5, first_byte_seconds=5)

    async def scenario():
        async with served(PARAMS, certs, limits=limits, proxies=LOOPBACK) as serving:
            silent = []
            for source in ["198.51.100.7"] * 2 + ["192.0.2.99"] * 8:
                silent.append(await asyncio.open_connection("127.0.0.1", serving.port))
                silent[-1][1].write(header(source))
                await asyncio.sleep(0.02)
            for reader, _ in silent[2:8]:
                async with asyncio.timeout(2):
                    with contextlib.suppress(OSError):
                        assert await reader.read() == b""
            still_open = [not reader.at_eof() for reader, _ in (*silent[:2], *silent[8:])]
            report = await exact_session(serving, certs, inputs, *own_addresses())
            for _, writer in silent:
                writer.transport.abort()
            return still_open, report

    still_open, report = asyncio.run(scenario())
    assert all(still_open)
    assert report.refusals["pushed-out"] == 6
    pushed = {record.peer for record in caplog.records if getattr(record, "reason", "") == "pushed-out"}
    assert pushed == {"192.0.2.99"}


def test_one_address_has_one_way_to_be_written():
    assert read(header("::ffff:192.0.2.1")) == read(header("192.0.2.1")) == "192.0.2.1"
    assert read(header("2001:db8::1")) == "2001:db8::1"
    assert read(raw(0x20, 0x11, bytes(12))) is None


@given(st.binary(min_size=4, max_size=4), st.binary(max_size=300))
def test_any_header_gives_an_address_or_is_refused(last, body):
    head = SIGNATURE + last
    with contextlib.suppress(ProxyHeaderError):
        assert body_bytes(head) <= MAX_BODY_BYTES
        source = source_of(head, body)
        assert source is None or ipaddress.ip_address(source)


def test_proxies_are_listed_by_address_or_network():
    networks = proxy_networks("127.0.0.1, 10.0.0.0/24,fd00::/64")
    inside = ["127.0.0.1", "10.0.0.200", "fd00::9", "fd00::9%eth0"]
    assert all(is_listed(peer, networks) for peer in inside)
    assert not any(is_listed(peer, networks) for peer in ("127.0.0.2", "10.0.1.1", "fd01::1"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("proxy.example", "neither an IP address"),
        ("10.0.0.1/24", "neither an IP address"),
        ("", "neither an IP address"),
        ("10.0.0.1,", "neither an IP address"),
        ("0.0.0.0/0", "all addresses"),
        ("10.0.0.1,::/0", "all addresses"),
    ],
)
def test_an_invalid_list_of_proxies_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        proxy_networks(text)


def test_there_are_no_proxies_without_tls():
    with pytest.raises(ValueError, match="need TLS"):
        SessionServer(("127.0.0.1", 0), PLAINTEXT, proxies=LOOPBACK)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--plaintext", "--proxy-protocol", "127.0.0.1"), "leave out --plaintext"),
        (("--certs", "certs", "--proxy-protocol", "everybody"), "neither an IP address"),
    ],
)
def test_serve_says_what_is_wrong_with_its_proxies(tmp_path, given, said):
    result = CliRunner().invoke(app, ["serve", "--clients", "3", "--out", str(tmp_path / "run"), *given])
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_serve_takes_connections_from_its_proxies(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("fl.network.server.start_serving", lambda *a, **_: seen.append(a[3]) or pytest.exit)
    arguments = ["--certs", "certs", "--proxy-protocol", "10.0.0.0/24,::1"]
    CliRunner().invoke(app, ["serve", "--clients", "3", "--out", str(tmp_path / "run"), *arguments])
    (options,) = seen
    assert options.proxies == proxy_networks("10.0.0.0/24,::1")
