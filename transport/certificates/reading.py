"""Reading certificates: the id of a client, and its identity key.

The certificate names the client: it has the URI ``urn:secagg:client:<id>`` among its subject alternative names and is
issued by the deployment's authority (`transport.certificates.authority` makes a small one; any other works too).
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from secagg import ClientId, Identity, PinnedKeys
from secagg.params import MAX_CLIENT_ID
from transport.certificates.key_files import read_key_file
from transport.certificates.reloading import Reloading
from transport.errors import TransportError

logger = logging.getLogger(__name__)

_URI = re.compile(r"urn:secagg:client:(0|[1-9][0-9]{0,9})", re.ASCII)
# Raised by cryptography for extensions that OpenSSL accepts; its own classes derive from Exception alone.
ODD_EXTENSIONS = (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
# A warning about many invalid certificates names this many of them.
_NAMED = 5
# A session asks for one client after another: check the files at most this often.
_LOOK_SECONDS = 1.0
_CLIENT_FILE = re.compile(r"client-(0|[1-9][0-9]{0,9})\.pem", re.ASCII)


class CertificateError(TransportError):
    """Raised for a certificate or key that is missing, damaged or for another use, or for files that exist already."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The PEM files with which one party proves its identity.

    Attributes:
        certificate: the party's certificate, followed by intermediate certificates if there are any.
        key: the private key of the certificate, unencrypted; only its owner may read the file.
        authority: the certificates of the authorities that this party trusts to identify the other side.
    """

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def of_server(cls, directory: Path | str) -> "Credentials":
        """Return the server's credentials in the ``directory`` of an `Authority`."""
        return cls.named(Path(directory), "server")

    @classmethod
    def of_client(cls, directory: Path | str, client_id: ClientId) -> "Credentials":
        """Return a client's credentials in the ``directory`` of an `Authority`."""
        return cls.named(Path(directory), f"client-{client_id}")

    @classmethod
    def named(cls, directory: Path, name: str) -> "Credentials":
        """Return the credentials in the files with this name."""
        return cls(directory / f"{name}.pem", directory / f"{name}.key", directory / "ca.pem")


def client_uri(client_id: ClientId) -> str:
    """Return the URI that names a client in its certificate."""
    return f"urn:secagg:client:{client_id}"


def client_id_of(certificate: x509.Certificate) -> ClientId | None:
    """Return the client that a certificate names; None if it names no client, several, or an invalid id."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except ODD_EXTENSIONS:
        return None
    ours = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith("urn:secagg:")]
    match = _URI.fullmatch(ours[0]) if len(ours) == 1 else None
    client_id = int(match[1]) if match else -1
    return client_id if 0 <= client_id <= MAX_CLIENT_ID else None


def is_for_clients(certificate: x509.Certificate) -> bool:
    """Return whether the certificate states that it is for clients; OpenSSL accepts one that states nothing."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except ODD_EXTENSIONS:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usages


def identity_from(key: Path | str) -> Identity:
    """Return a client's identity in malicious mode: the key of its certificate (Ed25519).

    Raises:
        CertificateError: the file is missing, is readable by others, or holds another kind of key.
    """
    return Identity(load_key(Path(key)).private_bytes_raw())


def directory_from(
    certificates: Iterable[Path | str] | Path | str, authority: Path | str, *, now: datetime | None = None
) -> PinnedKeys:
    """Return the identity keys of all clients in malicious mode, read from their certificates.

    Certificates that have expired or are not valid yet are skipped with a warning: their clients are not trusted.

    Security: take neither the certificates nor the authority's from the aggregation server;
    see docs/how-to/deployment.md.

    Args:
        certificates: the clients' certificate files, or a directory with their ``client-<id>.pem``.
        authority: the certificate of the authority that issued them; several while one authority replaces another.
        now: the time at which they must be valid; by default now.

    Raises:
        CertificateError: a certificate that another authority issued, that names no client or holds another kind of
            key, or that is in another client's file; two certificates for one client; one key for two clients; or no
            certificate that is valid now.
    """
    return CertifiedKeys(certificates, authority, now=now).keys


_Entry: TypeAlias = tuple[Path, ClientId, x509.Certificate]


@dataclass(frozen=True, slots=True)
class _Files:
    """The certificates in use, and the faults of the files that are not used."""

    entries: list[_Entry]
    trouble: str = ""


