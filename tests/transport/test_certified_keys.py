"""Files of certificates that are read again: the trusted keys when they change, contradict each other, or fail."""

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.transport.network import deployment
from tests.transport.renewals import NAMES, issue, warnings
from transport.certificates import reading as certs
from transport.certificates.authority import Authority
from transport.certificates.reading import CertificateError, CertifiedKeys, Credentials, identity_from
from transport.tcp.tls import reloading_tls, server_context

CLIENTS = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return deployment(tmp_path / "certs", CLIENTS)


class TestCertifiedKeys:
    """A folder of certificates that is read again and again."""

    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(certs, "_LOOK_SECONDS", -1.0)

    @staticmethod
    def trusted(keys: CertifiedKeys, folder: Path) -> list[int]:
        held = {int(path.stem[7:]): identity_from(path).public_key for path in folder.glob("client-*.key")}
        return sorted(client_id for client_id, key in held.items() if keys.is_trusted(client_id, key))

    def test_expired_certificates_are_left_out_and_renewed_ones_come_back(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        keys = CertifiedKeys(folder, folder / "ca.pem")
        assert self.trusted(keys, folder) == [0, 1, 2]
        issue(folder, client_ids=[1], days_from_now=-9)
        for _ in range(3):
            assert self.trusted(keys, folder) == [0, 2]
        (line,) = warnings(caplog, "certificates_left_out")
        assert "client-1.pem" in line
        issue(folder, client_ids=[1])
        assert self.trusted(keys, folder) == [0, 1, 2]
        issue(folder, client_ids=[5], renew=False)
        assert self.trusted(keys, folder) == [0, 1, 2, 5]

    def test_the_time_alone_leaves_one_out(
        self, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        issue(folder, client_ids=[2], days=3)
        keys = CertifiedKeys(folder, folder / "ca.pem")
        assert self.trusted(keys, folder) == [0, 1, 2]
        monkeypatch.setattr(keys, "_now", datetime.now(UTC) + timedelta(days=5))
        assert self.trusted(keys, folder) == [0, 1]
        assert len(warnings(caplog, "certificates_left_out")) == 1

    @pytest.mark.parametrize("what", ["damaged", "stranger", "same key", "gone"])
    def test_broken_files_leave_the_last_version_in_force(
        self, folder: Path, caplog: pytest.LogCaptureFixture, what: str
    ) -> None:
        keys = CertifiedKeys(folder, folder / "ca.pem")
        kept = (folder / "client-1.pem").read_bytes()
        if what == "damaged":
            (folder / "client-1.pem").write_bytes(kept[:100])
        elif what == "stranger":
            Authority.create(folder.parent / "other").issue(client_ids=[1])
            shutil.copy(folder.parent / "other" / "client-1.pem", folder)
        elif what == "same key":
            shutil.copy(folder / "client-0.pem", folder / "client-1.pem")
        else:
            (folder / "ca.pem").rename(folder / "ca")
        for _ in range(3):
            assert self.trusted(keys, folder) == [0, 1, 2]
        assert len(warnings(caplog, "not_reloaded")) == 1
        # A client that is removed meanwhile is still gone.
        taken = (folder / "client-2.pem").read_bytes()
        (folder / "client-2.pem").unlink()
        assert self.trusted(keys, folder) == [0, 1]
        (folder / "client-2.pem").write_bytes(taken)
        # At the start it is a mistake.
        with pytest.raises(CertificateError):
            CertifiedKeys(folder, folder / "ca.pem")

    def test_two_keys_for_one_client_end_the_trust_in_that_client_alone(
        self, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They become valid one by one. Clients that expire meanwhile, or are removed, are not trusted either."""
        second = folder / "second.pem"
        kept, key = (folder / "client-1.pem").read_bytes(), (folder / "client-1.key").read_bytes()
        issue(folder, client_ids=[1], renew=False, overwrite=True, days=90, days_from_now=5)
        second.write_bytes((folder / "client-1.pem").read_bytes())
        (folder / "client-1.pem").write_bytes(kept)
        (folder / "client-1.key").write_bytes(key)
        issue(folder, client_ids=[2], days=8)
        keys = CertifiedKeys([*(folder / f"client-{i}.pem" for i in range(3)), second], folder / "ca.pem")
        assert self.trusted(keys, folder) == [0, 1, 2]
        monkeypatch.setattr(keys, "_now", datetime.now(UTC) + timedelta(days=6))
        for _ in range(3):
            assert self.trusted(keys, folder) == [0, 2]
        line, expected = warnings(caplog, "certificates_left_out")[-1], "contradict each other"
        assert expected in line
        assert str(second) in line
        assert "client-2" not in line
        monkeypatch.setattr(keys, "_now", datetime.now(UTC) + timedelta(days=20))
        assert self.trusted(keys, folder) == [0]
        assert sum(expected in text for text in warnings(caplog, "certificates_left_out")) == 1

    def test_a_removed_file_is_no_longer_trusted_despite_other_faults(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        keys = CertifiedKeys(folder, folder / "ca.pem")
        (folder / "client-2.pem").unlink()
        shutil.copy(folder / "client-1.pem", folder / "client-7.pem")
        (folder / "client-8.pem").write_text("nonsense")
        for _ in range(3):
            assert self.trusted(keys, folder) == [0, 1]
        (line,) = warnings(caplog, "not_reloaded")
        assert "client-7.pem: this is client 1's certificate" in line
        assert "client-8.pem" in line
        issue(folder, client_ids=[2], renew=False, overwrite=True)
        assert self.trusted(keys, folder) == [0, 1, 2]
        for path in folder.glob("client-*.pem"):
            path.unlink()
        assert self.trusted(keys, folder) == []

    def test_an_authority_that_is_taken_away_vouches_for_nobody(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Client 2, whose key is lost, was not renewed."""
        keys = CertifiedKeys(folder, folder / "ca.pem")
        Authority(folder).succeed()
        issue(folder, client_ids=[0, 1])
        assert self.trusted(keys, folder) == [0, 1, 2]
        issue(folder, server_names=NAMES)
        newest, *_ = certs.load_certificates(folder / "ca.pem")
        (folder / "ca.pem").write_bytes(newest.public_bytes(Encoding.PEM))
        for _ in range(3):
            assert self.trusted(keys, folder) == [0, 1]
        assert "client-2.pem: the authority" in warnings(caplog, "not_reloaded")[-1]

    def test_one_key_for_two_clients_ends_the_trust_in_both(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        keys = CertifiedKeys(folder, folder / "ca.pem")
        shutil.copy(folder / "client-0.key", folder / "client-1.key")
        issue(folder, client_ids=[1])
        for _ in range(3):
            assert self.trusted(keys, folder) == [2]
        (line,) = warnings(caplog, "certificates_left_out")
        assert "client-0.pem" in line
        assert "client-1.pem" in line
        with pytest.raises(CertificateError, match="one key for two clients"):
            CertifiedKeys(folder, folder / "ca.pem")


class TestTryingAgain:
    """Files that could not be used are read again although they have not changed."""

    def test_a_failure_of_the_system_is_temporary(
        self, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now, tries = 1000.0, []
        monkeypatch.setattr(time, "monotonic", lambda: now)
        loaded = reloading_tls(server_context, Credentials.of_server(folder))
        old, make = loaded.current(), loaded._make

        def out_of_files() -> Any:
            tries.append(now)
            raise CertificateError("too many open files")

        monkeypatch.setattr(loaded, "_make", out_of_files)
        issue(folder, server_names=NAMES)
        for _ in range(700):
            assert loaded.current() is old
            assert loaded.current() is old
            now += 1.0
        # After a second, then after twice as long each time, up to five minutes; with one line.
        assert [int(at - 1000) for at in tries] == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511]
        assert len(warnings(caplog, "not_reloaded")) == 1
        monkeypatch.setattr(loaded, "_make", make)
        now += 300.0
        assert (new := loaded.current()) is not old
        now += 1000.0
        assert loaded.current() is new

    def test_a_change_is_seen_at_once_all_the_same(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
        loaded = reloading_tls(server_context, Credentials.of_server(folder))
        old, kept = loaded.current(), (folder / "server.pem").read_bytes()
        (folder / "server.pem").write_text("nonsense")
        assert loaded.current() is old
        (folder / "server.pem").write_bytes(kept)
        assert loaded.current() is not old
