"""Certificates that an authority signed and OpenSSL accepts, with extensions that cryptography does not read."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from secagg import ClientId
from tests.support.sessions import make_params, random_inputs
from tests.transport.network import QUICK, check_exact, deadlines, deployment, join
from tests.transport.tcp_sessions import received
from transport import RecoveryPool
from transport.certificates.exclusion import Exclusions
from transport.certificates.reading import (
    CertifiedKeys,
    Credentials,
    client_id_of,
    is_for_clients,
    load_certificate,
    load_key,
)
from transport.durable.frames import RefusalCode, Refused
from transport.durable.server_host import SessionHost
from transport.tcp import SessionServer, listener
from transport.tcp.stream import connect_stream
from transport.tcp.tls import client_context

CLIENTS = 4
# Additions to a signed certificate's bytes: an extension twice, and a name of an unread kind (EDI party).
ODD = {
    "twice": (bytes.fromhex("06042a030406"), bytes.fromhex("06042a030405")),
    "edi": (b"\x82\x06xxxxxx", b"\xa5\x06\xa1\x04\x0c\x02ab"),
}


def odd_certificate(certs: Path, kind: str) -> Credentials:
    """Return an odd certificate for client 1."""
    key, authority_key, authority = Ed25519PrivateKey.generate(), load_key(certs / "ca.key"), certs / "ca.pem"
    now = datetime.now(UTC)
    names = [x509.UniformResourceIdentifier("urn:secagg:client:1"), x509.DNSName("xxxxxx")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")]))
        .issuer_name(load_certificate(authority).subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4.5"), b"\x05\x00"), critical=False)
        .add_extension(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4.6"), b"\x05\x00"), critical=False)
        .sign(authority_key, None)
    )
    before = certificate.tbs_certificate_bytes
    after = before.replace(*ODD[kind])
    assert after != before
    der = certificate.public_bytes(Encoding.DER)
    der = der.replace(before, after)[: -len(certificate.signature)] + authority_key.sign(after)
    odd = Credentials(certs / "odd.pem", certs / "odd.key", authority)
    odd.certificate.write_text(ssl.DER_cert_to_PEM_cert(der))
    odd.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    odd.key.chmod(0o600)
    return odd


async def honest_round(server: SessionServer, certs: Path) -> None:
    """Assert that the sum over all clients is right after the earlier events."""
    port, params = server.addresses[0][1], make_params(CLIENTS, 3)
    inputs = random_inputs(params, 3)
    host = SessionHost(params, deadlines=deadlines(8), now=asyncio.get_running_loop().time())
    with RecoveryPool(1) as pool:
        run = asyncio.create_task(server.run(host, pool))
        await asyncio.gather(*(join(port, inputs[i], certs, i) for i in range(CLIENTS)), run)
    assert check_exact(params, inputs, host.outcome)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return deployment(tmp_path / "certs", CLIENTS)


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_certificate_is_refused_and_the_session_continues(certs: Path, kind: str) -> None:
    odd = odd_certificate(certs, kind)
    certificate = load_certificate(odd.certificate)
    assert client_id_of(certificate) is None
    assert not is_for_clients(certificate)

    async def scenario() -> None:
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), QUICK, range(CLIENTS)) as server:
            port = server.addresses[0][1]
            stream = await connect_stream("127.0.0.1", port, client_context(odd), handshake_seconds=3, stall_seconds=3)
            (refused,) = await received(stream)
            assert isinstance(refused, Refused)
            assert refused.code is RefusalCode.UNKNOWN_CLIENT
            await honest_round(server, certs)

    asyncio.run(scenario())


def test_an_odd_certificate_in_the_directory_belongs_to_no_client(certs: Path) -> None:
    keys = CertifiedKeys(certs, certs / "ca.pem")
    mine = load_key(certs / "client-0.key").public_key().public_bytes_raw()
    (certs / "client-1.pem").write_bytes(odd_certificate(certs, "edi").certificate.read_bytes())
    keys._looked = 0.0
    assert keys.is_trusted(0, mine)


@pytest.mark.parametrize("where", ["certificate", "hello"])
def test_an_error_before_hello_ends_only_that_connection(
    certs: Path, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error may be any: here a bug of ours."""
    failed: list[ClientId] = []

    def fail(*_: object) -> None:
        monkeypatch.undo()
        failed.append(1)
        raise RuntimeError("x" * 10_000)

    async def scenario() -> None:
        server = SessionServer(("127.0.0.1", 0), Credentials.of_server(certs), QUICK, range(CLIENTS), Exclusions())
        async with server:
            if where == "certificate":
                monkeypatch.setattr(listener, "client_id_from", fail)
            else:
                monkeypatch.setattr(Exclusions, "reason", fail)
            # The client that meets it comes back, as after any lost connection.
            await honest_round(server, certs)
            assert server.refusals["failed"] == len(failed) == 1

    asyncio.run(scenario())
    (record,) = (one for one in caplog.records if getattr(one, "reason", "") == "failed")
    assert "RuntimeError" in record.getMessage()
    assert len(record.getMessage()) < 3000
