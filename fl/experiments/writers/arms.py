"""The arms: two federated runs with different dropouts, and after each the personal models by each method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fl.config.run_config import RunConfig
from fl.experiments.experiment import Arm, Experiment
from fl.experiments.federated import FederatedArm
from fl.experiments.writers.personal import PersonalizationArm, Start
from fl.experiments.writers.training import WritersTraining
from fl.learning.settings import Local
from fl.personalization import Ditto, FineTuning

DROPOUT_MODELS = {"independent": "anyone vanishes", "slow": "slow ones vanish"}
"""The federated runs by their dropout model, with their names in titles."""

# Chosen by short runs with seed 1, which holds out other examples than the reported run.
_WRITERS: dict[str, Any] = {
    "dataset": "mnist-writers",
    "model": "small-cnn",
    "clients": 539,
    "sample": 200,
    "rounds": 30,
    "epochs": 2,
    "batch_size": 10,
    "learning_rate": 0.1,
    "momentum": 0.5,
    "server_optimizer": "fedavgm",
    "server_momentum": 0.8,
    "dropout": 0.3,
    "holdout": 0.3,
}
# The writers of the digits are unknown; a skewed draw of classes makes clients that differ.
_QUICK: dict[str, Any] = _WRITERS | {
    "dataset": "digits",
    "clients": 12,
    "sample": 8,
    "rounds": 3,
    "partition": "dirichlet",
}

_PERSONAL = Local(epochs=5, batch_size=10, learning_rate=0.05, momentum=0.5, bfloat16="off")

# Training only the last layer allows larger steps.
_HEAD = replace(_PERSONAL, epochs=10, learning_rate=0.1)
# A client alone has no good model to start from, so it takes more and smaller steps.
_ALONE = replace(_PERSONAL, epochs=20, learning_rate=0.02, momentum=0.9)

METHODS: dict[str, tuple[str, FineTuning | Ditto, Start]] = {
    "head": ("last layer fine-tuned", FineTuning(_HEAD, head_only=True), "global"),
    "full": ("all layers fine-tuned", FineTuning(_PERSONAL), "global"),
    "proximal": ("all layers, proximal", FineTuning(replace(_PERSONAL, proximal=0.1)), "global"),
    "ditto": ("Ditto", Ditto(replace(_PERSONAL, epochs=1), strength=0.1), "global"),
    "alone": ("alone, no federation", FineTuning(_ALONE), "initial"),
}
"""The ways to a personal model, by name: title, method, and the model that it starts from."""


def build(*, quick: bool, seed: int) -> Experiment:
    """Return the experiment; see `fl.experiments.catalog.ExperimentModule`."""
    arms: list[Arm] = []
    values = _QUICK if quick else _WRITERS
    configs = {name: RunConfig.of(**values | {"dropout_model": name, "seed": seed}) for name in DROPOUT_MODELS}
    for name, who in DROPOUT_MODELS.items():
        federated = FederatedArm(name=f"federated-{name}", title=f"federated, {who}", config=configs[name])
        arms.append(WritersTraining(federated=federated))
    for name, who in DROPOUT_MODELS.items():
        for method, (title, how, start) in METHODS.items():
            if start == "initial" and name != next(iter(DROPOUT_MODELS)):
                continue  # Dropouts do not affect a client that learns alone.
            arms.append(
                PersonalizationArm(
                    name=f"{method}-{name}",
                    title=f"{title} ({who})",
                    trained=f"federated-{name}",
                    config=configs[name],
                    method=_shortened(how) if quick else how,
                    start=start,
                )
            )
    return Experiment(name="mnist-writers", title="MNIST by its 539 writers", arms=tuple(arms))


def _shortened(method: FineTuning | Ditto) -> FineTuning | Ditto:
    return replace(method, training=replace(method.training, epochs=1))
