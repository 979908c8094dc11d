"""Files with secret keys are read by one rule: their owner, and who else may read them."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from secagg import Identity
from transport import JournalError
from transport.certificates.authority import Authority
from transport.certificates.key_files import MAX_KEY_FILE_BYTES, _problem, read_key_file
from transport.certificates.reading import CertificateError, Credentials, identity_from
from transport.durable.client_journal import ClientJournal
from transport.tcp.tls import client_context, server_context


class FileError(Exception):
    pass


def status(mode, owner):
    return os.stat_result((mode, 0, 0, 1, owner, 0, 32, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "owner", "what"),
    [
        (0o600, "own", None),
        (0o400, "own", None),
        (0o640, "own", "chmod 600"),
        (0o604, "own", "chmod 600"),
        (0o602, "own", "chmod 600"),
        (0o400, "root", None),
        (0o440, "root", None),  # by systemd with an access list, by Kubernetes with fsGroup
        (0o460, "root", "chmod 600"),
        (0o444, "root", "chmod 600"),
        (0o600, "another", "another user"),
        (0o440, "another", "another user"),
    ],
)
def test_owners_and_readers_of_a_key_file(monkeypatch, mode, owner, what):
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    problem = _problem(status(stat.S_IFREG | mode, {"own": 1000, "root": 0, "another": 1001}[owner]))
    assert (problem is None) if what is None else (what in problem)


def test_only_a_regular_file_is_a_key_file(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, what in ((tmp_path / "pipe", "regular file"), (tmp_path, "cannot be used"), (tmp_path / "no", "No such")):
        with pytest.raises(FileError, match=what):
            read_key_file(path, raises=FileError)


def test_a_link_to_a_key_is_followed_and_a_long_file_is_refused(tmp_path):
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_bytes(b"k" * MAX_KEY_FILE_BYTES)
    (tmp_path / "link").symlink_to(key)
    assert read_key_file(tmp_path / "link", raises=FileError) == b"k" * MAX_KEY_FILE_BYTES
    key.write_bytes(b"k" * (MAX_KEY_FILE_BYTES + 1))
    with pytest.raises(FileError, match="is not a key") as caught:
        read_key_file(key, raises=FileError)
    assert "kk" not in str(caught.value)


def test_every_reader_of_a_key_asks(tmp_path):
    """TLS of both sides, identities, the authority, journals; each with its own error."""
    certs = tmp_path / "certs"
    Authority.create(certs).issue(server_names=["localhost"], client_ids=[0])
    readers: dict[Path, list[Callable[[], object]]] = {
        certs / "server.key": [lambda: server_context(Credentials.of_server(certs))],
        certs / "client-0.key": [
            lambda: client_context(Credentials.of_client(certs, 0)),
            lambda: identity_from(certs / "client-0.key"),
            lambda: Authority(certs).issue(client_ids=[0], renew=True),
        ],
        certs / "ca.key": [lambda: Authority(certs)],
        tmp_path / "journal.key": [lambda: ClientJournal(tmp_path / "journal", tmp_path / "journal.key").close()],
    }
    assert isinstance(identity_from(certs / "client-0.key"), Identity)
    for path, reads in readers.items():
        for read in reads:
            read()
            path.chmod(0o644)
            with pytest.raises((CertificateError, JournalError), match=rf"{path.name} must be .* chmod 600"):
                read()
            path.chmod(0o600)
            read()
