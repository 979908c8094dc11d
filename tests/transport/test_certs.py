"""Certificates: their names, their uses, files that are never overwritten; and the identities in them."""

import asyncio
import json
import re
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from fl.commands.app import app
from secagg import Adversary, Completed
from tests.support.sessions import exact_sum, make_params, random_inputs
from tests.transport.network import EAGER, check_exact, deadlines, join, served
from transport import run_session
from transport.certificates.authority import Authority
from transport.certificates.reading import (
    CertificateError,
    Credentials,
    client_id_of,
    directory_from,
    identity_from,
    is_for_clients,
    load_certificate,
)
from transport.tcp import ServerUnreachableError


@pytest.fixture
def authority(tmp_path):
    return Authority.create(tmp_path / "certs")


@pytest.fixture
def certs(tmp_path, authority):
    authority.issue(server_names=["localhost", "127.0.0.1", "::1"], client_ids=range(3))
    return tmp_path / "certs"


def run(*args):
    return CliRunner().invoke(app, ["certs", *map(str, args)])


def test_certificates_name_their_owner_and_purpose(certs):
    client = load_certificate(certs / "client-2.pem")
    server = load_certificate(certs / "server.pem")
    assert client_id_of(client) == 2
    assert is_for_clients(client)
    assert client_id_of(server) is None
    assert not is_for_clients(server)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    for certificate in (client, server):
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.digital_signature
        assert not usage.key_cert_sign
        extended = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        assert extended == [
            ExtendedKeyUsageOID.CLIENT_AUTH if certificate is client else ExtendedKeyUsageOID.SERVER_AUTH
        ]
        certificate.verify_directly_issued_by(load_certificate(certs / "ca.pem"))
    of_authority = load_certificate(certs / "ca.pem").extensions
    assert of_authority.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)


def test_keys_are_for_their_owners_eyes(certs):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in certs.glob("*.key")}
    assert len(modes) == 5
    assert set(modes.values()) == {0o600}


def test_certificates_last_as_long_as_was_asked(authority, tmp_path):
    authority.issue(client_ids=[7], days=3)
    certificate = load_certificate(tmp_path / "certs" / "client-7.pem")
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=2.9) < left <= timedelta(days=3)
    for days in (0, -1, float("nan"), 10**6):
        with pytest.raises(CertificateError, match="days"):
            authority.issue(client_ids=[8], days=days)


def test_nothing_is_overwritten_unless_told_to(certs):
    before = {path.name: path.read_bytes() for path in certs.iterdir()}
    authority = Authority(certs)
    with pytest.raises(CertificateError, match=r"client-2\.pem.*exists already"):
        authority.issue(client_ids=[5, 2])
    with pytest.raises(CertificateError, match="exists already"):
        Authority.create(certs)
    assert {path.name: path.read_bytes() for path in certs.iterdir()} == before
    authority.issue(client_ids=[2], overwrite=True)
    after = {path.name: path.read_bytes() for path in certs.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"client-2.pem", "client-2.key"}
    assert stat.S_IMODE((certs / "client-2.key").stat().st_mode) == 0o600


def test_renewing_keeps_the_identity(certs):
    before = identity_from(certs / "client-1.key").public_key
    old = load_certificate(certs / "client-1.pem")
    Authority(certs).issue(client_ids=[1], days=5, renew=True)
    assert identity_from(certs / "client-1.key").public_key == before
    assert load_certificate(certs / "client-1.pem").serial_number != old.serial_number
    with pytest.raises(CertificateError, match="No such file"):
        Authority(certs).issue(client_ids=[9], renew=True)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a b", "-a", "urn:x", "a" * 300, "host/path", "ümlaut"),
        *(
            "300.1.1.1",
            "1.2.3",
            "sum.7",
            "sum.0x7f",
            "a" * 64,
            f"{'a' * 64}.example",
            "a..b",
            ".a",
            "*.example",
            "a-.b",
        ),
    ],
)
def test_invalid_host_names_are_refused(authority, name):
    with pytest.raises(CertificateError, match="neither a host name nor an IP address"):
        authority.issue(server_names=[name])


@pytest.mark.parametrize("client_id", [-1, 2**32, True, "1"])
def test_invalid_client_ids_are_refused(authority, client_id):
    with pytest.raises(CertificateError, match="client id"):
        authority.issue(client_ids=[client_id])


def certificate_with(*uris, key=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, None if not isinstance(key, ec.EllipticCurvePrivateKey) else _sha256())


def _sha256():
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()


