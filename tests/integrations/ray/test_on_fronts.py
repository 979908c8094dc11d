"""Fronts as Ray actors, with real clients over TLS: exact sums, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from fl.engines.ray.cluster import RayCluster
from fl.fronts.channels import RayFront, ray_fronts
from secagg import Round
from tests.fl.watch.schema import check
from tests.integrations.ray.ray_tls import make_certificates
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


@dataclass(frozen=True)
class Lasting:
    """A Ray cluster, and the environment of its drivers."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lasting]:
    """Start a Ray cluster that outlives its drivers, with Ray's own TLS and token."""
    folder = Path("/tmp") / f"secagg-ray-{os.getpid()}"  # noqa: S108 - paths of sockets must be short
    port, here = free_ports(1), ray.util.get_node_ip_address()
    secure = make_certificates(tmp_path_factory.mktemp("ray") / "tls", ["127.0.0.1", here])
    secure |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
    command = str(Path(sys.executable).with_name("ray"))
    environment = {**os.environ, **secure, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    flags = ("--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}")
    arguments = [command, "start", *flags, "--block"]
    head = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
    assert head.stdout is not None
    try:
        assert any("block forever" in line for line in head.stdout), "Ray did not start"
        yield Lasting(f"127.0.0.1:{port}", secure)
    finally:
        own = [head.pid, *descendants(head.pid)]
        head.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(20)
        for process in own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        head.wait()
        head.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_rays_own_tls_asks_for_a_certificate_of_its_authority(lasting: Lasting) -> None:
    host, port = lasting.address.split(":")
    files = lasting.environment
    for has_certificate in (True, False):
        context = ssl.create_default_context(cafile=files["RAY_TLS_CA_CERT"])
        context.set_alpn_protocols(["h2"])
        if has_certificate:
            context.load_cert_chain(files["RAY_TLS_SERVER_CERT"], files["RAY_TLS_SERVER_KEY"])
        with (
            socket.create_connection((host, int(port)), 20) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            # With TLS 1.3 a client learns with its first read that it was refused: by an alert, or by the end.
            heard = b""
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                heard = secure.read(9)
            assert bool(heard) is has_certificate


@pytest.mark.parametrize("round_", ROUNDS, ids=lambda round_: round_.name)
def test_a_coordinator_that_is_killed_goes_on_with_its_fronts(
    lasting: Lasting, certs: Path, tmp_path: Path, round_: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fronts keep their processes, connections and inputs; the new coordinator has the journal."""
    options = {
        "certs": str(certs), "clients": CLIENTS, "threshold": 4, "length": 100_000, "fronts": 2,
        "port": free_ports(2), "address": lasting.address, "key": f"killed-{round_.name}",
        "journal": str(tmp_path / "journal"),
        "result": str(tmp_path / "result"),
    }  # fmt: skip
    for name, value in lasting.environment.items():
        monkeypatch.setenv(name, value)

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
            # Fronts that it does not end keep their cores for two minutes.
            await asyncio.to_thread(second.wait_for, "ended", 60)
        finally:
            first.close()
            if second is not None:
                second.close()
        result = json.loads((tmp_path / "result").read_text())
        assert result["included"] == list(INPUTS)
        assert result["sum"] == exact_sum(PARAMS, INPUTS.values())

    asyncio.run(run())


def test_a_training_is_served_over_fronts(tmp_path: Path) -> None:
    port, programs = free_ports(2), []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(*options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fl", *map(str, options)]
        programs.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603
        )
        return programs[-1]

    run = ("--dataset", "digits", "--model", "logistic", "--rounds", 1, "--out", tmp_path / "run")
    try:
        address = ("--listen", f"127.0.0.1:{port}", "--fronts", 2)
        server = start("serve", "--plaintext", "--clients", 3, *address, *run, "--json", "--log-json")
        where = f"127.0.0.1:{port},127.0.0.1:{port + 1}"
        clients = [start("join", where, "--plaintext", "--id", i, "--shard", f"{i}/3") for i in range(3)]
        out, log = server.communicate(timeout=300)
        assert server.returncode == 0, log
        assert [client.wait(60) for client in clients] == [0, 0, 0]
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    assert json.loads(out)["rounds"] == 1
    assert [check(line)["included"] for line in log.splitlines() if b'"round_ended"' in line] == [3]
