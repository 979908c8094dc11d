"""A small certificate authority for trial deployments.

Whoever holds the authority's key can be any client, and with that all peers of a client: it belongs on neither the
server nor a client. Keep it apart, and above all away from the server.

All keys are Ed25519. A client's key may serve malicious mode as its identity too: docs/how-to/deployment.md says why.
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

# Clocks differ: a certificate is valid from a little before it was made.
_BACKDATED = timedelta(minutes=5)


class Authority:
    """A certificate authority that lives in a directory: ``ca.pem``, ``ca.key``, and beside them what it issues.

    Nothing is overwritten unless told to. Key files have mode 0600. While one authority takes another's place
    (`succeed`), ``ca.pem`` holds the certificates of both, and ``ca.key`` is the new one's.

    Args:
        directory: where an authority was made before.

    Raises:
        CertificateError: there is none, or its files do not belong together.
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
        """Make a new one, valid for ``days``; CertificateError if there is one already."""
        directory = Path(directory)
        _check_free((directory / "ca.pem", directory / "ca.key"))
        key, certificate = _new_authority(days)
        _write_files(directory, {"ca.key": _private(key), "ca.pem": _pem(certificate)}, overwrite=False)
        return cls(directory)

    @staticmethod
    def check(*, server_names: Sequence[str] = (), client_ids: Iterable[ClientId] = (), days: float) -> None:
        """CertificateError for a name, a number or a time that `issue` refuses: before an authority is made for it."""
        _subjects(server_names, client_ids, days)

    def succeed(self, *, days: float = AUTHORITY_DAYS) -> "Authority":
        """Make a new one beside this one: from now on the new one issues, and ``ca.pem`` vouches for both.

        This one's key is not kept, since nothing needs it any more.

        Raises:
            CertificateError: there are two already, or ``days`` cannot be.
        """
        if self._others:
            raise CertificateError(
                f"{self._directory / 'ca.pem'} holds an older authority already: drop that one first"
            )
        key, certificate = _new_authority(days)
        # In this order: until its key is there, the new one is only trusted.
        files = {"ca.pem": _pem(certificate, self._certificate), "ca.key": _private(key)}
        _write_files(self._directory, files, overwrite=True)
        return Authority(self._directory)

    def drop_older(self) -> None:
        """Vouch for no other authority any more.

        Raises:
            CertificateError: there is none, or a certificate that is here is still from it.
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
        """Whether ``directory`` holds an authority, or a part of one."""
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
        """Issue a server's certificate, if it is given names, and one for each client; all of them or none.

        Args:
            server_names: host names and IP addresses under which clients reach the server.
            client_ids: the clients.
            days: how long the certificates are valid.
            overwrite: replace certificates and keys that are there. A client with a new key is a new identity.
            renew: replace certificates that are there, and keep their keys: the same identity for longer. Where the
                secret key is not here any more, the public one in the certificate will do.

        Raises:
            CertificateError: a name or number that cannot be, a file that is there already, or, to be renewed, is not.
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
        """Add the clients' certificates that are here to the revocation list, valid for ``days`` from now; its path.

        Certificates that these took the place of are not here, and not revoked.

        Raises:
            CertificateError: a certificate that is not here or is another authority's, or a list that is not this
                authority's.
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
        """What was revoked before."""
        if not path.exists():
            return ()
        try:
            revoked = x509.load_pem_x509_crl(path.read_bytes())
        except (OSError, ValueError):
            raise CertificateError(f"{path}: this is no revocation list; move it away") from None
        if not revoked.is_signature_valid(self._key.public_key()):
            raise CertificateError(f"{path}: another authority's revocation list; move it away")
        return revoked

    def _kept_key(self, name: str) -> Ed25519PublicKey:
        """The key that is there, or that of a certificate that this authority, or the one before it, issued."""
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
    """What certificates are named and are for: the files' name, the names in them, and their use."""
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
        # There are two ways to spell a name with other letters in ASCII: which one is for the user to say.
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
        raise CertificateError(f"{taken[0]}{others}: there already, and left as it is")


def _private(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _write_files(directory: Path, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write them in this order; keys are for their owner alone."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _write(directory / name, content, 0o600 if name.endswith(".key") else 0o644, overwrite)
    except OSError as error:
        raise CertificateError(f"{error.filename or directory}: {error.strerror}") from None


def _write(path: Path, content: bytes, mode: int, overwrite: bool) -> None:
    """The whole file or none; one that is there is replaced only when told to."""
    target = path.with_name(f".{path.name}.new") if overwrite else path
    if overwrite:
        target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError:
        # What there is of it would be in the way of a second try.
        target.unlink()
        raise
    if overwrite:
        target.replace(path)
