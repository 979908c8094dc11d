"""Certificates for the channels between the parties of one evaluation, in the folders where MPyC expects them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Longer than any evaluation; the keys are deleted after it.
_VALID = timedelta(days=2)
# Tolerate a clock that is set back.
_BACKDATED = timedelta(minutes=5)


def write_certificates(folders: list[Path]) -> None:
    """Write party i's key and certificate to ``folders[i]/.config``, under an authority whose key is not stored.

    Each folder has only its own party's key (mode 0600). Only holders of these keys can connect, and a calling party
    checks the number of the party that answers. MPyC does not check the caller's number.
    """
    authority = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secagg encrypted evaluation")])
    root = (
        _builder(name, name, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, None)
    )
    for party, folder in enumerate(folders):
        key = Ed25519PrivateKey.generate()
        # MPyC expects this name.
        host = f"MPyC party {party}"
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(subject, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
            .sign(authority, None)
        )
        config = folder / ".config"
        config.mkdir(mode=0o700)
        key_file = config / f"party_{party}.key"
        key_file.touch(mode=0o600)
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (config / f"party_{party}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (config / "mpyc_ca.crt").write_bytes(root.public_bytes(Encoding.PEM))


def _builder(subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID)
    )
