"""Shared by the tests of sessions over TCP."""

import asyncio
import contextlib

from tests.transport.network import join, served
from transport.durable import frames as link
from transport.framing import FrameDecoder, encode_frame

HELLO = encode_frame(link.encode(link.Hello()))


async def run_all(params, inputs, tls, **options):
    async with served(params, tls, **options) as serving:
        ends = await asyncio.gather(*(join(serving.port, inputs[i], tls, i) for i in inputs))
        report = await serving.task
    return report, ends


async def received(stream):
    """Return all payloads until the other side closes."""
    decoder, payloads = FrameDecoder(1 << 20), []
    async with asyncio.timeout(5):
        with contextlib.suppress(OSError):
            while data := await stream.receive():
                payloads += [bytes(payload) for payload in decoder.feed(data)]
    stream.abort()
    return [link.decode_server_frame(payload) for payload in payloads]
