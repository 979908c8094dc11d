"""The cost of strangers, late clients, many clients and waiting clients for a server, as lines of JSON.

    python -m tests.transport.load strangers [--idle 2000] [--a-second 40]
    python -m tests.transport.load late [--late 180] [--seconds 60]
    python -m tests.transport.load clients NUMBER VALUES [--sparse] [--unmasked]
    python -m tests.transport.load hour [--clients 100] [--seconds 3600]

All over TLS on loopback. In `late` and `clients` the server is a separate process, so that its CPU seconds are its own;
in the other two it shares a process with the clients.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import secagg
from secagg import GraphKind
from secagg.messages import AdvertiseKeys, MaskedInput, PeerKeys, PeerShares, ShareKeys, SurvivorList, UnmaskingShares
from tests.support.sessions import make_params, random_inputs
from tests.transport.children import Child, cpu_seconds, may_open
from tests.transport.network import EAGER, check_exact, deadlines, deployment, join
from tests.transport.virtual_time import VirtualTimeLoop
from transport import RecoveryPool
from transport.certificates.reading import Credentials
from transport.durable.server_host import SessionHost
from transport.tcp import Limits, Retry, SessionServer
from transport.tcp.connection import Connection

CHILD = "tests.transport.load_child"
# The clients' own process is one of them.
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
# Each once for each client, in a session without dropouts. The bounds are a little above the sizes, so the bytes on the
# wire may be some 0.1% below them.
MESSAGES = (AdvertiseKeys, PeerKeys, ShareKeys, PeerShares, MaskedInput, SurvivorList, UnmaskingShares)

# --- Strangers ------------------------------------------------------------------------------------------------------


class Strangers:
    """Sockets that are opened and never send anything; those that the server closes are not opened again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self.opened = 0

    async def open(self, number: int) -> None:
        """Open ``number`` more, from all addresses in turn."""
        for _ in range(number):
            address = ADDRESSES[self.opened % len(ADDRESSES)]
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(address, 0))
                self._writers.append(writer)
            self.opened += 1

    async def keep_coming(self, a_second: int) -> None:
        """Open ``a_second`` more each second, without end."""
        while True:
            await asyncio.sleep(0.1)
            await self.open(a_second // 10)

    def close(self) -> None:
        """Close all of them."""
        for writer in self._writers:
            writer.transport.abort()


@dataclass
class Besieged:
    """Sessions beside strangers.

    Attributes:
        opened: how many connections strangers opened,
        accepted: and how many of these were accepted.
        held: maximum number that the server held at the beginning of a session.
        refusals: connections that the server refused or ended, by reason.
        seconds: from each client's start until the server told it that it is in.
        included: how many inputs were in each session's sum. All sums were exact.
    """

    opened: int
    accepted: int
    held: int
    refusals: dict[str, int]
    seconds: list[float]
    included: list[int]


async def beside_strangers(
    certs: Path, *, limits: Limits, clients: int, sessions: int, idle: int, a_second: int, pause: float = 0.0
) -> Besieged:
    """Run sessions, with pauses before them, while strangers fill the port."""
    params = make_params(clients, clients // 2 + 1)
    loop = asyncio.get_running_loop()
    held: list[int] = []
    seconds: list[float] = []
    included: list[int] = []
    async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), limits, range(clients)) as server:
        port = server.addresses[0][1]
        strangers = Strangers(port)
        await strangers.open(idle)
        coming = asyncio.create_task(strangers.keep_coming(a_second))
        try:
            for seed in range(sessions):
                await asyncio.sleep(pause)
                held.append(len(server._listener._half_open))
                inputs = random_inputs(params, seed)
                began = loop.time()
                came = {"on_waiting": lambda _, began=began: seconds.append(loop.time() - began)}
                options = {"retry": EAGER, "limits": Limits(), **came}
                joining = [asyncio.create_task(join(port, inputs[i], certs, i, **options)) for i in inputs]
                await server.gather(clients)
                assert server.num_waiting == server.num_connections == clients
                host = SessionHost(params, deadlines=deadlines(30), now=loop.time())
                with RecoveryPool(1) as pool:
                    await asyncio.gather(server.run(host, pool), *joining)
                assert check_exact(params, inputs, host.outcome)
                included.append(len(host.outcome.included))
                # No client was cut off and had to come again.
                assert host.counters.connections == clients
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            strangers.close()
        accepted, refusals = server._listener._accepted, dict(server.refusals)
    return Besieged(strangers.opened, accepted, max(held), refusals, seconds, included)


