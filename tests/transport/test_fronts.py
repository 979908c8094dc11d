"""Sessions over fronts in this process, with TLS: the sum is exact, and nobody is counted twice."""

import asyncio
from pathlib import Path

import pytest

from tests.support.sessions import make_params, random_inputs
from tests.transport.fronted import fronted
from tests.transport.network import check_exact, deployment

CLIENTS = 6
PARAMS = make_params(CLIENTS, 3, vector_length=50_000, value_bits=16)
INPUTS = random_inputs(PARAMS, 7)


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


def test_a_session_over_two_fronts_has_the_sum_of_all(certs: Path) -> None:
    async def run() -> None:
        async with fronted(PARAMS, certs) as world:
            session = world.run()
            ends = [world.join(i % 2, INPUTS[i], i) for i in INPUTS]
            outcome = await session
            assert check_exact(PARAMS, INPUTS, outcome)
            assert outcome.included == tuple(INPUTS)
            assert [(await end).included for end in ends] == [CLIENTS] * CLIENTS
            assert world.host.counters.connections == CLIENTS

    asyncio.run(run())
