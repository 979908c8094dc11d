"""Exclusion of clients with valid certificates: the operator's list, and the authorities' revocation lists."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secagg import ClientId
from secagg.params import MAX_CLIENT_ID
from transport.certificates.reading import (
    ODD_EXTENSIONS,
    CertificateError,
    is_issued_by,
    load_certificates,
    some_of,
)
from transport.certificates.reloading import Reloading

logger = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<id>0|[1-9][0-9]{0,9})|serial:(?P<serial>[0-9a-f:]+)|sha256:(?P<sha256>[0-9a-f:]+)", re.ASCII)
_SHA256_DIGITS = 64
_PEM_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_DER_SEQUENCE = b"\x30"
# Editors and `cp` write a file in place, piece by piece.
_SETTLE_SECONDS = 1.0
# Waiting clients are checked again before each session.
_is_issued_by = lru_cache(maxsize=1 << 14)(is_issued_by)
# Maximum size of a list, which the server reads while clients wait.
_MOST_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class _Listed:
    """The content of the operator's list."""

    path: Path
    client_ids: frozenset[ClientId]
    serials: frozenset[int]
    fingerprints: frozenset[bytes]
    is_blank: bool


@dataclass(frozen=True, slots=True)
class _Revoked:
    """The content of the revocation lists: serial numbers by the public key that verified the list.

    Attributes:
        without: the names of the authorities that have no list, by their public keys.
    """

    path: Path
    serials: dict[bytes, frozenset[int]]
    without: dict[bytes, str]
    outdated_after: datetime | None


class Exclusions:
    """The excluded clients. Both files are read again when they change, once they have not changed for a second.

    If a file cannot be used any more, or a revocation list expires, the content that was read last stays in force and
    a warning is logged. The same holds if an authority's revocation list disappears from its file, or if the list of
    clients becomes blank; one with a comment is not blank.

    With revocation lists, only clients are accepted whose certificates were issued by an authority in ``authority``:
    whether an intermediate certificate that a client presents is revoked cannot be checked.

    Args:
        listed: a text file; each line has a client id, ``serial:`` and a certificate's serial number, or ``sha256:``
            and its fingerprint, both in hexadecimal digits with or without colons. A ``#`` begins a comment. The last
            line ends with a newline, too.
        revoked: revocation lists, several in PEM form or one in DER form, each signed by one of the authorities.
        authority: the certificates of the authorities whose clients are accepted. A warning names those that have no
            revocation list.
        clock: returns the time in Unix seconds, which is compared with the time of a file's last change.

    Raises:
        CertificateError: a file cannot be read, a line is malformed, or a revocation list is damaged, has expired or
            was not signed by such an authority.
    """

    def __init__(
        self,
        *,
        listed: Path | None = None,
        revoked: Path | None = None,
        authority: Path | None = None,
        clock: Callable[[], float] = time.time,
    ):
        if revoked is not None and authority is None:
            raise CertificateError(f"{revoked}: without certificates nothing can be revoked")
        self._listed: Reloading[_Listed] | None = None
        if listed is not None:
            self._listed = Reloading(
                lambda: _read_list(listed),
                lambda: (listed,),
                check=_check_list,
                settle_seconds=_SETTLE_SECONDS,
                clock=clock,
            )
        self._revoked: Reloading[_Revoked] | None = None
        self._authorities: Reloading[list[x509.Certificate]] | None = None
        if revoked is not None and authority is not None:
            self._authorities = Reloading(lambda: load_certificates(authority), lambda: (authority,))
            self._revoked = Reloading(
                lambda: _read_revoked(revoked, authority),
                lambda: (revoked, authority),
                check=_check_revoked,
                settle_seconds=_SETTLE_SECONDS,
                clock=clock,
            )
            if without := self._revoked.current().without:
                names = some_of(list(without.values()))
                logger.warning("%s has no list of %s: what they issued cannot be revoked", revoked, names)
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
        if self._revoked is not None and self._authorities is not None:
            revoked, authorities = self._revoked.current(), self._authorities.current()
            self._warn_if_outdated(revoked)
            links = _links(shown, authorities)
            if not links:
                return (
                    f"the certificate of client {client_id} comes by way of an intermediate one, which this "
                    "server does not let in where it has revocation lists"
                )
            if any(serial in revoked.serials.get(key, ()) for serial, key in links):
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
        content = _read(path).decode("ascii", errors="replace")
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
    if content and not content.endswith("\n"):
        raise CertificateError(f"{path}: the last line has no end, so more may be missing; end it with a newline")
    lines = content.splitlines()
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
    return _Listed(path, frozenset(client_ids), frozenset(serials), frozenset(fingerprints), not content.strip())


