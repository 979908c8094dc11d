"""Sessions over TCP and TLS in one process: the exact sum, although connections are lost."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from secagg import Adversary, DropReason
from tests.support.sessions import make_params, random_inputs
from tests.transport.network import check_exact, deadlines, deployment, join, served
from tests.transport.tcp_sessions import run_all
from transport.certificates.reading import directory_from, identity_from
from transport.durable import frames as link
from transport.errors import SessionRefusedError
from transport.tcp import (
    PLAINTEXT,
    Limits,
)
from transport.tcp.connection import Connection

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 8)


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("length", [1, 5000])
def test_the_sum_is_exact(certs, secure, length):
    params = make_params(5, 3, vector_length=length)
    inputs = random_inputs(params, seed=0)
    report, ends = asyncio.run(run_all(params, inputs, certs if secure else PLAINTEXT))
    assert check_exact(params, inputs, report.outcome)
    assert report.outcome.included == (0, 1, 2, 3, 4)
    assert report.dropped == {}
    assert not report.refusals
    assert {end.code for end in ends} == {link.EndCode.COMPLETED}
    assert {end.included for end in ends} == {5}


def test_a_client_tries_the_next_address_when_one_does_not_answer(certs):
    params = make_params(3, 2)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with served(params, certs) as serving:
                address = [nobody.getsockname(), ("127.0.0.1", serving.port)]
                await asyncio.gather(*(join(0, inputs[i], certs, i, address=address) for i in inputs))
                return await serving.task

    assert asyncio.run(scenario()).outcome.included == (0, 1, 2)
    with pytest.raises(ValueError, match="needs an address"):
        asyncio.run(join(0, inputs[0], certs, 0, address=[]))


def test_malicious_mode_takes_identities_from_the_certificates(certs):
    params = make_params(4, 4, adversary=Adversary.MALICIOUS)
    inputs = random_inputs(params, seed=0)
    directory = directory_from([certs / f"client-{i}.pem" for i in inputs], certs / "ca.pem")

    async def scenario():
        async with served(params, certs, directory=directory) as serving:
            await asyncio.gather(
                *(
                    join(
                        serving.port,
                        inputs[i],
                        certs,
                        i,
                        directory=directory,
                        identity=identity_from(certs / f"client-{i}.key"),
                    )
                    for i in inputs
                )
            )
            return await serving.task

    report = asyncio.run(scenario())
    assert report.outcome.included == (0, 1, 2, 3)
    assert check_exact(params, inputs, report.outcome)


def test_a_client_of_another_context_is_left_out(certs):
    params = make_params(4, 3)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        async with served(params, certs, context=b"model", extra=b"round 7", number=7) as serving:
            contexts: dict[int, Any] = {
                i: (lambda offer: b"model" if offer.extra == b"round 7" else b"") for i in range(3)
            }
            contexts[3] = b"another model"
            results = await asyncio.gather(
                *(join(serving.port, inputs[i], certs, i, context=contexts[i]) for i in inputs), return_exceptions=True
            )
            return await serving.task, results

    report, results = asyncio.run(scenario())
    assert report.outcome.included == (0, 1, 2)
    assert report.dropped[3].reason is DropReason.WRONG_SESSION
    assert isinstance(results[3], SessionRefusedError)
    assert check_exact(params, inputs, report.outcome)


def test_the_input_is_made_in_a_thread_while_the_connection_stays_alive(certs):
    """Making it takes longer than the silence that ends a connection."""
    params = make_params(3, 3)
    inputs = random_inputs(params, seed=0)
    limits = Limits(idle_seconds=0.1, answer_seconds=0.1, farewell_seconds=0.5)
    threads = set()

    def slowly(offer):
        threads.add(threading.current_thread())
        assert offer.params == params
        threading.Event().wait(0.7)
        return inputs[0]

    async def scenario():
        async with served(params, certs, limits=limits) as serving:
            vectors = {**inputs, 0: slowly}
            await asyncio.gather(*(join(serving.port, vectors[i], certs, i, limits=limits) for i in inputs))
            return await serving.task

    report = asyncio.run(scenario())
    assert check_exact(params, inputs, report.outcome)
    assert report.counters.connections == 3
    assert threading.main_thread() not in threads


def test_a_client_that_does_not_come_back_is_dropped_by_the_deadline(certs):
    params = make_params(4, 2)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        async with served(params, certs, deadlines=deadlines(0.4)) as serving:

            def vanish(offer):
                raise ZeroDivisionError

            joined = [join(serving.port, inputs[i] if i else vanish, certs, i) for i in inputs]
            results = await asyncio.gather(*joined, return_exceptions=True)
            return await serving.task, results

    report, results = asyncio.run(scenario())
    assert isinstance(results[0], ZeroDivisionError)
    assert report.dropped[0].reason is DropReason.DEADLINE
    assert report.outcome.included == (1, 2, 3)
    assert check_exact(params, inputs, report.outcome)


def test_too_few_clients_end_in_a_typed_abort_that_all_are_told_of(certs):
    params = make_params(4, 3)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        async with served(params, certs, deadlines=deadlines(0.3)) as serving:
            ends = await asyncio.gather(*(join(serving.port, inputs[i], certs, i) for i in (0, 1)))
            return await serving.task, ends

    report, ends = asyncio.run(scenario())
    assert not check_exact(params, inputs, report.outcome)
    assert {end.code for end in ends} == {link.EndCode.TOO_FEW_CLIENTS}


def test_a_connection_lost_in_any_phase_is_made_again_and_nobody_is_dropped(certs):
    """Each client's connection is reset before each of its messages, in turn."""
    params = make_params(4, 4)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        lost = set()
        send = Connection.send

        def losing(self, parts, *, last=False):
            if parts[0][:1] == b"\x03" and self.client_id is None:
                where = (id(self), len(lost))
                if len(lost) < 12 and len(lost) % 2 == 0:
                    lost.add(where)
                    self.stream.abort()
                    return
                lost.add(where)
            send(self, parts, last=last)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "send", losing)
            report, ends = await run_all(params, inputs, certs)
        return report, ends

    report, ends = asyncio.run(scenario())
    assert report.outcome.included == (0, 1, 2, 3)
    assert check_exact(params, inputs, report.outcome)
    assert report.counters.reconnects >= 6
    assert {end.code for end in ends} == {link.EndCode.COMPLETED}
