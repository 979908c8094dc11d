"""Refusals are all counted, and logged only as often as the disk bears."""

import asyncio
import logging

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import check_exact, deployment, join, served
from transport.certificates.reading import Credentials
from transport.tcp import Limits, SessionServer
from transport.tcp.refusals import _ADDRESSES, RefusalRate


def test_a_burst_is_logged_and_then_a_line_every_few_seconds():
    rate = RefusalRate()
    logged = [rate.untold("192.0.2.1", 0.0) for _ in range(1000)]
    assert logged == [0] * 32 + [None] * 968
    assert rate.untold("192.0.2.2", 0.0) == 0
    # The next line counts the ones left out.
    assert rate.untold("192.0.2.1", 5.0) == 968
    assert rate.untold("192.0.2.1", 5.0) is None
    assert sum(rate.untold("192.0.2.1", 5.0 + second) is not None for second in range(100)) <= 21


def test_very_many_addresses_share_one_budget():
    rate = RefusalRate()
    logged = sum(rate.untold(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 0.0) is not None for n in range(50_000))
    assert logged <= _ADDRESSES + 32
    assert len(rate._buckets) <= _ADDRESSES + 1
    # One machine has a whole network of IPv6 addresses.
    rate = RefusalRate()
    assert sum(rate.untold(f"2001:db8::{n:x}", 0.0) is not None for n in range(1000)) == 32
    assert rate.untold("2001:db8:0:1::1", 0.0) == 0
    assert rate.untold("fe80::1%eth0", 0.0) == 0


def test_quiet_addresses_are_forgotten():
    rate = RefusalRate()
    for n in range(_ADDRESSES):
        rate.untold(f"10.0.{n >> 8}.{n & 255}", 0.0)
    assert rate.untold("192.0.2.1", 1000.0) == 0
    assert "192.0.2.1" in rate._buckets
    assert len(rate._buckets) == _ADDRESSES


def test_a_flood_is_counted_and_not_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO, "transport")
    certs = deployment(tmp_path / "certs", 1)

    async def scenario():
        async with served(make_params(2, 2), certs) as serving:
            for _ in range(100):
                _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await writer.drain()
                writer.transport.abort()
            await asyncio.sleep(0.3)

    asyncio.run(scenario())
    lines = [record for record in caplog.records if getattr(record, "event", "") == "refused"]
    assert 30 <= len(lines) <= 34


def test_port_probes_and_health_checks_are_not_logged(tmp_path, caplog):
    """Connect and close, connect and send nothing, connect and send something else, for the server's whole life."""
    caplog.set_level(logging.WARNING, "transport")
    certs = deployment(tmp_path / "certs", 2)
    params = make_params(2, 2)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        limits = Limits(first_byte_seconds=0.05, farewell_seconds=0.5)
        async with served(params, certs, limits=limits) as serving:
            silent = [await asyncio.open_connection("127.0.0.1", serving.port) for _ in range(50)]
            for sent in [b""] * 50 + [b"GET / HTTP/1.1\r\n\r\n"] * 50:
                _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
                writer.write(sent)
                writer.write_eof()
                writer.close()
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()
            await asyncio.gather(*(join(serving.port, inputs[i], certs, i) for i in inputs))
            return await serving.task

    report = asyncio.run(scenario())
    assert check_exact(params, inputs, report.outcome)
    assert report.refusals == {"timed-out": 50, "broken-off": 50, "no-tls": 50}
    assert {record.reason for record in caplog.records} == {"no-tls"}
    assert len(caplog.records) <= 32


def test_strangers_use_up_no_line_of_the_clients_at_their_address(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "transport")
    certs = deployment(tmp_path / "certs", 1)

    async def scenario():
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs)) as server:
            for _ in range(100):
                server._listener.refused("no-tls", "", peer="192.0.2.1")
            for _ in range(3):
                server._listener.refused("replaced", "", peer="192.0.2.1", client_id=7)

    asyncio.run(scenario())
    assert [record.reason for record in caplog.records] == ["no-tls"] * 32 + ["replaced"] * 3
