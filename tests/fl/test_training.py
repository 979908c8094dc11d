"""Local training and evaluation: the right arithmetic, repeatable, and with clear errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl.data import Dataset, load_dataset
from fl.errors import ConfigError, DataError, FLError
from fl.learning.models import MODELS, build_model
from fl.learning.settings import Local
from fl.learning.training import DivergedError, evaluate, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def settings(**changes: Any) -> Local:
    return Local(**{"epochs": 1, "batch_size": 32, "learning_rate": 0.1, "momentum": 0.0, "bfloat16": "off"} | changes)


def make_batch(shape: tuple[int, ...], num_classes: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(shape, generator=generator)
    return images, torch.randint(0, num_classes, shape[:1], generator=generator)


def state_bytes(model: nn.Module) -> list[bytes]:
    return [value.contiguous().view(-1).numpy().tobytes() for value in model.state_dict().values()]


def test_one_step_is_gradient_descent_as_in_the_book() -> None:
    """Softmax regression on one batch of all examples, with the gradient computed in numpy."""
    images, labels = make_batch((12, 1, 4, 4))
    model = build_model("logistic", image_shape=(1, 4, 4), num_classes=10, seed=1)
    weight, bias = (p.detach().double().numpy().copy() for p in model.parameters())
    inputs = images.reshape(12, 16).double().numpy()
    logits = inputs @ weight.T + bias
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = -np.log(shares[np.arange(12), labels])
    error = (shares - np.eye(10)[labels]) / 12

    result = train(model, images, labels, settings(batch_size=100, weight_decay=0.01), seed=0)

    trained_weight, trained_bias = (p.detach().numpy() for p in model.parameters())
    np.testing.assert_allclose(trained_weight, weight - 0.1 * (error.T @ inputs + 0.01 * weight), atol=1e-6)
    np.testing.assert_allclose(trained_bias, bias - 0.1 * (error.sum(axis=0) + 0.01 * bias), atol=1e-6)
    assert result.num_examples == 12
    assert result.loss_sum == pytest.approx(losses.sum(), rel=1e-5)
    assert result.metrics[0][0] == (logits.argmax(axis=1) == labels.numpy()).sum()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_a_plain_loop_over_the_same_batches(momentum: float, digits: Dataset) -> None:
    images, labels = digits.train_images[:100], digits.train_labels[:100]
    model = build_model("small-cnn", image_shape=(1, 8, 8), num_classes=10, seed=1)
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=momentum)
    generator = torch.Generator().manual_seed(9)
    for _ in range(3):
        loss_sum, correct = 0.0, 0
        for chosen in torch.randperm(100, generator=generator).split(32):
            logits = plain(images[chosen])
            loss = functional.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(chosen)
            correct += int((logits.argmax(1) == labels[chosen]).sum())

    result = train(model, images, labels, settings(epochs=3, momentum=momentum, channels_last=False), seed=9)

    for key, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    assert result.loss_sum == pytest.approx(loss_sum, rel=1e-4)
    assert abs(result.metrics[0][0] - correct) <= 1


class Listener(nn.Module):
    """A model that records which images it is shown: their first pixel is their number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.batches: list[list[float]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(images[:, 0, 0, 0].tolist())
        logits: torch.Tensor = self.layer(images.flatten(1))
        return logits


@pytest.mark.parametrize(("num_examples", "sizes"), [(10, [4, 4, 2]), (9, [4, 4, 1]), (8, [4, 4]), (3, [3])])
def test_an_epoch_shows_every_example_once_in_a_new_order(num_examples: int, sizes: list[int]) -> None:
    images = torch.zeros(num_examples, 1, 2, 2)
    images[:, 0, 0, 0] = torch.arange(num_examples)
    model = Listener()
    train(model, images, torch.zeros(num_examples).long(), settings(epochs=2, batch_size=4), seed=1)
    assert [len(batch) for batch in model.batches] == sizes * 2
    shown = [example for batch in model.batches for example in batch]
    epochs = [shown[:num_examples], shown[num_examples:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(num_examples))] * 2
    assert epochs[0] != epochs[1]


def test_the_result_belongs_to_the_last_epoch(digits: Dataset) -> None:
    images, labels = digits.train_images, digits.train_labels
    untouched = build_model("2nn", image_shape=(1, 8, 8), num_classes=10, seed=1)
    model = copy.deepcopy(untouched)
    still = train(model, images, labels, settings(learning_rate=1e-12), seed=1)
    before = evaluate(untouched, images, labels)
    assert still.num_examples == len(labels)
    assert still.metrics[0][0] == round(before.accuracy * len(labels))
    assert still.loss_sum / len(labels) == pytest.approx(before.loss, rel=1e-5)

    third = train(copy.deepcopy(untouched), images, labels, settings(epochs=3), seed=1)
    first = train(copy.deepcopy(untouched), images, labels, settings(epochs=1), seed=1)
    assert third.num_examples == len(labels)
    assert third.loss_sum < first.loss_sum / 2


@pytest.mark.slow
@pytest.mark.parametrize("bfloat16", ["off", "on"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_seeded_runs_repeat_bit_for_bit(name: str, channels_last: bool, bfloat16: str) -> None:
    torch.set_num_threads(2)  # Threads divide the sums, and must always divide them in the same way.
    images, labels = make_batch((70, 1, 28, 28))
    config = settings(channels_last=channels_last, bfloat16=bfloat16, momentum=0.5)
    start = build_model(name, image_shape=(1, 28, 28), num_classes=10, seed=1)
    runs = []
    for seed, noise in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(noise)
        model = copy.deepcopy(start)
        if noise == 2:
            # The generator's past must not matter either.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        runs.append((train(model, images, labels, config, seed), state_bytes(model)))
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]


def test_optimizer_state_does_not_outlive_a_call() -> None:
    images, labels = make_batch((40, 1, 8, 8))
    model = build_model("2nn", image_shape=(1, 8, 8), num_classes=10, seed=1)
    config = settings(momentum=0.9)
    train(model, images, labels, config, seed=1)
    copied = copy.deepcopy(model)
    train(model, images, labels, config, seed=2)
    train(copied, images, labels, config, seed=2)
    assert state_bytes(model) == state_bytes(copied)


def test_dropout_repeats_and_the_global_random_state_is_left_alone() -> None:
    images, labels = make_batch((64, 1, 8, 8))
    start = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    ends = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        model = copy.deepcopy(start)
        train(model, images, labels, settings(batch_size=64), seed)
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(state_bytes(model))
    assert ends[0] == ends[1]
    assert ends[0] != ends[2]


@pytest.mark.slow
@pytest.mark.parametrize("bfloat16", ["off", "on"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_learns_digits_in_every_arithmetic(channels_last: bool, bfloat16: str, digits: Dataset) -> None:
    model = build_model("small-cnn", image_shape=digits.image_shape, num_classes=10, seed=1)
    config = settings(epochs=8, channels_last=channels_last, bfloat16=bfloat16)
    result = train(model, digits.train_images, digits.train_labels, config, seed=1)
    tested = evaluate(model, digits.test_images, digits.test_labels)
    assert tested.accuracy > 0.95
    assert tested.num_examples == 355
    assert result.metrics[0][0] / result.num_examples > 0.95
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_color_images_are_the_same_in_both_memory_formats() -> None:
    images, labels = make_batch((20, 3, 9, 7))
    start = build_model("cnn", image_shape=(3, 9, 7), num_classes=10, seed=1)
    ends = []
    for channels_last in (False, True):
        model = copy.deepcopy(start)
        result = train(model, images, labels, settings(batch_size=8, channels_last=channels_last), seed=1)
        measured = evaluate(model, images, labels, channels_last=channels_last)
        ends.append((result.loss_sum, measured.loss, *model.state_dict().values()))
    for plain, last in zip(*ends, strict=True):
        torch.testing.assert_close(plain, last, rtol=1e-3, atol=1e-4)


def test_divergence_is_reported_with_the_remedy() -> None:
    assert issubclass(DivergedError, FLError)
    images, labels = make_batch((64, 1, 8, 8))
    model = build_model("2nn", image_shape=(1, 8, 8), num_classes=10, seed=1)
    with pytest.raises(DivergedError, match=r"epoch \d+, batch \d+: lower the learning rate \(it is 1e\+20\)"):
        train(model, images, labels, settings(epochs=5, batch_size=8, learning_rate=1e20), seed=1)


def test_divergence_in_the_very_last_step_is_noticed() -> None:
    images, labels = make_batch((8, 1, 8, 8))
    model = build_model("logistic", image_shape=(1, 8, 8), num_classes=10, seed=1)
    with pytest.raises(DivergedError, match="weight is not finite after training: lower the learning rate"):
        train(model, images * 100, labels, settings(learning_rate=3e38), seed=1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": float("nan")}, "momentum"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"bfloat16": "yes"}, "bfloat16 must be one of"),
        ({"epochs": -1, "momentum": -1.0}, "epochs .*; momentum"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        settings(**changes)


@pytest.mark.parametrize("measure", [lambda m, x, y: train(m, x, y, settings(), 0), evaluate])
def test_unusable_data_are_refused(measure: Callable[..., object]) -> None:
    images, labels = make_batch((4, 1, 8, 8))
    model = build_model("logistic", image_shape=(1, 8, 8), num_classes=10, seed=1)
    with pytest.raises(ConfigError, match="no examples"):
        measure(model, images[:0], labels[:0])
    with pytest.raises(DataError, match="4 images, but 3 labels"):
        measure(model, images, labels[:3])


class Normed(nn.Module):
    """A model with BatchNorm and dropout, which behave differently in training: evaluation must turn both off."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.dropout = nn.Dropout(0.5)
        self.layer = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(self.dropout(self.norm(images).flatten(1)))
        return logits


def test_evaluation_is_right_and_leaves_no_trace() -> None:
    images, labels = make_batch((37, 1, 8, 8))
    model = Normed().train()
    model.norm.eval()  # as a frozen layer would be
    before = state_bytes(model)
    result = evaluate(model, images, labels, batch_size=10)
    assert state_bytes(model) == before
    assert model.training
    assert model.dropout.training
    assert not model.norm.training

    inputs = images.flatten(1).double() / math.sqrt(1 + 1e-5)
    logits = inputs @ model.layer.weight.double().T + model.layer.bias.double()
    losses = torch.logsumexp(logits, 1) - logits[torch.arange(37), labels]
    assert result.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert result.accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert result.num_examples == 37


def test_evaluation_restores_the_mode_also_after_an_error() -> None:
    images, labels = make_batch((4, 1, 9, 9))
    model = Normed().train()
    with pytest.raises(RuntimeError):
        evaluate(model, images, labels)
    assert model.dropout.training


def test_bfloat16_is_really_used_on_request() -> None:
    seen = []
    model = build_model("logistic", image_shape=(1, 8, 8), num_classes=10, seed=1)
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    images, labels = make_batch((4, 1, 8, 8))
    for setting in ("on", "off", "auto"):
        train(model, images, labels, settings(bfloat16=setting), 0)
        evaluate(model, images, labels, bfloat16=setting)
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 4


def test_adam_is_as_in_the_paper() -> None:
    """Kingma and Ba 2015, algorithm 1, on one batch of all examples, twice."""
    images, labels = make_batch((12, 1, 4, 4))
    model = build_model("logistic", image_shape=(1, 4, 4), num_classes=10, seed=1)
    weight = [p.detach().double().numpy().copy() for p in model.parameters()]
    first = [np.zeros_like(w) for w in weight]
    second = [np.zeros_like(w) for w in weight]
    inputs = images.reshape(12, 16).double().numpy()
    for step in (1, 2):
        logits = inputs @ weight[0].T + weight[1]
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (shares - np.eye(10)[labels]) / 12
        for place, gradient in enumerate((error.T @ inputs, error.sum(axis=0))):
            first[place] = 0.9 * first[place] + 0.1 * gradient
            second[place] = 0.999 * second[place] + 0.001 * gradient**2
            mean, variance = first[place] / (1 - 0.9**step), second[place] / (1 - 0.999**step)
            weight[place] = weight[place] - 0.01 * mean / (np.sqrt(variance) + 1e-8)
    train(model, images, labels, settings(batch_size=100, epochs=2, learning_rate=0.01, optimizer="adam"), seed=0)
    for trained, expected in zip(model.parameters(), weight, strict=True):
        np.testing.assert_allclose(trained.detach().numpy(), expected, atol=2e-6)


def test_the_proximal_term_is_its_gradient() -> None:
    """FedProx: the same steps as with mu/2 ||w - w0||^2 in the loss, differentiated by torch."""
    images, labels = make_batch((12, 1, 4, 4))
    ours, theirs = (build_model("2nn", image_shape=(1, 4, 4), num_classes=10, seed=1) for _ in range(2))
    start = [parameter.detach().clone() for parameter in theirs.parameters()]
    train(ours, images, labels, settings(batch_size=100, epochs=4, proximal=0.7), seed=0)
    for _ in range(4):
        loss = functional.cross_entropy(theirs(images), labels)
        for parameter, begun in zip(theirs.parameters(), start, strict=True):
            loss = loss + 0.35 * (parameter - begun).square().sum()
        theirs.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter -= 0.1 * parameter.grad
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_strong_proximal_term_keeps_the_model_where_it_was() -> None:
    images, labels = make_batch((64, 1, 4, 4))
    moved = []
    for strength in (0.0, 1.0, 9.0):
        model = build_model("logistic", image_shape=(1, 4, 4), num_classes=10, seed=1)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        train(model, images, labels, settings(epochs=20, proximal=strength), seed=0)
        moved.append(max(float((p - b).detach().abs().max()) for p, b in zip(model.parameters(), before, strict=True)))
    assert moved[0] > 2 * moved[1] > 4 * moved[2]
