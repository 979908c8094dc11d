"""Every way in which a connection misbehaves: the others continue, and the reason is counted and logged once."""

import asyncio
import contextlib
import hashlib
import logging
import socket
from random import Random

import numpy as np
import pytest

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import QUICK, check_exact, deadlines, deployment, join, raw_stream, served
from tests.transport.tcp_sessions import HELLO, received
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.errors import SessionRefusedError
from transport.framing import encode_frame
from transport.tcp import (
    Limits,
)

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 8)


async def with_a_bad_neighbour(certs, misbehave, *, num_clients=3, limits=QUICK, **options):
    """Run a session of clients 0 .. n-1 while a connection misbehaves towards the server; return report and result."""
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
        (Random(5).randbytes(5000), "bad-frame"),
        (HELLO[:-1] + b"\xff", "bad-frame"),
        (encode_frame(b""), "protocol-error"),
        (encode_frame(b"\x63"), "protocol-error"),
        (HELLO + encode_frame(link.encode(link.Hello(bytes(32)))), "protocol-error"),
        (encode_frame(link.encode(link.Message(0, b"x"))), "protocol-error"),
        (HELLO + encode_frame(link.encode(link.Ack(0))), "protocol-error"),
        (encode_frame(link.encode(link.Identify(1))) + HELLO, "protocol-error"),
        (encode_frame(link.encode(link.Hello(version=0, oldest=0))), "bad-version"),
        (encode_frame(link.encode(link.Hello(version=9, oldest=9))), "older-server"),
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


def test_a_client_that_asks_and_does_not_read_is_cut_off(certs):
    """The offer is large, and connections that read nothing ask for its pieces."""
    extra = bytes(1 << 20)
    want = _pieces.Want(hashlib.sha256(extra).digest(), 0, len(extra))
    limits = Limits(stall_seconds=0.3, farewell_seconds=0.5)

    async def misbehave(serving):
        stream = await raw_stream(serving.port, certs, 0)
        await stream.send(HELLO + encode_frame(link.encode(want)))
        await asyncio.sleep(0.8)
        stream.abort()

    async def scenario():
        return await with_a_bad_neighbour(certs, misbehave, limits=limits, extra=extra)

    with pytest.MonkeyPatch.context() as patch:
        listener_socket = socket.socket

        class Narrow(listener_socket):  # type: ignore[valid-type, misc]
            def listen(self, backlog):
                # Accepted connections inherit it: little fits into the kernel.
                self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
                super().listen(backlog)

        patch.setattr("transport.tcp.listener.socket.socket", Narrow)
        report, _ = asyncio.run(scenario())
    assert report.refusals["not-reading"] == 1


def test_there_are_no_more_connections_than_the_limit(certs, caplog):
    limits = Limits(connections_per_address=6, connections_per_client=8, farewell_seconds=0.5)

    async def misbehave(serving):
        # Strangers are counted separately: a place is taken only after a certificate was shown.
        strangers = [await asyncio.open_connection("127.0.0.1", serving.port) for _ in range(9)]
        held = [await raw_stream(serving.port, certs, 7) for _ in range(7)]
        assert await received(held.pop()) == [link.TOO_MANY_CONNECTIONS]
        for stream in held:
            stream.abort()
        for _, writer in strangers:
            writer.transport.abort()
        await asyncio.sleep(0.05)

    report, _ = asyncio.run(with_a_bad_neighbour(certs, misbehave, limits=limits))
    check_one_refusal(report, caplog, "too-many-connections")
    assert report.refusals["broken-off"] == 9
