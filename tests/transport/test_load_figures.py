"""The scripts that measure a server's load report what happened, at sizes that take seconds."""

import asyncio

import pytest

from tests.transport import load
from tests.transport.network import deployment
from tests.transport.slow_lines import CLIENTS as SLOW_CLIENTS
from tests.transport.slow_lines import slow_session
from tests.transport.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.live

CLIENTS = 5


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


def test_strangers(certs):
    found = load.strangers(certs, idle=20, a_second=40, clients=CLIENTS, sessions=3)
    assert found["included"] == [CLIENTS] * 3
    assert found["opened"] >= 20
    assert found["seconds until in, at most"] > 0


def test_late_clients_are_in_the_next_session(certs):
    found = load.come_late(certs, live=2, late=CLIENTS - 2, seconds=0.2, settle=0.2)
    assert found["included"] == [2, CLIENTS]
    assert found["exact"] == [True, True]
    assert found["reconnects"] == [0, 0]


@pytest.mark.parametrize(("unmasked", "exact"), [(False, True), (True, "not checked: unmasked")])
def test_many_clients(certs, unmasked, exact):
    found = load.many_clients(certs, CLIENTS, 100_000, unmasked=unmasked, processes=1)
    assert (found["included"], found["exact"], found["reconnects"]) == (CLIENTS, exact, 0)
    # Nothing is sent twice: an input alone would be 20%.
    assert -1 < found["over the needed ones, %"] < 2


def test_clients_that_wait_for_an_hour_keep_their_connections(certs):
    found = load.wait(certs, clients=CLIENTS, seconds=3600)
    assert found["virtual seconds"] == 3600
    assert found["still there"] == found["connections made"] == found["included then"] == CLIENTS
    assert found["refusals"] == {}
    # Each side asks after 30 seconds of silence: a question, an answer, and the number of waiting clients.
    assert 300 < found["messages a client and hour"] < 800


def test_a_slow_line_that_breaks_once(certs):
    found = asyncio.run(slow_session(certs, up=1000, down=2000, values=400_000, announced=1000, cut=300))
    assert found["exact"]
    assert (found["included"], found["connections"]) == (SLOW_CLIENTS, 2)
    # It continues where it broke off.
    assert found["input_bytes"] < found["bytes_up"] < 1.3 * found["input_bytes"]


def test_virtual_time_passes_timers_in_order_and_then_stands_still():
    async def scenario():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        began, rang = loop.time(), []
        for hours in (3, 1, 2):
            loop.call_later(hours * 3600, rang.append, hours)
        await loop.pass_by(2.5 * 3600)
        assert 0 <= loop.time() - began - 2.5 * 3600 < 60
        return rang

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(scenario()) == [1, 2]
