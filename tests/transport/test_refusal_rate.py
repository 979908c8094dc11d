"""Refusals are all counted, and logged no more often than the disk bears."""

import asyncio
import logging

from tests.cohort import make_params
from tests.transport.network import deployment, served
from transport._refusals import _ADDRESSES, RefusalRate


def test_a_burst_is_logged_and_then_a_line_every_few_seconds():
    rate = RefusalRate()
    logged = [rate.untold("192.0.2.1", 0.0) for _ in range(1000)]
    assert logged == [0] * 32 + [None] * 968
    assert rate.untold("192.0.2.2", 0.0) == 0
    # The next line tells of those that were left out.
    assert rate.untold("192.0.2.1", 5.0) == 968
    assert rate.untold("192.0.2.1", 5.0) is None
    assert sum(rate.untold("192.0.2.1", 5.0 + second) is not None for second in range(100)) <= 21


def test_addresses_without_number_share_what_is_left():
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
