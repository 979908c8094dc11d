"""The personalization of the experiment: each writer's own model by one method, tested on its held-out examples."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fl.config.run_config import RunConfig
from fl.config.seeds import PERSONALIZATION_SEED, derived_seed
from fl.errors import ConfigError
from fl.experiments.experiment import ArmResult, ArmWork
from fl.experiments.files import read_json, write_json
from fl.experiments.writers.training import TrainedRun
from fl.learning.serialization import load_model
from fl.learning.training import DivergedError
from fl.personalization import ClientGain, Ditto, FineTuning, measure_gain, summarize_gains
from fl.personalization.making import PersonalModels
from secagg import ClientId

Start = Literal["global", "initial"]

_GAINS = "gains.json"
_WRITERS_A_STEP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalizationArm:
    """Each client's personal model, compared with the last global model.

    Attributes:
        name, title: see `fl.experiments.experiment.Arm`.
        trained: the `WritersTraining` whose global models these are.
        config: the config of that training.
        method: the personalization method.
        start: the model that `FineTuning` starts from: the last global model, or the untrained initial one, for a
            client that learns alone.
    """

    name: str
    title: str
    trained: str
    config: RunConfig
    method: FineTuning | Ditto
    start: Start = "global"

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the name of the training."""
        return (self.trained,)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the training and of the method."""
        return {
            "trained": self.trained,
            "config": self.config.to_json(),
            # The task follows from the config.
            "method": {"kind": type(self.method).__name__, **dataclasses.asdict(self.method), "task": None},
            "start": self.start,
        }

    def run(self, work: ArmWork) -> ArmResult:
        """Make and measure the personal models, or resume; see `_result`."""
        trained = TrainedRun(work.folders[self.trained], self.config, work.load(self.config.data.dataset))
        records = trained.records()
        run = trained.run
        maker = _Writers(self, trained, [record.included for record in records])
        path, clients = work.folder / _GAINS, self._measurable(trained)
        gains, seconds = _stored(path)
        for client_id in clients[len(gains) :]:
            began = time.perf_counter()
            personal = maker.of(client_id)
            seconds += time.perf_counter() - began
            gains.append(measure_gain(run.worker, client_id, run.model, personal))
            if len(gains) % _WRITERS_A_STEP == 0 or len(gains) == len(clients):
                write_json(path, {"seconds": seconds, "gains": [dataclasses.asdict(gain) for gain in gains]})
                work.report(len(gains), len(clients), f"{1000 * seconds / len(gains):.0f} ms a client")
        return self._result(gains, seconds)

    def _measurable(self, trained: TrainedRun) -> list[ClientId]:
        """Return the clients that hold examples out."""
        found = [number for number, examples in enumerate(trained.run.worker.examples) if len(examples.held_out)]
        if not found:
            raise ConfigError("no client has enough examples to hold one out: raise holdout")
        return found

    def _result(self, gains: list[ClientGain], seconds: float) -> ArmResult:
        """Return accuracies as fractions, losses in nats, and the seconds spent on making the models.

        `by_client` has a value for each client in each of its lists; right answers are counts.
        """
        summary = summarize_gains(gains)
        spread = summary.accuracy_gain
        return {
            "headline": f"gain {100 * spread.median:+.2f} points ({100 * spread.p10:+.2f} to {100 * spread.p90:+.2f})",
            "seconds": seconds,
            "seconds_per_client": seconds / len(gains),
            "summary": dataclasses.asdict(summary),
            "by_client": {
                "client": [gain.client for gain in gains],
                "held_out": [gain.held_out for gain in gains],
                "global_correct": [round(gain.global_accuracy * gain.held_out) for gain in gains],
                "personal_correct": [round(gain.personal_accuracy * gain.held_out) for gain in gains],
                "loss_gain": [round(gain.loss_gain, 5) for gain in gains],
            },
        }


class _Writers:
    """The personal models of a training's clients."""

    def __init__(self, arm: PersonalizationArm, trained: TrainedRun, included: list[tuple[ClientId, ...]]) -> None:
        self._seed = arm.config.seed
        self._included = included
        self._is_tuned = isinstance(arm.method, FineTuning)
        last = len(included)
        rounds = [last if arm.start == "global" else 0] if self._is_tuned else range(last + 1)
        self._sent = [trained.model(number) for number in rounds]
        self._models = PersonalModels(arm.method, trained.run.model, trained.run.worker, load_model)

    def of(self, client_id: ClientId) -> nn.Module:
        """Return the client's personal model; it is valid until the next call."""
        received, seeds = self._sent, [self._seed_of(client_id)]
        if not self._is_tuned:
            # In a round a client gets the model of the rounds before; at the end all clients get the last one.
            rounds = [number for number, clients in enumerate(self._included) if client_id in clients]
            rounds.append(len(self._included))
            received = [self._sent[number] for number in rounds]
            seeds = [self._seed_of(client_id, number) for number in rounds]
        try:
            return self._models.make(client_id, received, seeds)
        except DivergedError as error:
            raise DivergedError(f"client {client_id}'s personal model: {error}") from error

    def _seed_of(self, client_id: ClientId, *path: int) -> int:
        return derived_seed(self._seed, PERSONALIZATION_SEED, client_id, *path)


def _stored(path: Path) -> tuple[list[ClientGain], float]:
    """Return the measurements of an earlier start of the arm, and their seconds."""
    stored = read_json(path)
    if stored is None:
        return [], 0.0
    try:
        return [ClientGain(**gain) for gain in stored["gains"]], float(stored["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not a file of this program, or is damaged: remove it to measure again") from error