# --- Separate processes -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def children() -> Iterator[Any]:
    """Start children by role and options; end all of them at the end."""
    started: list[Child] = []

    def start(role: str, **options: Any) -> Child:
        started.append(Child(CHILD, role, **options))
        return started[-1]

    try:
        yield start
    finally:
        for child in started:
            child.close()


def come_late(certs: Path, *, live: int, late: int, seconds: float, settle: float = 5.0) -> dict[str, Any]:
    """Measure the server while a session waits for ``live`` inputs, before and after ``late`` clients have come.

    Args:
        certs: certificates of all clients.
        live: clients in the first session.
        late: clients that come when its first phase is over, and join the second.
        seconds: duration of each measurement,
        settle: and the pause after the last event.
    """
    admit = 1.0
    shared = {
        "certs": str(certs), "clients": live + late, "threshold": 2, "degree": min(live + late - 1, 20), "length": 1000,
        "seconds": 2 * (seconds + settle) + 60,
    }  # fmt: skip
    with children() as start:
        server = start("serve", **shared, sessions=2, admit=admit, gather=[live, live + late])
        port = server.wait_for("port")["port"]
        asked = {**shared, "port": port}
        first = start("join", **asked, own=list(range(live)), sessions=2, hold=True)
        second = start("join", **asked, own=list(range(live, live + late)), sessions=1, first=1)
        for child in (first, second):
            child.wait_for("ready")
        first.go()
        server.wait_for("began")
        time.sleep(admit + settle)

        def share() -> float:
            before, began = cpu_seconds(server.pid), time.monotonic()
            time.sleep(seconds)
            return (cpu_seconds(server.pid) - before) / (time.monotonic() - began)

        alone = share()
        came = cpu_seconds(server.pid)
        second.go()
        time.sleep(settle)
        arrival = cpu_seconds(server.pid) - came
        beside = share()
        first.go()
        sessions = [server.wait_for("session", 60, count=count) for count in (1, 2)]
    return {
        "live": live,
        "late": late,
        "share of a core, nobody late": round(alone, 4),
        "share of a core, late ones waiting": round(beside, 4),
        "CPU s for their arrival": round(arrival, 2),
        "included": [session["included"] for session in sessions],
        "exact": [session["exact"] for session in sessions],
        "reconnects": [session["reconnects"] for session in sessions],
    }


def many_clients(
    certs: Path, number: int, length: int, *, sparse: bool = False, unmasked: bool = False, processes: int = 3
) -> dict[str, Any]:
    """Measure a server's process through one session of ``number`` clients.

    Handshakes may take half a minute instead of ten seconds: all clients come at once, and share the server's cores.
    """
    # The plan of `secagg serve`: few neighbours need a reserve.
    graph, dropout = (GraphKind.SPARSE, 0.05) if sparse else (GraphKind.COMPLETE, 0.0)
    plan = secagg.plan(num_clients=number, vector_length=length, value_bits=16, graph=graph, dropout=dropout)
    params = plan.parameters
    options = {
        "certs": str(certs), "clients": number, "threshold": params.threshold, "degree": params.degree,
        "length": length, "bits": 16, "sessions": 1, "seconds": 500,
    }  # fmt: skip
    with children() as start:
        server = start("serve", **options)
        before = server.wait_for("port")
        joining = [
            start("join", **options, port=before["port"], own=list(range(part, number, processes)), unmasked=unmasked)
            for part in range(processes)
        ]
        for child in joining:
            child.wait_for("ready")
        began = time.monotonic()
        for child in joining:
            child.go()
        after = server.wait_for("session", 500)
        seconds = time.monotonic() - began
    needed = number * sum(secagg.max_message_bytes(params, kind) for kind in MESSAGES)
    return {
        "clients": number,
        "values": length,
        "graph": graph.value,
        "neighbours": params.degree,
        "ring bits": params.ring_bits,
        "server CPU s": round(after["cpu"] - before["cpu"], 1),
        "peak MB": round(after["most"] / 1e6),
        "reconnects": after["reconnects"],
        "MB": round(after["bytes"] / 1e6, 1),
        "over the needed ones, %": round(100 * (after["bytes"] / needed - 1), 2),
        "included": after["included"],
        "exact": "not checked: unmasked" if unmasked else after["exact"],
        "seconds": round(seconds, 1),
    }


# --- An hour ----------------------------------------------------------------------------------------------------------


