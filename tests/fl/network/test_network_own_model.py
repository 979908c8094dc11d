"""Trainings over TLS of a model that the user wrote: only clients that name it themselves run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.network.errors import NetworkError
from fl.network.policy import Policy
from fl.runs.checkpoint import RunFolder
from fl.runs.rounds import FederatedRun
from tests.fl.network.harness import CLIENTS, Client, Deployment
from tests.fl.runs import distance, own_module

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]

MODEL = """
    from math import prod
    from torch import nn

    def two_layers(example_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(example_shape), 6), nn.Tanh(), nn.Linear(6, num_classes))
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a model of the user's own as ``module:factory``."""
    return f"{own_module(tmp_path, MODEL, monkeypatch)}:two_layers"


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    return Deployment(tmp_path, monkeypatch)


def test_it_is_trained_as_in_the_simulation(deployment: Deployment, model: str) -> None:
    """With one batch an epoch, clients' own randomness only rounds."""
    config = deployment.config(rounds=2, model=model, batch_size=CLIENTS * 60)
    clients: list[Client] = []

    def beside() -> None:
        for client_id in range(CLIENTS):
            clients.append(deployment.client(client_id, config, policy=Policy(own_model=model)))
            clients[-1].start()

    finished = deployment.run_beside(config, beside)
    for client in clients:
        client.finish()
    simulated = FederatedRun(config, deployment.dataset, "secure")
    for _ in range(2):
        simulated.run_round()
    served = FederatedRun(config, deployment.dataset, "secure")
    RunFolder(deployment.directory / "run").restore([served], 2)
    assert distance(served.model, simulated.model) < 1e-5
    assert finished.summary["included_clients"] == [list(range(CLIENTS))] * 2


def test_a_client_whose_user_did_not_name_it_runs_nothing_and_says_how_to(deployment: Deployment, model: str) -> None:
    config = deployment.config(rounds=1, model=model)
    clients: list[Client] = []

    def beside() -> None:
        for client_id in range(CLIENTS):
            trusting = Policy(own_model=model) if client_id else Policy()
            clients.append(deployment.client(client_id, config, policy=trusting))
            clients[-1].start()

    finished = deployment.run_beside(config, beside)
    for client in clients[1:]:
        client.finish()
    with pytest.raises(NetworkError, match="two_layers: if that is your own code on this machine"):
        clients[0].finish()
    assert finished.summary["included_clients"] == [[1, 2, 3]]


def test_a_client_of_one_class_gets_a_warning(deployment: Deployment) -> None:
    deployment.dataset.train_labels[:] = 1
    config = deployment.config(rounds=1)
    clients: list[Client] = []

    def beside() -> None:
        for client_id in range(CLIENTS):
            clients.append(deployment.client(client_id, config))
            clients[-1].start()

    deployment.run_beside(config, beside)
    for client in clients:
        client.finish()
        assert "all of them are of class 1: is that right?" in client.said
