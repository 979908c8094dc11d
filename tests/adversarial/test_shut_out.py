"""Excluded clients stay excluded while the lists are written, are damaged, or come from an authority with odd names."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from tests.transport.test_exclusion import later
from transport.certificates.exclusion import Exclusions
from transport.certificates.reading import CertificateError

NOW, DAY = datetime.now(UTC), timedelta(days=1)


def named(text: str, kind: _ASN1Type = _ASN1Type.UTF8String) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _type=kind)])


class Issuer:
    """An authority: its own certificate, signed by itself or another, and what it signs."""

    def __init__(self, name: x509.Name, serial: int = 1, by: Issuer | None = None) -> None:
        self.name, self.key = name, Ed25519PrivateKey.generate()
        self.certificate = (by or self)._signed(name, self.key, serial)

    def _signed(self, subject: x509.Name, key: Ed25519PrivateKey, serial: int) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
            .sign(self.key, None)
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def client(self, serial: int) -> bytes:
        return self._signed(named("client"), Ed25519PrivateKey.generate(), serial).public_bytes(Encoding.DER)

    def revoked(self, *serials: int, name: x509.Name | None = None) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name or self.name)
            .last_update(NOW - DAY)
            .next_update(NOW + DAY)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, None).public_bytes(Encoding.PEM)


class Files:
    """A list of clients, or ca.pem with a bundle of revocation lists."""

    def __init__(self, folder: Path) -> None:
        self.listed, self.crl, self.ca = folder / "excluded", folder / "crl.pem", folder / "ca.pem"

    def of(self, crl: bytes, *issuers: Issuer) -> Exclusions:
        self.crl.write_bytes(crl)
        self.ca.write_bytes(b"".join(issuer.pem for issuer in issuers))
        return Exclusions(revoked=self.crl, authority=self.ca, clock=later)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "cut in the second": lambda one, two: one + two[: len(two) * 9 // 10],
    "cut in the second's first line": lambda one, two: one + two[:9],
    "cut in the second's last line": lambda one, two: one + two[:-6],
    "another first line": lambda one, two: one + two.replace(b"BEGIN X509 CRL", b"BEGIN CRL"),
    "a dash less": lambda one, two: one + two.replace(b"END X509 CRL-----", b"END X509 CRL----"),
    "the first without an end": lambda one, two: one.partition(b"-----END")[0] + two,
    "base64 alone": lambda one, two: one + b"\n".join(two.splitlines()[1:-1]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_bundle_is_taken_whole_or_not_at_all(files: Files, damage: Callable[[bytes, bytes], bytes]) -> None:
    first, second = Issuer(named("one")), Issuer(named("two"))
    one, two = first.revoked(1), second.revoked(88)
    exclusions = files.of(b"# from both authorities\n\n" + one + b"\n" + two, first, second)
    assert exclusions.reason(5, second.client(88)) is not None
    assert exclusions.reason(5, second.client(1)) is None
    with pytest.raises(CertificateError, match="is damaged; write it anew"):
        files.of(damage(one, two), first, second)
    assert exclusions.reason(5, second.client(88)) is not None


def test_an_authority_keeps_its_list_when_the_bundle_comes_without(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Issuer(named("one")), Issuer(named("two"))
    exclusions = files.of(first.revoked(1) + second.revoked(88), first, second)
    assert not caplog.messages
    files.crl.write_bytes(first.revoked(1, 2))
    assert exclusions.reason(5, second.client(88)) is not None
    assert "the revocation list of CN=two is not in it any more" in caplog.text
    # An authority whose certificate is removed needs no list.
    files.ca.write_bytes(first.pem)
    assert exclusions.reason(5, first.client(2)) is not None
    assert "intermediate" in str(exclusions.reason(5, second.client(7)))


def test_an_authority_without_a_list_is_reported_at_the_start(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Issuer(named("one")), Issuer(named("two"))
    exclusions = files.of(first.revoked(1), first, second)
    (line,) = caplog.messages
    assert "has no list of CN=two: what they issued cannot be revoked" in line
    assert exclusions.reason(5, second.client(1)) is None


def test_a_list_whose_issuer_is_written_in_another_way_counts(files: Files) -> None:
    issuer = Issuer(named("Authority", _ASN1Type.PrintableString))
    exclusions = files.of(issuer.revoked(77, name=named("Authority")), issuer)
    assert exclusions.reason(5, issuer.client(77)) is not None
    assert exclusions.reason(5, issuer.client(78)) is None


def test_intermediate_certificates_are_covered_in_ca_pem_and_refused_elsewhere(files: Files) -> None:
    root = Issuer(named("root"))
    sound, revoked = Issuer(named("sound"), 41, root), Issuer(named("revoked"), 42, root)
    exclusions = files.of(root.revoked(42), root)
    for issuer in (sound, revoked):
        assert "comes by way of an intermediate one" in str(exclusions.reason(5, issuer.client(7)))
    assert exclusions.reason(5, root.client(7)) is None
    exclusions = files.of(root.revoked(42) + sound.revoked(8), root, sound, revoked)
    assert exclusions.reason(5, sound.client(7)) is None
    assert exclusions.reason(5, sound.client(8)) is not None
    assert exclusions.reason(5, revoked.client(7)) is not None


def test_a_list_that_is_being_written_is_read_once_it_rests(files: Files) -> None:
    files.listed.write_text("12\n34\n")
    now = later()
    exclusions = Exclusions(listed=files.listed, clock=lambda: now)
    for torn in ("", "12\n", "12\n34\n5\n"):
        files.listed.write_text(torn)
        # Not before a second has passed since the change.
        now = files.listed.stat().st_ctime + 0.9
        assert exclusions.client_ids == {12, 34}
    now += 0.2
    assert exclusions.client_ids == {12, 34, 5}
    # A change some time ago counts at once for the first reader.
    files.listed.write_text("6\n")
    now = later()
    assert exclusions.client_ids == {6}
    # So does a file at rest that seems to come from the future.
    files.listed.write_text("7\n")
    now = files.listed.stat().st_ctime - 100
    assert exclusions.client_ids == {6}
    now += 1.1
    assert exclusions.client_ids == {7}


def test_a_list_that_changes_while_it_is_read_is_read_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.listed.write_text("1\n")
    exclusions = Exclusions(listed=files.listed, clock=later)
    files.listed.write_text("1\n2\n")
    read = Path.open

    def written_meanwhile(path: Path, *arguments: Any) -> Any:
        monkeypatch.undo()
        path.write_text("3\n")
        file = read(path, *arguments)
        path.write_text("1\n2\n3\n")
        return file

    monkeypatch.setattr(Path, "open", written_meanwhile)
    assert exclusions.client_ids == {1}
    assert exclusions.client_ids == {1, 2, 3}


def test_a_list_that_is_cut_off_or_empty_is_refused(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.listed.write_text("12\n34\n")
    exclusions = Exclusions(listed=files.listed, clock=later)
    for content, why in (("", "empty now"), ("12\n3", "the last line has no end"), (" \n", "empty now")):
        caplog.clear()
        files.listed.write_text(content)
        assert exclusions.client_ids == {12, 34}
        (line,) = caplog.messages
        assert why in line
    # By renaming, as the documentation says; and on purpose nobody is excluded.
    new = files.listed.with_suffix(".new")
    new.write_text("# nobody\n")
    os.replace(new, files.listed)
    assert not exclusions.client_ids
    files.listed.write_text("12")
    with pytest.raises(CertificateError, match="the last line has no end"):
        Exclusions(listed=files.listed)
    files.listed.write_text("")
    with caplog.at_level(logging.WARNING):
        assert not Exclusions(listed=files.listed).client_ids