@pytest.mark.parametrize(
    ("uris", "client_id"),
    [
        ((), None),
        (("urn:secagg:client:0",), 0),
        (("urn:secagg:client:4294967295",), 4294967295),
        (("https://example.org/", "urn:secagg:client:12"), 12),
        (("urn:secagg:client:4294967296",), None),
        (("urn:secagg:client:01",), None),
        (("urn:secagg:client:-1",), None),
        (("urn:secagg:client:",), None),
        (("urn:secagg:client:1 ",), None),
        (("urn:secagg:client:1\n",), None),
        (("URN:secagg:client:1",), None),
        (("urn:secagg:server:1",), None),
        (("urn:secagg:client:1", "urn:secagg:client:2"), None),
        (("urn:secagg:client:1", "urn:secagg:client:1"), None),
    ],
)
def test_only_one_exact_name_is_an_id(uris, client_id):
    assert client_id_of(certificate_with(*uris)) == client_id


def test_a_deployments_certificates_are_its_directory_of_identities(certs):
    directory = directory_from(certs, certs / "ca.pem")
    for client_id in range(3):
        key = identity_from(certs / f"client-{client_id}.key").public_key
        assert directory.is_trusted(client_id, key)
        assert not directory.is_trusted((client_id + 1) % 3, key)
    assert not directory.is_trusted(3, key)


def test_malicious_mode_runs_on_the_certificates_keys(certs):
    params = make_params(3, 3, adversary=Adversary.MALICIOUS)
    inputs = random_inputs(params, seed=1)
    report = run_session(params, inputs, identities={i: identity_from(certs / f"client-{i}.key") for i in range(3)})
    assert isinstance(report.outcome, Completed)
    assert report.outcome.sum.tolist() == exact_sum(params, list(inputs.values()))


def test_a_directory_takes_only_what_its_authority_issued(certs, tmp_path):
    Authority.create(tmp_path / "other").issue(client_ids=[5])
    stranger = tmp_path / "other" / "client-5.pem"
    with pytest.raises(CertificateError, match="did not issue"):
        directory_from([certs / "client-0.pem", stranger], certs / "ca.pem")
    with pytest.raises(CertificateError, match="not a client's certificate"):
        directory_from([certs / "server.pem"], certs / "ca.pem")
    with pytest.raises(CertificateError, match="two certificates"):
        directory_from([certs / "client-0.pem", certs / "client-0.pem"], certs / "ca.pem")
    with pytest.raises(CertificateError, match="expired"):
        directory_from(certs, certs / "ca.pem", now=datetime.now(UTC) + timedelta(days=1000))
    with pytest.raises(CertificateError, match="no certificates"):
        directory_from(tmp_path, certs / "ca.pem")


def test_expired_certificates_are_left_out_and_their_clients_not_trusted(certs, authority, caplog):
    keys = {i: identity_from(certs / f"client-{i}.key").public_key for i in range(3)}
    authority.issue(client_ids=[0, 2], days=500, renew=True)
    later = datetime.now(UTC) + timedelta(days=400)
    directory = directory_from(certs, certs / "ca.pem", now=later)
    assert [directory.is_trusted(i, keys[i]) for i in range(3)] == [True, False, True]
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert "client-1.pem" in line.getMessage()
    assert "client-0.pem" not in line.getMessage()
    # A valid certificate beside an expired one of the same client counts.
    (certs / "old.pem").write_bytes((certs / "client-1.pem").read_bytes())
    authority.issue(client_ids=[1], days=500, renew=True)
    both = directory_from([certs / "old.pem", certs / "client-1.pem"], certs / "ca.pem", now=later)
    assert both.is_trusted(1, keys[1])


def test_a_session_continues_without_the_client_whose_certificate_has_expired(certs, authority):
    authority.issue(client_ids=[1], days=1e-9, renew=True)
    params = make_params(3, 2, adversary=Adversary.MALICIOUS)
    inputs = random_inputs(params, seed=1)

    async def scenario():
        def directory():
            return directory_from(certs, certs / "ca.pem")

        async with served(params, certs, directory=directory(), deadlines=deadlines(1.5)) as serving:
            ends = await asyncio.gather(
                *(
                    join(
                        serving.port,
                        inputs[i],
                        certs,
                        i,
                        identity=identity_from(certs / f"client-{i}.key"),
                        directory=directory(),
                        retry=replace(EAGER, give_up=1.0),
                    )
                    for i in inputs
                ),
                return_exceptions=True,
            )
            return ends, await serving.task

    ends, report = asyncio.run(scenario())
    # A renewed one might have come.
    assert isinstance(ends[1], ServerUnreachableError)
    assert f"our certificate has expired (certificate expired): renew {certs / 'client-1.pem'}" in str(ends[1])
    assert isinstance(report.outcome, Completed)
    assert report.outcome.included == (0, 2)
    assert check_exact(params, inputs, report.outcome)


