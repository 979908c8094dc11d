"""A training's resolution without options, and the warning if an option spoils it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fl.config.run_config import RunConfig
from fl.data import Dataset
from fl.runs.checkpoint import RunFolder
from fl.runs.resolution import resolution_warnings
from fl.runs.rounds import FederatedRun, start_runs
from tests.fl.runs import invoke, own_module, state_bytes, tiny_config, tiny_dataset

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def raw_columns() -> Dataset:
    """Return five raw measurements: means to 5000, deviations from 1 to 1000."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(600, 5, generator=generator)
    columns = normal * torch.tensor([1.0, 10.0, 100.0, 1000.0, 50.0]) + torch.tensor([0.0, 50.0, 300.0, 5000.0, 37.0])
    labels = (normal.sum(1) > 0).long()
    return Dataset("raw", columns[:500], labels[:500], columns[500:], labels[500:], 2)


NORMALIZED_FIRST = """
    from torch import nn

    def make(shape, classes):
        return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, classes))

    def frozen(shape, classes):
        model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, classes))
        model[0].requires_grad_(False)
        return model
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return own_module(tmp_path, NORMALIZED_FIRST, monkeypatch)


def raw_config(model: str, **changes: Any) -> RunConfig:
    return RunConfig.of(**{"dataset": "x:y", "model": model, "clients": 5, "rounds": 10, "seed": 1} | changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_batch_normalization_of_raw_columns_learns_as_in_the_clear(own: str) -> None:
    config = raw_config(f"{own}:make", compare=True)
    secure, plain = start_runs(config, raw_columns())
    for _ in range(config.rounds):
        record, other = secure.run_round(), plain.run_round()
        assert record.noise is not None
        assert record.noise < 0.001
        assert record.clipped_weights is None
        assert not list(resolution_warnings(record, has_fixed_clip=False))
    assert other.accuracy > 0.9
    # One of the 100 test examples.
    assert abs(record.accuracy - other.accuracy) < 0.015
    variance = secure.model.state_dict()["0.running_var"]
    assert float(variance.max()) > 1e5


def test_a_fixed_bound_names_the_tensors_that_exceed_it(own: str) -> None:
    record = FederatedRun(raw_config(f"{own}:make", clip=1.0), raw_columns(), "secure").run_round()
    lines = list(resolution_warnings(record, has_fixed_clip=True))
    assert "0.running_mean: 5 of 5 clients exceed 1; far more is needed" in lines
    assert record.clipped_tensors["0.running_var"] == {"clients": 5, "bound": 1.0, "enough": None}
    assert record.clipped is not None
    assert record.clipped > 0


def test_a_frozen_layer_stays_unchanged(own: str) -> None:
    run = FederatedRun(raw_config(f"{own}:frozen", learning_rate=1e-4), raw_columns(), "secure")
    before = state_bytes(run.model)
    run.run_round()
    run.run_round()
    after = state_bytes(run.model)
    assert {name for name in before if before[name] == after[name]} == {"0.weight", "0.bias"}


@pytest.mark.parametrize("learning_rate", [0.1, 1e-3, 1e-6])
def test_small_steps_are_as_exact_as_large_ones(learning_rate: float) -> None:
    runs = start_runs(tiny_config(learning_rate=learning_rate, compare=True), tiny_dataset())
    before = nn.utils.parameters_to_vector(runs[0].model.parameters()).detach().double()
    for run in runs:
        run.run_round()
    secure, plain = (nn.utils.parameters_to_vector(run.model.parameters()).detach().double() - before for run in runs)
    # In addition to the rounding of float32 weights themselves.
    assert float((secure - plain).norm() / plain.norm()) < 0.01 + 2.0**-24 * float(before.norm() / plain.norm())


def test_a_bound_that_is_far_too_large_gives_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fl.commands.train.make_dataset", lambda name, data_dir=None: tiny_dataset())
    options = ("--model", "logistic", "--clients", 4, "--rounds", 1, "--epochs", 1, "--out", tmp_path / "run")
    result = invoke("train", *options, "--clip", 1e20)
    assert result.exit_code == 0
    (line,) = (line for line in result.stdout.splitlines() if "rounding noise is" in line)
    assert line.endswith("of the mean update: give a smaller --clip, or none, so that the bounds follow the updates")
    (record,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert record["noise"] > 0.5
    silent = invoke("train", *options[:-1], tmp_path / "other")
    assert "rounding noise is" not in silent.stdout


def test_few_value_bits_have_the_other_remedy() -> None:
    record = FederatedRun(tiny_config(value_bits=4), tiny_dataset(), "secure").run_round()
    (line,) = resolution_warnings(record, has_fixed_clip=False)
    assert line.endswith("of the mean update: give more --value-bits")


@pytest.mark.parametrize(("clipped", "warned"), [(None, False), (0.05, False), (0.051, True), (0.4681, True)])
def test_much_clipping_with_bounds_that_follow_has_advice(clipped: float | None, warned: bool) -> None:
    record = replace(FederatedRun(tiny_config(), tiny_dataset(), "secure").run_round(), clipped=clipped)
    lines = list(resolution_warnings(record, has_fixed_clip=False))
    assert len(lines) == warned
    assert all("of the updates' elements were clipped" in line and "lower --learning-rate" in line for line in lines)


def test_clipped_weights_are_reported() -> None:
    run = FederatedRun(tiny_config(), tiny_dataset(), "secure", max_examples=32)
    record = run.run_round()
    assert record.num_examples == 6 * 32
    (line,) = resolution_warnings(record, has_fixed_clip=False)
    assert line == "examples: 6 of 6 clients exceed 32; 128 would do; they count as the bound"


def test_many_tensors_are_some_lines() -> None:
    record = FederatedRun(tiny_config(clip=1e-9), tiny_dataset(), "secure").run_round()
    many = {f"layer{number}.weight": {"clients": 3, "bound": 0.5, "enough": 2.0} for number in range(40)}
    lines = list(resolution_warnings(replace(record, noise=0.0, clipped_tensors=many), has_fixed_clip=True))
    assert lines[0] == "layer0.weight: 3 of 6 clients exceed 0.5; 2 would do"
    assert len(lines) == 6
    assert lines[-1] == "and 35 more tensors; without --clip the bounds follow the updates"


@pytest.mark.parametrize("clip", [None, 0.25])
def test_a_resumed_run_has_the_bounds_of_the_interrupted_one(tmp_path: Path, clip: float | None) -> None:
    """It gives the same models, to the bit, and does not measure again."""
    config, dataset = tiny_config(clip=clip), tiny_dataset()
    whole = FederatedRun(config, dataset, "secure")
    records = [whole.run_round() for _ in range(3)]
    first = FederatedRun(config, dataset, "secure")
    first.run_round()
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.save(config, [first], [records[0]])
    resumed = FederatedRun(config, dataset, "secure")
    folder.restore([resumed], 1)
    again = [resumed.run_round() for _ in range(2)]
    assert state_bytes(resumed.model) == state_bytes(whole.model)
    assert resumed.tracker.scales == whole.tracker.scales
    assert [record.bytes_up for record in again] == [record.bytes_up for record in records[1:]]
    assert records[0].bytes_up > records[1].bytes_up
    assert np.isfinite([record.noise for record in records]).all()
