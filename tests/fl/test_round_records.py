"""A round besides averaging: it leaves out bad updates, measures held-out examples, and counts its costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fl.engines import local_worker as local_work
from fl.errors import ConfigError
from fl.learning.training import DivergedError, evaluate, train
from fl.runs.records import RoundRecord
from fl.runs.rounds import FederatedRun
from tests.fl.runs import tiny_config, tiny_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

DATASET = tiny_dataset()


def make_run(aggregator: Any = "secure", **changes: Any) -> FederatedRun:
    return FederatedRun(tiny_config(**changes), DATASET, aggregator)


def run_rounds(run: FederatedRun, count: int) -> list[RoundRecord]:
    return [run.run_round() for _ in range(count)]


def test_one_client_that_runs_away_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_away(model: nn.Module, images: torch.Tensor, *args: Any, **options: Any) -> Any:
        if torch.equal(images, runaway):
            raise DivergedError("the loss is nan in epoch 1, batch 1")
        return train(model, images, *args, **options)

    run = make_run("secure", compare=True)
    runaway, _ = run.worker.training_examples(2)
    monkeypatch.setattr(local_work, "train", run_away)
    record = run.run_round()
    assert record.included == (0, 1, 3, 4, 5)
    assert record.refused == {"2": "the loss is nan in epoch 1, batch 1"}
    assert record.ring_difference == 0


def test_if_every_client_runs_away_the_settings_are_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_away(*_: Any, **__: Any) -> Any:
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(local_work, "train", run_away)
    run = make_run("secure")
    with pytest.raises(DivergedError, match="no client has an update that may be sent; client 0: the loss is nan"):
        run.run_round()
    assert run.rounds_done == 0


@pytest.mark.parametrize("aggregator", ["secure", "plain"])
def test_held_out_examples_are_measured_in_total_and_never_trained_on(
    aggregator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []

    def note(model: nn.Module, images: torch.Tensor, *args: Any, **options: Any) -> Any:
        given.append(images)
        return train(model, images, *args, **options)

    monkeypatch.setattr(local_work, "train", note)
    run = make_run(aggregator, holdout=0.25)
    record = run.run_round()
    held_out = torch.cat([torch.from_numpy(examples.held_out) for examples in run.worker.examples])
    assert len(held_out) == 60
    assert sum(map(len, given)) == record.num_examples == 180
    seen = torch.cat(given).flatten(1).unique(dim=0)
    both = torch.cat([seen, DATASET.train_images[held_out].flatten(1)])
    assert len(both.unique(dim=0)) == 240
    expected = evaluate(run.model, DATASET.train_images[held_out], DATASET.train_labels[held_out])
    assert record.held_out_examples == 60
    assert record.held_out_accuracy == pytest.approx(expected.accuracy)
    assert record.held_out_loss == pytest.approx(expected.loss, abs=1e-4)


def test_a_measurement_of_held_out_examples_has_its_own_dropouts() -> None:
    run = make_run("secure", holdout=0.25, dropout=0.34, clients=9)
    record = run.run_round()
    assert 0 < record.held_out_examples < 9 * 6
    assert record.held_out_accuracy is not None


def test_nothing_can_be_held_out_of_too_few_examples() -> None:
    with pytest.raises(ConfigError, match="raise holdout"):
        make_run("secure", clients=60, holdout=0.2)


def test_phases_add_up_to_the_rounds_bytes() -> None:
    record = make_run("secure").run_round()
    assert list(record.phases) == ["AdvertiseKeys", "ShareKeys", "MaskedInputCollection", "Unmasking"]
    for name in ("bytes_up", "bytes_down"):
        assert sum(phase[name] for phase in record.phases.values()) == getattr(record, name)
    assert sum(phase["server_seconds"] for phase in record.phases.values()) == pytest.approx(record.server_seconds)


def test_the_learning_rate_decays_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def note(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, training: Any, **options: Any) -> Any:
        rates.append(training.learning_rate)
        return train(model, images, labels, training, **options)

    monkeypatch.setattr(local_work, "train", note)
    run_rounds(make_run("plain", learning_rate=0.4, learning_rate_decay=0.5), 3)
    assert rates == [0.4] * 6 + [0.2] * 6 + [0.1] * 6