def _read_revoked(path: Path, authority: Path) -> _Revoked:
    try:
        data = _read(path)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
    try:
        if data.startswith(_DER_SEQUENCE):
            lists = [x509.load_der_x509_crl(data)]
        else:
            blocks, rest = _PEM_BLOCK.findall(data), _PEM_BLOCK.sub(b"", data)
            # A damaged block must not pass for a comment: outside the blocks, lines are blank or begin with #.
            is_whole = all(data.count(mark) == len(blocks) for mark in (b"-----BEGIN", b"-----END"))
            if not is_whole or any(not line.lstrip().startswith(b"#") for line in rest.splitlines() if line.strip()):
                raise CertificateError(f"{path}: this is not a revocation list, or one in it is damaged; write it anew")
            lists = [x509.load_pem_x509_crl(block) for block in blocks]
        critical = [any(extension.critical for extension in one.extensions) for one in lists]
    except (*ODD_EXTENSIONS, x509.InvalidVersion):
        lists, critical = [], []
    if not lists:
        raise CertificateError(f"{path}: this is not a revocation list in PEM or DER form")
    issuers = load_certificates(authority)
    now = datetime.now(UTC)
    serials: dict[bytes, frozenset[int]] = {}
    for one, is_partial in zip(lists, critical, strict=True):
        signers = {_key(issuer) for issuer in issuers if _is_signed_by(one, issuer)}
        if not signers:
            raise CertificateError(f"{path}: no authority in {authority} signed this revocation list")
        if is_partial:
            raise CertificateError(f"{path}: this revocation list is partial or of an unknown kind")
        if one.next_update_utc is not None and one.next_update_utc < now:
            raise CertificateError(f"{path}: this revocation list expired on {one.next_update_utc:%Y-%m-%d %H:%M}")
        for key in signers:
            serials[key] = serials.get(key, frozenset()) | {entry.serial_number for entry in one}
    without = {_key(one): one.subject.rfc4514_string() for one in issuers if _key(one) not in serials}
    until = min((one.next_update_utc for one in lists if one.next_update_utc), default=None)
    return _Revoked(path, serials, without, until)


def _check_list(value: _Listed, new: _Listed) -> None:
    if new.is_blank and not value.is_blank:
        raise CertificateError(f"{new.path}: this file is empty now; to exclude nobody, write a comment into it")


def _check_revoked(value: _Revoked, new: _Revoked) -> None:
    if lost := [name for key, name in new.without.items() if key in value.serials]:
        raise CertificateError(f"{new.path}: the revocation list of {some_of(lost)} is not in it any more")


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
    except ODD_EXTENSIONS:
        return False
    if revoked.issuer != issuer.subject or (usage is not None and not usage.crl_sign):
        return False
    try:
        return revoked.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _links(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> list[tuple[int, bytes]]:
    """The serial numbers of a certificate, and of the authorities that vouch for it, each with its issuer's key."""
    links: list[tuple[int, bytes]] = []
    chain = [certificate]
    for one in chain:
        for issuer in authorities:
            if issuer != one and _is_issued_by(one, issuer):
                links.append((one.serial_number, _key(issuer)))
                if issuer not in chain:
                    chain.append(issuer)
    return links


def _key(authority: x509.Certificate) -> bytes:
    """The public key's bytes; none if it is of a kind that verifies nothing here."""
    try:
        return authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""
