"""Exclusion: the operator's list and revocation lists, read again while a server runs."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import QUICK, check_exact, deadlines, join, raw_stream
from tests.transport.tcp_sessions import HELLO, received
from transport import RecoveryPool, SessionRefusedError
from transport.certificates.authority import Authority
from transport.certificates.exclusion import Exclusions
from transport.certificates.reading import CertificateError, Credentials, load_certificate, load_key
from transport.durable.frames import RefusalCode, Refused, Waiting
from transport.durable.server_host import SessionHost
from transport.tcp import PLAINTEXT, SessionServer

CLIENTS = 4
# A connection on which nothing is sent stays for the whole test.
PATIENT = replace(QUICK, idle_seconds=30)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    Authority.create(tmp_path / "certs").issue(server_names=["localhost", "127.0.0.1"], client_ids=range(CLIENTS))
    return tmp_path / "certs"


def later() -> float:
    """Return a clock at which the files have been unchanged for long."""
    return time.time() + 60


def shown(certs: Path, client_id: int) -> bytes:
    return load_certificate(certs / f"client-{client_id}.pem").public_bytes(Encoding.DER)


def excluded(exclusions: Exclusions, certs: Path) -> list[int]:
    return [i for i in range(CLIENTS) if exclusions.reason(i, shown(certs, i)) is not None]


def revocation_list(
    certs: Path,
    serials: list[int],
    *,
    days: float = 1.0,
    encoding: Encoding = Encoding.PEM,
    extension: x509.ExtensionType | None = None,
) -> bytes:
    """Write a list signed by the authority in ``certs``."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(load_certificate(certs / "ca.pem").subject)
        .last_update(now - timedelta(days=9))
        .next_update(now + timedelta(days=days))
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(load_key(certs / "ca.key"), None).public_bytes(encoding)


def test_a_list_names_ids_serial_numbers_and_fingerprints(certs: Path, tmp_path: Path) -> None:
    serial = load_certificate(certs / "client-1.pem").serial_number
    fingerprint = load_certificate(certs / "client-2.pem").fingerprint(SHA256()).hex(":")
    path = tmp_path / "excluded"
    path.write_text(f"# who has left\n\n  0   # in May\nserial:{serial:X}\nSHA256:{fingerprint.upper()}\n")
    exclusions = Exclusions(listed=path, clock=later)
    assert excluded(exclusions, certs) == [0, 1, 2]
    assert exclusions.client_ids == {0}
    # Without TLS a client is only its id.
    assert [i for i in range(CLIENTS) if exclusions.reason(i, None)] == [0]
    assert exclusions.reason(0, None) == "client 0 is on this server's list of excluded clients"


@pytest.mark.parametrize(
    "line", ["one", "-1", "01", "4294967296", "serial:", "serial::", "serial:xyz", "sha256:abcd", "1 2", "\u0661"]
)
def test_a_line_of_no_known_form_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "excluded"
    path.write_text(f"1\n{line}\n", encoding="utf-8")
    with pytest.raises(CertificateError, match=r"line 2 is neither a client id, nor serial: or sha256: with hex"):
        Exclusions(listed=path, clock=later)


def test_a_revocation_list_shuts_out_what_its_authority_issued(certs: Path, tmp_path: Path) -> None:
    path = certs / "ca.crl"
    serial = load_certificate(certs / "client-1.pem").serial_number
    for encoding in (Encoding.PEM, Encoding.DER):
        path.write_bytes(revocation_list(certs, [serial], encoding=encoding))
        exclusions = Exclusions(revoked=path, authority=certs / "ca.pem", clock=later)
        assert excluded(exclusions, certs) == [1]
        assert exclusions.reason(1, shown(certs, 1)) == f"the certificate of client 1, serial {serial:x}, is revoked"
    # The same number of another authority is another certificate.
    other = tmp_path / "other"
    Authority.create(other).issue(client_ids=[1])
    both = tmp_path / "both.pem"
    both.write_bytes((certs / "ca.pem").read_bytes() + (other / "ca.pem").read_bytes())
    path.write_bytes(revocation_list(certs, [load_certificate(other / "client-1.pem").serial_number]))
    assert Exclusions(revoked=path, authority=both, clock=later).reason(1, shown(other, 1)) is None
    # Lists of two authorities in one file.
    one, two = (
        revocation_list(certs, [serial]),
        revocation_list(other, [load_certificate(other / "client-1.pem").serial_number]),
    )
    path.write_bytes(one + two)
    exclusions = Exclusions(revoked=path, authority=both, clock=later)
    assert exclusions.reason(1, shown(other, 1)) is not None
    assert excluded(exclusions, certs) == [1]


def test_a_revocation_list_that_does_not_hold_is_refused_at_the_start(certs: Path, tmp_path: Path) -> None:
    path, authority = certs / "ca.crl", certs / "ca.pem"
    stranger = tmp_path / "stranger"
    Authority.create(stranger)
    part = x509.IssuingDistributionPoint(
        full_name=None, relative_name=None, only_contains_user_certs=True, only_contains_ca_certs=False,
        only_some_reasons=None, indirect_crl=False, only_contains_attribute_certs=False,
    )  # fmt: skip
    forged = bytearray(revocation_list(certs, [7], encoding=Encoding.DER))
    forged[-1] ^= 1
    for content, why in (
        (b"", "not a revocation list"),
        ((certs / "ca.pem").read_bytes(), "not a revocation list"),
        (revocation_list(stranger, []), "no authority in .* signed"),
        (bytes(forged), "no authority in .* signed"),
        (revocation_list(certs, [], days=-1), "expired on"),
        (revocation_list(certs, [], extension=part), "is partial"),
    ):
        path.write_bytes(content)
        with pytest.raises(CertificateError, match=why):
            Exclusions(revoked=path, authority=authority, clock=later)
    path.unlink()
    with pytest.raises(CertificateError, match="No such file"):
        Exclusions(revoked=path, authority=authority, clock=later)
    with pytest.raises(CertificateError, match="without certificates nothing can be revoked"):
        Exclusions(revoked=path, clock=later)


