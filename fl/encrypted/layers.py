"""The layers that can run on secret shares: their kinds and sizes, which are public.

All parties of an encrypted evaluation learn them; the weights stay with the model's owner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Dense:
    """A linear layer: (N, inputs) -> (N, outputs)."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class Convolution:
    """A convolution: (N, channels_in, H, W) -> (N, channels_out, H', W'). Pairs of numbers are (rows, columns)."""

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
    """The maximum of each window; values left over at the edges are dropped."""

    kernel: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True)
class MeanPool:
    """The mean of each window: windows as in `MaxPool`, or torch's adaptive ones with ``output``."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    output: tuple[int, int] | None = None

    def windows(self, height: int, width: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return [start, stop) of each window's rows, and of its columns."""
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
        """Return the least common multiple of the windows' sizes, to which sums are scaled."""
        rows, columns = self.windows(height, width)
        return math.lcm(*((bottom - top) * (right - left) for top, bottom in rows for left, right in columns))


@dataclass(frozen=True)
class Flatten:
    """A reshape: (N, ...) -> (N, all values of an example)."""


Layer = Dense | Convolution | Relu | Squared | MaxPool | MeanPool | Flatten
