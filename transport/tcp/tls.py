"""TLS 1.3 with mutual authentication, and the reasons of refused handshakes.

Only TLS 1.3 is used, so there is no renegotiation, no compression and no choice of weak ciphers.  Sessions are not
resumed: each connection proves its identity again, with a certificate that is valid at that time.
"""

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique

from cryptography import x509

from secagg import ClientId
from transport.certificates.reading import (
    CertificateError,
    Credentials,
    client_id_of,
    is_for_clients,
    load_certificate,
    load_certificates,
    load_private_key,
)
from transport.certificates.reloading import Reloading
from transport.errors import TransportError


@unique
class TlsRefusal(Enum):
    """Reasons for refusing a connection. The names appear in logs."""

    UNKNOWN_AUTHORITY = "its certificate is from an authority that is not trusted here"
    EXPIRED = "its certificate has expired"
    NOT_YET_VALID = "its certificate is not valid yet"
    WRONG_ROLE = "its certificate is not for this use: a server's used as a client's, or the other way round"
    WRONG_NAME = "its certificate is not for the name or address that was called"
    NO_CERTIFICATE = "it shows no certificate"
    NO_CLIENT_ID = "its certificate does not name one client (urn:secagg:client:<id>)"
    BAD_CERTIFICATE = "its certificate was not accepted"
    NO_TLS = "it does not speak TLS 1.3"
    DAMAGED = "its bytes were damaged on the way"
    BROKEN_OFF = "it broke off the handshake"
    TIMED_OUT = "its handshake took too long"


# Certificates are encrypted and authenticated, so faults in them are certain. The network may cause all others.
_TRANSIENT = frozenset((TlsRefusal.NO_TLS, TlsRefusal.DAMAGED, TlsRefusal.BROKEN_OFF, TlsRefusal.TIMED_OUT))

# While we wait, a certificate of either side may be renewed, or a clock set.
_OUTDATED = frozenset((TlsRefusal.EXPIRED, TlsRefusal.NOT_YET_VALID))


class TlsRefusedError(TransportError):
    """Raised for a TLS connection that one of the sides did not accept.

    Attributes:
        reason: the reason.
        by_peer: whether the other side refused us; "its" in the reason then means ours.
        is_outdated: whether the reason is a certificate that is not valid at this time.
        may_pass: whether a new try may help.
    """

    def __init__(self, reason: TlsRefusal, detail: str = "", *, by_peer: bool = False) -> None:
        self.reason = reason
        self.by_peer = by_peer
        self.is_outdated = reason in _OUTDATED
        self.may_pass = reason in _TRANSIENT or self.is_outdated
        text = f"the other side refused us: {reason.value.replace('its', 'our')}" if by_peer else reason.value
        super().__init__(f"{text} ({detail})" if detail else text)


@dataclass(frozen=True, slots=True)
class LoadedTls:
    """The certificates of one reading of the files.

    Attributes:
        context: the context for connections.
        expires: end of validity of the own certificate.
        authority_expires: earliest end of validity of the authorities' certificates.
    """

    context: ssl.SSLContext
    expires: datetime
    authority_expires: datetime

    @classmethod
    def of(cls, context: ssl.SSLContext, credentials: Credentials) -> "LoadedTls":
        """Return the context of these files."""
        authorities = load_certificates(credentials.authority)
        return cls(
            context,
            load_certificate(credentials.certificate).not_valid_after_utc,
            min(authority.not_valid_after_utc for authority in authorities),
        )


def reloading_tls(make: Callable[[Credentials], ssl.SSLContext], credentials: Credentials) -> Reloading[LoadedTls]:
    """Return a `server_context` or `client_context` that follows changes of the files.

    Raises:
        CertificateError: from ``make``, the first time.
    """
    return Reloading(
        lambda: LoadedTls.of(make(credentials), credentials),
        lambda: (credentials.certificate, credentials.key, credentials.authority),
    )


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """Return the context of the server: clients must show a certificate that the authority issued.

    Raises:
        CertificateError: a file is missing or damaged, or the key belongs to another certificate or is open to others.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.num_tickets = 0
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """Return the context of a client: the server's certificate must be for the name or address that it calls.

    Raises:
        CertificateError: a file is missing or damaged, or the key belongs to another certificate or is open to others.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, credentials)
    context.check_hostname = True
    # The authority does not certify a name in the subject as a host name.
    context.hostname_checks_common_name = False
    return context