def test_a_broken_file_leaves_the_last_version_in_force(certs: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = certs / "ca.crl"
    serials = [load_certificate(certs / f"client-{i}.pem").serial_number for i in range(CLIENTS)]
    path.write_bytes(revocation_list(certs, serials[:1]))
    exclusions = Exclusions(revoked=path, authority=certs / "ca.pem", clock=later)
    for content, why in (
        (b"half a file", "this is not a revocation list"),
        (revocation_list(certs, serials[2:], days=-1), "list expired"),
    ):
        caplog.clear()
        path.write_bytes(content)
        assert excluded(exclusions, certs) == [0]
        (line,) = caplog.messages
        assert why in line
    path.write_bytes(revocation_list(certs, serials[1:3]))
    assert excluded(exclusions, certs) == [1, 2]
    path.unlink()
    assert excluded(exclusions, certs) == [1, 2]


def test_an_expired_list_stays_in_force_and_is_reported_once(
    certs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certs / "ca.crl"
    path.write_bytes(revocation_list(certs, [load_certificate(certs / "client-1.pem").serial_number]))
    exclusions = Exclusions(revoked=path, authority=certs / "ca.pem", clock=later)
    assert excluded(exclusions, certs) == [1]

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=30)

    monkeypatch.setattr("transport.certificates.exclusion.datetime", Later)
    assert not caplog.messages
    assert [excluded(exclusions, certs) for _ in range(3)] == [[1]] * 3
    (line,) = caplog.messages
    assert "has expired, and stays in force" in line


def test_the_authority_revokes_what_it_issued_and_forgets_nothing(certs: Path) -> None:
    authority = Authority(certs)
    old = shown(certs, 2)
    assert authority.revoke([2]) == certs / "ca.crl"
    authority.issue(client_ids=[2], overwrite=True)
    authority.revoke([0])
    exclusions = Exclusions(revoked=certs / "ca.crl", authority=certs / "ca.pem", clock=later)
    assert excluded(exclusions, certs) == [0]
    assert exclusions.reason(2, old) is not None
    with pytest.raises(CertificateError, match=r"client-9\.pem"):
        authority.revoke([9])
    (certs / "ca.crl").write_text("something else")
    with pytest.raises(CertificateError, match="this is not a revocation list; move it away"):
        authority.revoke([0])
    # A new authority does not know what the old one revoked: its own list has another name on it.
    os.unlink(certs / "ca.crl")
    authority.revoke([0])
    newer = authority.succeed()
    with pytest.raises(CertificateError, match="from another authority"):
        newer.revoke([1])


def test_a_client_revoked_while_waiting_is_sent_away_before_the_next_session_and_refused_afterwards(
    certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        path, authority = certs / "ca.crl", Authority(certs)
        path.write_bytes(revocation_list(certs, []))
        exclusions = Exclusions(revoked=path, authority=certs / "ca.pem", clock=later)
        tls = Credentials.of_server(certs)
        params = make_params(CLIENTS - 1, 2)
        inputs = random_inputs(params, 3)
        async with SessionServer(("127.0.0.1", 0), tls, PATIENT, range(CLIENTS), exclusions) as server:
            port = server.addresses[0][1]
            waiting = await raw_stream(port, certs, 3)
            await waiting.send(HELLO)
            others = [asyncio.create_task(join(port, inputs[i], certs, i)) for i in range(CLIENTS - 1)]
            async with asyncio.timeout(20):
                await server.gather(CLIENTS)
            assert set(server.waiting) == set(range(CLIENTS))
            authority.revoke([3])
            assert set(server.waiting) == set(range(CLIENTS - 1))
            *greetings, last = await received(waiting)
            assert {type(frame) for frame in greetings} == {Waiting}
            assert isinstance(last, Refused)
            assert last.code is RefusalCode.EXCLUDED
            assert "is revoked" in last.text
            host = SessionHost(params, deadlines=deadlines(8), now=asyncio.get_running_loop().time())
            with RecoveryPool(1) as pool:
                await server.run(host, pool)
            await asyncio.gather(*others)
            assert check_exact(params, inputs, host.outcome)
            with (
                caplog.at_level(logging.WARNING),
                pytest.raises(SessionRefusedError, match="EXCLUDED: the certificate of"),
            ):
                await join(port, inputs[0], certs, 3)
            assert server.refusals["excluded"] == 2

    asyncio.run(scenario())


def test_without_tls_ids_are_shut_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        listed = tmp_path / "excluded"
        listed.write_text("1\n")
        exclusions = Exclusions(listed=listed, clock=later)
        async with SessionServer(("127.0.0.1", 0), PLAINTEXT, QUICK, range(2), exclusions) as server:
            port = server.addresses[0][1]
            with pytest.raises(SessionRefusedError, match="EXCLUDED: client 1 is on this server's list"):
                await join(port, [0] * 5, PLAINTEXT, 1)

    asyncio.run(scenario())
