"""The layers that can run on secret shares: kinds and sizes, which are public.

Everyone who takes part in an encrypted evaluation learns them; the weights stay with the model's owner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Dense:
    """values (N, inputs) -> (N, outputs)."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class Convolution:
    """(N, channels_in, H, W) -> (N, channels_out, H', W'), each pair of numbers being (rows, columns)."""

    channels_in: int
    channels_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True)
class Relu:
    """max(x, 0), elementwise."""


@dataclass(frozen=True)
class Squared:
    """x^2, elementwise."""


@dataclass(frozen=True)
class MaxPool:
    """The largest of each window; what is left over at the edges is dropped."""

    kernel: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True)
class MeanPool:
    """The mean of each window: `MaxPool`'s windows, or with ``output`` torch's adaptive ones."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    output: tuple[int, int] | None = None

    def windows(self, height: int, width: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """[start, stop) of each window's rows, and of its columns."""
        if self.output is None:
            sides = zip((height, width), self.kernel, self.stride, strict=True)
            rows, columns = ([(at, at + size) for at in range(0, side - size + 1, step)] for side, size, step in sides)
        else:
            sides_out = zip((height, width), self.output, strict=True)
            rows, columns = (
                [(index * side // parts, -(-(index + 1) * side // parts)) for index in range(parts)]
                for side, parts in sides_out
            )
        return rows, columns

    def common_count(self, height: int, width: int) -> int:
        """The least number that every window's count of values divides: sums are brought to it."""
        rows, columns = self.windows(height, width)
        return math.lcm(*((bottom - top) * (right - left) for top, bottom in rows for left, right in columns))


@dataclass(frozen=True)
class Flatten:
    """(N, ...) -> (N, all of an example's values)."""


Layer = Dense | Convolution | Relu | Squared | MaxPool | MeanPool | Flatten
