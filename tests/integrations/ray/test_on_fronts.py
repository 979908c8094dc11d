"""Fronts as Ray actors, with real clients over TLS: exact sums, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from fl.engines.ray.cluster import RayCluster
from fl.fronts.channels import RayFront, ray_fronts
from secagg import Round
from tests.support.sessions import exact_sum, make_params, random_inputs
from tests.transport.children import ROOT, Child
from tests.transport.network import QUICK, check_exact, deadlines, deployment, join
from transport import RecoveryPool
from transport.certificates.reading import Credentials
from transport.fronts.coordinator import Coordinator
from transport.fronts.front import FrontSettings
from transport.fronts.server import FrontedServer
from transport.tcp import Retry

pytestmark = pytest.mark.live

CLIENTS = 8
PARAMS = make_params(CLIENTS, 4, vector_length=100_000, value_bits=16)
INPUTS = random_inputs(PARAMS, 3)
PATIENT = Retry(first=0.05, longest=0.5, give_up=120)
# Clients of a front that was killed at the very end come back to hear of it.
PATIENT_SERVER = replace(QUICK, farewell_seconds=30)
ROUNDS = (Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION, Round.UNMASKING)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


def free_ports(count: int) -> int:
    """Return the first of ``count`` ports in a row that nobody listens on."""
    for port in range(21_000 + os.getpid() % 5000, 32_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for place, one in enumerate(sockets):
                one.bind(("127.0.0.1", port + place))
        except OSError:
            continue
        else:
            return port
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no free ports")


@asynccontextmanager
async def served(certs: Path, key: str, count: int = 2) -> AsyncIterator[tuple[FrontedServer, list[RayFront]]]:
    settings = FrontSettings(("127.0.0.1", free_ports(count)), Credentials.of_server(certs), QUICK)
    fronts = ray_fronts(RayCluster(None), settings, count, key)
    async with FrontedServer(fronts, PATIENT_SERVER) as server:
        yield server, fronts


def coordinator(seconds: float = 60) -> Coordinator:
    return Coordinator(PARAMS, deadlines=deadlines(seconds), now=asyncio.get_running_loop().time())


def joined(addresses: Any, certs: Path) -> list[asyncio.Task]:
    address = [tuple(one) for one in addresses]
    return [asyncio.create_task(join(0, INPUTS[i], certs, i, address=address, retry=PATIENT)) for i in INPUTS]


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def process_of(server: FrontedServer, front: str) -> int:
    return int(server._channels[front].incarnation.partition("-")[0])


def test_a_session_over_two_actors_has_the_sum_of_all(cluster: RayCluster, certs: Path) -> None:
    async def run() -> None:
        async with served(certs, "plain") as (server, _):
            assert len(set(server.addresses)) == 2
            assert len({process_of(server, front) for front in "01"} | {os.getpid()}) == 3
            host = coordinator()
            with RecoveryPool(1) as pool:
                await asyncio.gather(server.run(host, pool), *joined(server.addresses, certs))
            assert check_exact(PARAMS, INPUTS, host.outcome)
            assert host.outcome.included == tuple(INPUTS)
            assert host.counters.connections == CLIENTS

    asyncio.run(run())
    # The fronts end with the server.
    for _ in range(100):
        try:
            ray.get_actor("secagg-front-plain-0", namespace="secagg")
        except ValueError:
            return
        time.sleep(0.1)
    raise AssertionError("a front is still there")


@pytest.mark.parametrize("round_", ROUNDS, ids=lambda round_: round_.name)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped for a second"])
def test_a_front_whose_process_ends_or_stands_still_costs_nobody(
    cluster: RayCluster, certs: Path, how: int, round_: Round
) -> None:
    async def run() -> None:
        async with served(certs, f"{round_.name}-{int(how)}") as (server, _):
            host, addresses = coordinator(), server.addresses
            with RecoveryPool(1) as pool:
                session = asyncio.create_task(server.run(host, pool))
                ends = joined(addresses, certs)
                await until(lambda: host.round is round_)
                process = process_of(server, "0")
                os.kill(process, how)
                if how == signal.SIGSTOP:
                    await asyncio.sleep(1)
                    os.kill(process, signal.SIGCONT)
                await session
                await asyncio.gather(*ends)
            assert check_exact(PARAMS, INPUTS, host.outcome)
            assert host.outcome.included == tuple(INPUTS)

    asyncio.run(run())


def descendants(process: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = parents.get(process, [])
    return [*found, *(one for child in found for one in descendants(child))]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Start a Ray cluster that outlives its drivers; yield its address."""
    folder = Path("/tmp") / f"secagg-ray-{os.getpid()}"  # noqa: S108 - paths of sockets must be short
    port = free_ports(1)
    command = str(Path(sys.executable).with_name("ray"))
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    flags = ("--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}")
    head = subprocess.Popen(  # noqa: S603
        [command, "start", *flags, "--block"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        own = [head.pid, *descendants(head.pid)]
        head.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(20)
        for process in own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        head.wait()


@pytest.mark.parametrize("round_", ROUNDS, ids=lambda round_: round_.name)
def test_a_coordinator_that_is_killed_goes_on_with_its_fronts(
    lasting: str, certs: Path, tmp_path: Path, round_: Round
) -> None:
    """The fronts keep their processes, connections and inputs; the new coordinator has the journal."""
    options = {
        "certs": str(certs), "clients": CLIENTS, "threshold": 4, "length": 100_000, "fronts": 2,
        "port": free_ports(2), "address": lasting, "key": f"killed-{round_.name}", "journal": str(tmp_path / "journal"),
        "result": str(tmp_path / "result"),
    }  # fmt: skip

    async def run() -> None:
        first = Child("tests.integrations.ray.front_coordinator", "serve", **options)
        second = None
        try:
            addresses = (await asyncio.to_thread(first.wait_for, "addresses", 120))["addresses"]
            ends = joined(addresses, certs)
            await asyncio.to_thread(first.wait_for, round_.name, 120)
            os.kill(first.pid, signal.SIGKILL)
            second = Child("tests.integrations.ray.front_coordinator", "serve", **options)
            resumed = await asyncio.to_thread(second.wait_for, "addresses", 120)
            assert resumed["addresses"] == addresses
            await asyncio.to_thread(second.wait_for, "included", 120)
            await asyncio.gather(*ends)
        finally:
            first.close()
            if second is not None:
                second.close()
        result = json.loads((tmp_path / "result").read_text())
        assert result["included"] == list(INPUTS)
        assert result["sum"] == exact_sum(PARAMS, INPUTS.values())

    asyncio.run(run())