async def wait_for_hours(certs: Path, *, clients: int, seconds: float) -> dict[str, Any]:
    """Let clients wait for a session in virtual time, with the default limits; then run it: its sum must be exact.

    Needs a `VirtualTimeLoop`.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    params = make_params(clients, 2, degree=min(clients - 1, 20))
    inputs = random_inputs(params, seed=0)
    send, sent = Connection.send, 0

    def counted(connection: Connection, *arguments: Any, **options: Any) -> None:
        nonlocal sent
        sent += 1
        send(connection, *arguments, **options)

    async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), Limits(), range(clients)) as server:
        options = {"retry": Retry(), "limits": Limits()}
        port = server.addresses[0][1]
        joining = [asyncio.create_task(join(port, inputs[i], certs, i, **options)) for i in inputs]
        await server.gather(clients)
        # The frames on their arrival are delivered.
        await asyncio.sleep(1)
        connections = [visit.connection for visit in server._lobby.visits]
        before = sum(one.bytes_received + one.bytes_sent for one in connections)
        began, real, cpu = loop.time(), time.monotonic(), time.process_time()
        with mock.patch.object(Connection, "send", counted):
            await loop.pass_by(seconds)
        cpu, real, passed = time.process_time() - cpu, time.monotonic() - real, loop.time() - began
        there = server.num_waiting
        moved = sum(one.bytes_received + one.bytes_sent for one in connections) - before
        host = SessionHost(params, deadlines=deadlines(60), now=loop.time())
        with RecoveryPool(1) as pool:
            await asyncio.gather(server.run(host, pool), *joining)
        assert check_exact(params, inputs, host.outcome)
        return {
            "clients": clients,
            "virtual seconds": round(passed),
            "real seconds": round(real, 1),
            "still there": there,
            "connections made": server._listener._accepted,
            "refusals": dict(server.refusals),
            "included then": len(host.outcome.included),
            "messages a client and hour": round(sent / clients * 3600 / passed, 1),
            "bytes a client and hour": round(moved / clients * 3600 / passed),
            "CPU ms a client and hour, both sides": round(1000 * cpu / clients * 3600 / passed, 1),
        }


def wait(certs: Path, *, clients: int, seconds: float) -> dict[str, Any]:
    """Run `wait_for_hours` in its own loop."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(wait_for_hours(certs, clients=clients, seconds=seconds))


# --- For people -------------------------------------------------------------------------------------------------------


def strangers(certs: Path, *, clients: int, sessions: int, **options: Any) -> dict[str, Any]:
    """Run `beside_strangers` with the default limits; return the figures for people."""
    found = asyncio.run(beside_strangers(certs, limits=Limits(), clients=clients, sessions=sessions, **options))
    return {
        "sessions": sessions,
        "opened": found.opened,
        "held at most": found.held,
        "seconds until in, at most": round(max(found.seconds), 2),
        "included": found.included,
        "refusals": found.refusals,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("strangers")
    sub.add_argument("--idle", type=int, default=2000)
    sub.add_argument("--a-second", type=int, default=40)
    sub.add_argument("--clients", type=int, default=6)
    sub.add_argument("--sessions", type=int, default=15)
    sub.add_argument("--pause", type=float, default=1.0, help="seconds before each session")
    sub = commands.add_parser("late")
    sub.add_argument("--live", type=int, default=10)
    sub.add_argument("--late", type=int, default=180)
    sub.add_argument("--seconds", type=float, default=60)
    sub = commands.add_parser("clients")
    sub.add_argument("number", type=int)
    sub.add_argument("values", type=int)
    sub.add_argument("--sparse", action="store_true")
    sub.add_argument("--unmasked", action="store_true", help="clients without masks and key agreements")
    sub = commands.add_parser("hour")
    sub.add_argument("--clients", type=int, default=100)
    sub.add_argument("--seconds", type=float, default=3600)
    asked = parser.parse_args()
    if not may_open(6000):
        parser.error("the system lets a process open too few files: raise `ulimit -n` to 6000")
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        certs = Path(folder) / "certs"
        match asked.command:
            case "strangers":
                deployment(certs, asked.clients)
                options = {name: getattr(asked, name) for name in ("idle", "a_second", "clients", "sessions", "pause")}
                found = strangers(certs, **options)
            case "late":
                deployment(certs, asked.live + asked.late)
                found = come_late(certs, live=asked.live, late=asked.late, seconds=asked.seconds)
            case "clients":
                deployment(certs, asked.number)
                found = many_clients(certs, asked.number, asked.values, sparse=asked.sparse, unmasked=asked.unmasked)
            case _:
                deployment(certs, asked.clients)
                found = wait(certs, clients=asked.clients, seconds=asked.seconds)
    sys.stdout.write(json.dumps({**found, "load before": [round(one, 1) for one in load]}) + "\n")


if __name__ == "__main__":
    main()
