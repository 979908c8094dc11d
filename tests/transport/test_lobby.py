"""Between sessions, and beside one: clients that are present, that wait, that are refused; none retries too often."""

import asyncio
import contextlib
import logging

import pytest

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import QUICK, check_exact, deadlines, deployment, join, raw_stream
from tests.transport.tcp_sessions import HELLO, received
from transport import RecoveryPool
from transport.certificates.reading import Credentials
from transport.durable import frames as link
from transport.durable.frames import RefusalCode
from transport.durable.pieces import Large
from transport.durable.server_host import SessionHost
from transport.errors import SessionRefusedError
from transport.framing import FrameDecoder, encode_frame
from transport.tcp import PLAINTEXT, Limits, SessionServer
from transport.tcp.connection import PING, PONG
from transport.tcp.stream import connect_stream

pytestmark = pytest.mark.live

ENROLLED = 4


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 8)


def listening(certs, limits=QUICK, enrolled=range(ENROLLED)):
    return SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), limits, enrolled)


async def until(condition, seconds=5):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(server, params, **options):
    """Run a session in the background; yield its host and task."""
    options = {"deadlines": deadlines(8)} | options
    host = SessionHost(params, now=asyncio.get_running_loop().time(), **options)
    with RecoveryPool(1) as pool:
        task = asyncio.create_task(server.run(host, pool))
        try:
            yield host, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def next_frames(stream, number):
    """Return the next ``number`` frames; the connection stays open."""
    decoder, payloads = FrameDecoder(1 << 20), []
    async with asyncio.timeout(5):
        while len(payloads) < number:
            payloads += [bytes(payload) for payload in decoder.feed(await stream.receive())]
    return [link.decode_server_frame(payload) for payload in payloads]


async def a_session_is_exact(server, certs, params=None, **options):
    """Assert the honest end of every test: all enrolled clients come, and are in the sum."""
    params = params or make_params(ENROLLED, 3)
    inputs = random_inputs(params, seed=0)
    port = server.addresses[0][1]
    async with running(server, params, **options) as (host, task):
        await asyncio.gather(*(join(port, inputs[i], certs, i) for i in inputs), task)
    assert host.outcome.included == tuple(inputs)
    assert check_exact(params, inputs, host.outcome)
    return host


def test_only_distinct_enrolled_clients_that_said_hello_are_present(certs):
    async def scenario():
        async with listening(certs) as server:
            port = server.addresses[0][1]
            bare = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            mute = [await raw_stream(port, certs, i) for i in (0, 1)]
            stranger = await raw_stream(port, certs, 7)
            await stranger.send(HELLO)
            twice = [await raw_stream(port, certs, 2) for _ in range(2)]
            for stream in twice:
                await stream.send(HELLO)
            frames = await received(stranger)
            await until(lambda: server.refusals["replaced"] == 1)
            present = server.num_waiting
            # A client that leaves is missed at once, and not only at the next question.
            twice[1].abort()
            await until(lambda: server.num_waiting == 0)
            for stream in (*mute, *twice):
                stream.abort()
            for _, writer in bare:
                writer.transport.abort()
            await a_session_is_exact(server, certs)
            return frames, present

    frames, present = asyncio.run(scenario())
    assert present == 1
    assert frames == [link.Refused(RefusalCode.UNKNOWN_CLIENT, "client 7 is not enrolled here")]


def test_a_certified_stranger_is_told_at_once_that_it_is_not_enrolled(certs, caplog):
    caplog.set_level(logging.WARNING, "transport")

    async def scenario():
        async with listening(certs) as server:
            for _ in range(50):
                with pytest.raises(
                    SessionRefusedError, match="UNKNOWN_CLIENT: client 7 is not enrolled here"
                ) as caught:
                    await join(server.addresses[0][1], None, certs, 7)
            assert caught.value.code is RefusalCode.UNKNOWN_CLIENT
            return server.num_waiting, server.refusals["unknown-client"]

    assert asyncio.run(scenario()) == (0, 50)
    (line,) = caplog.records
    assert (line.reason, line.client_id) == ("unknown-client", 7)


