"""What the library wants of certificates, and what it takes from them: who a client is, and its identity key.

A client is who its certificate says: the URI ``urn:secagg:client:<id>`` among the subject alternative names, vouched
for by the deployment's authority (`transport.authority` makes a small one, any other will do).
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from secagg import ClientId, Identity, PinnedKeys
from secagg.params import MAX_CLIENT_ID
from transport.errors import TransportError
from transport.key_files import read_key_file

logger = logging.getLogger(__name__)

_URI = re.compile(r"urn:secagg:client:(0|[1-9][0-9]{0,9})", re.ASCII)
# Of many invalid certificates a warning names the first.
_NAMED = 5
_CLIENT_FILE = re.compile(r"client-(0|[1-9][0-9]{0,9})\.pem", re.ASCII)


class CertificateError(TransportError):
    """A certificate or key that is missing, damaged, or not for this use; or files that are there already."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one party proves who it is with, as PEM files.

    Attributes:
        certificate: its certificate, followed by intermediate ones if there are any.
        key: the certificate's private key, unencrypted; a file that nobody else can read.
        authority: the certificates of those whom it trusts to vouch for the other side.
    """

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def of_server(cls, directory: Path | str) -> "Credentials":
        """The server's, as an `Authority` lays them out in ``directory``."""
        return cls.named(Path(directory), "server")

    @classmethod
    def of_client(cls, directory: Path | str, client_id: ClientId) -> "Credentials":
        """A client's, as an `Authority` lays them out in ``directory``."""
        return cls.named(Path(directory), f"client-{client_id}")

    @classmethod
    def named(cls, directory: Path, name: str) -> "Credentials":
        """Files of one name."""
        return cls(directory / f"{name}.pem", directory / f"{name}.key", directory / "ca.pem")


def client_uri(client_id: ClientId) -> str:
    """The name that a client has in its certificate."""
    return f"urn:secagg:client:{client_id}"


def client_id_of(certificate: x509.Certificate) -> ClientId | None:
    """The one client that a certificate names, or None: no name, two of them, or none that is an id."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    ours = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith("urn:secagg:")]
    match = _URI.fullmatch(ours[0]) if len(ours) == 1 else None
    client_id = int(match[1]) if match else -1
    return client_id if 0 <= client_id <= MAX_CLIENT_ID else None


def is_for_clients(certificate: x509.Certificate) -> bool:
    """Whether it says that it is a client's: OpenSSL lets one pass that says nothing."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usages


def identity_from(key: Path | str) -> Identity:
    """A client's identity in malicious mode: the key of its certificate (Ed25519).

    Raises:
        CertificateError: the file is missing, can be read by others, or holds another kind of key.
    """
    return Identity(load_key(Path(key)).private_bytes_raw())


def directory_from(
    certificates: Iterable[Path | str] | Path | str, authority: Path | str, *, now: datetime | None = None
) -> PinnedKeys:
    """Everyone's identity keys in malicious mode, out of their certificates.

    Certificates that have expired, or are not valid yet, are left out, with a warning: their clients are not trusted.

    Security: take neither the certificates nor the authority's from the aggregation server; see docs/deployment.md.

    Args:
        certificates: the clients' certificate files, or a directory with their ``client-<id>.pem``.
        authority: the certificate of the authority that issued them.
        now: when they have to be valid; by default now.

    Raises:
        CertificateError: a certificate that the authority did not issue, is no client's, or holds another kind of
            key; two for one client; or none that is valid now.
    """
    if isinstance(certificates, Path | str):
        directory = Path(certificates)
        certificates = sorted(path for path in directory.glob("client-*.pem") if _CLIENT_FILE.fullmatch(path.name))
        if not certificates:
            raise CertificateError(f"{directory}: there are no certificates client-<id>.pem")
    issuer = load_certificate(Path(authority))
    now = datetime.now(UTC) if now is None else now
    keys: dict[ClientId, bytes] = {}
    invalid: list[str] = []
    for path in map(Path, certificates):
        certificate = load_certificate(path)
        client_id, key = client_id_of(certificate), certificate.public_key()
        if client_id is None or not is_for_clients(certificate):
            raise CertificateError(f"{path}: this is no client's certificate")
        if not isinstance(key, Ed25519PublicKey):
            raise CertificateError(f"{path}: an identity's key is an Ed25519 key")
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
            raise CertificateError(f"{path}: the authority {authority} did not issue this certificate") from None
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            invalid.append(str(path))
            continue
        if client_id in keys:
            raise CertificateError(f"{path}: client {client_id} has two certificates")
        keys[client_id] = key.public_bytes_raw()
    if invalid:
        some = ", ".join(invalid[:_NAMED]) + (f" and {len(invalid) - _NAMED} more" if len(invalid) > _NAMED else "")
        why = f"{len(invalid)} certificates have expired, or are not valid yet: {some}"
        if not keys:
            raise CertificateError(f"{why}; renew them, or set this machine's clock")
        logger.warning(
            "%s; their clients are not trusted", why, extra={"event": "certificates_left_out", "number": len(invalid)}
        )
    return PinnedKeys(keys)


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file; CertificateError if there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise CertificateError(f"{path}: this is no PEM certificate") from None


def load_private_key(path: Path) -> PrivateKeyTypes:
    """The key of an unencrypted PEM file, of any kind; CertificateError if there is none, or others can read it."""
    try:
        return load_pem_private_key(read_key_file(path, raises=CertificateError), password=None)
    except TypeError:
        raise CertificateError(
            f"{path}: this key is encrypted with a password; write it without one, by openssl pkey, to a file that "
            "only you can read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path}: this is no PEM private key, or it is damaged") from None


def load_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key of an unencrypted PEM file; CertificateError if there is none, or others can read it."""
    key = load_private_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"{path}: this is no Ed25519 key")
    return key
