"""Windows of convolutions and pools, for arrays of any kind of numbers, including shares."""

from __future__ import annotations

from typing import Any

import numpy as np

from fl.encrypted.layers import Convolution, MaxPool, MeanPool

Array = Any
"""A numpy array of floats or Python integers, or `fl.encrypted.residues.Residues`."""


def patches(values: Array, layer: Convolution) -> Array:
    """Return the inputs of each output of the convolution: (N, C, H, W) -> (N, H', W', C * kernel)."""
    kind = type(values)
    plain = np.asarray(values).view(np.ndarray)
    count, channels, height, width = plain.shape
    down, right = layer.padding
    padded = np.zeros((count, channels, height + 2 * down, width + 2 * right), plain.dtype)
    padded[:, :, down : down + height, right : right + width] = plain
    windows = np.lib.stride_tricks.sliding_window_view(padded, layer.kernel, axis=(2, 3))
    windows = windows[:, :, :: layer.stride[0], :: layer.stride[1]]
    ordered = windows.transpose(0, 2, 3, 1, 4, 5)
    return ordered.reshape(*ordered.shape[:3], -1).view(kind)


def pooled(values: Array, layer: MaxPool) -> list[Array]:
    """Return an array (N, C, H', W') for each position in the window, from (N, C, H, W)."""
    _, _, height, width = values.shape
    (rows, columns), (down, right) = layer.kernel, layer.stride
    last_row, last_column = height - rows, width - columns
    return [
        values[:, :, row : last_row + row + 1 : down, column : last_column + column + 1 : right]
        for row in range(rows)
        for column in range(columns)
    ]


def window_sums(values: Array, layer: MeanPool, common: int) -> Array:
    """Return each window's mean times ``common``, a multiple of all windows' sizes: (N, C, H, W) -> (N, C, H', W')."""
    rows, columns = layer.windows(*values.shape[2:])
    result = np.zeros((*values.shape[:2], len(rows), len(columns)), values.dtype).view(type(values))
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            window = values[:, :, top:bottom, left:right]
            total = np.sum(window.reshape(*window.shape[:2], -1), axis=-1)
            result[:, :, i, j] = total * (common // ((bottom - top) * (right - left)))
    return result