def client_id_from(connection: ssl.SSLObject) -> ClientId:
    """Return the client at the other end of the server's connection.

    Raises:
        TlsRefusedError: the certificate is not for clients, or does not name one.
    """
    der = connection.getpeercert(binary_form=True)
    if der is None:
        raise TlsRefusedError(TlsRefusal.NO_CERTIFICATE)
    try:
        certificate = x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion):
        raise TlsRefusedError(TlsRefusal.BAD_CERTIFICATE) from None
    if not is_for_clients(certificate):
        raise TlsRefusedError(TlsRefusal.WRONG_ROLE, "it lacks the extended key usage for client authentication")
    client_id = client_id_of(certificate)
    if client_id is None:
        raise TlsRefusedError(TlsRefusal.NO_CLIENT_ID)
    return client_id


def refusal_of(error: BaseException) -> TlsRefusedError:
    """Return the typed error for a fault in a handshake, or directly after it."""
    if isinstance(error, TlsRefusedError):
        return error
    if isinstance(error, TimeoutError):
        return TlsRefusedError(TlsRefusal.TIMED_OUT)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _VERIFY_CODES.get(error.verify_code, TlsRefusal.BAD_CERTIFICATE)
        return TlsRefusedError(reason, error.verify_message.rstrip("."))
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        name = error.reason or ""
        alert = _ALERT.search(name)
        if alert:
            reason = _ALERTS.get(alert[1], TlsRefusal.NO_TLS)
            return TlsRefusedError(reason, alert[1].lower().replace("_", " "), by_peer=True)
        return TlsRefusedError(_REASONS.get(name, TlsRefusal.NO_TLS), name.lower().replace("_", " "))
    return TlsRefusedError(TlsRefusal.BROKEN_OFF)


# OpenSSL's X509_V_ERR_*.
_VERIFY_CODES = {
    **dict.fromkeys((2, 7, 18, 19, 20, 21, 24, 30), TlsRefusal.UNKNOWN_AUTHORITY),
    9: TlsRefusal.NOT_YET_VALID,
    10: TlsRefusal.EXPIRED,
    26: TlsRefusal.WRONG_ROLE,
    62: TlsRefusal.WRONG_NAME,
    64: TlsRefusal.WRONG_NAME,
}
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": TlsRefusal.NO_CERTIFICATE,
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": TlsRefusal.DAMAGED,
    "BAD_SIGNATURE": TlsRefusal.DAMAGED,
    "DIGEST_CHECK_FAILED": TlsRefusal.DAMAGED,
}
_ALERT = re.compile(r"ALERT_(?:NUMBER_)?(\w+)\Z")
_ALERTS = {
    "UNKNOWN_CA": TlsRefusal.UNKNOWN_AUTHORITY,
    "CERTIFICATE_EXPIRED": TlsRefusal.EXPIRED,
    "UNSUPPORTED_CERTIFICATE": TlsRefusal.WRONG_ROLE,
    "CERTIFICATE_REQUIRED": TlsRefusal.NO_CERTIFICATE,
    "BAD_CERTIFICATE": TlsRefusal.BAD_CERTIFICATE,
    "CERTIFICATE_UNKNOWN": TlsRefusal.BAD_CERTIFICATE,
    "CERTIFICATE_REVOKED": TlsRefusal.BAD_CERTIFICATE,
    "ACCESS_DENIED": TlsRefusal.BAD_CERTIFICATE,
    "BAD_RECORD_MAC": TlsRefusal.DAMAGED,
    "DECODE_ERROR": TlsRefusal.DAMAGED,
    "DECRYPT_ERROR": TlsRefusal.DAMAGED,
}


def _context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    for path in (credentials.certificate, credentials.authority):
        if not path.is_file():
            raise CertificateError(f"{path}: this file does not exist")
    # Before OpenSSL reads them, since its errors are not sentences.
    key = load_private_key(credentials.key)
    if key.public_key() != load_certificate(credentials.certificate).public_key():
        raise CertificateError(
            f"{credentials.key} is not the key of {credentials.certificate}: use two files that were made together"
        )
    try:
        # A function for the password keeps OpenSSL from asking on the terminal.
        context.load_cert_chain(credentials.certificate, credentials.key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise CertificateError(
            f"{credentials.certificate}, {credentials.key}: they cannot be used for TLS ({_reason(error)})"
        ) from None
    try:
        context.load_verify_locations(cafile=credentials.authority)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{credentials.authority}: it contains no certificates ({_reason(error)})") from None
    return context


def _reason(error: Exception) -> str:
    """Return OpenSSL's name of the fault, without the place in its source."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return (reason or getattr(error, "strerror", None) or str(error)).lower().replace("_", " ")
