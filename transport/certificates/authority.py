"""A small certificate authority for trial deployments.

A holder of the authority's key can pose as any client, and so as all peers of a client. Keep the key on a machine that
is neither a client nor, above all, the server.

All keys are Ed25519. A client's key may also be its identity in malicious mode: docs/how-to/deployment.md says why.
"""

import contextlib
import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secagg import ClientId
from secagg.params import MAX_CLIENT_ID
from transport.certificates.host_names import ascii_host_name
from transport.certificates.reading import (
    CertificateError,
    Credentials,
    client_uri,
    is_issued_by,
    load_certificate,
    load_certificates,
    load_key,
    some_of,
)

AUTHORITY_DAYS = 3650
DEFAULT_DAYS = 365
_MAX_DAYS = 36500

REVOKED_NAME = "ca.crl"

# Clocks differ: certificates are valid from a little before they are made.
_BACKDATED = timedelta(minutes=5)


class Authority:
    """A certificate authority in a directory: ``ca.pem``, ``ca.key``, and the certificates and keys that it issues.

    Files are overwritten only on request. Key files have mode 0600. While one authority replaces another (`succeed`),
    ``ca.pem`` holds the certificates of both, and ``ca.key`` is the key of the new one.

    Args:
        directory: the directory in which `create` made the authority.

    Raises:
        CertificateError: the directory holds no authority, or its files do not belong together.
    """

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._key = load_key(self._directory / "ca.key")
        own = self._key.public_key()
        certificates = load_certificates(self._directory / "ca.pem")
        self._others = [certificate for certificate in certificates if certificate.public_key() != own]
        if len(self._others) == len(certificates):
            raise CertificateError(f"{self._directory}: ca.key is not the key of ca.pem")
        self._certificate = next(certificate for certificate in certificates if certificate.public_key() == own)

    @classmethod
    def create(cls, directory: Path | str, *, days: float = AUTHORITY_DAYS) -> "Authority":
        """Make an authority that is valid for ``days``; CertificateError if the directory holds one already."""
        directory = Path(directory)
        _check_free((directory / "ca.pem", directory / "ca.key"))
        key, certificate = _new_authority(days)
        _write_files(directory, {"ca.key": _private(key), "ca.pem": _pem(certificate)}, overwrite=False)
        return cls(directory)

    @staticmethod
    def check(*, server_names: Sequence[str] = (), client_ids: Iterable[ClientId] = (), days: float) -> None:
        """Raise CertificateError for arguments that `issue` refuses; callers use it before they make an authority."""
        _subjects(server_names, client_ids, days)

    def succeed(self, *, days: float = AUTHORITY_DAYS) -> "Authority":
        """Make a successor: it issues from now on, and ``ca.pem`` holds the certificates of both.

        The key of this authority is removed, since it is not needed any more.

        Raises:
            CertificateError: the directory holds two authorities already, or ``days`` is out of range.
        """
        if self._others:
            raise CertificateError(f"{self._directory / 'ca.pem'} holds an older authority already: drop it first")
        key, certificate = _new_authority(days)
        # In this order: until its key is written, the new authority is only trusted.
        files = {"ca.pem": _pem(certificate, self._certificate), "ca.key": _private(key)}
        _write_files(self._directory, files, overwrite=True)
        return Authority(self._directory)

    def drop_older(self) -> None:
        """Remove the older authority's certificate from ``ca.pem``.

        Raises:
            CertificateError: ``ca.pem`` holds no older authority, or it issued a certificate in this directory.
        """
        if not self._others:
            raise CertificateError(f"{self._directory / 'ca.pem'} holds no older authority")
        paths = [self._directory / "server.pem", *sorted(self._directory.glob("client-*.pem"))]
        if old := [p.name for p in paths if p.exists() and not is_issued_by(load_certificate(p), self._certificate)]:
            raise CertificateError(f"{self._directory}: the older authority issued {some_of(old)}: renew them first")
        _write_files(self._directory, {"ca.pem": _pem(self._certificate)}, overwrite=True)
        self._others = []

    @classmethod
    def exists(cls, directory: Path | str) -> bool:
        """Return whether ``directory`` holds an authority, or a part of one."""
        return any((Path(directory) / name).exists() for name in ("ca.pem", "ca.key"))

    def issue(
        self,
        *,
        server_names: Sequence[str] = (),
        client_ids: Iterable[ClientId] = (),
        days: float = DEFAULT_DAYS,
        overwrite: bool = False,
        renew: bool = False,
    ) -> tuple[Credentials, ...]:
        """Issue a certificate for the server, if names are given, and one for each client: all or none.

        Args:
            server_names: host names and IP addresses under which clients reach the server.
            client_ids: the clients.
            days: days for which the certificates are valid.
            overwrite: replace existing certificates and keys. A client with a new key has a new identity.
            renew: replace existing certificates and keep their keys: the same identity for longer. If the secret key is
                not in the directory any more, the public key in the certificate is enough.

        Raises:
            CertificateError: an invalid name, number or time; a file that exists already; or, with ``renew``, a file
                that does not exist.
        """
        subjects = _subjects(server_names, client_ids, days)
        if not overwrite and not renew:
            _check_free(self._directory / f"{name}{suffix}" for name, _, _ in subjects for suffix in (".pem", ".key"))
        kept = {name: self._kept_key(name) for name, _, _ in subjects if renew}
        issued = []
        for name, names, usage in subjects:
            files, public_key = {}, kept.get(name)
            if public_key is None:
                key = Ed25519PrivateKey.generate()
                files[f"{name}.key"], public_key = _private(key), key.public_key()
            files[f"{name}.pem"] = _pem(self._sign(name, names, usage, public_key, days))
            _write_files(self._directory, files, overwrite=overwrite or renew)
            issued.append(Credentials.named(self._directory, name))
        return tuple(issued)

    def revoke(self, client_ids: Iterable[ClientId], *, days: float = DEFAULT_DAYS) -> Path:
        """Add the clients' certificates to the revocation list, valid for ``days`` from now, and return its path.

        Only the certificates in the directory are revoked, not older ones that they replaced.

        Raises:
            CertificateError: a certificate is missing or from another authority, or the list is from another authority.
        """
        _check_days(days)
        path, now = self._directory / REVOKED_NAME, datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._certificate.subject)
        builder = builder.last_update(now - _BACKDATED).next_update(now + timedelta(days=days))
        serials = {entry.serial_number: entry.revocation_date_utc for entry in self._revoked(path)}
        for client_id in client_ids:
            certificate = load_certificate(name := self._directory / f"client-{client_id}.pem")
            if not is_issued_by(certificate, self._certificate):
                raise CertificateError(f"{name}: this authority did not issue it, so it cannot be revoked here")
            serials.setdefault(certificate.serial_number, now)
        for serial, revoked_at in serials.items():
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(revoked_at).build()
            builder = builder.add_revoked_certificate(entry)
        content = builder.sign(self._key, None).public_bytes(Encoding.PEM)
        _write_files(self._directory, {REVOKED_NAME: content}, overwrite=True)
        return path

    def _revoked(self, path: Path) -> Iterable[x509.RevokedCertificate]:
        """Return the certificates that were revoked before."""
        if not path.exists():
            return ()
        try:
            revoked = x509.load_pem_x509_crl(path.read_bytes())
        except (OSError, ValueError):
            raise CertificateError(f"{path}: this is not a revocation list; move it away") from None
        if not revoked.is_signature_valid(self._key.public_key()):
            raise CertificateError(f"{path}: this revocation list is from another authority; move it away")
        return revoked

    def _kept_key(self, name: str) -> Ed25519PublicKey:
        """Return the key in the directory, else that of a certificate from this authority or the older one."""
        if (path := self._directory / f"{name}.key").exists():
            return load_key(path).public_key()
        certificate = load_certificate(path := self._directory / f"{name}.pem")
        key = certificate.public_key()
        issuers = (self._certificate, *self._others)
        if not isinstance(key, Ed25519PublicKey) or not any(is_issued_by(certificate, issuer) for issuer in issuers):
            raise CertificateError(f"{path}: this authority did not issue it, so it cannot be renewed here")
        return key

    def _sign(
        self, name: str, names: list[x509.GeneralName], usage: x509.ObjectIdentifier, key: Ed25519PublicKey, days: float
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"secagg {name}")])
        return (
            _builder(subject, self._certificate.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, None)
        )


