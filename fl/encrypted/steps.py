"""What all parties do with their shares of a model and of images, step by step; public.

Secrets are integers modulo p = 2^61 - 1; a real number v is stored as round(v * scale). A comparison or truncation of
numbers of b bits takes all the room above them for its mask, at least `STATISTICAL_SECURITY` bits: b is at most
`WIDEST`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl.encrypted.layers import Convolution, Dense, MaxPool, MeanPool
from fl.encrypted.residues import BITS

_ROOM = BITS - 2

STATISTICAL_SECURITY = 30
"""MPyC's security parameter k, its default, for the widest numbers; see `statistical_security`."""

WIDEST = _ROOM - STATISTICAL_SECURITY
"""Bits of the widest number that can be compared or truncated, its sign included."""


def statistical_security(bits: int) -> int:
    """k for numbers of so many bits: all the room that they leave.

    A comparison or truncation opens the secret with a mask on it that is 2^k times as wide as the secret; half of that
    for a party that dealt a part of the mask. What is opened tells it something with probability 2^(1 - k).
    """
    return _ROOM - bits


@dataclass(frozen=True)
class Multiply:
    """A Dense or Convolution with the shared weights of that number."""

    layer: Dense | Convolution
    weights: int


@dataclass(frozen=True)
class Truncate:
    """Divide by 2^drop; values have so many bits."""

    drop: int
    bits: int


@dataclass(frozen=True)
class Rectify:
    """max(x, 0); values have so many bits."""

    bits: int


@dataclass(frozen=True)
class Multiplied:
    """x * x."""


@dataclass(frozen=True)
class Maximum:
    """A MaxPool; differences of values have so many bits."""

    layer: MaxPool
    bits: int


@dataclass(frozen=True)
class Sums:
    """A MeanPool, times ``common``."""

    layer: MeanPool
    common: int


@dataclass(frozen=True)
class Flattening:
    """(N, ...) -> (N, all)."""


Step = Multiply | Truncate | Rectify | Multiplied | Maximum | Sums | Flattening


@dataclass(frozen=True)
class Plan:
    """What all parties do; public.

    input_bits: pixels are stored as round(x * 2^input_bits).
    weight_shapes: of each weight matrix, (terms of each sum, outputs).
    argmax_bits: of differences of the last layer's outputs.
    """

    input_bits: int
    steps: tuple[Step, ...]
    weight_shapes: tuple[tuple[int, int], ...]
    argmax_bits: int

    @property
    def comparisons(self) -> str:
        """For people: the widths of comparisons."""
        widths = [step.bits for step in self.steps if isinstance(step, Rectify | Maximum)]
        return ", ".join(map(str, [*widths, self.argmax_bits]))