def test_a_session_begins_with_the_waiting_clients_and_gathering_sees_each_once(certs):
    params = make_params(ENROLLED, 3)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        async with listening(certs) as server:
            port = server.addresses[0][1]
            gathering = asyncio.create_task(server.gather(3))
            told = []
            clients = [asyncio.create_task(join(port, inputs[0], certs, 0, on_waiting=told.append))]
            await until(lambda: server.num_waiting == 1)
            await asyncio.sleep(0.05)
            assert not gathering.done()
            clients += [asyncio.create_task(join(port, inputs[i], certs, i)) for i in (1, 2)]
            await gathering
            async with running(server, params, deadlines=deadlines(0.5)) as (host, task):
                await asyncio.gather(*clients, task)
            return host, told, server._listener._accepted

    host, told, accepted = asyncio.run(scenario())
    assert host.outcome.included == (0, 1, 2)
    assert check_exact(params, {i: inputs[i] for i in (0, 1, 2)} | {3: inputs[3]}, host.outcome)
    assert told[0] == link.Waiting(1, 3)
    assert accepted == 3


@pytest.mark.parametrize("tls", [True, False])
def test_a_client_waits_over_one_connection_for_any_time(certs, tls):
    """Both sides ask whether the other is there, and are answered."""
    limits = Limits(idle_seconds=0.1, answer_seconds=0.2, farewell_seconds=0.5)
    params = make_params(2, 2)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        credentials = Credentials.of_server(certs) if tls else PLAINTEXT
        async with SessionServer(("127.0.0.1", 0), credentials, limits, range(2)) as server:
            told = []
            options = {"limits": limits, "on_waiting": told.append}
            clients = [
                asyncio.create_task(join(server.addresses[0][1], inputs[i], certs if tls else PLAINTEXT, i, **options))
                for i in inputs
            ]
            # Eight times as long as the limit for an unanswered question.
            await until(lambda: len(told) >= 16)
            async with running(server, params) as (host, task):
                await asyncio.gather(*clients, task)
            assert check_exact(params, inputs, host.outcome)
            return server._listener._accepted, dict(server.refusals), told[-1]

    assert asyncio.run(scenario()) == (2, {}, link.Waiting(2, 0))


def test_an_older_connection_never_takes_the_place_of_a_newer_one(certs):
    """Either of the two may speak first, before a session and in it."""

    async def scenario():
        found = []
        async with listening(certs) as server:
            port = server.addresses[0][1]
            for number in range(2):
                older = await raw_stream(port, certs, 1)
                newer = await raw_stream(port, certs, 1)
                session = running(server, make_params(ENROLLED, 3)) if number else contextlib.nullcontext()
                async with session:
                    await newer.send(HELLO)
                    await next_frames(newer, 1)
                    await older.send(HELLO)
                    found.append((await received(older))[-1].code)
                    await newer.send(encode_frame((PING,)))
                    found.append((await next_frames(newer, 1))[0])
                newer.abort()
            await until(lambda: server.num_waiting == 0)
            await a_session_is_exact(server, certs)
        return found

    assert asyncio.run(scenario()) == [RefusalCode.REPLACED, link.Pong(), RefusalCode.REPLACED, link.Pong()]


