"""A run's folder that an earlier version wrote is gone on with by this one; a later version's is left as it is.

``stored/first`` is a run of two rounds on the digits, three clients, FedAvgM, as the first version left it. It is never
written anew: a change that cannot go on with it says in `fl.config`, or where it is made, what the run did before.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch

import fl.config
import fl.data
from fl.checkpoint import RunFolder
from fl.config import RunConfig
from fl.errors import ConfigError
from fl.network import joining, settings
from fl.network.local_data import load_shard
from fl.network.serving import resume_serving
from fl.network.settings import NetworkSettings
from tests.fl.network.harness import Client, Deployment
from transport.tcp import Retry

pytestmark = pytest.mark.usefixtures("one_thread")

FIRST = Path(__file__).parent / "stored" / "first"
CLIENTS = 3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the stored run."""
    return Path(shutil.copytree(FIRST, tmp_path / "run"))


def test_the_first_versions_run_goes_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    deployment = Deployment(tmp_path, monkeypatch)
    monkeypatch.setattr("fl.network.serving.make_dataset", lambda *_: fl.data.load_dataset("digits"))
    before = json.loads(metadata(run)["records"])
    config, rounds_done = RunFolder(run).load_config()
    assert (config.server_optimizer, config.rounds, rounds_done) == ("fedavgm", 2, 2)
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
    # The model went on from where it was, and did not begin anew.
    assert after[2]["accuracy"] > 0.85
    assert RunFolder(run).load_config() == (RunConfig(**{**config.to_json(), "rounds": 3}), 3)


def metadata(run: Path) -> dict[str, str]:
    with safetensors.safe_open(run / "checkpoint.safetensors", framework="pt") as file:
        return dict(file.metadata())


def rewrite(run: Path, **changes: str) -> None:
    path = run / "checkpoint.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {**metadata(run), **changes})


def test_a_setting_that_came_later_is_what_runs_did_before(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `proximal` and `max_examples` were newer than the stored run, and new runs had other defaults."""
    config = json.loads(metadata(run)["config"])
    del config["proximal"]
    rewrite(run, config=json.dumps(config))
    (run / "network.json").write_text(json.dumps({"min_clients": 3, "adversary": "malicious"}))
    with pytest.raises(ConfigError, match="another version: proximal missing"):
        RunFolder(run).load_config()
    with pytest.raises(ConfigError, match="another version: max_examples missing"):
        NetworkSettings.load(run)
    monkeypatch.setitem(fl.config._ADDED, "proximal", 0.5)
    monkeypatch.setitem(settings._ADDED, "max_examples", 77)
    assert RunFolder(run).load_config()[0].proximal == 0.5
    assert NetworkSettings.load(run).max_examples == 77


@pytest.mark.parametrize("later", ["config", "network", "format"])
def test_a_later_versions_run_is_refused_and_left_as_it_is(
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
