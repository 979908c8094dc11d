"""The ends of sessions over TCP, stops of servers and clients, and refusals before a session begins."""

import asyncio
import contextlib
import gc
import os
import socket
import threading
import warnings

import numpy as np
import pytest

from secagg import Completed, LocalProtocolError, Round
from tests.support.sessions import exact_sum, make_params, random_inputs
from tests.transport.network import EAGER, QUICK, check_exact, deadlines, deployment, join, served
from tests.transport.tcp_sessions import run_all
from transport import Deadlines, RecoveryPool
from transport.certificates.reading import CertificateError, Credentials
from transport.durable.client_journal import ClientJournal
from transport.durable.server_host import SessionHost
from transport.errors import SessionRefusedError, TransportError
from transport.tcp import (
    PLAINTEXT,
    Limits,
    PlaintextError,
    Retry,
    ServerUnreachableError,
    SessionServer,
    serve_session,
)
from transport.tcp.stream import Stream

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 8)


def test_a_client_finds_its_server_late_and_gives_up_in_time(certs):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    params = make_params(2, 2)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        clients = [asyncio.create_task(join(port, inputs[i], certs, i)) for i in inputs]
        await asyncio.sleep(0.2)
        async with served(params, certs, address=("127.0.0.1", port)) as serving:
            await asyncio.gather(*clients)
            report = await serving.task
        with pytest.raises(ServerUnreachableError, match="no word"):
            await join(port, inputs[0], certs, 0, retry=Retry(first=0.01, longest=0.05, give_up=0.2))
        return report

    assert check_exact(params, inputs, asyncio.run(scenario()).outcome)


def test_clients_that_come_between_sessions_wait_for_the_next(certs):
    params = make_params(3, 3)

    async def scenario():
        sums = []
        now = asyncio.get_running_loop().time
        with RecoveryPool(1) as pool:
            async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), QUICK) as server:
                port = server.addresses[0][1]
                for seed in range(3):
                    inputs = random_inputs(params, seed)
                    clients = [asyncio.create_task(join(port, inputs[i], certs, i)) for i in inputs]
                    await asyncio.sleep(0.1)
                    host = SessionHost(params, deadlines=Deadlines(), now=now())
                    await server.run(host, pool)
                    await asyncio.gather(*clients)
                    assert check_exact(params, inputs, host.outcome)
                    sums.append(host.outcome.included)
        return sums

    assert asyncio.run(scenario()) == [(0, 1, 2)] * 3


def test_cancelling_the_server_leaves_nothing_behind_and_its_journal_can_be_resumed(certs, tmp_path):
    params = make_params(3, 3)
    inputs = random_inputs(params, seed=0)
    path = tmp_path / "journal"

    async def scenario():
        reached = asyncio.Event()

        def watch(host):
            if host.round is Round.MASKED_INPUT_COLLECTION:
                reached.set()

        gate = threading.Event()

        def late(offer):
            gate.wait(5)
            return inputs[0]

        async with served(params, certs, journal=path, observer=watch) as serving:
            port = serving.port
            vectors = {**inputs, 0: late}
            clients = [asyncio.create_task(join(port, vectors[i], certs, i)) for i in inputs]
            await asyncio.wait_for(reached.wait(), 5)
        assert path.exists()
        gate.set()
        async with served(params, certs, journal=path, address=("127.0.0.1", port)) as serving:
            await asyncio.gather(*clients)
            report = await serving.task
        assert len(asyncio.all_tasks()) == 1
        return report

    report = asyncio.run(scenario())
    assert check_exact(params, inputs, report.outcome)
    assert report.outcome.included == (0, 1, 2)
    assert not path.exists()


def test_cancelling_a_client_leaves_nothing_behind_and_its_journal_can_be_resumed(certs, tmp_path):
    params = make_params(3, 3)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        release = threading.Event()

        def block(offer):
            loop.call_soon_threadsafe(asked.set)
            release.wait(5)
            return inputs[0]

        async with served(params, certs) as serving:
            others = [asyncio.create_task(join(serving.port, inputs[i], certs, i)) for i in (1, 2)]
            journal = ClientJournal(tmp_path / "client", tmp_path / "key")
            client = asyncio.create_task(join(serving.port, block, certs, 0, journal=journal))
            await asyncio.wait_for(asked.wait(), 5)
            client.cancel()
            with pytest.raises(asyncio.CancelledError):
                await client
            journal.close()
            release.set()
            journal = ClientJournal(tmp_path / "client", tmp_path / "key")
            assert not journal.is_empty
            await join(serving.port, inputs[0], certs, 0, journal=journal)
            await asyncio.gather(*others)
            report = await serving.task
        assert len(asyncio.all_tasks()) == 1
        return report

    report = asyncio.run(scenario())
    assert report.outcome.included == (0, 1, 2)
    assert check_exact(params, inputs, report.outcome)


def test_forbidden_arguments_are_refused_before_a_client_connects(certs):
    with pytest.raises(CertificateError, match="client 1's certificate, not client 2's"):
        asyncio.run(join(1, np.zeros(1), Credentials.of_client(certs, 1), 2))
    with pytest.raises(CertificateError, match="names no client"):
        asyncio.run(join(1, np.zeros(1), Credentials.of_server(certs), None))
    with pytest.raises(TypeError, match="client_id"):
        asyncio.run(join(1, np.zeros(1), PLAINTEXT, None))