def test_late_and_dropped_clients_wait_for_the_next_session_over_one_connection(certs):
    """Any number of them may come, and the session may take any time: no client asks again."""
    params = make_params(ENROLLED, 2)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        async with listening(certs) as server:
            port = server.addresses[0][1]
            gate = asyncio.Event()
            loop = asyncio.get_running_loop()

            def held(offer):
                asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
                return inputs[0]

            limits = deadlines(8)
            object.__setattr__(limits, "advertise_keys", 0.3)
            async with running(server, params, deadlines=limits) as (host, task):
                vectors = {**inputs, 0: held}
                first = [asyncio.create_task(join(port, vectors[i], certs, i)) for i in (0, 1)]
                await until(lambda: len(host.dropped) == 2)
                late = [asyncio.create_task(join(port, inputs[i], certs, i)) for i in (2, 3)]
                await until(lambda: server.num_waiting == 2)
                before = server._listener._accepted
                # The late ones are asked, and do not ask to come in again.
                await asyncio.sleep(2.5 * QUICK.idle_seconds)
                assert (server._listener._accepted, before) == (4, 4)
                gate.set()
                await asyncio.gather(*first, task)
            assert host.outcome.included == (0, 1)
            assert check_exact(params, inputs, host.outcome)
            async with running(server, params, deadlines=deadlines(3)) as (host, task):
                again = [asyncio.create_task(join(port, inputs[i], certs, i)) for i in (0, 1)]
                await asyncio.gather(*again, *late, task)
            return host, server._listener._accepted, dict(server.refusals)

    host, accepted, refusals = asyncio.run(scenario())
    assert host.outcome.included == (0, 1, 2, 3)
    assert check_exact(params, inputs, host.outcome)
    assert accepted == 6
    assert refusals == {}


def test_an_enrolled_client_that_is_not_invited_waits(certs):
    async def scenario():
        async with listening(certs) as server:
            port = server.addresses[0][1]
            inputs = random_inputs(make_params(3, 2), seed=0)
            async with running(server, make_params(3, 2), client_ids=(0, 1, 2)) as (host, task):
                waiting = asyncio.create_task(join(port, random_inputs(make_params(ENROLLED, 3), 0)[3], certs, 3))
                await until(lambda: server.num_waiting == 1)
                await asyncio.gather(*(join(port, inputs[i], certs, i) for i in inputs), task)
            assert check_exact(make_params(3, 2), inputs, host.outcome)
            params = make_params(ENROLLED, 3)
            inputs = random_inputs(params, seed=0)
            async with running(server, params) as (host, task):
                await asyncio.gather(*(join(port, inputs[i], certs, i) for i in (0, 1, 2)), waiting, task)
            assert check_exact(params, inputs, host.outcome)
            return host.outcome.included

    assert asyncio.run(scenario()) == (0, 1, 2, 3)


@pytest.mark.parametrize("is_early", [True, False], ids=["waited", "came later"])
def test_a_client_that_returns_from_an_ended_session_joins_the_next(certs, is_early):
    """It lost its connection, or the server was restarted; in between its session ended, and another began."""
    stale = encode_frame(link.encode(link.Hello(bytes(32), 1)))

    async def scenario():
        async with listening(certs) as server, contextlib.AsyncExitStack() as stack:
            port = server.addresses[0][1]
            params = make_params(3, 2)
            inputs = random_inputs(params, seed=0)
            stream = await raw_stream(port, certs, 3)
            if is_early:
                await stream.send(stale)
                await until(lambda: server.num_waiting == 1)
            host, task = await stack.enter_async_context(running(server, params, client_ids=(0, 1, 2)))
            if not is_early:
                await stream.send(stale)
            *_, refused = await received(stream)
            assert server.num_waiting == 0
            await asyncio.gather(*(join(port, inputs[i], certs, i) for i in inputs), task)
            assert check_exact(params, inputs, host.outcome)
            await a_session_is_exact(server, certs)
            return refused

    assert asyncio.run(scenario()).code is RefusalCode.NO_SESSION


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (HELLO + encode_frame(link.encode(link.Hello(bytes(32)))), "protocol-error"),
        (HELLO + encode_frame(link.encode(link.Message(0, b"x"))), "protocol-error"),
        (encode_frame(link.encode(link.Message(0, b"x"))), "protocol-error"),
        (HELLO + encode_frame(link.encode(link.Waiting(1))), "protocol-error"),
        (encode_frame((PING,)), "protocol-error"),
        (encode_frame((PONG,)) + HELLO, "protocol-error"),
        (encode_frame(b"\x63"), "protocol-error"),
        (encode_frame(link.encode(link.Hello(version=1, oldest=1))), "bad-version"),
        (encode_frame(link.encode(link.Hello(version=9, oldest=9))), "older-server"),
        (HELLO + encode_frame(link.encode(Large(b"\x03\x00", 1 << 20, bytes(32)))), "protocol-error"),
        (b"\x00\x00\x02\x01" + bytes(4), "bad-frame"),
        (HELLO + b"\x00\x00\x02\x01" + bytes(4), "bad-frame"),
        (b"\xff\xff\xff\xff" + bytes(4), "bad-frame"),
        (HELLO + encode_frame((PING,)) * 40, "busy"),
        (HELLO * 40, "busy"),
        (b"", "no-hello"),
        (HELLO + b"\x00", "slow-frame"),
        (HELLO, "silent"),
    ],
)
def test_hostile_frames_in_the_lobby_end_only_their_connection(certs, caplog, sent, reason):
    caplog.set_level(logging.INFO, "transport")
    limits = Limits(
        handshake_seconds=0.5, frame_seconds=0.4, idle_seconds=0.4, answer_seconds=0.3, farewell_seconds=0.5
    )

    async def scenario():
        async with listening(certs, limits) as server:
            stream = await raw_stream(server.addresses[0][1], certs, 0)
            await stream.send(sent)
            frames = await received(stream)
            await until(lambda: server.num_connections == 0)
            counted, waiting = dict(server.refusals), server.num_waiting
            await a_session_is_exact(server, certs)
            return frames, counted, waiting

    frames, counted, waiting = asyncio.run(scenario())
    assert counted == {reason: 1}
    assert waiting == 0
    assert [record.reason for record in caplog.records if record.event == "refused"] == [reason]
    if reason in ("protocol-error", "bad-version", "busy"):
        assert isinstance(frames[-1], link.Refused)


