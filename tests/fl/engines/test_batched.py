"""Clients stacked into one computation: the serial engine's numbers up to rounding, and the same each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl.engines import batched
from fl.engines.batched import BatchedEngine
from fl.engines.serial import SerialEngine
from fl.errors import ConfigError
from fl.learning.parameter_layout import frozen_digest
from fl.learning.training import DivergedError
from fl.runs.rounds import FederatedRun
from tests.fl.engines.workers import DATASET, make_worker, training_of, updates
from tests.fl.runs import state_bytes, tiny_config, untimed

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

SETTINGS: list[dict[str, Any]] = [
    {"momentum": 0.0},
    {"momentum": 0.5, "batch_size": 7},
    {"momentum": 0.9, "weight_decay": 0.01, "proximal": 0.5, "batch_size": 4, "epochs": 3},
    {"momentum": 0.5, "batch_size": 1000, "holdout": 0.3},
]


@pytest.mark.parametrize("model", ["logistic", "2nn", "small-cnn", "cnn"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_updates_equal_the_serial_engines_up_to_rounding(model: str, settings: dict[str, Any]) -> None:
    """Clients have from a few to many examples: some have no batch left while others continue."""
    worker = make_worker(model=model, learning_rate=0.05, bfloat16="off", **settings)
    counts = {len(examples.training) for examples in worker.examples}
    assert max(counts) > 4 * min(counts)
    for number in (1, 2):
        training = training_of(worker, number, expected=tuple(range(8)))
        ours, theirs = (updates(engine, training) for engine in (BatchedEngine(worker), SerialEngine(worker)))
        assert ours.keys() == theirs.keys()
        for client_id, update in ours.items():
            expected = theirs[client_id]
            assert np.abs(expected.delta).max() > 1e-3
            np.testing.assert_allclose(update.delta, expected.delta, atol=2e-6)
            assert update.delta.dtype == np.float32
            assert (update.num_examples, update.metrics) == (expected.num_examples, expected.metrics)
            assert update.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)


def test_each_client_is_trained_from_the_model_that_it_was_sent() -> None:
    worker, other = make_worker(), make_worker(seed=5)
    training = training_of(worker)
    messages = {**training.model_messages, 3: training_of(other).model_messages[3]}
    training = type(training)(1, messages, tuple(range(8)))
    ours, theirs = (updates(engine, training) for engine in (BatchedEngine(worker), SerialEngine(worker)))
    for client_id, update in ours.items():
        np.testing.assert_allclose(update.delta, theirs[client_id].delta, atol=2e-6)


@pytest.mark.parametrize("aggregator", ["secure", "plain"])
def test_a_run_repeats_to_the_bit_and_learns_as_the_serial_one(aggregator: Any) -> None:
    def run(engine: str) -> Any:
        config = tiny_config(model="small-cnn", clients=12, dropout=0.25, partition="dirichlet", engine=engine)
        with FederatedRun(config, DATASET, aggregator) as run:
            records = [untimed(run.run_round()) for _ in range(3)]
            return records, state_bytes(run.model)

    first, again, serial = run("batched"), run("batched"), run("serial")
    assert first == again
    for ours, theirs in zip(first[0], serial[0], strict=True):
        assert ours["included"] == theirs["included"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_memory_is_bounded_by_chunks_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "_MOST_CLIENTS", 3)
    worker = make_worker()
    engine = BatchedEngine(worker)
    sizes = []
    train = engine.train

    def counted(client_ids: list[int], training: Any) -> Any:
        sizes.append(len(client_ids))
        return train(client_ids, training)

    monkeypatch.setattr(engine, "train", counted)
    ours = updates(engine, training_of(worker, expected=tuple(range(8))))
    assert sizes == [3, 3, 2]
    theirs = updates(SerialEngine(worker), training_of(worker))
    for client_id, update in ours.items():
        np.testing.assert_allclose(update.delta, theirs[client_id].delta, atol=2e-6)


def test_a_client_that_is_not_expected_is_trained_alone() -> None:
    worker = make_worker()
    training = training_of(worker)
    ours = updates(BatchedEngine(worker), training, [6])
    np.testing.assert_allclose(ours[6].delta, updates(SerialEngine(worker), training, [6])[6].delta, atol=2e-6)


def test_larger_models_are_trained_in_smaller_chunks() -> None:
    assert BatchedEngine(make_worker(model="logistic")).clients_at_once == 64
    worker = make_worker(model="2nn")
    worker.model = nn.Sequential(nn.Flatten(), nn.Linear(16, 300_000), nn.Linear(300_000, 3))
    assert BatchedEngine(worker).clients_at_once == 1


def test_one_client_runs_away_and_the_others_do_not() -> None:
    images = DATASET.train_images.clone()
    images[make_worker().examples[2].training] *= 1e30
    worker = make_worker(replace(DATASET, train_images=images), learning_rate=0.05, bfloat16="off")
    training = training_of(worker, expected=tuple(range(8)))
    engine, serial = BatchedEngine(worker), SerialEngine(worker)
    with engine.round(training) as trainer, serial.round(training) as expected:
        for client_id in range(8):
            if client_id == 2:
                with pytest.raises(DivergedError, match=r"lower the learning rate \(it is 0.05\)") as ours:
                    trainer(client_id)
                with pytest.raises(DivergedError) as theirs:
                    expected(client_id)
                assert str(ours.value).partition(" in ")[2] == str(theirs.value).partition(" in ")[2]
            else:
                np.testing.assert_allclose(trainer(client_id).delta, expected(client_id).delta, atol=2e-6)


def test_divergence_in_the_very_last_step_is_noticed() -> None:
    large = replace(DATASET, train_images=DATASET.train_images * 100)
    worker = make_worker(large, learning_rate=3e38, batch_size=1000, epochs=1, momentum=0.0, model="logistic")
    with pytest.raises(DivergedError, match="weight is not finite after training"):
        updates(BatchedEngine(worker), training_of(worker), [0])


def test_frozen_parameters_stay_as_they_were_made() -> None:
    worker = make_worker(model="2nn", weight_decay=0.1)
    assert isinstance(worker.model, nn.Sequential)
    worker.model[1].requires_grad_(False)
    worker.frozen = frozen_digest(worker.model)
    training = training_of(worker)
    ours, theirs = (updates(engine, training) for engine in (BatchedEngine(worker), SerialEngine(worker)))
    for client_id, update in ours.items():
        np.testing.assert_allclose(update.delta, theirs[client_id].delta, atol=2e-6)
        assert len(update.delta) == 200 * 200 + 200 + 200 * 3 + 3
    assert frozen_digest(worker.model) == worker.frozen


class Branching(nn.Module):
    """A model that branches on its values: two clients cannot share one path."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(images.flatten(1))
        return logits if logits.sum().item() > 0 else -logits


