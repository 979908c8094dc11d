"""The client's shell: it connects a `ClientHost`, repeatedly if necessary, until its session has ended."""

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TypeAlias

from secagg import ClientId
from transport.certificates.reading import CertificateError, Credentials, client_id_of, is_for_clients, load_certificate
from transport.driver import InputVector, KeyedInput
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.durable.client_host import ClientHost
from transport.errors import TransportError
from transport.tcp.connection import PING, PONG, Connection, CutOffError
from transport.tcp.settings import Address, Limits, Plaintext, Retry, check_loopback
from transport.tcp.stream import Stream, connect_stream
from transport.tcp.tls import TlsRefusedError, client_context, reloading_tls

ProvideInput: TypeAlias = Callable[[link.Offer], InputVector | KeyedInput]
"""A function that makes a client's input when it is due."""

Context: TypeAlias = bytes | Callable[[link.Offer], bytes]
"""The bytes that a client binds into the session, or a function of the offer that returns them."""

OnWaiting: TypeAlias = Callable[[link.Waiting], None]
"""A function that gets the number of clients that wait for a session, whenever the server sends it."""

logger = logging.getLogger("transport.tcp")

_ERRNO = re.compile(r"\[Errno (\d+)\]")

# Number of payloads that may wait while the host works.
_INBOX = 8
_GOODBYE_SECONDS = 5.0
_WAITING = link.encode(link.Waiting(0))[0][:1]
# For these frames a thread would cost more than the host's work.
_QUICK = (_WAITING, *(link.encode(frame)[0][:1] for frame in (link.Ack(0), _pieces.Want(b"", 0, 0))))


class ServerUnreachableError(TransportError):
    """Raised when nothing came from the server for the time that the client was told to try."""


