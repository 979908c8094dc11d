"""Certificates that are renewed, expire, or come from a new authority while server and clients run."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fl.watch import Watch
from secagg import Adversary, Completed
from tests.support.sessions import make_params, random_inputs
from tests.transport.network import EAGER, QUICK, check_exact, deployment, join, raw_stream, served
from tests.transport.renewals import NAMES, issue, warnings
from transport import SessionRefusedError
from transport import tcp as tcp_module
from transport.certificates import authority
from transport.certificates import reading as certs
from transport.certificates.authority import Authority
from transport.certificates.reading import (
    CertificateError,
    Credentials,
    directory_from,
    identity_from,
    load_certificate,
)
from transport.tcp import PLAINTEXT, Retry, ServerUnreachableError, SessionServer

pytestmark = pytest.mark.live

CLIENTS = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return deployment(tmp_path / "certs", CLIENTS)


async def shown(server: SessionServer, folder: Path) -> int:
    """Return the serial number of the certificate that the server shows to client 0."""
    stream = await raw_stream(server.addresses[0][1], folder, 0)
    try:
        assert stream.tls is not None
        der = stream.tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number
    finally:
        stream.abort()


def serial(folder: Path) -> int:
    return load_certificate(folder / "server.pem").serial_number


def test_a_server_shows_its_renewed_certificate_to_the_next_connection(folder: Path) -> None:
    async def scenario() -> None:
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(folder), QUICK) as server:
            before = serial(folder)
            assert await shown(server, folder) == before
            issue(folder, server_names=NAMES)
            assert await shown(server, folder) == serial(folder) != before

    asyncio.run(scenario())


def test_files_that_do_not_fit_each_other_yet_change_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new key is in place, and its certificate is not: the old pair stays in use, and a line says so."""

    async def scenario() -> None:
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(folder), QUICK) as server:
            before, old = serial(folder), (folder / "server.pem").read_bytes()
            issue(folder, server_names=NAMES, renew=False, overwrite=True)
            new = (folder / "server.pem").read_bytes()
            (folder / "server.pem").write_bytes(old)
            for _ in range(3):
                assert await shown(server, folder) == before
            (line,) = warnings(caplog, "not_reloaded")
            assert "server.pem" in line
            assert "PRIVATE" not in caplog.text
            (folder / "server.pem").write_bytes(new)
            assert await shown(server, folder) == serial(folder) != before
            (folder / "ca.pem").unlink()
            assert await shown(server, kept) != before

    kept = Path(shutil.copytree(folder, folder.parent / "kept"))
    asyncio.run(scenario())


@pytest.mark.parametrize(("days", "word"), [(-9, "expired"), (9, "not valid yet")])
def test_clients_wait_for_a_server_whose_certificate_is_not_valid_now(
    folder: Path, caplog: pytest.LogCaptureFixture, days: float, word: str
) -> None:
    params = make_params(CLIENTS, 2)
    inputs = random_inputs(params, seed=1)
    issue(folder, server_names=NAMES, days_from_now=days)
    caplog.set_level(logging.INFO, "transport.tcp")
    told: list[str] = []

    async def scenario() -> Any:
        async with served(params, folder) as serving:
            joins = [
                asyncio.create_task(join(serving.port, inputs[i], folder, i, unreachable=told.append)) for i in inputs
            ]
            async with asyncio.timeout(5):
                while len(warnings(caplog, "reconnecting")) < 2 * CLIENTS:
                    await asyncio.sleep(0.02)
            assert not any(task.done() for task in joins)
            issue(folder, server_names=NAMES)
            await asyncio.gather(*joins)
            return await serving.task

    report = asyncio.run(scenario())
    assert check_exact(params, inputs, report.outcome)
    assert report.outcome.included == tuple(inputs)
    # Each client's user is told once.
    assert len(told) == CLIENTS
    assert all(word in why for why in told)


def test_a_servers_expired_certificate_ends_the_client_with_a_reason(folder: Path) -> None:
    issue(folder, server_names=NAMES, days_from_now=-9)

    async def scenario() -> None:
        async with served(make_params(CLIENTS, 2), folder) as serving:
            retry = Retry(first=0.02, longest=0.1, give_up=0.5)
            with pytest.raises(ServerUnreachableError, match="its certificate has expired"):
                await join(serving.port, random_inputs(make_params(CLIENTS, 2), seed=1)[0], folder, 0, retry=retry)

    asyncio.run(scenario())


