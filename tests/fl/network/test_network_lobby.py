"""A training that waits for its clients: strangers are not counted, use up nothing, and are told where they stand."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from fl.network.client import Participant
from fl.network.errors import NetworkError, RoundFailedError
from fl.network.local_data import LocalData
from fl.network.policy import Policy
from tests.fl.network.harness import CLIENTS, Client, Deployment, until
from transport import Deadlines
from transport.certificates.authority import Authority

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    return Deployment(tmp_path, monkeypatch)


def start_all(clients: list[Client]) -> list[Client]:
    for client in clients:
        client.start()
    return clients


def test_idle_sockets_and_probes_begin_no_round_and_use_up_no_try(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many times as many as the clients that a round needs, and longer than the whole training took to give up."""
    monkeypatch.setattr("fl.network.invitations._NEWS_SECONDS", 0.1)
    config = deployment.config(rounds=2)
    clients: list[Client] = []

    def beside() -> None:
        with contextlib.ExitStack() as stack:
            address = ("127.0.0.1", deployment.port)
            for _ in range(15):
                stack.enter_context(socket.create_connection(address))
            for sent in (b"", b"GET / HTTP/1.1\r\n\r\n"):
                with socket.create_connection(address) as probe:
                    probe.sendall(sent)
            until(lambda: any("round 1 waits for clients: 0 of 3" in line for line in deployment.output))
            clients.extend(start_all([deployment.client(i, config) for i in (0, 1)]))
            until(lambda: any("round 1 waits for clients: 2 of 3" in line for line in deployment.output))
            clients.extend(start_all([deployment.client(i, config) for i in range(2, CLIENTS)]))
            for client in clients:
                client.finish()

    finished = deployment.run_beside(config, beside, options=deployment.options(give_up=None, retries=0))
    assert finished.summary["included"][1] == CLIENTS
    assert not [line for line in deployment.output if "aborted" in line]
    # The first client was told once what it waits for.
    assert len([line for line in clients[0].said if line.startswith("waiting")]) == 1


def test_a_client_that_is_not_enrolled_is_told_so_and_not_counted(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    config = deployment.config(rounds=1)
    Authority(deployment.certs).issue(client_ids=[CLIENTS])
    clients: list[Client] = []
    monkey = deployment.data
    deployment.data = lambda client_id, config: monkey(min(client_id, CLIENTS - 1), config)  # type: ignore[method-assign]

    def beside() -> None:
        for _ in range(3):
            stranger = deployment.client(CLIENTS, config)
            stranger.start()
            with pytest.raises(NetworkError, match=f"UNKNOWN_CLIENT: client {CLIENTS} is not enrolled here"):
                stranger.finish()
        clients.extend(start_all([deployment.client(i, config) for i in range(CLIENTS)]))

    finished = deployment.run_beside(config, beside, options=deployment.options(give_up=None))
    for client in clients:
        client.finish()
    assert finished.summary["included"] == [CLIENTS]
    (line,) = [record for record in caplog.records if getattr(record, "reason", "") == "unknown-client"]
    assert getattr(line, "client_id", None) == CLIENTS


def test_waiting_clients_are_on_the_status_page_and_idle_sockets_are_not(deployment: Deployment) -> None:
    config = deployment.config(rounds=1)
    seen: list[dict[str, Any]] = []

    def status() -> dict[str, Any]:
        url = next(line.split()[-1] for line in deployment.output if line.startswith("watch it at "))
        with urllib.request.urlopen(f"{url}status.json", timeout=5) as answer:  # noqa: S310 - our own
            return json.load(answer)  # type: ignore[no-any-return]

    def beside() -> None:
        until(lambda: any(line.startswith("watch it at ") for line in deployment.output))
        with contextlib.ExitStack() as stack:
            for _ in range(9):
                stack.enter_context(socket.create_connection(("127.0.0.1", deployment.port)))
            clients = start_all([deployment.client(0, config)])
            until(lambda: status()["waiting_clients"] == 1)
            seen.append(status())
            clients += start_all([deployment.client(i, config) for i in range(1, CLIENTS)])
            for client in clients:
                client.finish()

    options = deployment.options(give_up=None, watch=("127.0.0.1", 0))
    finished = deployment.run_beside(config, beside, options=options)
    assert len(finished.summary["included"]) == 1
    assert (seen[0]["waiting_clients"], seen[0]["open_connections"]) == (1, 1)


def test_the_server_gives_up_only_with_a_limit(deployment: Deployment) -> None:
    config = deployment.config(rounds=1)
    with pytest.raises(RoundFailedError, match=r"round 1 was not begun: 0 of 3 clients were there after 0\.2 s"):
        deployment.run_beside(config, lambda: None, options=deployment.options(give_up=0.2))


def test_a_late_client_comes_once_and_is_in_the_next_round(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not ask again and again while others train."""
    # With fixed bounds: no session measures before the first round's own, for which it would be in time.
    config = deployment.config(rounds=2, clip=1.0)
    training, release = threading.Event(), threading.Event()
    sessions: list[int] = []
    clients: list[Client] = []

    class Held(Participant):
        def _input(self, offer):
            training.set()
            assert release.wait(20)
            return super()._input(offer)

    class Counted(Participant):
        async def _session(self):
            sessions.append(1)
            return await super()._session()

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config, make=Held) for i in (0, 1, 2)]))
        assert training.wait(20)
        late = deployment.client(3, config, make=Counted)
        clients.extend(start_all([late]))
        until(lambda: "waiting for the next round" in late.said)
        release.set()

    monkeypatch.setattr("fl.network.aggregator.GOODBYE_SECONDS", 3.0)
    finished = deployment.run_beside(
        config, beside, options=deployment.options(give_up=None), max_examples=len(deployment.dataset.train_labels)
    )
    for client in clients:
        client.finish()
    assert finished.summary["included_clients"] == [[0, 1, 2], [0, 1, 2, 3]]
    assert len(sessions) == 1
    assert clients[3].participant.rounds == 1


def test_the_operator_sees_why_clients_declined_and_nothing_of_their_data(deployment: Deployment) -> None:
    """The reason says "needed 2, had 0" and nothing else."""
    config = deployment.config(rounds=1, epochs=40)
    good: list[Client] = []
    private = LocalData(deployment.dataset.train_images[:50], torch.full((50,), 9))
    careful = Policy(max_epochs=10)

    class Odd(Participant):
        def __init__(self, options, data, say):
            super().__init__(options, private, say)

    def beside() -> None:
        declining = start_all(
            [
                deployment.client(0, config, policy=careful),
                deployment.client(1, config, make=Odd),
                deployment.client(2, config, policy=careful),
            ]
        )
        for client, why in zip(declining, ("40 epochs", "a label 9", "40 epochs"), strict=True):
            with pytest.raises(NetworkError, match=why):
                client.finish()
        until(lambda: any("declined" in line for line in deployment.output))
        good.extend(start_all([deployment.client(i, config) for i in range(CLIENTS)]))

    deadlines = Deadlines(advertise_keys=1.5, share_keys=5, masked_input_collection=5, unmasking=5)
    finished = deployment.run_beside(config, beside, options=deployment.options(deadlines=deadlines, give_up=None))
    for client in good:
        client.finish()
    assert finished.summary["included"][0] >= 3
    (line,) = [line for line in deployment.output if line.startswith("round 1 was aborted")]
    assert line.endswith(
        "; 3 clients declined: 40 epochs, but this client does at most 10 (2); without a reason (1); trying again"
    )
    assert not any("label 9" in line for line in deployment.output)
