"""One connection: bytes in both directions over TCP, with or without TLS.

This module does TLS in memory instead of using asyncio's transport, for three reasons: the reason of a refusal is known
and its alert reaches the other side; the bytes that wait to be sent are bounded in each layer; and a peer that stops
reading is noticed by the first 64 KiB that cannot be sent.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from transport.tcp.tls import TlsRefusal, TlsRefusedError, refusal_of

CHUNK = 1 << 16


class StalledError(ConnectionError):
    """Raised when the other side has not read anything for too long."""


class Stream:
    """An open connection. Make one with `connect_stream` or `accept_stream`; one task may read, one may write.

    Args:
        reader, writer: the TCP connection.
        stall_seconds: maximum time for sending 64 KiB.

    Attributes:
        tls: the TLS object, which knows the other side's certificate; None without TLS.
        peer: the other side's IP address.
        taken_at: when the other side last took bytes that had been waiting for it, by the event loop's clock.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stall_seconds: float) -> None:
        self._reader = reader
        self._writer = writer
        self._stall_seconds = stall_seconds
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls: ssl.SSLObject | None = None
        # The reason of the end: asked again, OpenSSL may give another one.
        self._over: ssl.SSLError | None = None
        peer = writer.get_extra_info("peername")
        self.peer: str = peer[0] if peer else ""
        self.taken_at = float("-inf")
        writer.transport.set_write_buffer_limits(high=CHUNK)
        if (sock := writer.get_extra_info("socket")) is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Nothing can overtake bytes that the system has accepted and not sent.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, CHUNK)

    async def first_bytes(self) -> None:
        """Wait until the other side has sent bytes, or has closed; `handshake` then reads them."""
        await self._fill()

    async def handshake(self, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        """Agree on TLS keys: as the client if ``server_name`` is given, else as the server.

        Raises:
            TlsRefusedError: one side did not accept the other. A client learns of the server's refusal only with its
                first read.
        """
        tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                # The alert tells the other side why.
                with contextlib.suppress(OSError):
                    await self._flush()
                raise refusal_of(error) from None
        await self._flush()
        self.tls = tls

    async def receive(self) -> bytes:
        """Return some bytes, or none at the end.

        Raises:
            TlsRefusedError: the other side refused us, or its bytes are not TLS.
            OSError: the connection broke.
        """
        if self.tls is None:
            return await self._reader.read(CHUNK)
        # A read returns one record, at most 16 KiB; wake the reader of a large frame for more than that.
        records: list[bytes] = []
        while self._over is None and sum(map(len, records)) < CHUNK:
            try:
                data = self.tls.read(CHUNK)
            except ssl.SSLWantReadError:
                if records:
                    break
                await self._fill()
                continue
            except ssl.SSLError as error:
                self._over = error
                break
            if not data:
                break
            records.append(data)
        if self._over is not None and not records:
            if isinstance(self._over, ssl.SSLZeroReturnError | ssl.SSLEOFError):
                return b""
            raise refusal_of(self._over) from None
        if self._outgoing.pending:  # pragma: no cover - the answer to a key update
            await self._flush()
        return records[0] if len(records) == 1 else b"".join(records)

    async def send(self, data: bytes | memoryview | Sequence[bytes | memoryview]) -> None:
        """Send all pieces; return once at most 64 KiB wait in this process.

        Raises:
            StalledError: the other side does not read.
            OSError: the connection broke.
        """
        for chunks in _chunked([data] if isinstance(data, bytes | memoryview) else data):
            if self.tls is None:
                self._writer.writelines(chunks)
                await self._drain()
                continue
            try:
                # Join small pieces, since each would become a separate record.
                self.tls.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))
            except ssl.SSLError as error:
                raise ConnectionResetError(str(error)) from None
            await self._flush()

    async def close(self, linger: float = 1.0) -> None:
        """Signal the end, wait at most ``linger`` seconds for the other side to see it, then close.

        A connection that is closed while the other side still sends is reset, and the last bytes are lost.
        """
        try:
            async with asyncio.timeout(linger):
                if self.tls is not None:
                    with contextlib.suppress(ssl.SSLError):
                        self.tls.unwrap()
                    await self._flush()
                self._writer.write_eof()
                while await self._reader.read(CHUNK):
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once; bytes that wait to be sent are lost."""
        self._writer.transport.abort()

    async def _fill(self) -> None:
        data = await self._reader.read(CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            self._writer.write(self._outgoing.read())
            await self._drain()

    async def _drain(self) -> None:
        is_waiting = self._writer.transport.get_write_buffer_size() > CHUNK
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._writer.drain()
            if is_waiting:
                self.taken_at = asyncio.get_running_loop().time()
        except TimeoutError:
            raise StalledError(f"the other side has read nothing for {self._stall_seconds:g} s") from None


def _chunked(pieces: Sequence[bytes | memoryview]) -> Iterator[list[bytes | memoryview]]:
    """Yield the bytes of ``pieces`` in groups of `CHUNK`; long pieces are cut, not copied."""
    group: list[bytes | memoryview] = []
    room = CHUNK
    for piece in pieces:
        view = memoryview(piece)
        while len(view) >= room:
            yield [*group, view[:room]]
            view, group, room = view[room:], [], CHUNK
        if view:
            group.append(view)
            room -= len(view)
    if group:
        yield group


async def accept_stream(
    sock: socket.socket,
    context: ssl.SSLContext | None,
    *,
    first_byte_seconds: float,
    handshake_seconds: float,
    stall_seconds: float,
    heard: Callable[[], None],
    introduce: Callable[[asyncio.StreamReader], Awaitable[None]] | None = None,
) -> Stream:
    """Return the server's end of an accepted connection; close ``sock`` if this fails or is cancelled.

    With TLS, ``heard`` is called when the first bytes have come, which must be within ``first_byte_seconds``. The same
    limit holds for the bytes before them, which ``introduce`` reads.

    Raises:
        TlsRefusedError: the handshake failed.
        OSError: the connection broke.
        Exception: an error of ``introduce``.
    """
    reader, writer = await asyncio.open_connection(sock=sock, limit=CHUNK)
    stream = Stream(reader, writer, stall_seconds)
    if context is None:
        return stream
    async with _refused_in_time(stream, handshake_seconds):
        if introduce is not None:
            async with asyncio.timeout(first_byte_seconds):
                await introduce(reader)
        async with asyncio.timeout(first_byte_seconds):
            await stream.first_bytes()
        heard()
        await stream.handshake(context)
    return stream


async def connect_stream(
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    *,
    server_name: str | None = None,
    handshake_seconds: float,
    stall_seconds: float,
) -> Stream:
    """Return the client's end of a new connection. The server's certificate must be for ``server_name`` or ``host``.

    Raises:
        TlsRefusedError: the handshake failed, or took too long together with the connection.
        OSError: the server cannot be reached, or the connection broke.
    """
    try:
        async with asyncio.timeout(handshake_seconds):
            reader, writer = await asyncio.open_connection(host, port, limit=CHUNK)
    except TimeoutError:
        raise TlsRefusedError(TlsRefusal.TIMED_OUT) from None
    stream = Stream(reader, writer, stall_seconds)
    if context is not None:
        async with _refused_in_time(stream, handshake_seconds):
            await stream.handshake(context, server_name=server_name or host)
    return stream


@contextlib.asynccontextmanager
async def _refused_in_time(stream: Stream, handshake_seconds: float) -> AsyncIterator[None]:
    """Close the stream if the block fails or takes too long."""
    try:
        async with asyncio.timeout(handshake_seconds):
            yield
    except TlsRefusedError:
        await stream.close()
        raise
    except TimeoutError:
        stream.abort()
        raise TlsRefusedError(TlsRefusal.TIMED_OUT) from None
    except BaseException:
        stream.abort()
        raise
