"""Sessions over TCP and TLS, in one call each: `serve_session` and `join_session`.

    # server                                              # client
    report = asyncio.run(serve_session(                   end = asyncio.run(join_session(
        params,                                               vector,
        address=("", 7000),                                   address=("sum.example", 7000),
        tls=Credentials.of_server("certs"),                   tls=Credentials.of_client("certs", 3),
    ))                                                    ))

Below them are `SessionServer`, which keeps listening between sessions, and `SessionClient`.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from secagg import (
    Aborted,
    ClientDropped,
    ClientId,
    Completed,
    Dispute,
    Identity,
    KeyDirectory,
    Parameters,
)
from transport.certificates.reading import Credentials
from transport.driver import Deadlines, InputVector
from transport.durable.client_host import Accept, ClientHost, OfferRecord
from transport.durable.client_journal import ClientJournal
from transport.durable.frames import DEFAULT_MAX_EXTRA_BYTES, End
from transport.durable.server_host import Counters, SessionHost
from transport.durable.server_journal import Journal
from transport.durable.transfers import HeldAnnouncement
from transport.recovery import RecoveryPool
from transport.tcp.client import Context, OnWaiting, ProvideInput, ServerUnreachableError, SessionClient, own_id
from transport.tcp.proxy_protocol import Network, proxy_networks
from transport.tcp.server import HostObserver, SessionServer
from transport.tcp.settings import PLAINTEXT, Address, Limits, Plaintext, PlaintextError, Retry

__all__ = [
    "PLAINTEXT",
    "Address",
    "Limits",
    "Network",
    "NetworkReport",
    "Plaintext",
    "PlaintextError",
    "Retry",
    "ServerUnreachableError",
    "SessionClient",
    "SessionServer",
    "join_session",
    "proxy_networks",
    "serve_session",
]


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """The result of a served session.

    Attributes:
        outcome: `Completed` with the sum, or `Aborted`.
        dropped: the clients that were dropped, with the reasons.
        disputes: the wrong shares.
        counters: frames, bytes and connections of this process.
        refusals: number of connections that were refused or cut off, by reason.
        seconds: time from listening to the last farewell.
    """

    outcome: Completed | Aborted
    dropped: dict[ClientId, ClientDropped] = field(repr=False)
    disputes: tuple[Dispute, ...]
    counters: Counters
    refusals: Counter[str]
    seconds: float


async def serve_session(
    params: Parameters,
    *,
    address: Address,
    tls: Credentials | Plaintext,
    client_ids: Iterable[ClientId] | None = None,
    deadlines: Deadlines | None = None,
    context: bytes = b"",
    nonce: bytes | None = None,
    extra: bytes = b"",
    number: int = 0,
    directory: KeyDirectory | None = None,
    journal: str | os.PathLike[str] | Journal | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    proxies: Iterable[Network] = (),
    observer: HostObserver | None = None,
    on_outcome: Callable[[NetworkReport], None] | None = None,
    listening: Callable[[Sequence[Address]], None] | None = None,
) -> NetworkReport:
    """Serve one session to its end. Cancelling is safe: clients are told to come back later.

    Args:
        params: the session's parameters, from `secagg.plan`; they are offered to clients.
        address: the address to listen on: host ("" for all addresses) and port (0: the system chooses).
        tls: the server's certificate, or `PLAINTEXT`, on loopback only.
        client_ids: the ids of the clients; by default 0 .. num_clients - 1.
        deadlines: the seconds for which each phase stays open; a phase closes as soon as all have answered.
        context: bytes bound into the session; each client's application must pass the same.
        nonce: fresh public bytes; drawn by default.
        extra: the announcement for clients in the offer; opaque here, and public.
        number: the number of the session, for the applications.
        directory: in malicious mode, the clients' identity keys, such as
            `transport.certificates.reading.directory_from`.
        journal: a file that makes the session survive the end of this process: call again with the same arguments to
            resume it. It is deleted once the session has ended and ``on_outcome`` has returned. A `Journal` in a
            database also survives the end of this machine, see `transport.durable.postgres`.
        workers: cores for the recovery of the masks; by default all.
        limits: limits of time and memory for connections.
        proxies: networks whose connections begin with a header of the PROXY protocol (`proxy_networks`).
        observer: called with the host after each batch of messages.
        on_outcome: called with the report before the journal is deleted: save the sum in it, and no crash can lose it.
            If the process ends before it returns, or if it raises, the session stays in the journal, and the next call
            ends with the same sum and calls it again. Without it, only the returned report has the sum.
        listening: called with the addresses once clients can connect.

    Raises:
        OSError: the server cannot listen on the address.
        CertificateError: a certificate or key cannot be used.
        PlaintextError: the server has no TLS, and the address is not loopback.
        JournalError: the journal cannot be used, or holds a session with other parameters, clients, announcement,
            number, nonce (if one is given) or context.
        secagg.LocalProtocolError: an argument has a wrong type or range.
        Exception: an error of ``observer`` or ``on_outcome``; the journal is kept.
    """
    now = asyncio.get_running_loop().time
    started, deadlines = now(), deadlines or Deadlines()
    record = journal if isinstance(journal, Journal | None) else Journal(journal)
    try:
        if record is None or record.is_empty:
            host = SessionHost(
                params,
                client_ids,
                deadlines=deadlines,
                now=started,
                context=context,
                nonce=nonce,
                extra=extra,
                number=number,
                directory=directory,
                journal=record,
            )
        else:
            host = SessionHost.resume(
                record,
                deadlines=deadlines,
                now=started,
                context=context,
                params=params,
                client_ids=range(params.num_clients) if client_ids is None else client_ids,
                nonce=nonce,
                extra=extra,
                number=number,
                directory=directory,
            )
        with RecoveryPool(workers) as pool:
            async with SessionServer(address, tls, limits, proxies=proxies) as server:
                if listening is not None:
                    listening(server.addresses)
                await server.run(host, pool, observer)
        assert host.outcome is not None  # noqa: S101 - that is when it returns
        report = NetworkReport(
            host.outcome, dict(host.dropped), host.disputes, host.counters, server.refusals, now() - started
        )
        if on_outcome is not None:
            on_outcome(report)
        if record is not None:
            record.delete()
        return report
    finally:
        if record is not None:
            record.close()


async def join_session(
    vector: InputVector | ProvideInput,
    *,
    address: Address | Sequence[Address],
    tls: Credentials | Plaintext,
    client_id: ClientId | None = None,
    accept: Accept | None = None,
    context: Context = b"",
    identity: Identity | None = None,
    directory: KeyDirectory | None = None,
    journal: ClientJournal | None = None,
    record: OfferRecord | None = None,
    server_name: str | None = None,
    max_extra: int = DEFAULT_MAX_EXTRA_BYTES,
    held: HeldAnnouncement | None = None,
    retry: Retry | None = None,
    limits: Limits | None = None,
    unreachable: Callable[[str], None] | None = None,
    on_waiting: OnWaiting | None = None,
) -> End:
    """Take part in one session to its end, over any number of connections.

    Cancelling is safe: a session with a journal can be resumed. A function ``vector`` that is running in its thread
    runs to its end, and its result is discarded.

    Args:
        vector: the input, shape (vector_length,), integers in [0, 2^value_bits); or a function of the offer that
            makes it, which is called in a thread.
        address: the server's address, or several of one server: see `SessionClient`.
        tls: the client's certificate, or `PLAINTEXT`, on loopback only.
        client_id: by default the one in the certificate.
        accept: this client's conditions for an offer; by default `secagg.SessionPolicy`, which declines all sessions
            except those on the complete graph that are safe against a lying server. See `transport.ClientHost`.
        context: bytes bound into the session, or a function of the offer that returns them. They are this side's own
            view, such as the hash of the received model; the server does not send them.
        identity, directory: in malicious mode, for instance from `transport.certificates.reading.identity_from` and
            `directory_from`.
        journal: makes the client survive the end of its process: call again with the same arguments.
        record: the record of this client's participation; see `transport.ClientHost`. Without one, a client that is
            started again has forgotten it.
        server_name: the name in the server's certificate, if it differs from the host in ``address``.
        max_extra: maximum length of the server's announcement, in bytes.
        held: the announcement that this client holds; pass the same object to its next session.
        retry: the pauses before new connections.
        limits: limits of time and memory for the connection.
        unreachable: called once, with the reason, if the first try finds no server; the client then tries again. It is
            also called later if the certificate of the server or of this client has expired: the client waits for a
            renewed file.
        on_waiting: called with the number of clients that wait for a session, whenever the server sends it.

    Returns:
        The end of the session; it does not contain the sum, which only the server can publish.

    Raises:
        TlsRefusedError: one side did not accept the other's certificate.
        ServerUnreachableError: nothing came from the server for `Retry.give_up` seconds.
        SessionRefusedError: the server dropped or refused this client, or ``accept`` declined.
        RepeatedSessionError: the server asks for a session or a round in which this client has taken part before.
        CertificateError, PlaintextError, JournalError: as for `serve_session`.
        secagg.RemoteProtocolError: the server broke a rule of the protocol; nothing was revealed.
        secagg.LocalProtocolError: the vector has a wrong shape, dtype or range.
    """
    client_id = own_id(tls, client_id)
    provide = vector if callable(vector) else lambda _: vector
    if journal is None or journal.is_empty:
        host = ClientHost(
            client_id,
            provide,
            accept=accept,
            context=context,
            identity=identity,
            directory=directory,
            journal=journal,
            record=record,
            max_extra=max_extra,
            held=held,
        )
    else:
        host = ClientHost.resume(
            journal,
            provide,
            client_id=client_id,
            identity=identity,
            directory=directory,
            record=record,
            max_extra=max_extra,
            held=held,
        )
    await SessionClient(
        host,
        client_id,
        address=address,
        tls=tls,
        server_name=server_name,
        retry=retry,
        limits=limits,
        unreachable=unreachable,
        on_waiting=on_waiting,
    ).run()
    if host.error is not None:
        raise host.error
    assert host.outcome is not None  # noqa: S101 - it is finished, and without an error
    return host.outcome
