"""The methods for a personal model, each against the same steps written out."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fl.errors import ConfigError
from fl.learning.models import build_model
from fl.learning.settings import Local
from fl.learning.training import DivergedError, train
from fl.personalization import Ditto, FineTuning
from fl.personalization.head import classifier_head, head_inputs
from tests.fl.runs import state_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = Local(epochs=3, batch_size=8, learning_rate=0.05, momentum=0.5, bfloat16="off")
# One batch of all examples: no shuffling, no momentum; steps that can be written down.
PLAIN = Local(epochs=4, batch_size=64, learning_rate=0.1, momentum=0.0, bfloat16="off")


def examples(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 4
    return torch.randn(count, 1, 8, 8, generator=generator) + 0.5 * labels.view(-1, 1, 1, 1), labels


def global_model(name: str = "small-cnn", seed: int = 1) -> nn.Module:
    return build_model(name, image_shape=(1, 8, 8), num_classes=4, seed=seed)


def distance(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return math.sqrt(sum(float(((a - b).detach() ** 2).sum()) for a, b in pairs))


def loss_of(model: nn.Module) -> float:
    images, labels = examples()
    with torch.no_grad():
        return float(functional.cross_entropy(model(images), labels))


def test_full_fine_tuning_is_training_from_the_global_model() -> None:
    personal, expected = global_model(), global_model()
    FineTuning(TRAINING).personalize(personal, *examples(), seed=5)
    train(expected, *examples(), TRAINING, seed=5)
    assert state_bytes(personal) == state_bytes(expected)
    assert loss_of(personal) < loss_of(global_model()) - 0.05


@pytest.mark.parametrize("name", ["small-cnn", "2nn", "logistic"])
def test_head_fine_tuning_moves_the_last_layer_as_if_the_rest_were_frozen(name: str) -> None:
    personal, frozen = global_model(name), global_model(name)
    FineTuning(TRAINING, head_only=True).personalize(personal, *examples(), seed=5)
    head = classifier_head(frozen)
    for parameter in frozen.parameters():
        parameter.requires_grad = any(parameter is own for own in head.parameters())
    train(frozen, *examples(), TRAINING, seed=5)
    last = [key for key, _ in frozen.named_parameters()][-2:]
    before, after, expected = global_model(name).state_dict(), personal.state_dict(), frozen.state_dict()
    for key, value in after.items():
        if key in last:
            assert not torch.equal(value, before[key])
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-5)
        else:
            assert torch.equal(value, before[key])


def test_head_fine_tuning_leaves_other_measurements_unchanged() -> None:
    # In training mode BatchNorm would learn the client's means, and dropout would hide features.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    FineTuning(TRAINING, head_only=True).personalize(model, *examples(), seed=5)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["4.weight", "4.bias"]
    assert not model[2].training
    # A second time: the head's input does not depend on chance.
    again = copy.deepcopy(model)
    assert torch.equal(head_inputs(again, examples()[0]), head_inputs(model, examples()[0]))


class TwoHeads(nn.Module):
    """A model whose last linear layer does not give its output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1)
        answer: torch.Tensor = self.first(rows) + self.second(rows)
        return answer


def test_head_fine_tuning_refuses_models_without_a_head() -> None:
    method = FineTuning(TRAINING, head_only=True)
    with pytest.raises(ConfigError, match="does not give its output: fine-tune the whole model"):
        method.personalize(TwoHeads(), *examples(), seed=0)
    with pytest.raises(ConfigError, match="no linear layer"):
        method.personalize(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), *examples(), seed=0)


def test_the_proximal_term_keeps_near_the_global_model() -> None:
    moved = []
    for strength in (0.0, 1.0, 8.0):
        personal = global_model()
        method = FineTuning(dataclasses.replace(PLAIN, epochs=30, proximal=strength))
        method.personalize(personal, *examples(), seed=5)
        moved.append(distance(personal, global_model()))
    assert moved[0] > 1.5 * moved[1] > 3 * moved[2] > 0


def ditto_by_hand(own: nn.Module, received: nn.Module, training: Local, strength: float) -> None:
    """Take the paper's step, v <- v - rate * (gradient + strength * (v - w)), on all examples at once."""
    images, labels = examples()
    for _ in range(training.epochs):
        loss = functional.cross_entropy(own(images), labels)
        gradients = torch.autograd.grad(loss, list(own.parameters()))
        with torch.no_grad():
            for v, w, gradient in zip(own.parameters(), received.parameters(), gradients, strict=True):
                v -= training.learning_rate * (gradient + strength * (v - w))


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_ditto_takes_the_papers_steps(strength: float) -> None:
    received, own, expected = global_model(seed=1), global_model(seed=2), global_model(seed=2)
    Ditto(PLAIN, strength).improve(own, received, *examples(), seed=5)
    ditto_by_hand(expected, received, PLAIN, strength)
    for key, value in own.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key], rtol=0, atol=1e-5)
    assert distance(own, global_model(seed=2)) > 0.01
    assert state_bytes(received) == state_bytes(global_model(seed=1))


def test_ditto_without_a_pull_learns_alone_and_with_a_strong_one_comes_to_the_global_model() -> None:
    received, alone, expected, near = (global_model(seed=seed) for seed in (1, 2, 2, 2))
    Ditto(TRAINING, 0.0).improve(alone, received, *examples(), seed=5)
    train(expected, *examples(), TRAINING, seed=5)
    assert state_bytes(alone) == state_bytes(expected)
    Ditto(dataclasses.replace(PLAIN, epochs=40), 8.0).improve(near, received, *examples(), seed=5)
    assert distance(near, received) < 0.1 * distance(global_model(seed=2), received)


def test_dittos_pull_ends_with_the_training() -> None:
    own, expected = global_model(seed=2), global_model(seed=2)
    Ditto(PLAIN, 1.0).improve(own, global_model(seed=1), *examples(), seed=5)
    expected.load_state_dict(own.state_dict())
    for model in (own, expected):
        train(model, *examples(), TRAINING, seed=6)
    assert state_bytes(own) == state_bytes(expected)


def test_dittos_pull_ends_with_a_training_that_ran_away() -> None:
    own = global_model(seed=2)
    with pytest.raises(DivergedError, match="lower the learning rate"):
        Ditto(dataclasses.replace(TRAINING, learning_rate=1e9), 1.0).improve(own, global_model(), *examples(), seed=5)
    expected = global_model(seed=3)
    own.load_state_dict(expected.state_dict())
    for model in (own, expected):
        train(model, *examples(), TRAINING, seed=6)
    assert state_bytes(own) == state_bytes(expected)


def test_ditto_refuses_impossible_settings() -> None:
    for strength in (-0.1, math.inf, math.nan):
        with pytest.raises(ConfigError, match="strength must be finite and at least 0"):
            Ditto(TRAINING, strength)
    with pytest.raises(ConfigError, match="leave the training's proximal at 0"):
        Ditto(dataclasses.replace(TRAINING, proximal=0.1), 1.0)
    with pytest.raises(ConfigError, match="differ in their parameters"):
        Ditto(TRAINING, 1.0).improve(global_model(), global_model("2nn"), *examples(), seed=0)


@pytest.mark.parametrize("method", [FineTuning(TRAINING), FineTuning(TRAINING, head_only=True)])
def test_a_client_without_examples_has_no_personal_model(method: FineTuning) -> None:
    images, labels = examples()
    with pytest.raises(ConfigError, match="no examples"):
        method.personalize(global_model(), images[:0], labels[:0], seed=0)
