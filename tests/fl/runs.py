"""Small federated runs, and the command line in this process or in a separate one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from fl.commands.app import app
from fl.config.run_config import RunConfig
from fl.data import Dataset
from fl.runs.records import RoundRecord, record_to_json

REPOSITORY = Path(__file__).resolve().parents[2]
TIMES = {"seconds", "training_seconds", "server_seconds", "client_seconds"}


def tiny_dataset() -> Dataset:
    """Return 240 training and 60 test images of 4x4 in three classes, which a linear model can tell apart."""
    rng = np.random.default_rng(5)
    prototypes = rng.normal(size=(3, 1, 4, 4))

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = np.arange(count) % 3
        images = prototypes[labels] + rng.normal(scale=0.7, size=(count, 1, 4, 4))
        return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)

    train_images, train_labels = part(240)
    test_images, test_labels = part(60)
    return Dataset("tiny", train_images, train_labels, test_images, test_labels, num_classes=3)


def tiny_config(**changes: Any) -> RunConfig:
    """Return a run of a second or less on `tiny_dataset`."""
    small = {"model": "logistic", "clients": 6, "rounds": 3, "epochs": 1, "seed": 11}
    return RunConfig.of(**{**small, **changes})


def state_bytes(model: nn.Module) -> dict[str, bytes]:
    """Return every bit of the model's state, by name."""
    return {name: value.contiguous().numpy().tobytes() for name, value in model.state_dict().items()}


def distance(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference of two weights."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((mine - theirs).abs().max()) for mine, theirs in pairs)


def untimed(record: RoundRecord | dict[str, Any]) -> dict[str, Any]:
    """Return a round's record as JSON would give it back, without its times."""
    values = record_to_json(record) if isinstance(record, RoundRecord) else record
    phases = {
        phase: {name: cost for name, cost in costs.items() if not name.endswith("seconds")}
        for phase, costs in values["phases"].items()
    }
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
        **dict.fromkeys(TIMES),
        "phases": phases,
    }


def invoke(*arguments: object) -> Result:
    """Run the command line in this process; return exit code, stdout and stderr."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(  # noqa: S603 - our own program
        command(*arguments), capture_output=True, text=True, timeout=100, cwd=REPOSITORY, env=environment()
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fl", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return an environment with one thread: on a busy machine two threads wait longer than they compute."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def assert_refused(result: Result, *said: str) -> None:
    """Assert one line on stderr that names the mistake, nothing on stdout, and no traceback."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for words in said:
        assert words in lines[0]


def own_module(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make ``folder`` the working directory, with a module of the user's own; return its name, new for each folder."""
    name = f"own_{abs(hash(folder)):x}"
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def use_tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `secagg train` get `tiny_dataset` for `digits`."""
    dataset = tiny_dataset()
    monkeypatch.setattr("fl.commands.train.make_dataset", lambda name, data_dir=None: dataset)
