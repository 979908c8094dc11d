"""Fronts as Ray actors, with real clients over TLS: exact sums, whatever is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from fl.engines.ray.cluster import RayCluster
from fl.engines.ray.fronts import RayFront, ray_fronts
from tests.support.sessions import make_params, random_inputs
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
PATIENT = Retry(first=0.05, longest=0.5, give_up=60)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


@asynccontextmanager
async def served(certs: Path, key: str, count: int = 2) -> AsyncIterator[tuple[FrontedServer, list[RayFront]]]:
    settings = FrontSettings(("127.0.0.1", 0), Credentials.of_server(certs), QUICK)
    fronts = ray_fronts(RayCluster(None), settings, count, key)
    async with FrontedServer(fronts, QUICK) as server:
        yield server, fronts


def coordinator(seconds: float = 20, **options: Any) -> Coordinator:
    return Coordinator(PARAMS, deadlines=deadlines(seconds), now=asyncio.get_running_loop().time(), **options)


def joined(server: FrontedServer, certs: Path) -> list[asyncio.Task]:
    ports = [port for _, port in server.addresses]
    return [asyncio.create_task(join(ports[i % len(ports)], INPUTS[i], certs, i, retry=PATIENT)) for i in INPUTS]


def test_a_session_over_two_actors_has_the_sum_of_all(cluster: RayCluster, certs: Path) -> None:
    async def run() -> None:
        async with served(certs, "plain") as (server, _):
            assert len(set(server.addresses)) == 2
            host = coordinator()
            with RecoveryPool(1) as pool:
                await asyncio.gather(server.run(host, pool), *joined(server, certs))
            assert check_exact(PARAMS, INPUTS, host.outcome)
            assert host.outcome.included == tuple(INPUTS)
            assert host.counters.connections == CLIENTS

    asyncio.run(run())
    with pytest.raises(ValueError, match="secagg-front-plain-0"):
        ray.get_actor("secagg-front-plain-0", namespace="secagg")
