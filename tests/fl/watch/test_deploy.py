"""deploy/: all checks that work without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fl.commands.app import app
from tests.fl.runs import assert_refused, invoke

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a tool; return its output."""
    done = subprocess.run(  # noqa: S603 - of this repository, or of the system
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def options_of(command: str) -> set[str]:
    group: Any = typer.main.get_command(app)
    return {option for param in group.commands[command].params for option in param.opts}


@pytest.mark.parametrize("name", ["compose.yaml", "secagg-serve.service", "secagg-join@.service", "serve-or-resume"])
def test_the_variables_are_options(name: str) -> None:
    text = (DEPLOY / name).read_text()
    used = re.findall(r"SECAGG_(SERVE|JOIN)_([A-Z_]+)", text)
    assert used
    for command, option in used:
        assert "--" + option.lower().replace("_", "-") in options_of(command.lower()) | {"--server"}, option
    for command, options in re.findall(r"secagg (serve|join) (--.*)", text):
        assert set(re.findall(r"--[a-z-]+", options)) <= options_of(command)


@pytest.mark.parametrize(
    ("command", "said"), [("serve", "give --out"), ("join", "give the server's HOST:PORT, and --id")]
)
def test_the_settings_files_are_read(command: str, said: str) -> None:
    """The first missing setting is one that the units pass, after all names and values in the files."""
    assert_refused(invoke(command, "--config", DEPLOY / f"{command}.toml.example"), said)


def test_only_the_status_page_is_published_and_on_loopback() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert re.findall(r'- "([^"]+:\d+:\d+)"', text) == ["127.0.0.1:9100:9100"]
    assert text.count("ports:") == 1
    assert "read_only: true\n  user: " in text
    assert "cap_drop: [ALL]" in text
    assert not re.search(r"privileged: *true|docker\.sock|network_mode: *host", text)


def test_the_image_is_built_from_what_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [
        source
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
        if not source.startswith("--")
    ]
    assert len(copied) >= 9
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in let_in, source
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM python:3.11-slim AS build",
        "FROM python:3.11-slim",
    ]
    assert "USER 10001:10001" in lines
    assert "/healthz" in "".join(lines)


@pytest.mark.parametrize("name", ["serve-or-resume", "issue-certs"])
def test_scripts_are_executable_shell(name: str) -> None:
    path = DEPLOY / name
    assert path.stat().st_mode & stat.S_IXUSR
    run("sh", "-n", str(path))


def test_a_trials_certificates_are_shared_and_its_keys_are_not(tmp_path: Path) -> None:
    """Malicious mode needs all clients' certificates on both sides."""
    fake = tmp_path / "secagg"
    names = ("ca", "server", "client-0", "client-1")
    files = " ".join(f"{name}.{kind}" for name in names for kind in ("pem", "key"))
    fake.write_text(f'#!/bin/sh\nmkdir -p "$2" && cd "$2" && touch {files}\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        assert run(str(DEPLOY / "issue-certs"), str(tmp_path / "certs"), "2", "server", env=environment) == ""
    public = {"ca.pem", "client-0.pem", "client-1.pem"}
    for name, own in {
        "server": {"server.pem", "server.key"}, "client-0": {"client-0.key"}, "client-1": {"client-1.key"},
    }.items():  # fmt: skip
        assert {path.name for path in (tmp_path / "certs" / name).iterdir()} == public | own


def test_the_server_resumes_an_existing_run(tmp_path: Path) -> None:
    fake = tmp_path / "secagg"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    folder = tmp_path / "run"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SECAGG_RUN": str(folder),
    }

    def start() -> str:
        return run(str(DEPLOY / "serve-or-resume"), env=environment).strip()

    assert start() == f"serve --out {folder}"
    folder.mkdir()
    (folder / "checkpoint.safetensors").touch()
    assert start() == f"serve --resume {folder}"


@pytest.mark.parametrize(("name", "started"), [("secagg-serve", "secagg-serve"), ("secagg-join@", "secagg-join@3")])
def test_systemd_understands_the_unit(name: str, started: str, tmp_path: Path) -> None:
    unit = (DEPLOY / f"{name}.service").read_text()
    assert "NoNewPrivileges=yes" in unit
    assert "DynamicUser=yes" in unit
    command = shutil.which("systemd-analyze")
    if command is None:
        pytest.skip("no systemd-analyze; apt-get install systemd")
    # The program itself is not installed here.
    path = tmp_path / f"{started}.service"
    path.write_text(re.sub(r"(?m)^ExecStart=.*", "ExecStart=/bin/true", unit))
    assert run(command, "verify", "--man=no", str(path)) == ""
