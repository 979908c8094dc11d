"""A plan carried out in plain text on integers, by the rules in its docstrings: the true sum of the shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fl.encrypted.geometry import patches, pooled, window_sums
from fl.encrypted.layers import Convolution
from fl.encrypted.plan import StoredWeights
from fl.encrypted.steps import Flattening, InferencePlan, Maximum, Multiplied, Multiply, Rectify, Sums, Truncate

Integers = npt.NDArray[np.int64]


def fits(values: Integers, bits: int) -> bool:
    """Return whether all are signed numbers of ``bits`` bits."""
    return bool((values >= -(2 ** (bits - 1))).all() and (values < 2 ** (bits - 1)).all())


def run_plan(plan: InferencePlan, weights: list[StoredWeights], images: npt.NDArray[np.floating[Any]]) -> Integers:
    """Return the stored outputs (N, classes); AssertionError if a number is wider than the plan says."""
    values: Integers = np.rint(images * 2.0**plan.input_bits).astype(np.int64)
    for step in plan.steps:
        match step:
            case Multiply(layer, index):
                matrix, bias = weights[index].matrix, weights[index].bias
                terms = patches(values, layer) if isinstance(layer, Convolution) else values
                values = terms @ matrix + bias
                values = values.transpose(0, 3, 1, 2) if isinstance(layer, Convolution) else values
            case Truncate(drop, bits):
                assert fits(values, bits)
                values = values >> drop
            case Rectify(bits):
                assert fits(values, bits)
                values = np.maximum(values, 0)
            case Multiplied():
                values = values * values
            case Maximum(layer, bits):
                parts = pooled(values, layer)
                assert all(fits(a - b, bits) for a in parts for b in parts)
                values = np.max(parts, axis=0)
            case Sums(layer, common):
                values = window_sums(values, layer, common)
            case Flattening():
                values = values.reshape(len(values), -1)
    assert fits(values[:, :, None] - values[:, None, :], plan.argmax_bits)
    return values
