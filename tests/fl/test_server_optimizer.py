"""The server's step: the papers' algorithms computed in numpy, and a state that can be stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fl.errors import ConfigError
from fl.learning.models import build_model
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.server_optimizer import ServerOptimizer
from fl.learning.settings import SERVER_OPTIMIZERS, ServerOptimization, ServerOptimizerName
from fl.runs.rounds import FederatedRun
from tests.fl.runs import tiny_config, tiny_dataset

MODEL = build_model("logistic", image_shape=(1, 3, 3), num_classes=4, seed=0)
SIZE = ParameterLayout.of(MODEL).size
DELTAS = [np.random.default_rng(seed).normal(scale=0.1, size=SIZE).astype(np.float32) for seed in range(4)]
RATE, BETA1, BETA2, TAU = 0.3, 0.8, 0.95, 0.01


def make(name: Any, model: nn.Module = MODEL) -> ServerOptimizer:
    options = ServerOptimization(optimizer=name, learning_rate=RATE, momentum=BETA1, beta2=BETA2, tau=TAU)
    return ServerOptimizer(options, model)


def trace(optimizer: ServerOptimizer, deltas: list[np.ndarray] = DELTAS) -> list[np.ndarray]:
    x, out = np.zeros(SIZE, dtype=np.float32), []
    for delta in deltas:
        x = optimizer.step(x, delta)
        out.append(x)
    return out


def paper(name: str) -> list[np.ndarray]:
    """Return the step of Reddi et al. 2021, algorithm 2, or the server momentum of Hsu et al. 2019, in float64."""
    x, m, v = np.zeros(SIZE), np.zeros(SIZE), np.full(SIZE, TAU**2)
    out = []
    for delta in (delta.astype(np.float64) for delta in DELTAS):
        if name == "fedavg":
            x = x + RATE * delta
        elif name == "fedavgm":
            m = BETA1 * m + delta
            x = x + RATE * m
        else:
            m = BETA1 * m + (1 - BETA1) * delta
            if name == "fedadagrad":
                v = v + delta**2
            elif name == "fedadam":
                v = BETA2 * v + (1 - BETA2) * delta**2
            else:
                v = v - (1 - BETA2) * delta**2 * np.sign(v - delta**2)
            x = x + RATE * m / (np.sqrt(v) + TAU)
        out.append(x)
    return out


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_each_rule_is_the_papers(name: str) -> None:
    for ours, expected in zip(trace(make(name)), paper(name), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-6)


def test_fedavg_with_rate_one_is_the_mean_of_the_models() -> None:
    x = np.ones(SIZE, dtype=np.float32)
    after = ServerOptimizer(ServerOptimization(), MODEL).step(x, DELTAS[0])
    np.testing.assert_array_equal(after, x + DELTAS[0])


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_a_stored_state_continues_bit_for_bit(name: str) -> None:
    whole = trace(make(name))
    first, second = make(name), make(name)
    half = trace(first, DELTAS[:2])[-1]
    second.load_state(first.state())
    for delta, expected in zip(DELTAS[2:], whole[2:], strict=True):
        half = second.step(half, delta)
        np.testing.assert_array_equal(half, expected)


def test_a_state_is_a_copy() -> None:
    optimizer = make("fedadam")
    trace(optimizer, DELTAS[:1])
    for value in optimizer.state().values():
        value.zero_()
    assert all(bool(value.any()) for value in optimizer.state().values())


def test_fedavg_remembers_nothing() -> None:
    optimizer = make("fedavg")
    trace(optimizer)
    assert optimizer.state() == {}


def test_a_state_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="belongs to another model"):
        make("fedadam").load_state({"momentum": torch.zeros(SIZE + 1), "second_moment": torch.zeros(SIZE + 1)})


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_averaged_buffers_take_their_plain_mean(name: str) -> None:
    """A running variance below zero would have no square root."""
    model = nn.Sequential(nn.BatchNorm2d(1), *MODEL)
    layout = ParameterLayout.of(model)
    places = [entry for entry in layout.entries if "running" in entry.name]
    assert len(places) == 2
    optimizer, before = make(name, model), layout.to_vector(model)
    delta = np.full(layout.size, -0.5, dtype=np.float32)
    for _ in range(3):
        after = optimizer.step(before, delta)
        for entry in places:
            np.testing.assert_array_equal(after[entry.start : entry.stop], before[entry.start : entry.stop] - 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_each_rule_learns_with_the_numbers_that_it_has_by_default(name: ServerOptimizerName) -> None:
    """The adaptive rules' steps do not shrink with the update: FedAvg's rate of 1 would wreck the model."""
    config = tiny_config(aggregator="plain", server_optimizer=name, rounds=12)
    run = FederatedRun(config, tiny_dataset(), "plain")
    with run:
        accuracies = [run.run_round().accuracy for _ in range(config.rounds)]
    assert accuracies[-1] >= 0.9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "sgd"}, "server optimizer 'sgd'"),
        ({"learning_rate": 0}, "server_learning_rate"),
        ({"tau": 0}, "server_tau"),
        ({"momentum": 1}, "server_momentum"),
        ({"beta2": float("nan")}, "server_beta2"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ServerOptimization(**change)