def test_a_client_that_asks_in_the_lobby_and_does_not_read_is_cut_off(certs):
    """It may ask a little, again and again; the data waiting for it is bounded."""

    async def scenario():
        async with listening(certs) as server:
            stream = await raw_stream(server.addresses[0][1], certs, 0)
            await stream.send(HELLO)
            await next_frames(stream, 1)
            (visit,) = server._lobby.visits
            visit.connection._wake = asyncio.Event()  # its writer sleeps on: nothing goes out any more
            visit.allowance = type("Endless", (), {"spend": lambda self, now: True})()
            with contextlib.suppress(OSError):
                for _ in range(3000):
                    await stream.send(encode_frame((PING,)))
            await until(lambda: server.refusals["not-reading"] == 1)
            stream.abort()
            await a_session_is_exact(server, certs)

    asyncio.run(scenario())


def test_a_frame_that_is_on_its_way_when_the_session_begins_is_read_to_its_end(certs):
    """The bound on a frame's size is raised after this frame, not in the middle of it."""
    params = make_params(2, 2, vector_length=5000)

    async def scenario():
        async with SessionServer(("127.0.0.1", 0), PLAINTEXT, QUICK, range(2)) as server:
            port = server.addresses[0][1]
            stream = await connect_stream("127.0.0.1", port, None, handshake_seconds=2, stall_seconds=2)
            await stream.send(encode_frame(link.encode(link.Identify(0))) + HELLO)
            await next_frames(stream, 1)
            pong = encode_frame((PONG,))
            await stream.send(pong[:4])
            await asyncio.sleep(0.05)
            async with running(server, params, deadlines=deadlines(4)) as (host, task):
                await next_frames(stream, 1)
                await stream.send(pong[4:] + encode_frame((PING,)))
                await next_frames(stream, 1)
                await stream.send(encode_frame(link.encode(link.Message(0, bytes(2 * link.SMALL_BYTES)))))
                await until(lambda: 0 in host.dropped)
                task.cancel()
            stream.abort()
            return host.dropped[0].reason.name, dict(server.refusals)

    reason, refusals = asyncio.run(scenario())
    # It arrived whole at the machine, which does not accept it.
    assert reason == "MALFORMED"
    assert "bad-frame" not in refusals
