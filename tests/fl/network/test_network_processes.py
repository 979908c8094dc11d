"""`secagg serve` and `secagg join` as users run them: processes over TLS, some killed with signal 9."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from fl.config.run_config import RunConfig
from fl.data import load_dataset
from fl.data.partition import iid
from fl.runs.rounds import FederatedRun
from tests.fl.network.harness import Program, programs, until
from transport.certificates.authority import Authority

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]


def test_killed_processes_continue_within_their_round_and_the_model_is_as_good_as_simulated(
    tmp_path: Path,
) -> None:
    """In round 2 a client is killed while it trains, and then the server, which has the others' updates by then."""
    certs, out = tmp_path / "certs", tmp_path / "run"
    Authority.create(certs).issue(server_names=["127.0.0.1"], client_ids=range(4))
    config, dataset = RunConfig.of(clients=4, rounds=3, model="logistic", epochs=10, seed=3), load_dataset("digits")
    for client_id, chosen in enumerate(iid(dataset.train_labels.numpy(), 4, seed=3)):
        x, y = dataset.train_images[chosen].squeeze(1).numpy(), dataset.train_labels[chosen].numpy()
        np.savez(tmp_path / f"{client_id}.npz", x=x, y=y)
    serving = ("--certs", certs, "--training-seconds", 60, "--join-seconds", 30)
    training = ("--clients", 4, "--rounds", 3, "--model", "logistic", "--epochs", 10, "--seed", 3)
    with programs() as start:
        server = start("serve", "--listen", "127.0.0.1:0", *serving, *training, "--out", out)
        address = server.wait_for("listening on ").removeprefix("listening on ")

        def join(client_id: int) -> Program:
            # One of them takes its part of a data set, the others have their own arrays.
            data = ("--arrays", tmp_path / f"{client_id}.npz") if client_id else ("--shard", "0/4", "--seed", 3)
            state = ("--state", tmp_path / f"state-{client_id}")
            return start("join", address, "--id", client_id, "--certs", certs, *data, *state)

        clients = [join(client_id) for client_id in range(4)]
        clients[3].wait_for("round 2/3: training")
        clients[3].kill()
        clients[0].wait_for("round 2/3: training")
        time.sleep(0.5)
        server.kill()
        assert (out / "round.journal").exists()
        clients[3] = join(3)
        server = start("serve", "--listen", address, *serving, "--resume", out)
        server.wait_for("round 2 goes on where it was")
        clients[3].wait_for("round 2/3: going on where this client was")

        expected = FederatedRun(config, dataset, "secure")
        accuracies = [expected.run_round().accuracy for _ in range(3)]
        assert server.wait() == 0, server.lines
        assert [client.wait() for client in clients] == [0, 0, 0, 0], [client.lines for client in clients]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [1, 2, 3]
    assert [record["included"] for record in records] == [[0, 1, 2, 3]] * 3
    assert [record["accuracy"] for record in records] == pytest.approx(accuracies, abs=0.03)
    assert accuracies[-1] > 0.9
    assert not list(out.glob("round.*"))
    assert json.loads((out / "network.json").read_text())["adversary"] == "malicious"
    # No client was asked twice: the others' updates were in the server's journal.
    assert sum("training on" in line for line in clients[0].lines) == 3


def test_a_server_and_a_client_killed_after_measuring_continue_with_the_update(tmp_path: Path) -> None:
    """The client's update is lost with its memory: it trains again. The others send what was measured."""
    certs, out = tmp_path / "certs", tmp_path / "run"
    Authority.create(certs).issue(server_names=["127.0.0.1"], client_ids=range(3))
    serving = ("--certs", certs, "--join-seconds", 30)
    training = ("--clients", 3, "--min-clients", 3, "--rounds", 2, "--model", "logistic", "--epochs", 1)
    with programs() as start:
        server = start("serve", "--listen", "127.0.0.1:0", *serving, *training, "--out", out)
        address = server.wait_for("listening on ").removeprefix("listening on ")

        def join(client_id: int) -> Program:
            state = ("--state", tmp_path / f"state-{client_id}")
            return start("join", address, "--id", client_id, "--certs", certs, "--shard", f"{client_id}/3", *state)

        clients = [join(client_id) for client_id in range(3)]
        until((out / "round.begun").exists, 60)
        server.kill()
        clients[2].kill()
        assert (out / "round.ranges.journal").exists()
        clients[2] = join(2)
        server = start("serve", "--listen", address, *serving, "--resume", out)
        assert server.wait() == 0, server.lines
        assert [client.wait() for client in clients] == [0, 0, 0], [client.lines for client in clients]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["included"] for record in records] == [[0, 1, 2]] * 2
    for client in clients[:2]:
        assert sum("training on" in line for line in client.lines) == 2
    assert not list(out.glob("round.*"))


def test_interrupted_processes_say_how_to_resume(tmp_path: Path) -> None:
    certs, out = tmp_path / "certs", tmp_path / "run"
    Authority.create(certs).issue(server_names=["127.0.0.1"], client_ids=range(2))
    np.savez(tmp_path / "own.npz", x=np.zeros((3, 8, 8)), y=np.arange(3))
    with programs() as start:
        server = start(
            "serve", "--listen", "127.0.0.1:0", "--certs", certs, "--clients", 2, "--min-inputs", 2, "--out", out
        )
        address = server.wait_for("listening on ").removeprefix("listening on ")
        client = start("join", address, "--id", 0, "--certs", certs, "--arrays", tmp_path / "own.npz")
        client.wait_for("client 0 with 3 examples")
        server.wait_for("secure aggregation")
        time.sleep(0.2)
        client.send(signal.SIGINT)
        server.send(signal.SIGTERM)
        assert client.wait() == 130
        assert server.wait() == 130
    said = "\n".join(server.lines)
    assert "interrupted after round 0 of 10" in said
    assert "secagg serve --resume" in said
    assert "Traceback" not in said + "\n".join(client.lines)
