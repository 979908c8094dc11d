"""Models that can run on secret shares, and the messages about others."""

from __future__ import annotations

import pytest
from torch import nn

from fl.encrypted.compiler import compile_layers
from fl.encrypted.errors import UnsupportedModelError
from fl.encrypted.layers import Convolution, Dense, Flatten, MaxPool, MeanPool, Relu, Squared
from fl.learning.models import MODELS, Square, build_model


@pytest.mark.parametrize("name", MODELS)
def test_every_model_that_has_a_name_can_run(name: str) -> None:
    layers, prefixes = compile_layers(build_model(name, image_shape=(1, 28, 28), num_classes=10, seed=0))
    assert isinstance(layers[-1], Dense)
    assert len(prefixes) == sum(isinstance(layer, Dense | Convolution) for layer in layers)


def test_layers_keep_their_sizes_and_order() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, (3, 5), stride=2, padding=1), nn.MaxPool2d(2)),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AvgPool2d(2, 1),
        Square(),
        nn.AdaptiveAvgPool2d(3),
        nn.Identity(),
        nn.Flatten(),
        nn.Linear(36, 10),
    )
    layers, prefixes = compile_layers(model)
    assert layers == (
        Convolution(1, 4, (3, 5), (2, 2), (1, 1)),
        MaxPool((2, 2), (2, 2)),
        Relu(),
        MeanPool((2, 2), (1, 1)),
        Squared(),
        MeanPool(output=(3, 3)),
        Flatten(),
        Dense(36, 10),
    )
    assert prefixes == ("0.0", "8")


def test_every_layer_that_cannot_run_is_named() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.ReLU(), nn.Sigmoid()),
        nn.MaxPool2d(2, padding=1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    with pytest.raises(UnsupportedModelError) as caught:
        compile_layers(model)
    said = str(caught.value)
    for part in ("layer 0 (Conv2d)", "layer 1 (BatchNorm2d)", "layer 2.1 (Sigmoid)", "layer 3 (MaxPool2d)"):
        assert part in said
    assert "ReLU)" not in said
    assert "groups" in said


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(1, 1, 3, dilation=2), "dilation"),
        (nn.Conv2d(1, 1, 3, padding="same"), "padding in numbers"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "zeros"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(2, padding=1), "padding"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override"),
        (nn.AdaptiveAvgPool2d((None, 2)), "output_size"),
        (nn.Flatten(2), "dimension 1"),
        (nn.Tanh(), "not one of Linear"),
    ],
)
def test_unsupported_layer_options_are_named(layer: nn.Module, why: str) -> None:
    with pytest.raises(UnsupportedModelError, match=why):
        compile_layers(nn.Sequential(layer, nn.Flatten(), nn.Linear(4, 2)))


def test_a_model_must_be_sequential_and_end_in_classes() -> None:
    with pytest.raises(UnsupportedModelError, match="Sequential"):
        compile_layers(nn.Linear(4, 2))
    for model in (nn.Sequential(), nn.Sequential(nn.Linear(4, 2), nn.ReLU()), nn.Sequential(nn.Flatten())):
        with pytest.raises(UnsupportedModelError, match="last layer"):
            compile_layers(model)
