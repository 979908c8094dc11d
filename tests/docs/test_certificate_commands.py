"""The commands of docs/how-to/deployment.md that make and renew certificates work in the page's order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.fl.runs import invoke
from transport.certificates.authority import Authority
from transport.certificates.reading import is_issued_by, load_certificate, load_certificates

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "deployment.md").read_text(encoding="utf-8")


def test_they_make_a_deployment_add_to_it_and_renew_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^\$ secagg (certs .*)$", TEXT, re.MULTILINE)]
    assert len(commands) == 11
    keys: dict[str, bytes] = {}
    authorities = []
    for command in commands:
        result = invoke(*command)
        assert result.exit_code == 0, (command, result.output)
        vouching = load_certificates(tmp_path / "certs" / "ca.pem")
        authorities.append(len(vouching))
        for path in (tmp_path / "certs").glob("[sc][el]*.pem"):
            certificate = load_certificate(path)
            assert any(is_issued_by(certificate, authority) for authority in vouching)
            key = certificate.public_key().public_bytes_raw()  # type: ignore[union-attr]
            # Only --force gives a client another identity.
            assert keys.get(path.name, key) == key or "--force" in command
            keys[path.name] = key
    assert len(keys) == 9
    assert authorities == [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 1]


def test_the_order_of_a_roll_over_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    Authority.create(folder).issue(server_names=["localhost"], client_ids=[0])

    def says(*options: object) -> str:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        result = invoke("certs", folder, *options)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        return str(result.stderr)

    assert "no older authority" in says("--drop-old-authority")
    assert "copy the ca.pem with both to everyone" in says("--new-authority", "--drop-old-authority")
    assert invoke("certs", folder, "--new-authority").exit_code == 0
    assert "drop it first" in says("--new-authority")
    assert "issued server.pem, client-0.pem: renew them first" in says("--drop-old-authority")
