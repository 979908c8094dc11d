"""McMahan et al.'s MNIST: a hundred clients, ten in a round, and the rounds needed for an accuracy.

Each of the paper's four settings is run as published, and with a faster method.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017), tables 1 and
2. A round samples a tenth of 100 clients with 600 images each, the update is the mean weighted by examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fl.config.run_config import RunConfig
from fl.experiments.beside import Beside, curve
from fl.experiments.experiment import Experiment
from fl.experiments.federated import FederatedArm
from fl.experiments.results import Document, arms_by_name


@dataclass(frozen=True, slots=True, kw_only=True)
class HundredSetting:
    """One cell of the paper's tables.

    Attributes:
        name: the name of the arm with plain federated averaging; the other arm is NAME-fast.
        title: the title, for people.
        model: the model and its training: `RunConfig` values.
        target: test accuracy.
        published: the paper's rounds to the target, with a learning rate tuned for each cell.
        cap, fast_cap: rounds after which plain federated averaging and the other arm stop.
        averaging: other `RunConfig` values of plain federated averaging: its learning rate.
        fast: the same for the faster arm.
        why: a description of the faster arm, for people.
    """

    name: str
    title: str
    model: dict[str, Any]
    target: float
    published: int
    cap: int
    fast_cap: int
    averaging: dict[str, Any]
    fast: dict[str, Any]
    why: str


_CNN: dict[str, Any] = {"model": "cnn", "epochs": 5, "batch_size": 10}
_2NN: dict[str, Any] = {"model": "2nn", "epochs": 1, "batch_size": 10}

SETTINGS = (
    HundredSetting(
        name="cnn-iid",
        title="CNN, E = 5, IID",
        model=_CNN,
        target=0.99,
        published=20,
        cap=30,
        fast_cap=30,
        averaging={"learning_rate": 0.1},
        fast={
            "learning_rate": 0.1,
            "learning_rate_decay": 0.95,
            "server_optimizer": "fedavgm",
            "server_momentum": 0.7,
        },
        why="server momentum and a falling learning rate",
    ),
    HundredSetting(
        name="cnn-shards",
        title="CNN, E = 5, two shards",
        model=_CNN | {"partition": "shards"},
        target=0.99,
        published=229,
        cap=40,
        fast_cap=150,
        averaging={"learning_rate": 0.1},
        fast={
            "learning_rate": 0.05,
            "learning_rate_decay": 0.985,
            "server_optimizer": "fedavgm",
            "server_learning_rate": 0.3,
        },
        why="server momentum and a falling learning rate",
    ),
    HundredSetting(
        name="2nn-iid",
        title="2NN, E = 1, IID",
        model=_2NN,
        target=0.97,
        published=87,
        cap=200,
        fast_cap=87,
        averaging={"learning_rate": 0.1},
        fast={"learning_rate": 0.1, "server_optimizer": "fedavgm", "server_momentum": 0.7},
        why="server momentum",
    ),
    HundredSetting(
        name="2nn-shards",
        title="2NN, E = 1, two shards",
        model=_2NN | {"partition": "shards"},
        target=0.97,
        published=664,
        cap=664,
        fast_cap=400,
        averaging={"learning_rate": 0.1},
        fast={
            "learning_rate": 0.1,
            "learning_rate_decay": 0.99,
            "server_optimizer": "fedavgm",
            "server_learning_rate": 0.3,
        },
        why="server momentum and a falling learning rate",
    ),
)


def build(*, quick: bool, seed: int) -> Experiment:
    """Return the experiment; see `fl.experiments.catalog.ExperimentModule`."""
    common: dict[str, Any] = {"dataset": "mnist", "clients": 100, "sample": 10, "momentum": 0.0, "seed": seed}
    if quick:
        common |= {"dataset": "digits", "clients": 40, "sample": 4}
    arms = []
    for setting in SETTINGS:
        for name, title, more, rounds in (
            (setting.name, "federated averaging", setting.averaging, setting.cap),
            (f"{setting.name}-fast", setting.why, setting.fast, setting.fast_cap),
        ):
            values = common | setting.model | more | {"rounds": rounds}
            if quick:
                values |= {"rounds": 2, "model": {"cnn": "small-cnn"}.get(values["model"], values["model"])}
            arms.append(
                FederatedArm(
                    name=name, title=f"{setting.title}: {title}", config=RunConfig.of(**values), stop_at=setting.target
                )
            )
    # Start the longest first, so that short arms fill the cores at the end.
    arms.sort(key=lambda arm: arm.config.rounds * arm.config.local.epochs, reverse=True)
    return Experiment(name="mnist-hundred", title="A hundred clients on MNIST", arms=tuple(arms))


def beside(document: Document) -> dict[str, Beside]:
    """Return the extra data for reports; see `fl.experiments.catalog.ExperimentModule`."""
    arms = arms_by_name(document)
    found = {}
    for setting in SETTINGS:
        averaging, fast = arms.get(setting.name), arms.get(f"{setting.name}-fast")
        if averaging and fast:
            found[setting.name] = Beside((curve("faster", [fast], setting.why),))
            found[f"{setting.name}-fast"] = Beside((curve("federated averaging", [averaging]),))
    return found