class SessionClient:
    """A client that runs one session over any number of connections.

    Args:
        host: the session's state; nothing else may use it meanwhile.
        client_id: the client.
        address: the server's address, or several of one server: each client begins with another one, and tries the
            next one when one does not answer or sends it away.
        tls: the client's certificate, or `PLAINTEXT` for a trial on one machine.
        server_name: the name in the server's certificate, if it differs from the host in ``address``.
        retry: the pauses before new connections.
        limits: limits of time and memory for the connection.
        unreachable, on_waiting: as for `transport.join_session`.

    Raises:
        CertificateError: see `client_context`.
    """

    def __init__(
        self,
        host: ClientHost,
        client_id: ClientId,
        *,
        address: Address | Sequence[Address],
        tls: Credentials | Plaintext,
        server_name: str | None = None,
        retry: Retry | None = None,
        limits: Limits | None = None,
        unreachable: Callable[[str], None] | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> None:
        self._on_waiting = on_waiting
        self._host = host
        self._client_id = client_id
        self._addresses = addresses_of(address)
        self._tries = client_id
        # The next connection uses renewed certificates of this client or of the authority.
        self._loaded = reloading_tls(client_context, tls) if isinstance(tls, Credentials) else None
        self._certificate = tls.certificate if isinstance(tls, Credentials) else None
        self._server_name = server_name
        self._retry = retry or Retry()
        self._limits = limits or Limits()
        self._unreachable = unreachable
        self._heard = False

    async def run(self) -> None:
        """Run until the host has finished.

        Raises:
            TlsRefusedError: one side did not accept the other's certificate, and waiting cannot help.
            ServerUnreachableError: nothing came from the server for `Retry.give_up` seconds.
            PlaintextError: there is no TLS, and the server is not on this machine.
            Exception: an error of the function that makes the input.
        """
        clock = asyncio.get_running_loop().time
        failures, last_word, is_first, is_told = 0, clock(), True, False
        while not self._host.finished:
            self._heard = False
            error = await self._once()
            error_text = _in_words(error)
            is_outdated = isinstance(error, TlsRefusedError) and error.is_outdated
            if isinstance(error, TlsRefusedError) and error.is_outdated and error.by_peer:
                error_text += f": renew {self._certificate}"
            if self._host.finished:
                return
            if self._heard:
                failures, last_word, is_told = 0, clock(), False
            failures += 1
            if not self._heard or self._host.refused is not None:
                self._tries += 1
            refused = self._host.refused if self._heard else None
            delay = self._retry.delay(failures, 0 if refused is None else refused.retry_after)
            if clock() + delay - last_word > self._retry.give_up:
                raise ServerUnreachableError(
                    f"no word from {self._named()} for {clock() - last_word:.0f} s: {error_text}"
                )
            if self._unreachable is not None and not self._heard and (is_first or is_outdated) and not is_told:
                self._unreachable(error_text)
                is_told = True
            is_first = False
            logger.info(
                "the connection to the server is lost (%s); next try in %.1f s",
                error_text,
                delay,
                extra={"event": "reconnecting", "client_id": self._client_id, "reason": error_text},
            )
            await asyncio.sleep(delay)

    def _named(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self._addresses)

    async def _once(self) -> BaseException | str:
        """Use one connection until it ends, and return the reason."""
        try:
            stream = await connect_stream(
                *self._addresses[self._tries % len(self._addresses)],
                None if self._loaded is None else self._loaded.current().context,
                server_name=self._server_name,
                handshake_seconds=self._limits.handshake_seconds,
                stall_seconds=self._limits.stall_seconds,
            )
        except TlsRefusedError as error:
            if not error.may_pass:
                raise
            return error
        except OSError as error:
            return error
        try:
            if self._loaded is None:
                check_loopback(stream.peer)
            why = await self._converse(stream)
            if self._host.finished:
                await stream.close()
            return why
        finally:
            stream.abort()

    async def _converse(self, stream: Stream) -> BaseException | str:
        # The server may be silent at first, while it runs another session or none.
        connection = Connection(stream, self._limits, patient=True)
        inbox: asyncio.Queue[memoryview | None] = asyncio.Queue(_INBOX)
        if self._loaded is None:
            connection.send(link.encode(link.Identify(self._client_id)))
        for parts in self._host.connected():
            connection.send(parts)
        reading = asyncio.create_task(self._read(connection, inbox))
        writing = asyncio.create_task(connection.write())
        working = asyncio.create_task(self._work(connection, inbox))
        # A connection that accepts no bytes any more delivers none either.
        writing.add_done_callback(lambda task: stream.abort() if not task.cancelled() and task.exception() else None)
        try:
            try:
                await working
            except CutOffError as error:
                return error
            if self._host.finished:
                connection.finish()
                await asyncio.wait((writing,), timeout=_GOODBYE_SECONDS)
                return "the session is over"
            # The reader knows the reason for the end, unless the writer ended the connection.
            found = writing.exception() if writing.done() and not writing.cancelled() else None
            read = reading.result() if reading.done() else None
            refused = read if isinstance(read, TlsRefusedError) else None
            return refused or found or read or "the server closed the connection"
        finally:
            for task in (reading, writing, working):
                task.cancel()
            await asyncio.gather(reading, writing, working, return_exceptions=True)
            if working.done() and not working.cancelled():
                self._host.left()

    async def _read(self, connection: Connection, inbox: "asyncio.Queue[memoryview | None]") -> BaseException | None:
        """Receive frames, and answer PINGs even while the host is busy."""
        found: BaseException | None = None
        try:
            async for payload in connection.frames():
                self._heard = True
                if payload == PING:
                    connection.send((PONG,))
                elif payload != PONG:
                    await inbox.put(payload)
        except TlsRefusedError as error:
            found = error
        except (CutOffError, OSError) as error:
            found = error
        await inbox.put(None)
        if isinstance(found, TlsRefusedError) and not found.may_pass and not self._heard:
            raise found
        return found

    async def _work(self, connection: Connection, inbox: "asyncio.Queue[memoryview | None]") -> None:
        """Pass frames to the host in a thread, since making an input may take long."""
        while (payload := await inbox.get()) is not None:
            if payload[:1] in _QUICK:
                answers = self._host.frame_received(payload)
            else:
                answers = await asyncio.to_thread(self._host.frame_received, payload)
            for parts in answers:
                connection.send(parts)
            if payload[:1] == _WAITING and self._on_waiting is not None and not self._host.finished:
                waiting = link.decode_server_frame(payload)
                assert isinstance(waiting, link.Waiting)  # noqa: S101 - it is of that kind, and the host has read it
                self._on_waiting(waiting)
            if self._host.finished:
                return


def _in_words(error: BaseException | str) -> str:
    """Return the system's text for a failed connection, without the addresses and numbers that asyncio adds."""
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved: {error.strerror}"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        # For a name with several addresses, the error of the first.
        number = _ERRNO.search(str(error))
        if number is not None:
            return os.strerror(int(number[1]))
    return str(error)


def addresses_of(address: Address | Sequence[Address]) -> tuple[Address, ...]:
    """Return one address or several as several. ValueError if there is none."""
    if not address:
        raise ValueError("a client needs an address of its server")
    return ((address[0], address[1]),) if isinstance(address[0], str) else tuple(address)  # type: ignore[arg-type,return-value]


def own_id(tls: Credentials | Plaintext, client_id: ClientId | None) -> ClientId:
    """Return the client's id from its certificate; a given ``client_id`` must be the same.

    Raises:
        CertificateError: the certificate names no client, or another one.
        TypeError: neither a certificate nor an id is given.
    """
    if not isinstance(tls, Credentials):
        if client_id is None:
            raise TypeError("without TLS a client needs a client_id")
        return client_id
    certificate = load_certificate(tls.certificate)
    named = client_id_of(certificate)
    if named is None:
        raise CertificateError(f"{tls.certificate}: it names no client, or several (urn:secagg:client:<id>)")
    if not is_for_clients(certificate):
        raise CertificateError(f"{tls.certificate}: it lacks the extended key usage for client authentication")
    if client_id is not None and client_id != named:
        raise CertificateError(f"{tls.certificate}: this is client {named}'s certificate, not client {client_id}'s")
    return named
