"""Sessions through a proxy that spoils bytes: each is exact or a typed abort, never wrong, and ends in time."""

import asyncio
import random
from collections import Counter

import pytest

from secagg import Completed, SecAggError
from tests.support.sessions import make_params, random_inputs
from tests.transport.fault_proxy import FaultProxy, Faults, Spoil
from tests.transport.network import QUICK, check_exact, deadlines, deployment, join, served
from transport.durable import frames as link
from transport.errors import TransportError
from transport.tcp import PLAINTEXT, Retry

pytestmark = pytest.mark.live

CLIENTS = 5
AT_ONCE = 8
SESSIONS = 48

# In plaintext only the frames' checksums stand between a flipped bit and the machines.
PATIENT = Retry(first=0.02, longest=0.1, give_up=8)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


async def session(certs, seed, kinds=tuple(Spoil)):
    """Run a session through the proxy; return the server's report, the clients' results, and the proxy."""
    rng = random.Random(seed)
    params = make_params(CLIENTS, 3, vector_length=rng.choice((10, 5000, 60_000)))
    inputs = random_inputs(params, seed)
    tls = PLAINTEXT if seed % 4 == 3 else certs
    faults = Faults(rate=rng.choice((0.02, 0.1, 0.3)), most=rng.choice((5, 20, 60)), kinds=kinds)
    async with (
        asyncio.timeout(30),
        served(params, tls, deadlines=deadlines(rng.choice((0.7, 3.0))), context=b"same") as serving,
        FaultProxy(serving.port, seed, faults) as proxy,
    ):
        clients = [
            asyncio.create_task(join(proxy.port, inputs[i], tls, i, retry=PATIENT, context=b"same")) for i in inputs
        ]
        report = await serving.task
        # A client that missed the end learns it by the deadline of its own patience; the test has none.
        done, waiting = await asyncio.wait(clients, timeout=0.5)
        for client in waiting:
            client.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    results = [client.exception() or client.result() for client in done]
    return params, inputs, report, results, proxy


def check(params, inputs, report, results):
    exact = check_exact(params, inputs, report.outcome)
    for result in results:
        # A client ends with the server's word or a typed error.
        assert isinstance(result, link.End | TransportError | SecAggError), result
        if isinstance(result, link.End):
            assert (result.code is link.EndCode.COMPLETED) is exact
    return exact


def test_sessions_over_a_network_that_spoils_bytes_are_exact_or_typed_aborts(certs):
    async def all_sessions():
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(seed):
            async with turn:
                return await session(certs, seed)

        return await asyncio.gather(*map(one, range(SESSIONS)))

    outcomes, spoiled = Counter(), Counter()
    for params, inputs, report, results, proxy in asyncio.run(all_sessions()):
        exact = check(params, inputs, report, results)
        outcomes["exact" if exact else report.outcome.reason.name] += 1
        outcomes["complete"] += exact and len(report.outcome.included) == CLIENTS
        spoiled.update(proxy.spoiled)
    assert sum(outcomes.values()) - outcomes["complete"] == SESSIONS
    # The faults were many and of all kinds, and reconnecting made up for most of them.
    assert set(spoiled) == set(Spoil)
    assert spoiled.total() > 4 * SESSIONS
    assert outcomes["exact"] > SESSIONS // 2
    assert outcomes["complete"] > SESSIONS // 4


@pytest.mark.parametrize("kind", list(Spoil))
def test_a_few_faults_of_one_kind_cost_nobody_the_session(certs, kind):
    """Over TLS, with enough time, a client comes back after each of them."""

    async def scenario():
        params = make_params(CLIENTS, CLIENTS, vector_length=5000)
        inputs = random_inputs(params, seed=0)
        async with (
            asyncio.timeout(20),
            served(params, certs, deadlines=deadlines(10)) as serving,
            FaultProxy(serving.port, 1, Faults(rate=0.25, most=12, kinds=(kind,))) as proxy,
        ):
            ends = await asyncio.gather(*(join(proxy.port, inputs[i], certs, i, retry=PATIENT) for i in inputs))
            report = await serving.task
        assert len(proxy.spoiled) == 12
        assert {end.code for end in ends} == {link.EndCode.COMPLETED}
        assert isinstance(report.outcome, Completed)
        assert report.outcome.included == tuple(inputs)
        assert check_exact(params, inputs, report.outcome)
        return report

    report = asyncio.run(scenario())
    assert report.dropped == {}
    assert QUICK.farewell_seconds > 0
