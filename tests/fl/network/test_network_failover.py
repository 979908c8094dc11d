"""`secagg serve --journal`: when the server's machine is lost, another one goes on from the database."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from fl.config.run_config import RunConfig
from fl.data import load_dataset
from fl.errors import ConfigError
from fl.network.errors import NetworkError
from fl.network.server import resume_serving, start_serving
from fl.runs.rounds import FederatedRun
from tests.fl.network.harness import Deployment, Program, programs
from tests.support.postgres import Cluster, new_run
from transport.certificates.authority import Authority

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]


def test_a_standby_with_another_folder_goes_on_in_the_middle_of_a_round(tmp_path: Path, postgres: Cluster) -> None:
    """The first server is killed while it has some updates of round 2; the model is as good as without it."""
    certs, first, second = tmp_path / "certs", tmp_path / "first" / "run", tmp_path / "second" / "run"
    Authority.create(certs).issue(server_names=["127.0.0.1"], client_ids=range(4))
    config, dataset = RunConfig.of(clients=4, rounds=3, model="logistic", epochs=10, seed=3), load_dataset("digits")
    database = ("--journal", postgres.url(), "--journal-run", new_run())
    serving = ("--certs", certs, "--training-seconds", 60, "--join-seconds", 30, *database)
    training = ("--clients", 4, "--rounds", 3, "--model", "logistic", "--epochs", 10, "--seed", 3)
    with programs() as start:
        server = start("serve", "--listen", "127.0.0.1:0", *serving, *training, "--out", first)
        address = server.wait_for("listening on ").removeprefix("listening on ")
        refused = start("serve", "--listen", "127.0.0.1:0", *serving, "--resume", second)
        assert refused.wait() == 1
        said = "\n".join(refused.lines)
        assert "in use: another process serves it" in said
        assert "--standby" in said
        assert "Traceback" not in said
        assert not (second / "checkpoint.safetensors").exists()
        standby = start("serve", "--listen", address, *serving, "--resume", second, "--standby")
        standby.wait_for("waiting until it ends")

        def join(client_id: int) -> Program:
            state = ("--state", tmp_path / f"state-{client_id}")
            data = ("--shard", f"{client_id}/4", "--seed", 3)
            return start("join", address, "--id", client_id, "--certs", certs, *data, *state)

        clients = [join(client_id) for client_id in range(4)]
        clients[3].wait_for("round 2/3: training")
        clients[3].kill()
        clients[0].wait_for("round 2/3: training")
        time.sleep(0.5)
        server.kill()
        assert not list(first.glob("*.journal"))
        clients[3] = join(3)
        standby.wait_for("going on after round 1 of 3")
        standby.wait_for("round 2 goes on where it was")
        expected = FederatedRun(config, dataset, "secure")
        accuracies = [expected.run_round().accuracy for _ in range(3)]
        assert standby.wait() == 0, standby.lines
        assert [client.wait() for client in clients] == [0, 0, 0, 0], [client.lines for client in clients]
        # The machine that was lost is back: the run is over there too.
        back = start("serve", "--listen", "127.0.0.1:0", *serving, "--resume", first, "--standby")
        back.wait_for("going on after round 3 of 3")
        assert back.wait() == 0, back.lines
        alone = start("serve", "--listen", "127.0.0.1:0", "--certs", certs, "--resume", first)
        assert alone.wait() == 1
        assert "give --journal" in " ".join(alone.lines)
    records = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert [record["included"] for record in records] == [[0, 1, 2, 3]] * 3
    assert [record["accuracy"] for record in records] == pytest.approx(accuracies, abs=0.03)
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    # No client was asked twice: the others' updates were in the database.
    assert sum("training on" in line for line in clients[0].lines) == 3


def test_mistakes_with_a_database_are_told_before_anything_is_made(
    tmp_path: Path, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(tmp_path, monkeypatch)
    config, run = deployment.config(rounds=1), tmp_path / "run"

    def options(url: str, name: str | None = None) -> object:
        return deployment.options(journal=url, journal_run=name, give_up=0.1, retries=0)

    with pytest.raises(ConfigError, match="holds a password") as caught:
        start_serving(config, run, None, options("postgresql://u:s3cr3t@127.0.0.1:1/d"), deployment.console())
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(NetworkError, match="cannot be reached"):
        start_serving(config, run, None, options("postgresql://127.0.0.1:1/d"), deployment.console())
    with pytest.raises(ConfigError, match="there is no run to resume in the run"):
        resume_serving(run, None, None, options(postgres.url(), new_run()), deployment.console())
    assert not list(run.glob("*.safetensors"))
    name = new_run()
    with pytest.raises(NetworkError, match="0 of 3 clients"):
        start_serving(config, run, None, options(postgres.url(), name), deployment.console())
    with pytest.raises(ConfigError, match=r"exists already: go on with --resume .*other"):
        start_serving(config, tmp_path / "other", None, options(postgres.url(), name), deployment.console())
    assert not (tmp_path / "other").exists()
    # The same folder, from another machine's point of view: the database's files come back.
    kept = (run / "network.json").read_bytes()
    (run / "network.json").write_bytes(b"{}")
    with pytest.raises(NetworkError, match="0 of 3 clients"):
        resume_serving(run, None, None, options(postgres.url(), name), deployment.console())
    assert (run / "network.json").read_bytes() == kept
