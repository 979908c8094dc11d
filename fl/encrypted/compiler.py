"""Compilation of a torch model to layers that run on secret shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from fl.encrypted.errors import UnsupportedModelError
from fl.encrypted.layers import Convolution, Dense, Flatten, Layer, MaxPool, MeanPool, Relu, Squared
from fl.learning.models import RandomMirror, Square

SUPPORTED = "Linear, Conv2d, ReLU, Square, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, Dropout, Identity"


def compile_layers(model: nn.Module) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return a sequential model's layers, and the state-dict prefixes of the layers with weights, in order.

    Layers that do nothing in evaluation (Dropout, Identity, RandomMirror) are left out.

    Raises:
        UnsupportedModelError: layers cannot run on secret shares. The text names each of them.
    """
    layers: list[Layer] = []
    prefixes: list[str] = []
    problems: list[str] = []
    if not isinstance(model, nn.Sequential):
        raise UnsupportedModelError(f"encrypted evaluation needs an nn.Sequential model, not {type(model).__name__}")
    for path, module in _leaves(model, ""):
        compiled = _compile(module)
        if isinstance(compiled, str):
            problems.append(f"layer {path} ({type(module).__name__}): {compiled}")
        elif compiled is not None:
            layers.append(compiled)
            if isinstance(compiled, Dense | Convolution):
                prefixes.append(path)
    if problems:
        raise UnsupportedModelError("these layers cannot run on secret shares: " + "; ".join(problems))
    if not layers or not prefixes or not isinstance(layers[-1], Dense):
        raise UnsupportedModelError("the model's last layer must be Linear, with one output per class")
    return tuple(layers), tuple(prefixes)


def _leaves(model: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_children():
        if isinstance(module, nn.Sequential):
            yield from _leaves(module, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", module


def _compile(module: nn.Module) -> Layer | str | None:
    """Return the layer, None if it does nothing, or the reason why it cannot run."""
    match module:
        case nn.Linear():
            return Dense(module.in_features, module.out_features)
        case nn.Conv2d():
            return _compile_convolution(module)
        case nn.ReLU():
            return Relu()
        case Square():
            return Squared()
        case nn.MaxPool2d():
            if (
                _pair(module.padding) != (0, 0)
                or _pair(module.dilation) != (1, 1)
                or module.ceil_mode
                or module.return_indices
            ):
                return "only without padding, dilation, ceil_mode and return_indices"
            return MaxPool(_pair(module.kernel_size), _pair(module.stride))
        case nn.AvgPool2d():
            if _pair(module.padding) != (0, 0) or module.ceil_mode or module.divisor_override is not None:
                return "only without padding, ceil_mode and divisor_override"
            return MeanPool(_pair(module.kernel_size), _pair(module.stride))
        case nn.AdaptiveAvgPool2d():
            size = module.output_size
            if size is None or (isinstance(size, tuple) and None in size):
                return "only with a fixed output_size"
            return MeanPool(output=_pair(size))
        case nn.Flatten():
            return Flatten() if (module.start_dim, module.end_dim) == (1, -1) else "only from dimension 1 to the last"
        case nn.Dropout() | nn.Dropout2d() | nn.Identity() | RandomMirror():
            return None
        case _:
            return f"not one of {SUPPORTED}"


def _compile_convolution(module: nn.Conv2d) -> Convolution | str:
    if isinstance(module.padding, str):
        return "only with padding in numbers"
    if module.groups != 1 or _pair(module.dilation) != (1, 1) or module.padding_mode != "zeros":
        return "only with groups 1, dilation 1 and zeros as padding"
    return Convolution(
        module.in_channels, module.out_channels, _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    )


def _pair(value: Any) -> tuple[int, int]:
    rows, columns = (value, value) if isinstance(value, int) else value
    return int(rows), int(columns)
