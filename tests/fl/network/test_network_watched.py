"""A served training shows on its status page what happens."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from fl.network.client import Participant
from tests.fl.network.harness import CLIENTS, Client, Deployment, until

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]


class Unhurried(Participant):
    """A client that trains long enough to be seen."""

    def _input(self, offer):
        time.sleep(1.0)
        return super()._input(offer)


def test_a_round_and_the_one_before_it_are_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = Deployment(tmp_path, monkeypatch)
    config = deployment.config(rounds=2)
    clients: list[Client] = []
    seen: list[dict[str, Any]] = []
    over = threading.Event()

    def address() -> str | None:
        return next((line.split()[-1] for line in deployment.output if line.startswith("watch it at ")), None)

    def look() -> None:
        until(lambda: address() is not None)
        while not over.is_set() and not seen:
            with urllib.request.urlopen(f"{address()}status.json", timeout=5) as answer:  # noqa: S310 - our own
                status = json.load(answer)
            if status["round"] == 2 and status["session"]["phase"] == "masked-input-collection":
                seen.append(status)
            time.sleep(0.02)

    looking = threading.Thread(target=look, daemon=True)

    def beside() -> None:
        looking.start()
        for client_id in range(CLIENTS):
            clients.append(deployment.client(client_id, config, make=Unhurried))
            clients[-1].start()

    finished = deployment.run_beside(config, beside, options=deployment.options(watch=("127.0.0.1", 0)))
    over.set()
    looking.join(10)
    for client in clients:
        client.finish()
    assert finished.summary["included"] == [CLIENTS, CLIENTS]
    (status,) = seen
    assert [phase["name"] for phase in status["session"]["phases"][:2]] == ["advertise-keys", "share-keys"]
    (before,) = status["rounds"]
    assert (before["number"], before["included"]) == (1, CLIENTS)
    stored = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert before["accuracy"] == pytest.approx(stored["accuracy"])