def test_a_client_declines_an_offer_and_a_wrong_vector_is_its_own_error(certs):
    params = make_params(4, 2)
    inputs = random_inputs(params, seed=0)

    def decline(offer):
        raise SessionRefusedError("not these parameters")

    async def scenario():
        async with served(params, certs, deadlines=deadlines(0.5)) as serving:
            return await asyncio.gather(
                join(serving.port, inputs[0], certs, 0, accept=decline),
                join(serving.port, inputs[1][:-1], certs, 1),
                join(serving.port, inputs[2], certs, 2),
                join(serving.port, inputs[3], certs, 3),
                serving.task,
                return_exceptions=True,
            )

    declined, wrong, _, _, report = asyncio.run(scenario())
    assert str(declined) == "not these parameters"
    assert isinstance(wrong, LocalProtocolError)
    assert report.outcome.included == (2, 3)


def test_plaintext_does_not_connect_outside_loopback():
    """Before anything is sent, the address of the other side is checked."""

    async def scenario():
        listener = socket.create_server(("127.0.0.1", 0))
        with listener, pytest.raises(PlaintextError, match=r"10\.0\.0\.1"):
            await join(listener.getsockname()[1], np.zeros(1), PLAINTEXT, 0)

    with pytest.MonkeyPatch.context() as patch:
        initialize = Stream.__init__

        def outside(self, *args):
            initialize(self, *args)
            self.peer = "10.0.0.1"

        patch.setattr(Stream, "__init__", outside)
        asyncio.run(scenario())


def test_an_observer_that_fails_ends_the_session_with_its_error(certs):
    def fail(host):
        raise RuntimeError("observer")

    async def scenario():
        async with served(make_params(2, 2), certs, observer=fail) as serving:
            await serving.task

    with pytest.raises(RuntimeError, match="observer"):
        asyncio.run(scenario())


def test_an_address_in_use_is_the_callers_error(certs):
    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            await serve_session(make_params(2, 2), address=taken.getsockname(), tls=Credentials.of_server(certs))

    with pytest.raises(OSError, match="in use"):
        asyncio.run(scenario())


def test_thirty_sessions_in_one_process_leave_memory_and_files_as_they_were(certs):
    params = make_params(4, 3, vector_length=20_000)
    inputs = random_inputs(params, seed=0)

    def usage():
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))

    async def soak():
        readings = []
        for _ in range(30):
            report, _ = await run_all(params, inputs, certs)
            assert check_exact(params, inputs, report.outcome)
            readings.append(usage())
            assert len(asyncio.all_tasks()) == 1
        return readings

    readings = asyncio.run(soak())
    files = [count for _, count in readings]
    assert max(files[3:]) <= files[3] + 2
    memory = [size for size, _ in readings]
    # One session moves some 2 MB; a leak of a tenth of that in each would show.
    assert min(memory[-5:]) - max(memory[5:10]) < 4 << 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(frame_seconds=0),
        lambda: Limits(connections=-1),
        lambda: Limits(minimum_rate=float("nan")),
        lambda: Retry(give_up="1"),
        lambda: Retry(first=True),
    ],
)
def test_limits_are_above_zero(make):
    with pytest.raises(ValueError, match="above 0"):
        make()


def test_waits_double_up_to_the_longest_with_jitter():
    retry = Retry(first=1, longest=10)
    for failures, longest in ((1, 1), (2, 2), (4, 8), (5, 10), (1000, 10)):
        delays = [retry.delay(failures) for _ in range(50)]
        assert longest / 2 <= min(delays) < max(delays) <= longest
        assert len(set(delays)) > 10


def test_clients_told_when_to_return_come_later_and_not_all_at_once():
    retry = Retry(first=1, longest=10, longest_asked=60, give_up=200)
    for failures, asked, least, most in ((1, 30, 30, 45), (1, 3600, 60, 90), (5, 2, 5, 10), (1, 0, 0.5, 1)):
        delays = [retry.delay(failures, asked) for _ in range(50)]
        assert least <= min(delays) < max(delays) <= most
        assert len(set(delays)) > 10
    # A server cannot make a client wait until it gives up.
    assert max(Retry(give_up=10).delay(1, 3600) for _ in range(50)) < 10


def test_errors_of_the_network_are_the_transports():
    for error in (PlaintextError, ServerUnreachableError, CertificateError):
        assert issubclass(error, TransportError)


def test_the_report_has_the_outcome(certs):
    params = make_params(3, 2)
    inputs = random_inputs(params, seed=0)
    report, _ = asyncio.run(run_all(params, inputs, certs))
    assert isinstance(report.outcome, Completed)
    assert report.outcome.sum.tolist() == exact_sum(params, list(inputs.values()))
    assert report.counters.connections == 3
    assert 0 < report.seconds < 10
    assert EAGER.give_up == 5


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_is_accepted_while_the_server_stops_is_closed_too(turns):
    """At every turn of the event loop between the connection's arrival and its task's first step."""

    async def scenario():
        async with SessionServer(("127.0.0.1", 0), PLAINTEXT, QUICK) as server:
            await asyncio.sleep(0.01)
            client = socket.create_connection(server.addresses[0])
            for _ in range(turns):
                await asyncio.sleep(0)
        return client

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = asyncio.run(scenario())
        gc.collect()
    assert [str(one.message) for one in caught] == []
    with client, contextlib.suppress(ConnectionResetError):
        client.settimeout(5)
        assert client.recv(1) == b""


def test_an_event_loop_without_readers_accepts_connections_too(certs, monkeypatch):
    """Windows' own loop has none."""
    add_reader = asyncio.SelectorEventLoop.add_reader

    def refuse(loop, fileobj, callback, *args):
        if isinstance(fileobj, socket.socket) and fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise NotImplementedError
        return add_reader(loop, fileobj, callback, *args)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_reader", refuse)
    params = make_params(4, 3)
    inputs = random_inputs(params, seed=0)
    report, _ = asyncio.run(run_all(params, inputs, certs))
    assert check_exact(params, inputs, report.outcome)
    assert report.dropped == {}
