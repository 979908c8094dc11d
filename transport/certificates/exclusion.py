"""Exclusion of clients with valid certificates: the operator's list, and the authorities' revocation lists."""

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256

from secagg import ClientId
from secagg.params import MAX_CLIENT_ID
from transport.certificates.reading import CertificateError, load_certificates
from transport.certificates.reloading import Reloading

logger = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<id>0|[1-9][0-9]{0,9})|serial:(?P<serial>[0-9a-f:]+)|sha256:(?P<sha256>[0-9a-f:]+)", re.ASCII)
_SHA256_DIGITS = 64
_PEM_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
# Maximum size of a list, which the server reads while clients wait.
_MOST_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class _Listed:
    """The content of the operator's list."""

    client_ids: frozenset[ClientId]
    serials: frozenset[int]
    fingerprints: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class _Revoked:
    """The content of the revocation lists: serial numbers by the issuer's name."""

    serials: dict[bytes, frozenset[int]]
    outdated_after: datetime | None


class Exclusions:
    """The excluded clients. Both files are read again when they change.

    If a file cannot be used any more, or a revocation list expires, the content that was read last stays in force and
    a warning is logged.

    Args:
        listed: a text file; each line has a client id, ``serial:`` and a certificate's serial number, or ``sha256:``
            and its fingerprint, both in hexadecimal digits with or without colons. A ``#`` begins a comment.
        revoked: revocation lists, several in PEM form or one in DER form, each signed by one of the authorities.
        authority: the certificates of the authorities whose clients are accepted.

    Raises:
        CertificateError: a file cannot be read, a line is malformed, or a revocation list has expired or was not
            signed by such an authority.
    """

    def __init__(self, *, listed: Path | None = None, revoked: Path | None = None, authority: Path | None = None):
        if revoked is not None and authority is None:
            raise CertificateError(f"{revoked}: without certificates nothing can be revoked")
        self._listed = None if listed is None else Reloading(lambda: _read_list(listed), lambda: (listed,))
        self._revoked: Reloading[_Revoked] | None = None
        if revoked is not None and authority is not None:
            self._revoked = Reloading(lambda: _read_revoked(revoked, authority), lambda: (revoked, authority))
        self._revoked_path = revoked
        self._warned_of: datetime | None = None

    @property
    def client_ids(self) -> frozenset[ClientId]:
        """Return the ids on the operator's list; these clients are excluded with any certificate."""
        return frozenset() if self._listed is None else self._listed.current().client_ids

    def reason(self, client_id: ClientId, certificate: bytes | None) -> str | None:
        """Return the reason why a client is excluded, or None.

        Args:
            client_id: the client.
            certificate: its certificate as DER bytes; None without TLS.
        """
        if client_id in self.client_ids:
            return f"client {client_id} is on this server's list of excluded clients"
        if certificate is None:
            return None
        shown = x509.load_der_x509_certificate(certificate)
        if self._listed is not None:
            listed = self._listed.current()
            if shown.serial_number in listed.serials or shown.fingerprint(SHA256()) in listed.fingerprints:
                return f"the certificate of client {client_id} is on this server's list of excluded certificates"
        if self._revoked is not None:
            revoked = self._revoked.current()
            self._warn_if_outdated(revoked)
            if shown.serial_number in revoked.serials.get(shown.issuer.public_bytes(), frozenset()):
                return f"the certificate of client {client_id}, serial {shown.serial_number:x}, is revoked"
        return None

    def _warn_if_outdated(self, revoked: _Revoked) -> None:
        until = revoked.outdated_after
        if until is None or until == self._warned_of or until >= datetime.now(UTC):
            return
        self._warned_of = until
        logger.warning(
            "%s has expired, and stays in force without later revocations: replace it by a new list",
            self._revoked_path,
            extra={"event": "revocation_list_expired"},
        )


def _read_list(path: Path) -> _Listed:
    client_ids, serials, fingerprints = set(), set(), set()
    try:
        lines = _read(path).decode("ascii", errors="replace").splitlines()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip().lower()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        digits = "" if match is None else (match["serial"] or match["sha256"] or "").replace(":", "")
        if match is not None and match["id"] and int(match["id"]) <= MAX_CLIENT_ID:
            client_ids.add(int(match["id"]))
        elif match is not None and match["serial"] and digits:
            serials.add(int(digits, 16))
        elif match is not None and match["sha256"] and len(digits) == _SHA256_DIGITS:
            fingerprints.add(bytes.fromhex(digits))
        else:
            raise CertificateError(
                f"{path}: line {number} is neither a client id, nor serial: or sha256: with hexadecimal digits"
            )
    return _Listed(frozenset(client_ids), frozenset(serials), frozenset(fingerprints))


def _read_revoked(path: Path, authority: Path) -> _Revoked:
    try:
        data = _read(path)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
    try:
        blocks = _PEM_BLOCK.findall(data)
        lists = [x509.load_pem_x509_crl(block) for block in blocks] or [x509.load_der_x509_crl(data)]
    except ValueError:
        raise CertificateError(f"{path}: this is not a revocation list in PEM or DER form") from None
    issuers = load_certificates(authority)
    now = datetime.now(UTC)
    serials: dict[bytes, frozenset[int]] = {}
    for one in lists:
        if not any(_is_signed_by(one, issuer) for issuer in issuers):
            raise CertificateError(f"{path}: no authority in {authority} signed this revocation list")
        if any(extension.critical for extension in one.extensions):
            raise CertificateError(f"{path}: this revocation list is partial or of an unknown kind")
        if one.next_update_utc is not None and one.next_update_utc < now:
            raise CertificateError(f"{path}: this revocation list expired on {one.next_update_utc:%Y-%m-%d %H:%M}")
        name = one.issuer.public_bytes()
        serials[name] = serials.get(name, frozenset()) | {entry.serial_number for entry in one}
    return _Revoked(serials, min((one.next_update_utc for one in lists if one.next_update_utc), default=None))


def _read(path: Path) -> bytes:
    """Return the file's bytes. OSError; CertificateError if it is too long."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise CertificateError(f"{path}: the file has more than {_MOST_BYTES:,} bytes")
    return data


def _is_signed_by(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if revoked.issuer != issuer.subject or (usage is not None and not usage.crl_sign):
        return False
    try:
        return revoked.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