class CertifiedKeys:
    """`directory_from` for a long-running process, in which certificates are renewed, added, and expire.

    It is a `secagg.KeyDirectory`. Changed files are read again. If a changed file cannot be used, its old content
    counts and a warning is logged; a file that was removed, or whose authority was removed, does not count any more.
    Clients are not trusted while their certificates are not valid, or contradict each other: two keys for one client,
    or one key for two clients. All others stay trusted.

    Args, raises: see `directory_from`.
    """

    def __init__(
        self, certificates: Iterable[Path | str] | Path | str, authority: Path | str, *, now: datetime | None = None
    ) -> None:
        self._certificates = Path(certificates) if isinstance(certificates, Path | str) else [*map(Path, certificates)]
        self._authority = Path(authority)
        self._now = now
        self._left_out: tuple[list[str], list[str]] = ([], [])
        self._issuers: list[x509.Certificate] = []
        self._used: dict[Path, _Entry] | None = None
        self._read = Reloading(self._load, lambda: (*self._files(), self._authority), lambda files: files.trouble)
        entries = self._read.current().entries
        outdated, contradictory, _ = self._sorted_out(entries)
        # At the start a second certificate for a client is a mistake, whatever its key is.
        of_clients = Counter(client_id for path, client_id, _ in entries if str(path) not in outdated)
        for client_id, number in of_clients.items():
            if number > 1:
                raise CertificateError(f"{self._certificates}: client {client_id} has two certificates")
        if contradictory:
            raise CertificateError(f"one key for two clients: {some_of(contradictory)}; issue new ones")
        if outdated and len(outdated) == len(entries):
            raise CertificateError(f"{_outdated(outdated)}; renew them, or set this machine's clock")
        self._look_again()

    @property
    def keys(self) -> PinnedKeys:
        """Return the keys that are valid now; this object does not follow later changes."""
        self._look_again()
        return self._valid

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Return whether the client has a certificate with this key that is valid now."""
        # A session asks for all its clients within moments.
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look_again()
        return self._valid.is_trusted(client_id, identity_key)

    def _look_again(self) -> None:
        self._looked = time.monotonic()
        outdated, contradictory, self._valid = self._sorted_out(self._read.current().entries)
        texts = (
            f"{_outdated(outdated)}; their clients are not trusted",
            f"certificates contradict each other, so their clients are not trusted: {some_of(contradictory)}",
        )
        for now, before, text in zip((outdated, contradictory), self._left_out, texts, strict=True):
            if now and now != before:
                logger.warning(text, extra={"event": "certificates_left_out", "number": len(now)})
        self._left_out = outdated, contradictory

    def _sorted_out(self, entries: list[_Entry]) -> tuple[list[str], list[str], PinnedKeys]:
        """Return the files that are not valid now, the files that contradict others, and the keys of the rest."""
        now = datetime.now(UTC) if self._now is None else self._now
        outdated: list[str] = []
        keys: dict[ClientId, set[bytes]] = {}
        owners: dict[bytes, set[ClientId]] = {}
        paths: dict[ClientId, list[str]] = {}
        for path, client_id, certificate in entries:
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                outdated.append(str(path))
                continue
            key = _identity_key(path, certificate)
            keys.setdefault(client_id, set()).add(key)
            owners.setdefault(key, set()).add(client_id)
            paths.setdefault(client_id, []).append(str(path))
        sound = {i: key for i, (key, *others) in keys.items() if not others and len(owners[key]) == 1}
        return outdated, [path for i in keys.keys() - sound.keys() for path in paths[i]], PinnedKeys(sound)

    def _files(self) -> list[Path]:
        if isinstance(self._certificates, list):
            return self._certificates
        return sorted(path for path in self._certificates.glob("client-*.pem") if _CLIENT_FILE.fullmatch(path.name))

    def _load(self) -> _Files:
        files = self._files()
        if not files and isinstance(self._certificates, Path) and self._used is None:
            raise CertificateError(f"{self._certificates}: no certificates client-<id>.pem were found here")
        entries: list[_Entry] = []
        troubles: list[str] = []
        try:
            self._issuers = issuers = load_certificates(self._authority)
        except CertificateError as error:
            if self._used is None:
                raise
            issuers = self._issuers
            troubles.append(str(error))
        for path in files:
            try:
                entries.append((path, *self._checked(path, issuers)))
            except CertificateError as error:
                if self._used is None:
                    raise
                troubles.append(str(error))
                before = self._used.get(path)
                # A removed authority does not count any more, even for files that did not change.
                if before is not None and path.exists() and any(is_issued_by(before[2], issuer) for issuer in issuers):
                    entries.append(before)
        self._used = {entry[0]: entry for entry in entries}
        return _Files(entries, some_of(troubles))

    def _checked(self, path: Path, issuers: list[x509.Certificate]) -> tuple[ClientId, x509.Certificate]:
        certificate = load_certificate(path)
        client_id = client_id_of(certificate)
        if client_id is None or not is_for_clients(certificate):
            raise CertificateError(f"{path}: this is not a client's certificate")
        if isinstance(self._certificates, Path) and path.name != f"client-{client_id}.pem":
            raise CertificateError(f"{path}: this is client {client_id}'s certificate, so it belongs in another file")
        _identity_key(path, certificate)
        if not any(is_issued_by(certificate, issuer) for issuer in issuers):
            raise CertificateError(f"{path}: the authority {self._authority} did not issue this certificate")
        return client_id, certificate


def _identity_key(path: Path, certificate: x509.Certificate) -> bytes:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path}: the key in this certificate is damaged, or of an unknown kind") from None
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError(f"{path}: the key of an identity must be an Ed25519 key")
    return key.public_bytes_raw()


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether ``issuer`` signed the certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _outdated(paths: list[str]) -> str:
    return f"{len(paths)} certificates have expired, or are not valid yet: {some_of(paths)}"


def some_of(names: list[str]) -> str:
    """Return the first few items, and the number of further ones, as text."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def load_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate of a PEM file; CertificateError if there is none."""
    return load_certificates(path)[0]


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Return all certificates of a PEM file, at least one; CertificateError if there is none."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
    except (ValueError, x509.InvalidVersion):
        raise CertificateError(f"{path}: this is not a PEM certificate") from None


def load_private_key(path: Path) -> PrivateKeyTypes:
    """Return the key, of any kind, in an unencrypted PEM file; CertificateError if none, or if others can read it."""
    try:
        return load_pem_private_key(read_key_file(path, raises=CertificateError), password=None)
    except TypeError:
        raise CertificateError(
            f"{path}: this key is encrypted with a password; write it without one, with openssl pkey, to a file that "
            "only you can read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path}: this is not a PEM private key, or it is damaged") from None


def load_key(path: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 key in an unencrypted PEM file; CertificateError if none, or if others can read it."""
    key = load_private_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"{path}: this is not an Ed25519 key")
    return key
