"""Six clients on Fashion-MNIST: each alone, all data centrally, and federated, with Adam and with SGD locally.

60,000 images in six parts of 10,000, and the common test set of 10,000.
"""

from __future__ import annotations

from typing import Any

from fl.config.run_config import RunConfig
from fl.experiments.beside import Beside, curve
from fl.experiments.experiment import Experiment
from fl.experiments.federated import FederatedArm, Part
from fl.experiments.results import Document, arms_by_name

CLIENTS = 6
OPTIMIZERS = ("sgd", "adam")
NAMES = {"sgd": "SGD", "adam": "Adam"}

_ROUNDS = 50
# For one client alone, and for all data centrally, a round is an epoch without averaging. These curves flatten much
# earlier than the federated ones, and the client alone has overfitted by then.
_EPOCHS_APART = 10

_TRAINING: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.03, "momentum": 0.9, "weight_decay": 5e-4},
    "adam": {"optimizer": "adam", "learning_rate": 0.001},
}
# The mean of six equal clients has little noise, so the server can take a larger step.
_SERVER: dict[str, Any] = {"server_optimizer": "fedavgm", "server_momentum": 0.6}
# The clients' learning rate in the last round, as a fraction of the first.
_LAST_RATE = 0.05


def build(*, quick: bool, seed: int) -> Experiment:
    """Return the experiment; see `fl.experiments.catalog.ExperimentModule`."""
    rounds, apart = (3, 2) if quick else (_ROUNDS, _EPOCHS_APART)
    common: dict[str, Any] = {"seed": seed, "epochs": 1, "batch_size": 25, "partition": "iid"}
    if quick:
        common |= {"dataset": "digits", "model": "small-cnn"}
    else:
        common |= {"dataset": "fashion-mnist", "model": "cnn3-mirror"}

    def config(optimizer: str, rounds: int, **more: Any) -> RunConfig:
        decay = _LAST_RATE ** (1 / max(rounds - 1, 1))
        return RunConfig.of(**common, **_TRAINING[optimizer], rounds=rounds, learning_rate_decay=decay, **more)

    arms = []
    for optimizer in OPTIMIZERS:
        name = NAMES[optimizer]
        arms.append(
            FederatedArm(
                name=f"federated-{optimizer}",
                title=f"federated, {name}, secure",
                config=config(optimizer, rounds, clients=CLIENTS, **_SERVER),
                before_averaging=True,
            )
        )
        if optimizer == "sgd":
            arms.append(
                FederatedArm(
                    name=f"federated-{optimizer}-plain",
                    title=f"federated, {name}, plain",
                    config=config(optimizer, rounds, clients=CLIENTS, aggregator="plain", **_SERVER),
                )
            )
    for optimizer in OPTIMIZERS:
        name = NAMES[optimizer]
        alone = config(optimizer, apart, clients=1, aggregator="plain")
        arms.append(FederatedArm(name=f"central-{optimizer}", title=f"all data centrally, {name}", config=alone))
        arms += [
            FederatedArm(
                name=f"alone-{optimizer}-{client}",
                title=f"client {client} alone, {name}",
                config=alone,
                part=Part(client=client, clients=CLIENTS),
            )
            for client in range(CLIENTS)
        ]
    return Experiment(name="fashion-six", title="Six clients on Fashion-MNIST", arms=tuple(arms))


def beside(document: Document) -> dict[str, Beside]:
    """Return the extra data for reports; see `fl.experiments.catalog.ExperimentModule`."""
    arms = arms_by_name(document)
    found = {}
    for optimizer in OPTIMIZERS:
        series = []
        if twin := arms.get(f"federated-{optimizer}-plain"):
            series.append(curve("plain sums", [twin]))
        if central := arms.get(f"central-{optimizer}"):
            series.append(curve("central", [central], "an epoch a round"))
        alone = [arms[name] for client in range(CLIENTS) if (name := f"alone-{optimizer}-{client}") in arms]
        if len(alone) == CLIENTS:
            series.append(curve("local", alone, "each client alone, the mean"))
        if f"federated-{optimizer}" in arms:
            found[f"federated-{optimizer}"] = Beside(tuple(series))
    return found
