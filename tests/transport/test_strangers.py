"""Thousands of idle sockets, and more of them every second: clients still come in by their first connection."""

import asyncio

import pytest

from tests.transport.children import may_open
from tests.transport.load import beside_strangers
from tests.transport.network import deployment
from transport.tcp import Limits

pytestmark = pytest.mark.live

IDLE = 2000
A_SECOND = 40
CLIENTS, SESSIONS = 6, 3


@pytest.mark.parametrize("limits", [Limits(), Limits(handshakes=64, handshakes_per_address=16)], ids=["usual", "few"])
def test_two_thousand_idle_sockets_keep_nobody_out(tmp_path, capsys, limits):
    if not may_open(2 * IDLE + 1000):
        pytest.skip("the system lets a process open too few files: raise `ulimit -n`")
    certs = deployment(tmp_path / "certs", CLIENTS)
    options = {"clients": CLIENTS, "sessions": SESSIONS, "idle": IDLE, "a_second": A_SECOND}
    found = asyncio.run(beside_strangers(certs, limits=limits, **options))
    assert found.included == [CLIENTS] * SESSIONS
    assert found.accepted == found.opened + SESSIONS * CLIENTS
    assert found.held <= limits.handshakes
    assert set(found.refusals) <= {"timed-out", "broken-off", "pushed-out"}
    said = (
        f"{found.opened} of {found.accepted} connections are idle: clients in after {max(found.seconds):.2f} s at most"
    )
    with capsys.disabled():
        print(f"\n{said}")  # noqa: T201 - for people