class Drawing(Branching):
    """A model that draws where no layer shows it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.dropout(self.layer(images.flatten(1)), 0.5)


def tied() -> nn.Module:
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, second, nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("model", "changes", "complaint"),
    [
        (None, {"optimizer": "adam"}, "train with sgd, not adam"),
        (None, {"bfloat16": "on"}, "float32, not bfloat16"),
        (lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3)), {}, r"state .*0.running_mean"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 3)),
            {},
            r"normalizes over a batch \(BatchNorm1d\)",
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3)), {}, r"draws at random \(Dropout\)"),
        (tied, {"optimizer": "adam"}, r"not adam; .* one parameter under several names"),
        (Branching, {}, "cannot stack this model"),
        (Drawing, {}, "cannot stack this model .*andom"),
    ],
)
def test_unstackable_models_are_refused_before_the_first_round(
    model: Callable[[], nn.Module] | None, changes: dict[str, Any], complaint: str
) -> None:
    worker = make_worker(**changes)
    worker.model = worker.model if model is None else model()
    with pytest.raises(ConfigError, match=rf"batched .*{complaint}.*\. Use the engine processes"):
        BatchedEngine(worker)
    if model is None:
        with pytest.raises(ConfigError, match=complaint):
            FederatedRun(tiny_config(engine="batched", **changes), DATASET, "plain")
