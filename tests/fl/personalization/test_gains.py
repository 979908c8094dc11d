"""Gains are measured on examples that neither training has seen, and summed up client by client."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fl.data import Dataset
from fl.errors import ConfigError
from fl.learning.settings import Local
from fl.personalization import ClientGain, FineTuning, Spread, measure_gain, summarize_gains
from fl.runs.rounds import start_runs
from tests.fl.runs import state_bytes, tiny_config, tiny_dataset

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

CONFIG = tiny_config(holdout=0.25, rounds=2)


def with_held_out_labels_turned(dataset: Dataset) -> tuple[Dataset, set[int]]:
    """Return data with another class for every held-out example of any client, and the places of those."""
    (run,) = start_runs(CONFIG, dataset)
    places = np.concatenate([examples.held_out for examples in run.worker.examples])
    labels = dataset.train_labels.clone()
    labels[torch.from_numpy(places)] = (labels[torch.from_numpy(places)] + 1) % 3
    return dataclasses.replace(dataset, train_labels=labels), set(places.tolist())


def personal_of(dataset: Dataset) -> tuple[nn.Module, nn.Module, ClientGain]:
    """Run two rounds, then train client 2's personal model; return the global model, the personal one, and the gain."""
    (run,) = start_runs(CONFIG, dataset)
    for _ in range(CONFIG.rounds):
        run.run_round()
    personal = run.worker.model
    personal.load_state_dict(run.model.state_dict())
    method = FineTuning(Local(epochs=4, batch_size=5, learning_rate=0.1))
    method.personalize(personal, *run.worker.training_examples(2), seed=1)
    return run.model, personal, measure_gain(run.worker, 2, run.model, personal)


def test_held_out_examples_reach_no_training_but_the_measurement() -> None:
    model, personal, gain = personal_of(tiny_dataset())
    turned, places = with_held_out_labels_turned(tiny_dataset())
    assert len(places) == 60
    other_model, other_personal, other_gain = personal_of(turned)
    assert state_bytes(model) == state_bytes(other_model)
    assert state_bytes(personal) == state_bytes(other_personal)
    assert gain.held_out == other_gain.held_out == 10
    assert gain.training == 30
    assert gain.global_accuracy >= 0.8
    assert other_gain.global_accuracy <= 0.2
    assert other_gain.personal_loss > gain.personal_loss + 0.5


def test_measuring_changes_neither_model_and_tells_them_apart() -> None:
    model, personal, gain = personal_of(tiny_dataset())
    assert state_bytes(model) != state_bytes(personal)
    assert gain.loss_gain == gain.global_loss - gain.personal_loss != 0
    (run,) = start_runs(CONFIG, tiny_dataset())
    before = state_bytes(model), state_bytes(personal)
    again = measure_gain(run.worker, 2, model, personal)
    assert again == gain
    assert (state_bytes(model), state_bytes(personal)) == before
    turned = measure_gain(run.worker, 2, personal, model)
    assert turned.loss_gain == -gain.loss_gain


def test_nothing_held_out_is_refused() -> None:
    (run,) = start_runs(tiny_config(), tiny_dataset())
    with pytest.raises(ConfigError, match="client 0 holds out no examples: raise holdout"):
        measure_gain(run.worker, 0, run.model, run.model)


def gain(client: int, held_out: int, before: int, after: int, loss_gain: float = 0.0) -> ClientGain:
    """Return a gain from counts of right answers."""
    return ClientGain(
        client=client,
        training=100,
        held_out=held_out,
        global_accuracy=before / held_out,
        global_loss=1.0,
        personal_accuracy=after / held_out,
        personal_loss=1.0 - loss_gain,
    )


def test_percentiles_are_over_clients_and_accuracies_over_examples() -> None:
    # Gains of -10, 0, 0, +30 and +50 points.
    gains = [
        gain(0, 10, 9, 8, -0.2),
        gain(1, 10, 7, 7, 0.1),
        gain(2, 30, 30, 30, 0.01),
        gain(3, 10, 6, 9, 0.3),
        gain(4, 2, 1, 2, 0.5),
    ]
    summary = summarize_gains(gains)
    assert (summary.clients, summary.held_out) == (5, 62)
    assert summary.global_accuracy == pytest.approx(53 / 62)
    assert summary.personal_accuracy == pytest.approx(56 / 62)
    spread = summary.accuracy_gain
    # Among five values the 10th percentile lies 0.4 of the way from the first to the second.
    assert (spread.p10, spread.median) == (pytest.approx(-0.06), pytest.approx(0.0))
    assert (spread.p90, spread.mean) == (pytest.approx(0.42), pytest.approx(0.14))
    assert (summary.better, summary.same, summary.worse) == (0.4, 0.4, 0.2)
    assert summary.loss_gain.median == pytest.approx(0.1)
    assert summary.lower_loss == 0.8
    assert summary.global_spread.median == pytest.approx(0.7)
    assert summary.personal_spread.p90 == pytest.approx(1.0)


def test_equal_counts_give_a_gain_of_zero_despite_rounding() -> None:
    # 1 - 0.9 and 0.1 differ in the last bit; both mean one of ten.
    same = dataclasses.replace(gain(0, 10, 1, 1), global_accuracy=1 - 0.9, personal_accuracy=0.1)
    assert same.global_accuracy != same.personal_accuracy
    assert summarize_gains([same]).same == 1.0


def test_one_clients_percentiles_are_its_gain_and_no_client_has_none() -> None:
    assert Spread.of([0.25]) == Spread(p10=0.25, median=0.25, p90=0.25, mean=0.25)
    with pytest.raises(ConfigError, match="no client's gain"):
        summarize_gains([])