def test_invalid_files_are_named(tmp_path, certs):
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("nonsense")
    damaged.chmod(0o600)
    for load, path in ((load_certificate, damaged), (identity_from, damaged), (load_certificate, tmp_path / "none")):
        with pytest.raises(CertificateError, match=str(path)):
            load(path)
    key = ec.generate_private_key(ec.SECP256R1())
    damaged.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(CertificateError, match="not an Ed25519 key"):
        identity_from(damaged)
    (certs / "ca.key").write_bytes((certs / "client-0.key").read_bytes())
    with pytest.raises(CertificateError, match="not the key of"):
        Authority(certs)


def test_the_command_makes_a_deployment_and_adds_to_it(tmp_path):
    directory = tmp_path / "certs"
    first = run(directory, "--clients", 5, "--server", "localhost")
    assert first.exit_code == 0, first.output
    assert "client-0 to client-4" in first.output
    assert {path.name for path in directory.glob("*.pem")} == {"ca.pem", "server.pem", *(
        f"client-{i}.pem" for i in range(5)
    )}  # fmt: skip
    authority = (directory / "ca.pem").read_bytes()
    more = run(directory, "--clients", 2, "--first-id", 5, "--json")
    assert more.exit_code == 0, more.output
    assert [client["id"] for client in json.loads(more.stdout)["clients"]] == [5, 6]
    assert (directory / "ca.pem").read_bytes() == authority
    assert Credentials.of_client(directory, 6).key.exists()


@pytest.mark.parametrize(
    "args",
    [("--server", "300.1.1.1"), ("--clients", "2", "--first-id", "4294967295"), ("--clients", "1", "--days", "0")],
)
def test_no_authority_is_made_for_invalid_arguments(tmp_path, args):
    assert run(tmp_path / "new", *args).exit_code == 1
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_full_leaves_no_half_of_a_key(tmp_path):
    """A child process may write no file longer than this; with room again, the second try is like a first."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from fl.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program, "certs", str(tmp_path / "new"), "--clients", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: S603 - our own program
    assert done.returncode == 1
    assert re.fullmatch(r"error: \S+/new: (File too large|No space left on device)\n", done.stderr)
    assert list((tmp_path / "new").iterdir()) == []
    assert run(tmp_path / "new", "--clients", "1").exit_code == 0


def test_the_dot_after_a_full_name_is_left_out_of_certificates(authority, certs):
    authority.issue(server_names=["Sum.Example.", "fl_server", f"{'a' * 63}.b"], overwrite=True)
    names = load_certificate(certs / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["Sum.Example", "fl_server", f"{'a' * 63}.b"]


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ((), "nothing to issue"),
        (("--clients", "1"), "exists already"),
        (("--clients", "-1"), "between 0 and"),
        (("--clients", "1", "--first-id", "-3"), "client id"),
        (("--clients", "1", "--force", "--renew"), "one of them"),
        (("--server", "no name"), "neither a host name"),
        (("--clients", "1", "--first-id", "9", "--days", "0"), "days"),
    ],
)
def test_the_commands_mistakes_are_one_line(certs, args, what):
    before = {path.name: path.read_bytes() for path in certs.iterdir()}
    result = run(certs, *args)
    assert result.exit_code == 1
    assert what in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert {path.name: path.read_bytes() for path in certs.iterdir()} == before
    as_json = run(certs, *args, "--json")
    assert as_json.exit_code == 1
    assert what in json.loads(as_json.stdout)["error"]


def test_the_command_revokes_what_it_issued(certs):
    result = run(certs, "--revoke", "1", "--revoke", "0")
    assert result.exit_code == 0, result.output
    assert f"revoked    client 0, 1: {certs / 'ca.crl'}, for secagg serve --crl" in result.output
    revoked = x509.load_pem_x509_crl((certs / "ca.crl").read_bytes())
    assert {entry.serial_number for entry in revoked} == {
        load_certificate(certs / f"client-{i}.pem").serial_number for i in (0, 1)
    }
    missing = run(certs, "--revoke", "99")
    assert missing.exit_code == 1
    assert "client-99.pem" in missing.output
    nobody = run(certs / "elsewhere", "--revoke", "1")
    assert "has no authority, so nothing can be renewed or revoked" in nobody.output
