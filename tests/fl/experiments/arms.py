"""Arms and experiments that end at once, and small versions of the real ones."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl.config.run_config import RunConfig
from fl.errors import ConfigError
from fl.experiments.experiment import ArmResult, ArmWork, Experiment
from fl.experiments.federated import FederatedArm
from fl.experiments.folder import ExperimentFolder, ExperimentIdentity
from fl.experiments.running import run_arms
from fl.experiments.workers import ArmEvent
from fl.files import replace_file

IDENTITY = ExperimentIdentity(experiment="trial", quick=True, seed=0, threads=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotingArm:
    """An arm that records that it was run, and what had finished by then."""

    name: str
    needs: tuple[str, ...] = ()
    size: int = 1
    title: str = "noting"

    def settings(self) -> dict[str, Any]:
        return {"size": self.size, "inner": {"needs": list(self.needs)}}

    def run(self, work: ArmWork) -> ArmResult:
        finished = sorted(name for name, path in work.folders.items() if (path / "result.json").exists())
        work.report(1, 1, "noting")
        return {"headline": "noted", "seconds": 0.0, "finished": finished, "process": os.getpid()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LongArm(NotingArm):
    """An arm that computes for a minute without a word, and first writes down its process."""

    def run(self, work: ArmWork) -> ArmResult:
        replace_file(work.folder / "process", str(os.getpid()).encode())
        time.sleep(60)
        (work.folder / "woke").touch()
        return {"headline": "slept", "seconds": 60.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenArm(NotingArm):
    """An arm that cannot be run: the user's mistake, or, with ``dies``, its process is killed."""

    dies: bool = False

    def run(self, work: ArmWork) -> ArmResult:
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ConfigError("there is no such thing")


def experiment_of(*arms: Any) -> Experiment:
    return Experiment(name="trial", title="A trial", arms=arms)


def digits_arm(name: str = "run", *, rounds: int = 3, **changes: Any) -> FederatedArm:
    """Return a federated run on the digits, a tenth of a second a round."""
    arm = {key: changes.pop(key) for key in ("part", "stop_at", "before_averaging") if key in changes}
    values = {"model": "logistic", "clients": 4, "rounds": rounds, "epochs": 1, "seed": 3}
    return FederatedArm(name=name, title=f"trial of {name}", config=RunConfig.of(**{**values, **changes}), **arm)


def run_in(
    path: Path, *arms: Any, jobs: int = 1, listen: Callable[[ArmEvent], None] = lambda event: None
) -> dict[str, ArmResult]:
    """Run an experiment of these arms in a folder; return the results by name."""
    folder = ExperimentFolder(path)
    run_arms(experiment_of(*arms), arms, folder, IDENTITY, jobs=jobs, data_dir=None, listen=listen)
    results = {arm.name: folder.result(arm.name) for arm in arms}
    return {name: result for name, result in results.items() if result is not None}


def untimed(result: ArmResult) -> ArmResult:
    """Return a result without its times."""
    by_round = {name: values for name, values in result["by_round"].items() if name != "seconds"}
    values = {name: value for name, value in result.items() if "seconds" not in name}
    return {**values, "by_round": by_round}
