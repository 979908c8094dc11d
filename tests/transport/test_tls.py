"""TLS: clients that are accepted or refused, each with its reason on both sides and one line in the log."""

import asyncio
import contextlib
import logging
import shutil
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tests.transport.network import QUICK, deployment
from transport.certificates import authority
from transport.certificates.authority import Authority
from transport.certificates.reading import CertificateError, Credentials
from transport.tcp import PLAINTEXT, PlaintextError, SessionServer
from transport.tcp.stream import connect_stream
from transport.tcp.tls import TlsRefusal, TlsRefusedError, client_context, server_context

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 2)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("other"), 2)


@contextlib.contextmanager
def at(monkeypatch, moment):
    """Make certificates as at another time."""

    class Clock(datetime):
        @classmethod
        def now(cls, zone=None):
            return moment

    with monkeypatch.context() as patch:
        patch.setattr(authority, "datetime", Clock)
        yield


@pytest.fixture(scope="module")
def wrong(certs, tmp_path_factory):
    """Return useless certificates of the same authority, by their fault."""
    directory = tmp_path_factory.mktemp("wrong")
    monkeypatch = pytest.MonkeyPatch()
    for name in ("ca.pem", "ca.key"):
        shutil.copy(certs / name, directory)
    issuer = Authority(directory)
    found = {}
    moments = {"expired": datetime.now(UTC) - timedelta(days=9), "future": datetime.now(UTC) + timedelta(days=9)}
    for index, (what, moment) in enumerate(moments.items()):
        with at(monkeypatch, moment):
            names = ["localhost", "127.0.0.1"]
            _, found[what] = issuer.issue(server_names=names, client_ids=[index], days=1, overwrite=True)
            found[f"{what} server"] = Credentials.named(directory, f"server-{what}")
            for suffix in (".pem", ".key"):
                (directory / f"server{suffix}").rename(directory / f"server-{what}{suffix}")
    with monkeypatch.context() as patch:
        patch.setattr(authority, "_client_names", lambda _: authority._server_names(["client.example"]))
        (found["nameless"],) = issuer.issue(client_ids=[2])
    (found["elsewhere server"],) = issuer.issue(server_names=["elsewhere.example", "10.0.0.1"])
    return found


async def call(server_tls, client_tls, name="localhost"):
    """Connect; return what both sides report: (the server's refusals, the client's error)."""
    error = None
    async with SessionServer(("127.0.0.1", 0), server_tls, QUICK) as server:
        context = client_tls if isinstance(client_tls, ssl.SSLContext) else client_context(client_tls)
        try:
            stream = await connect_stream(
                *server.addresses[0], context, server_name=name, handshake_seconds=2, stall_seconds=1
            )
            try:
                async with asyncio.timeout(0.3):
                    await stream.receive()
            except TimeoutError:
                assert server.num_connections == 1
            finally:
                stream.abort()
        except TlsRefusedError as refused:
            error = refused
        await asyncio.sleep(0.02)
    return dict(server.refusals), error


def test_a_deployments_own_certificates_are_accepted(certs):
    for name in ("localhost", "127.0.0.1"):
        refusals, error = asyncio.run(call(Credentials.of_server(certs), Credentials.of_client(certs, 1), name))
        assert error is None
        # It sent nothing, and left.
        assert refusals == {}


def test_tls_1_3_is_all_there_is(certs):
    context = server_context(Credentials.of_server(certs))
    assert context.minimum_version is context.maximum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.num_tickets == 0
    client = client_context(Credentials.of_client(certs, 0))
    assert client.minimum_version is ssl.TLSVersion.TLSv1_3
    assert client.check_hostname
    assert client.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("what", "at_server", "at_client"),
    [
        ("expired", "expired", TlsRefusal.EXPIRED),
        ("future", "not-yet-valid", TlsRefusal.BAD_CERTIFICATE),
        ("server as client", "wrong-role", TlsRefusal.WRONG_ROLE),
        ("nameless", "no-client-id", None),
        ("other authority", "unknown-authority", TlsRefusal.UNKNOWN_AUTHORITY),
        ("none", "no-certificate", TlsRefusal.NO_CERTIFICATE),
    ],
)
def test_a_client_with_a_wrong_certificate_is_refused_and_told_why(
    certs, other, wrong, caplog, what, at_server, at_client
):
    caplog.set_level(logging.INFO, "transport")
    credentials = wrong.get(what)
    if what == "server as client":
        credentials = Credentials.of_server(certs)
    elif what == "other authority":
        of_stranger = Credentials.of_client(other, 1)
        credentials = Credentials(of_stranger.certificate, of_stranger.key, certs / "ca.pem")
    elif what == "none":
        credentials = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        credentials.load_verify_locations(cafile=certs / "ca.pem")
    refusals, error = asyncio.run(call(Credentials.of_server(certs), credentials))
    assert refusals == {at_server: 1}
    (line,) = [record for record in caplog.records if getattr(record, "event", "") == "refused"]
    assert line.reason == at_server
    assert line.peer == "127.0.0.1"
    assert "PRIVATE" not in caplog.text
    if at_client is None:
        assert error is None
    else:
        assert error.reason is at_client
        assert error.by_peer
        # It may be renewed; the others need an administrator.
        assert error.may_pass is error.is_outdated is (at_client is TlsRefusal.EXPIRED)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("expired server", TlsRefusal.EXPIRED),
        ("future server", TlsRefusal.NOT_YET_VALID),
        ("elsewhere server", TlsRefusal.WRONG_NAME),
        ("client as server", TlsRefusal.WRONG_ROLE),
        ("other authority", TlsRefusal.UNKNOWN_AUTHORITY),
    ],
)
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_server_with_a_wrong_certificate_is_not_talked_to(certs, other, wrong, what, reason, name):
    credentials = wrong.get(what)
    if what == "client as server":
        credentials = Credentials.of_client(certs, 0)
    elif what == "other authority":
        of_stranger = Credentials.of_server(other)
        credentials = Credentials(of_stranger.certificate, of_stranger.key, certs / "ca.pem")
    refusals, error = asyncio.run(call(credentials, Credentials.of_client(certs, 1), name))
    assert error.reason is reason
    assert not error.by_peer
    # Its certificate may be renewed, or a clock set; the others need an administrator.
    assert error.may_pass is error.is_outdated is (reason in (TlsRefusal.EXPIRED, TlsRefusal.NOT_YET_VALID))
    # The server learns it as well, and logs it.
    assert sum(refusals.values()) == 1


