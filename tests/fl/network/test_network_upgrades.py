"""This version resumes a run's folder that an earlier version wrote, and leaves a later version's folder unchanged.

``stored/first`` is a run of two rounds on the digits, three clients, FedAvgM, as the first version left it. It is never
written again: a change that cannot resume it must say in `fl.config.run_config`, or where the change is made, what the
run did before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import safetensors
import safetensors.torch

import fl.config.run_config
import fl.data
from fl.config import served as settings
from fl.config.run_config import RunConfig
from fl.config.served import NetworkSettings
from fl.errors import ConfigError
from fl.network import announcement
from fl.network import client as joining
from fl.network.local_data import load_shard
from fl.network.server import resume_serving
from fl.runs.checkpoint import RunFolder
from secagg import Adversary
from tests.fl.network.harness import Client, Deployment
from tests.support.sessions import make_params
from transport import ClientHost, Offer
from transport.durable.frames import encode
from transport.tcp import Retry

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]

FIRST = Path(__file__).parent / "stored" / "first"
CLIENTS = 3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a copy of the stored run."""
    return Path(shutil.copytree(FIRST, tmp_path / "run"))


def test_the_first_versions_run_can_be_resumed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    deployment = Deployment(tmp_path, monkeypatch)
    monkeypatch.setattr("fl.network.server.make_dataset", lambda *_: fl.data.load_dataset("digits"))
    before = json.loads(metadata(run)["records"])
    config, rounds_done = RunFolder(run).load_config()
    assert (config.server.optimizer, config.rounds, rounds_done) == ("fedavgm", 2, 2)
    of_run = NetworkSettings.load(run).of_run(config)
    assert of_run.adversary is Adversary.MALICIOUS
    clients: list[Client] = []

    def data(client_id: int, _: RunConfig) -> Any:
        return load_shard("digits", None, (client_id, CLIENTS), scheme="iid", seed=0, alpha=0.5, per_client=2)

    monkeypatch.setattr(deployment, "data", data)

    def begin() -> None:
        clients.extend(deployment.client(client_id, config) for client_id in range(CLIENTS))
        for client in clients:
            client.start()

    finished = deployment.beside(
        begin, lambda: resume_serving(run, 3, None, deployment.options(), deployment.console())
    )
    for client in clients:
        client.finish()
    assert finished.summary["included_clients"][-1] == [0, 1, 2]
    after = json.loads(metadata(run)["records"])
    assert len(after) == 3
    for old, new in zip(before, after, strict=False):
        assert old.items() <= new.items()
    # The model continued from its state, and did not start again.
    assert after[2]["accuracy"] > 0.85
    assert RunFolder(run).load_config() == (replace(of_run, rounds=3), 3)


def metadata(run: Path) -> dict[str, str]:
    with safetensors.safe_open(run / "checkpoint.safetensors", framework="pt") as file:
        return dict(file.metadata())


def rewrite(run: Path, **changes: str) -> None:
    path = run / "checkpoint.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {**metadata(run), **changes})


def test_a_setting_that_came_later_is_what_runs_did_before(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test pretends that `proximal` and `max_examples` are newer than the stored run, and have other defaults."""
    config = json.loads(metadata(run)["config"])
    del config["proximal"]
    rewrite(run, config=json.dumps(config))
    (run / "network.json").write_text(json.dumps({"min_clients": 3, "adversary": "malicious"}))
    with pytest.raises(ConfigError, match="another version: proximal missing"):
        RunFolder(run).load_config()
    with pytest.raises(ConfigError, match="another version: max_examples missing"):
        NetworkSettings.load(run)
    monkeypatch.setitem(fl.config.run_config._ADDED, "proximal", lambda values: values["momentum"])
    monkeypatch.setitem(settings._ADDED, "max_examples", lambda _: 77)
    assert RunFolder(run).load_config()[0].local.proximal == config["momentum"] != RunConfig().local.proximal
    assert NetworkSettings.load(run).max_examples == 77


@pytest.mark.parametrize(("min_clients", "min_inputs"), [(2, 2), (3, 3), (5, 3)])
def test_the_clients_minimum_of_older_runs_is_the_default(run: Path, min_clients: int, min_inputs: int) -> None:
    stored = json.loads((run / "network.json").read_text())
    assert "min_inputs" not in stored
    (run / "network.json").write_text(json.dumps({**stored, "min_clients": min_clients}))
    assert NetworkSettings.load(run).min_inputs == min_inputs


@pytest.mark.parametrize("later", ["config", "network", "format"])
def test_a_later_versions_run_is_refused_and_left_unchanged(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    deployment = Deployment(tmp_path, monkeypatch)
    if later == "config":
        rewrite(run, config=json.dumps({**json.loads(metadata(run)["config"]), "novelty": 1}))
    elif later == "network":
        stored = json.loads((run / "network.json").read_text())
        (run / "network.json").write_text(json.dumps({**stored, "novelty": 1}))
    else:
        rewrite(run, format="99")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ConfigError, match=r"another version.*go on with the version that wrote it, or a later one"):
        resume_serving(run, 3, None, deployment.options(), deployment.console())
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != "serve.lock"} == before


@contextmanager
def next_version() -> Iterator[None]:
    """Make both sides the next version, which does not read this one's announcements."""
    later = announcement._VERSION + 1
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_VERSION", "_SINCE", "_OLDEST"):
            patch.setattr(announcement, name, later)
        yield


def test_a_round_in_which_an_upgrade_came_has_no_result_and_the_next_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends while its first round is in the journal, and continues as the next version, as do its clients."""
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    deployment = Deployment(tmp_path, monkeypatch)
    config = deployment.config(rounds=2)
    run = tmp_path / "run"
    clients = []

    def begin() -> None:
        clients.extend(deployment.client(client_id, config, state=tmp_path / f"{client_id}") for client_id in range(4))
        for client in clients:
            client.start()

    save, saved = RunFolder.save, []

    def ends_before_the_second(self: RunFolder, *arguments: Any) -> None:
        saved.append(self)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", ends_before_the_second)
        assert deployment.run_beside(config, begin).interrupted
    assert (run / "round.journal").exists()
    with next_version():
        resume_serving(run, None, None, deployment.options(), deployment.console())
        for client in clients:
            client.finish()
    first, second = RunFolder(run).restore([], 2)
    assert "another version" in str(first.aborted)
    assert second.included == (0, 1, 2, 3)
    assert not list(run.glob("round.*"))


def test_a_clients_journal_of_another_version_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = Deployment(tmp_path, monkeypatch)
    params = make_params(4, 3)
    deployment.port = 1
    client = deployment.client(0, deployment.config(), state=tmp_path)
    journal = client.participant._open_journal()
    assert journal is not None
    host = ClientHost(0, lambda _: pytest.fail("no input yet"), accept=lambda _: None, journal=journal)
    host.connected()
    offer = Offer(params, extra=msgpack.packb([99, 99, {}]), number=7)
    assert host.frame_received(b"".join(encode(offer)))
    journal.close()
    again = client.participant._open_journal()
    assert again is not None
    assert again.is_empty
    assert "round 7 was begun by another version" in client.said[-1]
    again.close()
