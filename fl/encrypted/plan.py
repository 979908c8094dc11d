"""Fixed-point formats for a model: the bits of each value, decided before any value is shared.

The scale of a product is the product of both factors' scales, so after some layers the low bits are cut off
("truncated").

The model's owner makes the plan from the weights and the range of the pixels, by interval arithmetic: no image in that
range can overflow. If that leaves too few bits for precision (squares of squares), it may measure the range of the
values on its own examples instead, with a margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fl.encrypted.compiler import compile_layers
from fl.encrypted.errors import PrecisionError, UnsupportedModelError
from fl.encrypted.geometry import patches, pooled, window_sums
from fl.encrypted.layers import (
    Convolution,
    Dense,
    Flatten,
    Layer,
    MaxPool,
    MeanPool,
    Relu,
    Squared,
)
from fl.encrypted.steps import (
    WIDEST,
    Flattening,
    InferencePlan,
    Maximum,
    Multiplied,
    Multiply,
    Rectify,
    Step,
    Sums,
    Truncate,
)

CALIBRATION_MARGIN = 4.0
"""Values may be this many times as large as the largest measured one."""

_INPUT_BITS, _WEIGHT_BITS, _FEWEST_BITS = 8, 10, 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StoredWeights:
    """One layer's weights as integers, int64 (terms, outputs) and (outputs,). Secret."""

    matrix: npt.NDArray[np.int64]
    bias: npt.NDArray[np.int64]

    def __repr__(self) -> str:
        return "StoredWeights(<redacted>)"


@dataclass(frozen=True)
class _Ranges:
    """Bounds of the stored integers: arrays (N, ...) of the lowest and highest values in N cases."""

    low: Floats
    high: Floats
    margin: float = 1.0

    @property
    def magnitude(self) -> float:
        return self.margin * float(max(np.abs(self.low).max(), np.abs(self.high).max())) + 1

    def each(self, function: Any) -> _Ranges:
        """Return the ranges after a monotonically increasing function."""
        return replace(self, low=function(self.low), high=function(self.high))


def make_plan(
    model: nn.Module,
    image_shape: tuple[int, ...],
    pixel_range: tuple[float, float],
    examples: torch.Tensor | None = None,
) -> tuple[InferencePlan, list[StoredWeights]]:
    """Return plan and weights for images (N, *image_shape) with pixels in the given range.

    examples: float32 (N, *image_shape) or None. With examples, bounds are `CALIBRATION_MARGIN` times their largest
    values, and do not hold for all images in the range.

    Raises:
        UnsupportedModelError: layers cannot run on secret shares.
        PrecisionError: too few bits are left.
    """
    layers, prefixes = compile_layers(model)
    if any(isinstance(layer, MaxPool | MeanPool | Convolution) for layer in layers) and len(image_shape) != 3:
        raise UnsupportedModelError(f"convolutions and pools take images (channels, height, width), not {image_shape}")
    state = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    problems: list[PrecisionError] = []
    for input_bits in range(_INPUT_BITS, _FEWEST_BITS, -1):
        if examples is None:
            low, high = (np.full((1, *image_shape), edge * 2.0**input_bits) for edge in pixel_range)
            ranges = _Ranges(low, high)
        else:
            pixels = examples.double().numpy() * 2.0**input_bits
            ranges = _Ranges(pixels, pixels, CALIBRATION_MARGIN)
        try:
            return _Planner(state, prefixes, ranges, input_bits).plan(layers)
        except PrecisionError as error:
            problems.append(error)
    raise problems[0]