def test_older_versions_of_tls_are_not_spoken(certs):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    credentials = Credentials.of_client(certs, 0)
    old.load_cert_chain(credentials.certificate, credentials.key)
    old.load_verify_locations(cafile=credentials.authority)
    refusals, error = asyncio.run(call(Credentials.of_server(certs), old))
    assert refusals == {"no-tls": 1}
    assert error.reason is TlsRefusal.NO_TLS


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "no-tls"),
        (b"\x00" * 1000, "no-tls"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "broken-off"),
        (b"", "broken-off"),
    ],
)
def test_connections_without_tls_are_refused(certs, sent, reason):
    async def scenario():
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), QUICK) as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0])
            writer.write(sent)
            writer.write_eof()
            async with asyncio.timeout(2):
                with contextlib.suppress(OSError):
                    await reader.read()
            writer.close()
            await asyncio.sleep(0.02)
            assert server.num_connections == 0
            return dict(server.refusals)

    assert asyncio.run(scenario()) == {reason: 1}


def test_a_handshake_that_takes_too_long_is_ended_and_holds_up_nobody(certs):
    async def scenario():
        limits = type(QUICK)(handshake_seconds=0.3)
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), limits) as server:
            silent = [await asyncio.open_connection(*server.addresses[0]) for _ in range(20)]
            context = client_context(Credentials.of_client(certs, 0))
            stream = await connect_stream(*server.addresses[0], context, handshake_seconds=1, stall_seconds=1)
            async with asyncio.timeout(2):
                for reader, writer in silent:
                    assert await reader.read() == b""
                    writer.close()
            # A connection that has not shown an identity is not counted.
            assert server.num_connections == 1
            stream.abort()
            return dict(server.refusals)

    assert asyncio.run(scenario()) == {"timed-out": 20}


def test_a_program_that_is_not_a_server_is_not_waited_for(certs):
    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            context = client_context(Credentials.of_client(certs, 0))
            with pytest.raises(TlsRefusedError) as caught:
                await connect_stream(*listener.getsockname(), context, handshake_seconds=0.2, stall_seconds=1)
            assert caught.value.reason is TlsRefusal.TIMED_OUT
            assert caught.value.may_pass

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["0.0.0.0", ""])  # noqa: S104 - it is refused
def test_without_tls_nothing_but_loopback_is_served(host):
    async def scenario():
        async with SessionServer((host, 0), PLAINTEXT):
            pytest.fail("it listens")

    with pytest.raises(PlaintextError, match="only loopback"):
        asyncio.run(scenario())


def test_files_that_do_not_fit_say_which(certs, tmp_path):
    good = Credentials.of_client(certs, 0)
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("nonsense")
    damaged.chmod(0o600)
    encrypted = tmp_path / "encrypted.key"
    key = load_pem_private_key(good.key.read_bytes(), None)
    encrypted.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"correct horse"))
    )
    encrypted.chmod(0o600)
    half = tmp_path / "half.key"
    half.write_bytes(good.key.read_bytes()[:70])
    half.chmod(0o600)
    for credentials, what in (
        (Credentials(tmp_path / "none", good.key, good.authority), "does not exist"),
        (Credentials(good.certificate, certs / "client-1.key", good.authority), "client-1.key is not the key of"),
        (
            Credentials(good.certificate, encrypted, good.authority),
            "encrypted.key: this key is encrypted",
        ),
        (
            Credentials(good.certificate, half, good.authority),
            "half.key: this is not a PEM private key, or it is damaged",
        ),
        (Credentials(good.certificate, damaged, good.authority), "damaged.pem: this is not a PEM private key"),
        (Credentials(good.certificate, good.certificate, good.authority), "client-0.pem must be readable by its owner"),
        (Credentials(damaged, good.key, good.authority), "damaged.pem"),
        (Credentials(good.certificate, good.key, damaged), "damaged.pem"),
    ):
        for make in (client_context, server_context):
            with pytest.raises(CertificateError, match=what) as raised:
                make(credentials)
            assert "_ssl" not in str(raised.value)
            assert "correct horse" not in str(raised.value)
    for make in (client_context, server_context):
        make(good)


def test_a_server_name_in_the_subject_does_not_count(certs, tmp_path, monkeypatch):
    """An authority that vouches for host names does so in the subject alternative names, and only there."""
    for name in ("ca.pem", "ca.key"):
        shutil.copy(certs / name, tmp_path)
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    monkeypatch.setattr(x509, "Name", lambda _: named)
    monkeypatch.setattr(authority, "_server_names", lambda _: authority._client_names(7))
    (credentials,) = Authority(tmp_path).issue(server_names=["localhost"])
    _, error = asyncio.run(call(credentials, Credentials.of_client(certs, 0)))
    assert error.reason is TlsRefusal.WRONG_NAME
