"""One party's computation of a model's forward pass: the plan's steps on its shares.

Each party adds and moves values on its own shares. Products, truncations, comparisons and argmax are MPyC's protocols.
Values between steps are field arrays (N, ...) of shares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fl.encrypted.geometry import patches, pooled, window_sums
from fl.encrypted.layers import Convolution
from fl.encrypted.steps import (
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

SecureIntegers = Callable[[int], Any]
"""A function: bits -> MPyC's secure integers of that width, for one protocol at a time; see `fl.encrypted.engine`."""


class SharedModel:
    """The plan, with this party's shares of the weights: pairs (matrix, bias) of field arrays."""

    def __init__(self, mpc: Any, integers: SecureIntegers, plan: InferencePlan, weights: list[tuple[Any, Any]]) -> None:
        self._mpc, self._integers = mpc, integers
        self._plan, self._weights = plan, weights

    def __repr__(self) -> str:
        return "SharedModel(<redacted>)"

    async def logits(self, images: Any) -> Any:
        """Return shares of the last layer's outputs (N, classes) from shares of stored pixels (N, ...)."""
        values = images
        for step in self._plan.steps:
            values = await self._run(step, values)
        return values

    async def classes(self, images: Any) -> Any:
        """Return shares of the predicted classes (N,)."""
        logits = self._secure(self._plan.argmax_bits, await self.logits(images))
        return await self._mpc.gather(self._mpc.np_argmax(logits, axis=1))

    async def _run(self, step: Step, values: Any) -> Any:
        field_array = type(values)
        match step:
            case Multiply():
                return await self._multiply(step, values)
            case Truncate(drop, bits):
                return await self._mpc.gather(self._mpc.np_trunc(self._secure(bits, values), f=drop, l=bits))
            case Rectify(bits):
                return await self._rectified(bits, values)
            case Multiplied():
                secure = self._secure(2, values)
                return await self._mpc.gather(self._mpc.np_multiply(secure, secure))
            case Maximum(layer, bits):
                return await self._maximum(
                    bits, [field_array(part, check=False) for part in pooled(values.value, layer)]
                )
            case Sums(layer, common):
                return field_array(window_sums(values.value, layer, common))
            case Flattening():
                return values.reshape(len(values.value), -1)

    def _secure(self, bits: int, values: Any) -> Any:
        return self._integers(bits).array(values)

    async def _multiply(self, step: Multiply, values: Any) -> Any:
        field_array = type(values)
        matrix, bias = self._weights[step.weights]
        terms, shape = values.value, values.shape[:1]
        if isinstance(step.layer, Convolution):
            terms = patches(terms, step.layer)
            shape = terms.shape[:3]
            terms = terms.reshape(-1, terms.shape[-1])
        left = self._secure(2, field_array(terms, check=False))
        product = await self._mpc.gather(self._mpc.np_matmul(left, self._secure(2, matrix)))
        result = (product + bias).value.reshape(*shape, -1)
        return field_array(result.transpose(0, 3, 1, 2) if result.ndim == 4 else result, check=False)

    async def _rectified(self, bits: int, values: Any) -> Any:
        # Comparisons work on flat arrays, so copy once here.
        secure = self._secure(bits, values.reshape(-1))
        negative = self._mpc.np_sgn(secure, l=bits, LT=True)
        kept = self._mpc.np_multiply(secure, 1 - negative)
        return (await self._mpc.gather(kept)).reshape(values.shape)

    async def _maximum(self, bits: int, parts: list[Any]) -> Any:
        while len(parts) > 1:
            half = len(parts) // 2
            first, second = (self._stacked(parts[start : start + half]) for start in (0, half))
            # max(a, b) = b + max(a - b, 0)
            larger = second + await self._rectified(bits, first - second)
            field_array = type(larger)
            parts = [field_array(part, check=False) for part in larger.value] + parts[2 * half :]
        return parts[0]

    @staticmethod
    def _stacked(parts: list[Any]) -> Any:
        field_array = type(parts[0])
        kind = type(parts[0].value)
        return field_array(
            np.stack([np.asarray(part.value).view(np.ndarray) for part in parts]).view(kind), check=False
        )
