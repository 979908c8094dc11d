"""Runs from the command line in a folder: started, resumed, broken off, and with damaged checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from fl.engines import local_worker as local_work
from fl.learning.training import train
from tests.fl.runs import (
    invoke,
    untimed,
)

CLIENTS = 6


FILES = {"accuracy.png", "checkpoint.safetensors", "config.json", "metrics.jsonl", "model.safetensors"}


def start(out: Path, *options: object, num_rounds: int = 3) -> Any:
    return invoke(
        "train", "--model", "logistic", "--clients", CLIENTS, "--epochs", 1, "--seed", 11, "--compare",
        "--json", "--rounds", num_rounds, "--out", out, *options,
    )  # fmt: skip


def resume(out: Path, *options: object) -> Any:
    return invoke("train", "--resume", out, "--json", *options)


def start_well(out: Path, *options: object, num_rounds: int = 3) -> dict[str, Any]:
    return summary_of(start(out, *options, num_rounds=num_rounds))


def summary_of(result: Any, exit_code: int = 0) -> dict[str, Any]:
    assert result.exit_code == exit_code, (result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def metrics(out: Path) -> list[dict[str, Any]]:
    return [untimed(json.loads(line)) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(folder: Path, other: Path) -> None:
    """Assert the same models to the last bit, and the same figures without times."""
    assert stored(folder) == stored(other)
    for name in ("checkpoint.safetensors", "model.safetensors"):
        assert tensor_bytes(folder / name) == tensor_bytes(other / name), name
    assert metrics(folder) == metrics(other)


def stored(out: Path) -> dict[str, Any]:
    """Return the checkpoint's metadata, without times."""
    values = {name: json.loads(value) for name, value in metadata_of(out).items()}
    return {**values, "records": [untimed(record) for record in values["records"]]}


def tensor_bytes(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in safetensors.torch.load_file(path).items()}


def metadata_of(out: Path) -> dict[str, str]:
    with safetensors.safe_open(out / "checkpoint.safetensors", framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


def break_off(monkeypatch: pytest.MonkeyPatch, at_training: int) -> None:
    """Press Ctrl-C at the ``number``-th training of a client."""
    calls = 0

    def broken_off(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_training:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(local_work, "train", broken_off)


def rewrite(
    out: Path,
    tensors: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = lambda tensors: tensors,
    **metadata: Any,
) -> None:
    """Write a checkpoint with other contents; a metadata value of None is left out."""
    path = out / "checkpoint.safetensors"
    values = {name: value for name, value in {**metadata_of(out), **metadata}.items() if value is not None}
    path.write_bytes(safetensors.torch.save(tensors(safetensors.torch.load_file(path)), values or None))


def config_with(out: Path, **changes: Any) -> str:
    return json.dumps({**json.loads(metadata_of(out)["config"]), **changes})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda out: (out / "checkpoint.safetensors").write_bytes(b""),
    "text": lambda out: (out / "checkpoint.safetensors").write_text("not a checkpoint at all, " * 20),
    "cut off": lambda out: (out / "checkpoint.safetensors").write_bytes(
        (out / "checkpoint.safetensors").read_bytes()[:-7]
    ),
    "too long": lambda out: (out / "checkpoint.safetensors").write_bytes(
        (out / "checkpoint.safetensors").read_bytes() + b"1"
    ),
    "no metadata": lambda out: rewrite(out, config=None, rounds_done=None),
    "no config": lambda out: rewrite(out, config=None),
    "no rounds": lambda out: rewrite(out, rounds_done=None),
    "config is not JSON": lambda out: rewrite(out, config="{"),
    "config is a list": lambda out: rewrite(out, config="[1]"),
    "config is a number": lambda out: rewrite(out, config="1"),
    "rounds are not a number": lambda out: rewrite(out, rounds_done="many"),
    "config out of range": lambda out: rewrite(out, config=config_with(out, dropout=1.5)),
    "config of another type": lambda out: rewrite(out, config=config_with(out, clients="six")),
    "config with a fraction for a count": lambda out: rewrite(out, config=config_with(out, sample=2.5)),
    "another version": lambda out: rewrite(out, config=config_with(out, novelty=1)),
    "a model is missing": lambda out: rewrite(
        out, lambda tensors: {name: value for name, value in tensors.items() if name.startswith("secure/")}
    ),
    "a tensor is missing": lambda out: rewrite(
        out, lambda tensors: {name: value for name, value in tensors.items() if not name.endswith("bias")}
    ),
    "another model": lambda out: rewrite(out, lambda tensors: {name: value[:2] for name, value in tensors.items()}),
    "no records": lambda out: rewrite(out, records=None),
    "records are not JSON": lambda out: rewrite(out, records="["),
    "records of something else": lambda out: rewrite(out, records='[{"round": 1}]'),
}