def _new_authority(days: float) -> tuple[Ed25519PrivateKey, x509.Certificate]:
    _check_days(days)
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"secagg authority {os.urandom(4).hex()}")])
    certificate = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, None)
    )
    return key, certificate


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: Ed25519PublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subjects(
    server_names: Sequence[str], client_ids: Iterable[ClientId], days: float
) -> list[tuple[str, list[x509.GeneralName], x509.ObjectIdentifier]]:
    """Return for each certificate the name of its files, the names in it, and its use."""
    _check_days(days)
    server = [("server", _server_names(server_names), ExtendedKeyUsageOID.SERVER_AUTH)] if server_names else []
    clients = [(f"client-{i}", _client_names(i), ExtendedKeyUsageOID.CLIENT_AUTH) for i in sorted(set(client_ids))]
    return server + clients


def _server_names(names: Sequence[str]) -> list[x509.GeneralName]:
    general: list[x509.GeneralName] = []
    for name in names:
        with contextlib.suppress(ValueError):
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
            continue
        # Names beyond ASCII have two spellings in ASCII: the user must choose.
        host_name = ascii_host_name(name) if name.isascii() else None
        if host_name is None:
            raise CertificateError(f"{name!r} is neither a host name nor an IP address")
        general.append(x509.DNSName(host_name))
    return general


def _client_names(client_id: ClientId) -> list[x509.GeneralName]:
    if type(client_id) is not int or not 0 <= client_id <= MAX_CLIENT_ID:
        raise CertificateError(f"a client id must be an int between 0 and {MAX_CLIENT_ID}, not {client_id!r}")
    return [x509.UniformResourceIdentifier(client_uri(client_id))]


def _check_days(days: float) -> None:
    if not 0 < days <= _MAX_DAYS:
        raise CertificateError(f"certificates are valid for more than 0 and at most {_MAX_DAYS} days, not {days}")


def _check_free(paths: Iterable[Path]) -> None:
    taken = [path for path in paths if path.exists()]
    if taken:
        others = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise CertificateError(f"{taken[0]}{others}: exists already; it was not changed")


def _private(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _write_files(directory: Path, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write the files in this order; only their owner can read keys."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _write(directory / name, content, 0o600 if name.endswith(".key") else 0o644, overwrite)
    except OSError as error:
        raise CertificateError(f"{error.filename or directory}: {error.strerror}") from None


def _write(path: Path, content: bytes, mode: int, overwrite: bool) -> None:
    """Write the whole file or nothing; replace an existing file only on request."""
    target = path.with_name(f".{path.name}.new") if overwrite else path
    if overwrite:
        target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError:
        # A partial file would block a second try.
        target.unlink()
        raise
    if overwrite:
        target.replace(path)
