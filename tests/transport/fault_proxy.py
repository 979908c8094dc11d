"""A TCP proxy that spoils the bytes that pass through it, by a seed."""

import asyncio
import random
import socket
from dataclasses import dataclass
from enum import Enum, unique


@unique
class Spoil(Enum):
    """Kinds of faults for a chunk of bytes."""

    DELAY = "it comes late"
    CUT = "the connection is reset instead"
    TRUNCATE = "a part of it is lost, and what follows comes"
    END = "a part of it comes, and then the stream ends"
    DUPLICATE = "it comes twice"
    REORDER = "it comes after the next one"
    FLIP = "a bit of it is flipped"
    STALL = "it and what follows are held back for long"


@dataclass(frozen=True)
class Faults:
    """Rates and limits of faults.

    Attributes:
        rate: the probability that a chunk is spoiled.
        most: maximum number of faults; afterwards the proxy passes everything.
        stall_seconds: duration of STALL.
        kinds: the faults that may happen.
    """

    rate: float = 0.1
    most: int = 30
    stall_seconds: float = 0.4
    kinds: tuple[Spoil, ...] = tuple(Spoil)


class FaultProxy:
    """A proxy on loopback that passes connections on to ``port`` there, with faults. An async context manager.

    Chunks are cut at random places, so that frames and TLS records arrive in pieces.
    """

    def __init__(self, port: int, seed: int, faults: Faults | None = None) -> None:
        self._target = port
        self._random = random.Random(seed)
        self._faults = faults or Faults()
        # The proxy has its own server, since a closed asyncio server loses what arrives.
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self.spoiled: list[Spoil] = []
        self.connections = 0
        self.port = self._listener.getsockname()[1]

    async def __aenter__(self) -> "FaultProxy":
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._connected(sock))
        self._tasks.add(task)
        task.add_done_callback(lambda _: sock.close())
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, sock: socket.socket) -> None:
        self.connections += 1
        reader, writer = await asyncio.open_connection(sock=sock)
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(up_writer)
            pumps += [
                asyncio.create_task(self._pump(reader, up_writer)),
                asyncio.create_task(self._pump(up_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in writers:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        while data := await reader.read(self._random.choice((100, 1000, 65536))):
            spoil = self._choose()
            match spoil:
                case Spoil.DELAY:
                    await asyncio.sleep(self._random.uniform(0, 0.1))
                case Spoil.STALL:
                    await asyncio.sleep(self._faults.stall_seconds)
                case Spoil.CUT:
                    raise ConnectionResetError
                case Spoil.TRUNCATE:
                    data = data[: self._random.randrange(len(data))]
                case Spoil.END:
                    writer.write(data[: self._random.randrange(len(data))])
                    break
                case Spoil.DUPLICATE:
                    data += data
                case Spoil.REORDER:
                    held, data = data, b""
                    continue
                case Spoil.FLIP:
                    spoiled = bytearray(data)
                    spoiled[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
                    data = bytes(spoiled)
            writer.write(data + held)
            held = b""
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    def _choose(self) -> Spoil | None:
        faults = self._faults
        if len(self.spoiled) >= faults.most or self._random.random() >= faults.rate:
            return None
        self.spoiled.append(self._random.choice(faults.kinds))
        return self.spoiled[-1]
