"""The federated runs of the experiment: a `FederatedArm` that also stores each round's global model for Ditto."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fl.config.run_config import RunConfig
from fl.data import Dataset
from fl.errors import ConfigError
from fl.experiments.experiment import ArmResult, ArmWork
from fl.experiments.federated import RUN, FederatedArm
from fl.learning.serialization import load_model, model_to_bytes
from fl.learning.training import evaluate
from fl.runs.checkpoint import RunFolder
from fl.runs.records import RoundRecord
from fl.runs.rounds import FederatedRun, start_runs
from fl.runs.sampling import client_slowness

_MODELS = "models"
SPEED_GROUPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class WritersTraining:
    """A federated run in which each writer holds examples out.

    Beyond those of `FederatedArm`, its result has the last model's ``held_out_accuracy`` over all writers' held-out
    examples, ``included_rounds`` and ``slowness`` of each writer, and ``by_speed``, the groups of `by_speed_groups`:
    the share of all rounds that included one of its writers, and the last model's accuracy on their held-out examples,
    None if they have none.
    """

    federated: FederatedArm

    def __post_init__(self) -> None:
        if not self.federated.config.data.holdout:
            raise ConfigError(f"{self.federated.name}: personal models are measured on held-out examples: set holdout")

    @property
    def name(self) -> str:
        """Return the arm's name."""
        return self.federated.name

    @property
    def title(self) -> str:
        """Return the title, for people."""
        return self.federated.title

    @property
    def needs(self) -> tuple[str, ...]:
        """Return no names: the arm needs no other."""
        return self.federated.needs

    def settings(self) -> dict[str, Any]:
        """Return the run's settings."""
        return self.federated.settings()

    def run(self, work: ArmWork) -> ArmResult:
        """Train, or resume training."""
        config, dataset = self.federated.config, work.load(self.federated.config.data.dataset)
        trained = TrainedRun(work.folder, config, dataset)
        # In case the last start was interrupted between a checkpoint and its copy: the model is still the latest.
        trained.keep_model()

        def report(done: int, total: int, note: str) -> None:
            trained.keep_model()
            work.report(done, total, note)

        result = self.federated.run(replace(work, report=report))
        records = trained.records()
        included = included_rounds(records, config.data.clients)
        # Round before use, so that readers of the result get the same groups.
        slowness = np.round(client_slowness(config.data.clients, config.seed), 3)
        correct, held_out = _held_out_counts(trained.run, dataset)
        return {
            **result,
            "held_out_accuracy": _fraction(int(correct.sum()), int(held_out.sum())),
            "included_rounds": included.tolist(),
            "slowness": slowness.tolist(),
            "by_speed": [
                {
                    "median_slowness": float(np.median(slowness[members])),
                    "included": float(included[members].mean()) / len(records),
                    "accuracy": _fraction(int(correct[members].sum()), int(held_out[members].sum())),
                }
                for members in by_speed_groups(slowness)
            ],
        }


class TrainedRun:
    """The results of a `WritersTraining` on disk: the run, and its global model before and after each round."""

    def __init__(self, folder: Path, config: RunConfig, dataset: Dataset) -> None:
        (self.run,) = start_runs(config, dataset)
        self._folder = RunFolder(folder / RUN)
        self._models = folder / _MODELS

    def keep_model(self) -> None:
        """Copy the checkpoint's model, or the initial model if there is no checkpoint yet."""
        self.records()
        path = self._model_path(self.run.rounds_done)
        try:
            self._models.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}")
            temporary.write_bytes(model_to_bytes(self.run.model))
            temporary.replace(path)
        except OSError as error:
            raise ConfigError(f"cannot write to {path}: {error.strerror}") from error

    def records(self) -> list[RoundRecord]:
        """Return the finished rounds, and put `run` into the state after the last of them."""
        if not (self._folder.path / "checkpoint.safetensors").exists():
            return []
        _, done = self._folder.load_config()
        return self._folder.restore([self.run], done)

    def model(self, rounds: int) -> bytes:
        """Return the global model after a number of rounds; raise ConfigError if it was not stored."""
        path = self._model_path(rounds)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}: {error.strerror}; remove {path.parents[1]} to train again"
            ) from error

    def _model_path(self, rounds: int) -> Path:
        return self._models / f"{rounds:05d}.safetensors"


def included_rounds(records: Sequence[RoundRecord], num_clients: int) -> npt.NDArray[np.int64]:
    """Return the number of rounds that included each client's update, int64 (num_clients,)."""
    counts = Counter(client_id for record in records for client_id in record.included)
    return np.array([counts[client_id] for client_id in range(num_clients)], dtype=np.int64)


def by_speed_groups(
    slowness: npt.NDArray[np.float64],
) -> list[npt.NDArray[np.int64]]:
    """Return the clients in `SPEED_GROUPS` groups of about equal size, the fastest first."""
    return [np.sort(group) for group in np.array_split(np.argsort(slowness, kind="stable"), SPEED_GROUPS)]


def _held_out_counts(run: FederatedRun, dataset: Dataset) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the model's right answers on each client's held-out examples, and the number of those."""
    load_model(run.worker.model, model_to_bytes(run.model))
    correct, held_out = [], []
    for examples in run.worker.examples:
        places = torch.from_numpy(examples.held_out)
        held_out.append(len(places))
        correct.append(0)
        if len(places):
            found = evaluate(run.worker.model, dataset.train_images[places], dataset.train_labels[places])
            correct[-1] = round(found.accuracy * len(places))
    return np.array(correct, dtype=np.int64), np.array(held_out, dtype=np.int64)


def _fraction(part: int, whole: int) -> float | None:
    """Return the fraction, or None if the whole is 0."""
    return part / whole if whole else None