def test_a_client_that_waits_takes_up_its_own_renewed_certificate(folder: Path) -> None:
    """It began to wait while there was no server; when there is one, its certificate has expired."""
    params = make_params(CLIENTS, 2)
    inputs = random_inputs(params, seed=1)
    issue(folder, client_ids=[0], days_from_now=-9)

    async def scenario() -> Any:
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(folder), QUICK) as taken:
            port = taken.addresses[0][1]
        waiting = asyncio.create_task(join(port, inputs[0], folder, 0))
        await asyncio.sleep(0.1)
        issue(folder, client_ids=[0])
        async with served(params, folder, address=("127.0.0.1", port)) as serving:
            await asyncio.gather(waiting, *(join(port, inputs[i], folder, i) for i in (1, 2)))
            return await serving.task

    report = asyncio.run(scenario())
    assert check_exact(params, inputs, report.outcome)
    assert report.outcome.included == tuple(inputs)


def test_a_client_whose_certificate_runs_out_waits_for_a_renewed_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = make_params(CLIENTS, 2)
    inputs = random_inputs(params, seed=1)
    issue(folder, client_ids=[0], days_from_now=-9)
    caplog.set_level(logging.INFO, "transport.tcp")
    told: list[str] = []

    async def scenario() -> Any:
        async with served(params, folder) as serving:
            waiting = asyncio.create_task(join(serving.port, inputs[0], folder, 0, unreachable=told.append))
            async with asyncio.timeout(5):
                while len(warnings(caplog, "reconnecting")) < 3:
                    await asyncio.sleep(0.02)
            assert not waiting.done()
            issue(folder, client_ids=[0])
            await asyncio.gather(waiting, *(join(serving.port, inputs[i], folder, i) for i in (1, 2)))
            return await serving.task

    report = asyncio.run(scenario())
    assert check_exact(params, inputs, report.outcome)
    assert report.outcome.included == tuple(inputs)
    (why,) = told
    assert "our certificate has expired" in why
    assert why.endswith(f"renew {folder / 'client-0.pem'}")


def test_while_one_authority_takes_anothers_place_both_are_trusted(folder: Path) -> None:
    """Client 0 has moved to the new authority, the others and the server have not; malicious mode needs all keys."""
    params = make_params(CLIENTS, 2, adversary=Adversary.MALICIOUS)
    inputs = random_inputs(params, seed=1)
    keys = {i: identity_from(folder / f"client-{i}.key").public_key for i in inputs}
    Authority(folder).succeed()
    issue(folder, client_ids=[0])
    directory = directory_from(folder, folder / "ca.pem")
    assert all(directory.is_trusted(i, keys[i]) for i in inputs)

    async def scenario() -> Any:
        async with served(params, folder, directory=directory) as serving:
            joins = (
                join(
                    serving.port, inputs[i], folder, i,
                    identity=identity_from(folder / f"client-{i}.key"), directory=directory,
                )
                for i in inputs
            )  # fmt: skip
            await asyncio.gather(*joins)
            return await serving.task

    report = asyncio.run(scenario())
    assert isinstance(report.outcome, Completed)
    assert report.outcome.included == tuple(inputs)
    assert check_exact(params, inputs, report.outcome)


def test_the_older_authority_goes_when_nothing_is_from_it(folder: Path) -> None:
    with pytest.raises(CertificateError, match="no older authority"):
        Authority(folder).drop_older()
    (old,) = certs.load_certificates(folder / "ca.pem")
    new = Authority(folder).succeed()
    with pytest.raises(CertificateError, match="older authority already"):
        new.succeed()
    issue(folder, client_ids=range(CLIENTS))
    with pytest.raises(CertificateError, match=r"older authority issued server\.pem: renew"):
        Authority(folder).drop_older()
    assert old in certs.load_certificates(folder / "ca.pem")
    issue(folder, server_names=NAMES)
    Authority(folder).drop_older()
    (own,) = certs.load_certificates(folder / "ca.pem")
    assert own != old
    assert all(certs.is_issued_by(load_certificate(path), own) for path in folder.glob("[sc][el]*.pem"))


def test_an_authority_that_was_half_made_leaves_the_old_one_in_charge(folder: Path) -> None:
    """The process ended between ``ca.pem`` and ``ca.key``."""
    key = (folder / "ca.key").read_bytes()
    (old,) = certs.load_certificates(folder / "ca.pem")
    Authority(folder).succeed()
    (folder / "ca.key").write_bytes(key)
    issue(folder, server_names=NAMES)
    assert certs.is_issued_by(load_certificate(folder / "server.pem"), old)


