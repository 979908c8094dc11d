"""The models by name: their sizes, their images, and that the seed alone decides their weights."""

from __future__ import annotations

import pytest
import torch

from fl.errors import ConfigError
from fl.learning.models import MODELS, RandomMirror, build_model


def num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("2nn", 28, 784 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10),
        ("2nn", 8, 64 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10),
        ("cnn", 28, 25 * 32 + 32 + 25 * 32 * 64 + 64 + 7 * 7 * 64 * 128 + 128 + 128 * 10 + 10),
        ("cnn", 8, 25 * 32 + 32 + 25 * 32 * 64 + 64 + 2 * 2 * 64 * 128 + 128 + 128 * 10 + 10),
        ("cnn3", 28, 9 * 24 + 24 + 9 * 24 * 48 + 48 + 9 * 48 * 96 + 96 + 3 * 3 * 96 * 128 + 128 + 128 * 10 + 10),
        ("cnn3", 8, 9 * 24 + 24 + 9 * 24 * 48 + 48 + 9 * 48 * 96 + 96 + 96 * 128 + 128 + 128 * 10 + 10),
        ("small-cnn", 28, 23_946),
        ("small-cnn", 8, 13_706),
        ("logistic", 28, 7_850),
        ("logistic", 8, 650),
    ],
)
def test_number_of_parameters(name: str, side: int, expected: int) -> None:
    assert num_parameters(build_model(name, image_shape=(1, side, side), num_classes=10, seed=0)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (1, 8, 8), (3, 32, 20), (1, 4, 5)])
def test_gives_logits_that_can_be_trained(name: str, image_shape: tuple[int, int, int]) -> None:
    model = build_model(name, image_shape=image_shape, num_classes=7, seed=1)
    images = torch.randn(5, *image_shape, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (5, 7)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.count_nonzero() > 0, key


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    models = []
    for seed, other_state in ((5, 1), (5, 2), (6, 1)):
        torch.manual_seed(other_state)
        models.append(build_model(name, image_shape=(1, 8, 8), num_classes=10, seed=seed))
    first, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_global_random_state_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    build_model(name, image_shape=(1, 8, 8), num_classes=10, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_fill_torch_s_default_range(name: str) -> None:
    model = build_model(name, image_shape=(1, 28, 28), num_classes=10, seed=2)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.bias is not None
            assert 0.5 * bound < layer.bias.abs().max() <= bound
            assert abs(layer.weight.mean()) < 0.1 * bound


@pytest.mark.parametrize(
    ("name", "image_shape", "num_classes", "complaint"),
    [
        ("resnet", (1, 28, 28), 10, "2nn, cnn, cnn3, cnn3-mirror, small-cnn, logistic"),
        ("cnn", (1, 3, 28), 10, "4x4 pixels at least, not 3x28"),
        ("small-cnn", (1, 8, 3), 10, "4x4 pixels at least, not 8x3"),
        ("2nn", (1, 0, 8), 10, "no model"),
        ("logistic", (1, 8, 8), 0, "no model"),
    ],
)
def test_impossible_models_are_refused(
    name: str, image_shape: tuple[int, int, int], num_classes: int, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build_model(name, image_shape=image_shape, num_classes=num_classes, seed=0)


def test_images_are_mirrored_in_training_only_and_each_by_itself() -> None:
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    layer = RandomMirror()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(4)
        shown = layer(images)
    is_kept = (shown == images).flatten(1).all(dim=1)
    is_mirrored = (shown == images.flip(3)).flatten(1).all(dim=1)
    assert (is_kept ^ is_mirrored).all()
    assert 16 < int(is_mirrored.sum()) < 48
    assert layer.eval()(images) is images
