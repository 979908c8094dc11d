"""Sessions over TCP and TLS in one process: the exact sum, and every way in which a connection misbehaves."""

import asyncio
import contextlib
import logging
import os
import socket
import threading

import numpy as np
import pytest

from secagg import Adversary, Completed, DropReason, LocalProtocolError, Round
from tests.cohort import exact_sum, make_params, random_inputs
from tests.transport.network import EAGER, QUICK, check_exact, deadlines, deployment, join, raw_stream, served
from transport import Deadlines, RecoveryPool, link
from transport.certs import CertificateError, Credentials, directory_from, identity_from
from transport.client_journal import ClientJournal
from transport.errors import SessionRefusedError, TransportError
from transport.framing import FrameDecoder, encode_frame
from transport.host import SessionHost
from transport.tcp import (
    PLAINTEXT,
    Limits,
    PlaintextError,
    Retry,
    ServerUnreachableError,
    SessionServer,
    serve_session,
)
from transport.tcp_connection import Connection
from transport.tcp_stream import Stream

HELLO = encode_frame(link.encode(link.Hello()))


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 8)


async def until(condition, seconds=3.0):
    """Wait for what another task does."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def run_all(params, inputs, tls, **options):
    async with served(params, tls, **options) as serving:
        ends = await asyncio.gather(*(join(serving.port, inputs[i], tls, i) for i in inputs))
        report = await serving.task
    return report, ends


async def received(stream):
    """All payloads until the other side closes."""
    decoder, payloads = FrameDecoder(1 << 20), []
    async with asyncio.timeout(5):
        with contextlib.suppress(OSError):
            while data := await stream.receive():
                payloads += [bytes(payload) for payload in decoder.feed(data)]
    stream.abort()
    return [link.decode_server_frame(payload) for payload in payloads]


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
            contexts = {i: (lambda offer: b"model" if offer.extra == b"round 7" else b"") for i in range(3)}
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


def test_too_few_clients_end_in_a_typed_abort_that_everyone_hears_of(certs):
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
    """Each client's connection is reset before each of its messages, by turns."""
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


# What connections do wrong: the others go on, and the reason is counted and logged once.


async def with_a_bad_neighbour(certs, misbehave, *, num_clients=3, limits=QUICK, **options):
    """Clients 0 .. n-1 run a session; meanwhile somebody misbehaves towards the server. Gives report and result."""
    params = make_params(num_clients, num_clients)
    inputs = random_inputs(params, seed=0)
    async with served(params, certs, limits=limits, deadlines=deadlines(8), **options) as serving:
        result = await misbehave(serving)
        await asyncio.gather(*(join(serving.port, inputs[i], certs, i) for i in inputs))
        report = await serving.task
    assert report.outcome.included == tuple(inputs)
    assert check_exact(params, inputs, report.outcome)
    return report, result


def check_one_refusal(report, caplog, reason):
    assert report.refusals[reason] == 1
    lines = [record for record in caplog.records if getattr(record, "reason", "") == reason]
    assert len(lines) == 1
    assert lines[0].event == "refused"
    assert lines[0].peer == "127.0.0.1"


def frames_of(sent):
    async def misbehave(serving, certs, client_id=0):
        stream = await raw_stream(serving.port, certs, client_id)
        with contextlib.suppress(OSError):
            await stream.send(sent)
        return await received(stream)

    return misbehave


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x00\x00\x00\x10" + b"x" * 20, "bad-frame"),
        (b"\xff\xff\xff\xff" + b"\x00" * 4, "bad-frame"),
        (os.urandom(5000), "bad-frame"),
        (HELLO[:-1] + b"\xff", "bad-frame"),
        (encode_frame(b""), "protocol-error"),
        (encode_frame(b"\x63"), "protocol-error"),
        (HELLO + encode_frame(link.encode(link.Hello(bytes(32)))), "protocol-error"),
        (encode_frame(link.encode(link.Message(0, b"x"))), "protocol-error"),
        (HELLO + encode_frame(link.encode(link.Ack(0))), "protocol-error"),
        (encode_frame(link.encode(link.Identify(1))) + HELLO, "protocol-error"),
        (encode_frame(link.encode(link.Hello(version=9))), "bad-version"),
        (b"\x00\x00\x00\x10", "slow-frame"),
        (HELLO + b"\x00", "slow-frame"),
        (b"", "no-hello"),
        (HELLO, "silent"),
    ],
)
def test_garbage_slowness_and_silence_end_a_connection_and_not_the_session(certs, caplog, sent, reason):
    caplog.set_level(logging.INFO, "transport")
    limits = Limits(
        handshake_seconds=0.5, frame_seconds=0.4, idle_seconds=0.4, answer_seconds=0.3, farewell_seconds=0.5
    )

    async def misbehave(serving):
        return await frames_of(sent)(serving, certs)

    report, frames = asyncio.run(with_a_bad_neighbour(certs, misbehave, limits=limits))
    check_one_refusal(report, caplog, reason)
    if reason in ("protocol-error", "bad-version"):
        assert isinstance(frames[-1], link.Refused)
    if reason == "silent":
        assert link.Ping() in frames