class _Planner:
    """A pass over the layers with the ranges of their values; it cuts off bits where the next product needs room."""

    def __init__(self, state: dict[str, Any], prefixes: Sequence[str], ranges: _Ranges, input_bits: int) -> None:
        self._state, self._prefixes = state, prefixes
        self._ranges, self._input_bits = ranges, input_bits
        self._scale = 2.0**input_bits
        self._steps: list[Step] = []
        self._weights: list[StoredWeights] = []

    def plan(self, layers: Sequence[Layer]) -> tuple[InferencePlan, list[StoredWeights]]:
        for layer in layers:
            match layer:
                case Dense() | Convolution():
                    self._multiply(layer)
                case Relu():
                    self._steps.append(Rectify(_width(self._ranges.magnitude)))
                    self._ranges = self._ranges.each(lambda values: np.maximum(values, 0))
                case Squared():
                    self._square()
                case MaxPool():
                    self._steps.append(Maximum(layer, _width(2 * self._ranges.magnitude)))
                    self._ranges = self._ranges.each(lambda values, layer=layer: np.max(pooled(values, layer), axis=0))
                case MeanPool():
                    self._pool(layer)
                case Flatten():
                    self._steps.append(Flattening())
                    self._ranges = self._ranges.each(lambda values: values.reshape(len(values), -1))
        argmax_bits = _width(2 * self._ranges.magnitude)
        shapes = tuple((len(weights.matrix), weights.matrix.shape[1]) for weights in self._weights)
        return InferencePlan(self._input_bits, tuple(self._steps), shapes, argmax_bits), self._weights

    def _multiply(self, layer: Dense | Convolution) -> None:
        prefix = self._prefixes[len(self._weights)]
        weight = self._state[f"{prefix}.weight"]
        matrix = weight.reshape(len(weight), -1).T
        bias = self._state.get(f"{prefix}.bias", np.zeros(len(weight)))
        if isinstance(layer, Dense) and self._ranges.low.shape[1:] != (layer.inputs,):
            raise UnsupportedModelError(
                f"layer {prefix} (Linear): takes {layer.inputs} values per image, not {self._ranges.low.shape[1:]}"
            )
        # Weights of w bits fit after cutting d bits off the values if w - d <= room.
        outputs = _linear(self._ranges, layer, matrix, bias * self._scale).magnitude
        room = WIDEST - 2 - math.log2(outputs)
        weight_bits = min(_WEIGHT_BITS, math.floor(room))
        if weight_bits < _WEIGHT_BITS and self._weights:
            # Both factors get the same number of bits; cutting off one bit is not worth its cost.
            evenly = min(_WEIGHT_BITS, (math.floor(math.log2(self._scale) + room) + 1) // 2)
            if evenly > weight_bits + 1:
                weight_bits = evenly
                self._truncate(math.ceil(evenly - room))
        if weight_bits < _FEWEST_BITS:
            raise self._too_imprecise(f"layer {prefix}", weight_bits)
        stored = StoredWeights(
            np.rint(matrix * 2.0**weight_bits).astype(np.int64),
            np.rint(bias * self._scale * 2.0**weight_bits).astype(np.int64),
        )
        self._steps.append(Multiply(layer, len(self._weights)))
        self._weights.append(stored)
        self._ranges = _linear(self._ranges, layer, stored.matrix.astype(float), stored.bias.astype(float))
        self._scale *= 2.0**weight_bits

    def _square(self) -> None:
        self._truncate(max(0, math.ceil(math.log2(self._ranges.magnitude) - (WIDEST - 2) / 2)))
        low, high = self._ranges.low, self._ranges.high
        least = np.where((low < 0) & (high > 0), 0, np.minimum(low**2, high**2))
        self._ranges = replace(self._ranges, low=least, high=np.maximum(low**2, high**2), margin=self._ranges.margin**2)
        self._steps.append(Multiplied())
        self._scale **= 2

    def _pool(self, layer: MeanPool) -> None:
        common = layer.common_count(*self._ranges.low.shape[2:])
        excess = math.ceil(math.log2(self._ranges.magnitude * common)) - (WIDEST - 2)
        if common > 1:
            self._truncate(max(0, excess))
        self._steps.append(Sums(layer, common))
        self._ranges = self._ranges.each(lambda values: window_sums(values, layer, common))
        self._scale *= common

    def _truncate(self, drop: int) -> None:
        if not drop:
            return
        if math.log2(self._scale) - drop < _FEWEST_BITS:
            raise self._too_imprecise("a layer", math.log2(self._scale) - drop)
        self._steps.append(Truncate(drop, _width(self._ranges.magnitude)))
        # Truncation may round up or down.
        self._ranges = replace(
            self._ranges, low=self._ranges.low / 2.0**drop - 1, high=self._ranges.high / 2.0**drop + 1
        )
        self._scale /= 2.0**drop

    @staticmethod
    def _too_imprecise(where: str, bits: float) -> PrecisionError:
        return PrecisionError(
            f"{where} would be left with {math.floor(bits)} bits after the point: its values may grow too large for "
            f"numbers of {WIDEST} bits; measure bounds on examples, or use a model with fewer layers"
        )


def _linear(ranges: _Ranges, layer: Dense | Convolution, matrix: Floats, bias: Floats) -> _Ranges:
    """Return the outputs' ranges: the highest output has high inputs at positive weights, low at negative."""
    low, high = ranges.low, ranges.high
    if isinstance(layer, Convolution):
        low, high = patches(low, layer), patches(high, layer)
    up, down = np.maximum(matrix, 0), np.minimum(matrix, 0)
    lowest, highest = low @ up + high @ down + bias, high @ up + low @ down + bias
    if isinstance(layer, Convolution):
        lowest, highest = lowest.transpose(0, 3, 1, 2), highest.transpose(0, 3, 1, 2)
    return replace(ranges, low=lowest, high=highest)


def _width(magnitude: float) -> int:
    """Return the bits of a signed number of at most this magnitude."""
    bits = math.ceil(math.log2(magnitude + 1)) + 1
    if bits > WIDEST:
        raise PrecisionError(f"a comparison needs {bits} bits, but at most {WIDEST} are possible")
    return bits
