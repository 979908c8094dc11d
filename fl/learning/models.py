"""The models that can be trained by name, on images of any size that fits them.

All return logits (N, num_classes) for images (N, C, H, W), and have no state besides their parameters. Models without
convolutions take examples of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from fl.errors import ConfigError

ImageShape = tuple[int, ...]


def build_model(name: str, *, image_shape: ImageShape, num_classes: int, seed: int) -> nn.Module:
    """Return a new, initialized model (float32, on the CPU). Equal arguments give equal weights, bit for bit.

    `image_shape` is (channels, height, width). torch's global random state is neither used nor changed.
    Names: see MODELS. Raises ConfigError for an unknown name, or images that do not fit the model.
    """
    # The outline's layers do not initialize themselves: they would draw from the global generator, which all
    # threads share.
    model = model_outline(name, image_shape, num_classes)
    model.to_empty(device="cpu")
    _initialize(model, torch.Generator().manual_seed(seed))
    return model


def model_outline(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return the model on torch's meta device: with shapes, without values or memory. Errors as for `build_model`."""
    if name not in _BUILDERS:
        raise ConfigError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
    if min(image_shape) < 1 or num_classes < 1:
        raise ConfigError(f"no model for images of {image_shape} in {num_classes} classes")
    with torch.device("meta"):
        return _BUILDERS[name](image_shape, num_classes)


def _initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Draw weights and biases as torch does by default: uniform in +-1/sqrt(inputs of one output)."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
            raise TypeError(f"{type(layer).__name__} has state that is not initialized here")


def _logistic(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return multinomial logistic regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), num_classes))


def _two_hidden_layers(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return the "2NN" of McMahan et al. (AISTATS 2017): two hidden layers of 200; 199,210 parameters on 28x28."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(image_shape), 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, num_classes),
    )


def _convolutional(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return two 5x5 convolutions (32, 64), each with 2x2 pooling, then 128 units; 454,922 parameters on 28x28.

    The CNN of McMahan et al. (AISTATS 2017) has 512 units; a quarter of them learns as well on these data sets, and
    the vector that travels is a quarter as long.
    """
    channels, height, width = _at_least_4x4("cnn", image_shape)
    return nn.Sequential(
        *_convolution(channels, 32, kernel_size=5),
        *_convolution(32, 64, kernel_size=5),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def _small_convolutional(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return two 3x3 convolutions (16, 32) with pooling, then 64 units; 13,706 parameters on 8x8, 23,946 on 28x28.

    The output of the convolutions is averaged to at most 3x3, so that the model's size hardly depends on the image
    size.
    """
    channels, height, width = _at_least_4x4("small-cnn", image_shape)
    rows, columns = min(height // 4, 3), min(width // 4, 3)
    return nn.Sequential(
        *_convolution(channels, 16, kernel_size=3),
        *_convolution(16, 32, kernel_size=3),
        nn.AdaptiveAvgPool2d((rows, columns)),
        nn.Flatten(),
        nn.Linear(32 * rows * columns, 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def _three_convolutions(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return three 3x3 convolutions (24, 48, 96) with pooling, dropout, 128 units, dropout.

    On 28x28: 164,234 parameters and 4.3 million multiplications per image, two fifths of `cnn`'s. Images under 8x8 are
    pooled only twice.
    """
    channels, height, width = _at_least_4x4("cnn3", image_shape)
    third = _convolution(48, 96, kernel_size=3)
    if min(height, width) < 8:
        third = tuple(layer for layer in third if not isinstance(layer, nn.MaxPool2d))
    scale = 8 if min(height, width) >= 8 else 4
    return nn.Sequential(
        *_convolution(channels, 24, kernel_size=3),
        *_convolution(24, 48, kernel_size=3),
        *third,
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(96 * (height // scale) * (width // scale), 128),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(128, num_classes),
    )


class Square(nn.Module):
    """The activation x^2, elementwise: one multiplication on secret shares, where ReLU needs a comparison.

    Source: CryptoNets (Gilad-Bachrach et al., ICML 2016). It is unbounded: train with a small learning rate.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the squares of values of any shape."""
        return values.square()


def _one_hidden_layer(activation: type[nn.Module]) -> Callable[[ImageShape, int], nn.Module]:
    """Return one hidden layer of 500, as in PySyft's tutorial on encrypted testing; 397,510 parameters on 28x28."""

    def build(image_shape: ImageShape, num_classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(image_shape), 500), activation(), nn.Linear(500, num_classes)
        )

    return build


def _small_convolutional_square(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return `small-cnn` without comparisons: mean pooling, squares, no hidden layer; 7,690 parameters on 28x28."""
    channels, height, width = _at_least_4x4("small-cnn-square", image_shape)
    rows, columns = min(height // 4, 3), min(width // 4, 3)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.AvgPool2d(2),
        Square(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.AvgPool2d(2),
        Square(),
        nn.AdaptiveAvgPool2d((rows, columns)),
        nn.Flatten(),
        nn.Linear(32 * rows * columns, num_classes),
    )


class RandomMirror(nn.Module):
    """A layer that mirrors each image left to right with probability one half in training; otherwise the identity.

    It draws from torch's global generator, as dropout does.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return images (N, C, H, W) of the same shape and memory format."""
        if not self.training:
            return images
        is_mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return torch.where(is_mirrored, images.flip(3), images)


def _mirrored_three_convolutions(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return `cnn3` with half of its training images mirrored: for clothes, not for digits."""
    return nn.Sequential(RandomMirror(), *_three_convolutions(image_shape, num_classes).children())


def _convolution(channels_in: int, channels_out: int, *, kernel_size: int) -> tuple[nn.Module, ...]:
    """Return a convolution that keeps the size, 2x2 pooling, and ReLU.

    Pooling before ReLU gives the same values (the maximum of clipped values is the clipped maximum), and leaves ReLU a
    quarter of the work.
    """
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2)
    return convolution, nn.MaxPool2d(2), nn.ReLU()


def _at_least_4x4(name: str, image_shape: ImageShape) -> ImageShape:
    if len(image_shape) != 3:
        raise ConfigError(f"{name} takes images (channels, height, width), not examples of shape {image_shape}")
    _, height, width = image_shape
    if min(height, width) < 4:
        raise ConfigError(f"{name} halves the image twice: it takes 4x4 pixels at least, not {height}x{width}")
    return image_shape


_BUILDERS: dict[str, Callable[[ImageShape, int], nn.Module]] = {
    "2nn": _two_hidden_layers,
    "cnn": _convolutional,
    "cnn3": _three_convolutions,
    "cnn3-mirror": _mirrored_three_convolutions,
    "small-cnn": _small_convolutional,
    "logistic": _logistic,
    "mlp-500": _one_hidden_layer(nn.ReLU),
    "mlp-500-square": _one_hidden_layer(Square),
    "small-cnn-square": _small_convolutional_square,
}

MODELS: tuple[str, ...] = tuple(_BUILDERS)
"""All names that `build_model` knows."""
