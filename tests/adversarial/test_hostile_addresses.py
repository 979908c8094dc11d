"""A list of addresses with an attacker's server among them: clients send it nothing, and go on to the others."""

import asyncio
from pathlib import Path

import pytest

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import check_exact, deployment, join, served
from transport.tcp import Retry
from transport.tcp.tls import TlsRefusal, TlsRefusedError

pytestmark = pytest.mark.live

CLIENTS = 3
PARAMS = make_params(CLIENTS, 2)
PATIENT = Retry(first=0.02, longest=0.2, give_up=20)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a deployment with the same names, of another authority."""
    return deployment(tmp_path_factory.mktemp("foreign"), CLIENTS)


def test_an_attackers_server_at_one_address_costs_no_client(certs: Path, foreign: Path) -> None:
    inputs = random_inputs(PARAMS, 3)

    async def run() -> None:
        async with served(PARAMS, certs) as honest, served(PARAMS, foreign) as attacker:
            addresses = [("127.0.0.1", attacker.port), ("127.0.0.1", honest.port)]
            told: list[str] = []
            ends = [
                join(0, inputs[i], certs, i, address=addresses, retry=PATIENT, unreachable=told.append) for i in inputs
            ]
            await asyncio.gather(*ends)
            report = await honest.task
            assert check_exact(PARAMS, inputs, report.outcome)
            assert report.outcome.included == tuple(inputs)
            # Clients 0 and 2 begin there, and say why they go on to the next one.
            assert len(told) == 2
            assert all(TlsRefusal.UNKNOWN_AUTHORITY.value in text for text in told)

    asyncio.run(run())


def test_a_client_that_every_address_refuses_ends_at_once(certs: Path, foreign: Path) -> None:
    async def run() -> None:
        async with served(PARAMS, foreign) as one, served(PARAMS, foreign) as other:
            addresses = [("127.0.0.1", one.port), ("127.0.0.1", other.port)]
            with pytest.raises(TlsRefusedError):
                await join(0, random_inputs(PARAMS, 3)[0], certs, 0, address=addresses, retry=PATIENT)

    asyncio.run(run())