def test_bytes_that_drip_in_end_a_connection(certs, caplog):
    limits = Limits(frame_seconds=0.3, minimum_rate=1000, farewell_seconds=0.5)

    async def misbehave(serving):
        stream = await raw_stream(serving.port, certs, 0)
        await stream.send(HELLO + b"\x00\x00\x01\x00")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 200:
                await stream.send(b"\x00")
                sent += 1
                await asyncio.sleep(0.02)
        stream.abort()
        return sent

    report, sent = asyncio.run(with_a_bad_neighbour(certs, misbehave, limits=limits))
    check_one_refusal(report, caplog, "slow-frame")
    assert 5 < sent < 60


def test_a_stranger_with_a_certificate_is_told_that_it_is_not_on_the_list(certs, caplog):
    async def misbehave(serving):
        with pytest.raises(SessionRefusedError) as caught:
            await join(serving.port, np.zeros(10, np.int64), certs, 7)
        return caught.value

    report, error = asyncio.run(with_a_bad_neighbour(certs, misbehave))
    check_one_refusal(report, caplog, "unknown-client")
    assert error.code is link.RefusalCode.UNKNOWN_CLIENT


def test_a_second_connection_takes_the_place_of_the_first(certs, caplog):
    async def misbehave(serving):
        first = await raw_stream(serving.port, certs, 1)
        await first.send(HELLO)
        second = await raw_stream(serving.port, certs, 1)
        await second.send(HELLO)
        frames = await received(first)
        second.abort()
        return frames

    report, frames = asyncio.run(with_a_bad_neighbour(certs, misbehave))
    check_one_refusal(report, caplog, "replaced")
    assert frames[-1].code is link.RefusalCode.REPLACED


def test_who_asks_and_does_not_read_is_cut_off(certs):
    """The offer is large, and asked for again and again by connections that read nothing."""
    limits = Limits(stall_seconds=0.3, farewell_seconds=0.5)

    async def misbehave(serving):
        stream = await raw_stream(serving.port, certs, 0)
        await stream.send(HELLO)
        await asyncio.sleep(0.8)
        stream.abort()

    async def scenario():
        return await with_a_bad_neighbour(certs, misbehave, limits=limits, extra=bytes(1 << 20))

    with pytest.MonkeyPatch.context() as patch:
        listener_socket = socket.socket

        class Narrow(listener_socket):
            def listen(self, backlog):
                # Accepted connections inherit it: little fits into the kernel.
                self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
                super().listen(backlog)

        patch.setattr("transport.tcp_listener.socket.socket", Narrow)
        report, _ = asyncio.run(scenario())
    assert report.refusals["not-reading"] == 1


def test_there_are_no_more_connections_than_the_limit(certs, caplog):
    limits = Limits(connections_per_address=6, farewell_seconds=0.5)

    async def misbehave(serving):
        held = []
        for _ in range(6):
            held.append(await asyncio.open_connection("127.0.0.1", serving.port))
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        assert await reader.read() == b""
        for _, one in [*held, (reader, writer)]:
            one.transport.abort()
        await asyncio.sleep(0.05)

    report, _ = asyncio.run(with_a_bad_neighbour(certs, misbehave, limits=limits))
    check_one_refusal(report, caplog, "too-many-connections")
    assert report.refusals["broken-off"] == 6


# Ends


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


def test_cancelling_the_server_leaves_nothing_behind_and_its_journal_goes_on(certs, tmp_path):
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


def test_cancelling_a_client_leaves_nothing_behind_and_its_journal_goes_on(certs, tmp_path):
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


def test_what_a_client_may_not_do_is_said_before_it_connects(certs):
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


def test_plaintext_calls_nobody_outside():
    """Before anything is said, the address of the other side is looked at."""

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
    # One session moves some 2 MB; a leak of a tenth of that each would show.
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


def test_errors_of_the_network_are_the_transports():
    for error in (PlaintextError, ServerUnreachableError, CertificateError):
        assert issubclass(error, TransportError)


def test_the_report_says_what_came_of_it(certs):
    params = make_params(3, 2)
    inputs = random_inputs(params, seed=0)
    report, _ = asyncio.run(run_all(params, inputs, certs))
    assert isinstance(report.outcome, Completed)
    assert report.outcome.sum.tolist() == exact_sum(params, list(inputs.values()))
    assert report.counters.connections == 3
    assert 0 < report.seconds < 10
    assert EAGER.give_up == 5
