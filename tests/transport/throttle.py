"""A TCP proxy that passes bytes on at a fixed rate with small buffers, as a slow line does, and may break off."""

import asyncio
import socket
from collections import Counter

# Bytes are passed on this many times a second.
_STEPS = 50


class ThrottleProxy:
    """A proxy on loopback that passes connections on to ``port`` there. An async context manager.

    Args:
        port: destination.
        up, down: bytes a second, from the connecting side and to it.
        cuts: for connection i, the direction and the number of bytes after which it is cut: ("up" or "down", bytes).

    Attributes:
        port: the port on which it listens.
        connections: how many were made.
        passed: bytes that were passed on, by direction.
    """

    def __init__(self, port: int, up: float, down: float, cuts: tuple[tuple[str, int], ...] = ()) -> None:
        self._target = port
        self._rates = {"up": up, "down": down}
        self._cuts = cuts
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0
        self.passed: Counter[str] = Counter()

    async def __aenter__(self) -> "ThrottleProxy":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 14)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        cut = self._cuts[number] if number < len(self._cuts) else ("", 0)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=1 << 14)
        for end in (writer, far_writer):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, "up", cut)),
            asyncio.create_task(self._pump(far_reader, writer, "down", cut)),
        ]
        self._pumps.update(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._pumps.difference_update(pumps)
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, cut: tuple[str, int]
    ) -> None:
        rate, passed = self._rates[way], 0
        while data := await reader.read(max(1, int(rate / _STEPS))):
            if cut[0] == way and passed + len(data) > cut[1]:
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
            passed += len(data)
            self.passed[way] += len(data)
            await asyncio.sleep(len(data) / rate)
        if writer.can_write_eof():
            writer.write_eof()
