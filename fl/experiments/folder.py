"""The files of an experiment while it runs, so that it can be interrupted at any moment and resumed.

experiment.json    the experiment, its number of threads, and its running time so far
results.json       the results so far, in one document (`fl.experiments.results`)
ARM/arm.json       the arm's settings; an arm resumes only with the same settings
ARM/result.json    the arm's result, once it has finished
ARM/...            the arm's own files: checkpoints, models
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl.errors import ConfigError
from fl.experiments.experiment import Arm, ArmResult, Experiment
from fl.experiments.files import read_json, write_json

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentIdentity:
    """The values that all starts of an experiment's folder share.

    The number of threads is one of them: sums of floats depend on it, and results must repeat bit for bit.
    """

    experiment: str
    quick: bool
    seed: int
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class ExperimentFolder:
    """The folder of an experiment: writes and reads its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: ExperimentIdentity | None = None
        self.elapsed_seconds = 0.0

    @property
    def results_path(self) -> Path:
        """Return the path of the results."""
        return self.path / "results.json"

    def open(self, identity: ExperimentIdentity, arms: Iterable[Arm]) -> None:
        """Make the folder, or raise ConfigError if it is of another experiment or other arms."""
        stored = read_json(self.path / "experiment.json")
        self._identity = identity
        if stored is None:
            if _has_content(self.path):
                raise ConfigError(f"{self.path} already holds something else: choose another folder with --out")
            self.save_elapsed(0.0)
        else:
            self._check(stored, identity)
        for arm in arms:
            self._open_arm(arm)

    def save_elapsed(self, seconds: float) -> None:
        """Add to the time that the experiment has run."""
        if self._identity is None:
            raise ValueError("open the folder first")
        self.elapsed_seconds += seconds
        head = {"format": FORMAT, **self._identity.to_json(), "elapsed_seconds": round(self.elapsed_seconds, 1)}
        write_json(self.path / "experiment.json", head)

    def of(self, name: str) -> Path:
        """Return an arm's folder."""
        return self.path / name

    def of_all(self, experiment: Experiment) -> dict[str, Path]:
        """Return the folders of all arms, by name."""
        return {arm.name: self.of(arm.name) for arm in experiment.arms}

    def result(self, name: str) -> ArmResult | None:
        """Return a finished arm's result, None for others; raise ConfigError if the file is damaged."""
        path = self.of(name) / "result.json"
        result: ArmResult | None = read_json(path)
        if result is not None and not (isinstance(result, dict) and {"headline", "seconds"} <= result.keys()):
            raise ConfigError(
                f"{path} is not a file of this program, or is damaged: remove {path.parent} to run it again"
            )
        return result

    def finish(self, name: str, result: ArmResult) -> None:
        """Store an arm's result."""
        write_json(self.of(name) / "result.json", result)

    def _check(self, stored: Any, identity: ExperimentIdentity) -> None:
        wanted = {"format": FORMAT, **identity.to_json()}
        if not isinstance(stored, dict) or not isinstance(stored.get("elapsed_seconds"), int | float):
            raise ConfigError(f"{self.path / 'experiment.json'} is not a file of this program, or is damaged")
        self.elapsed_seconds = float(stored["elapsed_seconds"])
        for name, value in wanted.items():
            if stored.get(name) != value:
                raise ConfigError(
                    f"{self.path} holds an experiment with {name} {stored.get(name)!r}, not {value!r}: "
                    "choose another folder with --out, or start it with the old value"
                )

    def _open_arm(self, arm: Arm) -> None:
        path = self.of(arm.name) / "arm.json"
        stored, settings = read_json(path), arm.settings()
        if stored is None:
            write_json(path, settings)
        elif stored != settings:
            raise ConfigError(
                f"{path.parent} holds {arm.name} with other settings ({_differences(stored, settings)}), "
                "perhaps from another version: choose another folder with --out, or remove it"
            )


def _has_content(path: Path) -> bool:
    try:
        return path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _differences(stored: Any, settings: dict[str, Any]) -> str:
    """Return the names of the values that differ, also in inner objects."""
    if not isinstance(stored, dict):
        return "no settings"
    names = []
    for name in sorted(stored.keys() | settings.keys()):
        old, new = stored.get(name), settings.get(name)
        if old != new:
            names.append(_differences(old, new) if isinstance(old, dict) and isinstance(new, dict) else name)
    return ", ".join(names)