def test_certificates_are_renewed_where_their_keys_are_not(folder: Path) -> None:
    key = identity_from(folder / "client-1.key").public_key
    (folder / "client-1.key").unlink()
    before = load_certificate(folder / "client-1.pem")
    issue(folder, client_ids=[1])
    after = load_certificate(folder / "client-1.pem")
    assert after.serial_number != before.serial_number
    assert after.public_key().public_bytes_raw() == key
    assert not (folder / "client-1.key").exists()
    Authority.create(folder.parent / "other").issue(client_ids=[1])
    shutil.copy(folder.parent / "other" / "client-1.pem", folder)
    with pytest.raises(CertificateError, match="did not issue it"):
        issue(folder, client_ids=[1])


def certificate(folder: Path, uris: list[str], usage: x509.ObjectIdentifier | None) -> Credentials:
    """Make a certificate of the folder's authority, with names and a use that its own code would not give."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris] or [
        x509.DNSName("client.example")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authority, "_client_names", lambda _: names)
        if usage is None:
            unstated = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
            patch.setattr(x509, "ExtendedKeyUsage", lambda _: unstated)
        Authority(folder).issue(client_ids=[0], overwrite=True)
    return Credentials.of_client(folder, 0)


@pytest.mark.parametrize(
    ("uris", "usage", "reason", "told"),
    [
        (["urn:secagg:client:0"], None, "wrong-role", "for client authentication"),
        ([], ExtendedKeyUsageOID.CLIENT_AUTH, "no-client-id", "does not name one client"),
        (
            ["urn:secagg:client:0", "urn:secagg:client:1"],
            ExtendedKeyUsageOID.CLIENT_AUTH,
            "no-client-id",
            "does not name one client",
        ),
    ],
    ids=["no use", "no id", "two ids"],
)
def test_certificates_that_only_the_server_refuses_get_a_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch, uris: list[str], usage: Any, reason: str, told: str
) -> None:
    params = make_params(CLIENTS, 2)
    inputs = random_inputs(params, seed=1)
    bad = certificate(folder, uris, usage)
    with pytest.raises(CertificateError, match=r"client-0\.pem: (it names no client|it lacks the extended key usage)"):
        asyncio.run(join(1, inputs[0], bad, 0))

    async def scenario() -> Any:
        async with served(params, folder) as serving:
            # This client does not look at its own certificate.
            monkeypatch.setattr(tcp_module, "own_id", lambda tls, client_id: client_id)
            with pytest.raises(SessionRefusedError, match=f"UNKNOWN_CLIENT.*your.*{told}"):
                await join(serving.port, inputs[0], bad, 0, retry=EAGER)
            await asyncio.gather(*(join(serving.port, inputs[i], folder, i) for i in (1, 2)))
            return await serving.task

    report = asyncio.run(scenario())
    assert report.refusals[reason] == 1
    assert report.outcome.included == (1, 2)
    assert check_exact(params, inputs, report.outcome)


def test_the_expiry_of_the_certificate_in_use_is_a_metric(folder: Path) -> None:
    def sample(watch: Watch, whose: str) -> float:
        name = f'secagg_certificate_expiry_timestamp_seconds{{certificate="{whose}"}} '
        (line,) = (line for line in watch.metrics.text().decode().splitlines() if line.startswith(name))
        return float(line.removeprefix(name))

    def expiry(name: str) -> float:
        return load_certificate(folder / name).not_valid_after_utc.timestamp()

    async def scenario(check: Callable[[Watch], None], tls: Any) -> None:
        watch = Watch("digits", 1)
        async with SessionServer(("127.0.0.1", 0), tls, QUICK) as server:
            watch.listener(server)
            check(watch)

    def with_tls(watch: Watch) -> None:
        assert sample(watch, "authority") == expiry("ca.pem")
        before = sample(watch, "server")
        assert before == expiry("server.pem")
        issue(folder, server_names=NAMES)
        assert sample(watch, "server") == expiry("server.pem") < before
        # A certificate that cannot be used is not in use.
        (folder / "server.pem").write_text("nonsense")
        renewed = sample(watch, "server")
        assert renewed < before

    def without(watch: Watch) -> None:
        assert "secagg_certificate_expiry_timestamp_seconds{" not in watch.metrics.text().decode()

    asyncio.run(scenario(with_tls, Credentials.of_server(folder)))
    asyncio.run(scenario(without, PLAINTEXT))
