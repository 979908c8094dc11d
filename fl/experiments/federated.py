"""The arm of nearly all experiments: a training run, the same as that of `secagg train`."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from fl.config.run_config import RunConfig
from fl.data import Dataset
from fl.engines import Resources
from fl.errors import ConfigError
from fl.experiments.experiment import ArmResult, ArmWork
from fl.experiments.files import read_json, write_json
from fl.formatting import percent
from fl.learning.serialization import model_to_bytes, round_message
from fl.learning.training import Evaluation, evaluate
from fl.runs.checkpoint import RunFolder
from fl.runs.records import RoundRecord, raise_if_all_aborted
from fl.runs.rounds import FederatedRun, start_runs
from fl.runs.sampling import deal_out

RUN = "run"
"""The place of the run in an arm's folder; `secagg report` reads it too."""

_CLIENTS = "before-averaging.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One client's share of the training examples: number ``client`` of the ``clients`` that a partition gives."""

    client: int
    clients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedArm:
    """A run of `FederatedRun`, up to a number of rounds or to an accuracy.

    Without a federation it is one client with plain aggregation: all data centrally, or, with `part`, one client alone
    with its share; a round is then one or more epochs.

    Attributes:
        name, title, needs: see `fl.experiments.experiment.Arm`.
        config: the run's config, without ``compare``: use another arm to compare.
        part: the client of the config's partition whose examples are the data set; None: all.
        stop_at: the test accuracy that ends the run, measured after each round; None: all rounds.
        before_averaging: True to measure each client's model of the last round before averaging.
    """

    name: str
    title: str
    config: RunConfig
    part: Part | None = None
    stop_at: float | None = None
    before_averaging: bool = False
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.config.protocol.compare:
            raise ConfigError(f"{self.name}: compare is set, but an arm is one run: use another arm to compare")
        if self.part is not None and self.config.data.clients != 1:
            raise ConfigError(f"{self.name}: a client alone is a run of one client, not {self.config.data.clients}")
        if self.before_averaging and self.stop_at is not None:
            raise ConfigError(
                f"{self.name}: with stop_at the last round is not known in advance: leave out before_averaging"
            )

    def settings(self) -> dict[str, Any]:
        """Return the config and the other values that decide the result."""
        return {
            "config": self.config.to_json(),
            "part": None if self.part is None else dataclasses.asdict(self.part),
            "stop_at": self.stop_at,
            "before_averaging": self.before_averaging,
        }

    def run(self, work: ArmWork) -> ArmResult:
        """Train, or resume training; see `ArmResult` and `_result`."""
        dataset = self._dataset(work)
        run = self._start(dataset, work.resources)
        folder = RunFolder(work.folder / RUN)
        with run:
            if (folder.path / "checkpoint.safetensors").exists():
                config, rounds_done = folder.load_config()
                if config != self.config.settled():
                    raise ConfigError(f"{folder.path} holds a run with other settings: choose another folder")
                records = folder.restore([run], rounds_done)
            else:
                folder.create()
                folder.save(self.config, [run], records := [])
            while not self._is_done(records):
                if self.before_averaging and run.rounds_done == self.config.rounds - 1:
                    write_json(work.folder / _CLIENTS, _measure_clients(run, dataset))
                record = run.run_round()
                records.append(record)
                folder.save(self.config, [run], records)
                note = f"accuracy {percent(record.accuracy)}, {record.seconds:.1f} s"
                work.report(record.round, self.config.rounds, note)
            raise_if_all_aborted(self.config, records, 0)
            folder.save_model(run)
            clients = read_json(work.folder / _CLIENTS) if self.before_averaging else None
            return {**self._result(run, dataset, records), "clients": clients}

    def _start(self, dataset: Dataset, resources: Resources) -> FederatedRun:
        """Return the run before its first round."""
        (run,) = start_runs(self.config, dataset, resources)
        return run

    def _dataset(self, work: ArmWork) -> Dataset:
        dataset = work.load(self.config.data.dataset)
        if self.part is None:
            return dataset
        places = torch.from_numpy(deal_out(self.config, dataset, self.part.clients)[self.part.client])
        return dataclasses.replace(
            dataset,
            train_images=dataset.train_images[places],
            train_labels=dataset.train_labels[places],
            train_writers=None,
        )

    def _is_done(self, records: list[RoundRecord]) -> bool:
        if len(records) >= self.config.rounds:
            return True
        return self.stop_at is not None and bool(records) and (records[-1].accuracy or 0) >= self.stop_at

    def _result(self, run: FederatedRun, dataset: Dataset, records: list[RoundRecord]) -> ArmResult:
        """Return the run's figures; accuracies are fractions, losses in nats, seconds exclude tests between rounds.

        ``reached`` is the first round after which the test accuracy was at least `stop_at`, or None; ``train_accuracy``
        is the last model's accuracy on all training examples of this arm.
        """
        last = records[-1]
        on_training = evaluate(run.model, dataset.train_images, dataset.train_labels)
        seconds = [record.seconds for record in records]
        goal = self.stop_at
        reached = next((r.round for r in records if goal is not None and (r.accuracy or 0) >= goal), None)
        return {
            "headline": f"{percent(last.accuracy)} after {last.round} round{'' if last.round == 1 else 's'}",
            "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
            "rounds": last.round,
            "reached": reached,
            "accuracy": last.accuracy,
            "loss": last.loss,
            "best_accuracy": max(record.accuracy or 0 for record in records),
            "train_accuracy": on_training.accuracy,
            "train_loss": on_training.loss,
            "seconds": sum(seconds),
            "seconds_per_round": sum(seconds) / len(seconds),
            "training_seconds_per_round": _mean([record.training_seconds for record in records]),
            "server_seconds_per_round": _mean([record.server_seconds for record in records]),
            "client_seconds_per_round": _mean([record.client_seconds for record in records]),
            "bytes_up": sum(record.bytes_up for record in records),
            "bytes_down": sum(record.bytes_down + record.model_bytes for record in records),
            "aborted": sum(record.aborted is not None for record in records),
            "model_sha256": hashlib.sha256(model_to_bytes(run.model)).hexdigest(),
            "by_round": {
                "accuracy": [_rounded(record.accuracy, 6) for record in records],
                "loss": [_rounded(record.loss, 5) for record in records],
                "included": [len(record.included) for record in records],
                "seconds": [round(record.seconds, 3) for record in records],
            },
        }


def _measure_clients(run: FederatedRun, dataset: Dataset) -> list[dict[str, Any]]:
    """Measure each client's model of the next round, before averaging, on its training examples and the test set.

    The round itself then trains the same models again, bit for bit.
    """
    number, message = run.rounds_done + 1, round_message(run.model)
    measured = []
    for client_id in range(run.config.data.clients):
        run.worker.update(client_id, number, message)
        images, labels = run.worker.training_examples(client_id)
        own = evaluate(run.worker.model, images, labels)
        test = evaluate(run.worker.model, dataset.test_images, dataset.test_labels)
        measured.append({"client": client_id, "round": number, **_as_json(own, "train"), **_as_json(test, "test")})
    return measured


def _as_json(evaluation: Evaluation, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}_accuracy": evaluation.accuracy,
        f"{prefix}_loss": evaluation.loss,
        f"{prefix}_examples": evaluation.num_examples,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    """Return a rounded loss; None is the loss of a model that diverged, as checkpoints store it."""
    return None if value is None else round(value, digits)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
