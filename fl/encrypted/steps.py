"""The steps of all parties on their shares of a model and of images. Public.

Secrets are integers modulo p = 2^61 - 1; a real number v is stored as round(v * scale). A comparison or truncation of
b-bit numbers uses all bits above them for its mask, at least `STATISTICAL_SECURITY` bits, so b is at most `WIDEST`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl.encrypted.layers import Convolution, Dense, MaxPool, MeanPool
from fl.encrypted.residues import BITS

_ROOM = BITS - 2

STATISTICAL_SECURITY = 30
"""MPyC's security parameter k for the widest numbers (its default); see `statistical_security`."""

WIDEST = _ROOM - STATISTICAL_SECURITY
"""Bits, with sign, of the widest number that can be compared or truncated."""


def statistical_security(bits: int) -> int:
    """Return k for numbers of this width: all bits that they leave.

    A comparison or truncation opens the secret under a mask that is 2^k times as wide as the secret, or half of that
    for a party that dealt a part of the mask. The opened value tells that party something with probability 2^(1 - k).
    """
    return _ROOM - bits


@dataclass(frozen=True)
class Multiply:
    """A Dense or Convolution with the shared weights at index `weights`."""

    layer: Dense | Convolution
    weights: int


@dataclass(frozen=True)
class Truncate:
    """A division by 2^drop of values of `bits` bits."""

    drop: int
    bits: int


@dataclass(frozen=True)
class Rectify:
    """max(x, 0) for values of `bits` bits."""

    bits: int


@dataclass(frozen=True)
class Multiplied:
    """The square x * x."""


@dataclass(frozen=True)
class Maximum:
    """A MaxPool for values whose differences have `bits` bits."""

    layer: MaxPool
    bits: int


@dataclass(frozen=True)
class Sums:
    """A MeanPool, times ``common``."""

    layer: MeanPool
    common: int


@dataclass(frozen=True)
class Flattening:
    """A reshape: (N, ...) -> (N, all)."""


Step = Multiply | Truncate | Rectify | Multiplied | Maximum | Sums | Flattening


@dataclass(frozen=True)
class InferencePlan:
    """The steps of all parties. Public.

    input_bits: pixels are stored as round(x * 2^input_bits).
    weight_shapes: shape of each weight matrix, (terms of each sum, outputs).
    argmax_bits: bits of differences of the last layer's outputs.
    """

    input_bits: int
    steps: tuple[Step, ...]
    weight_shapes: tuple[tuple[int, int], ...]
    argmax_bits: int

    @property
    def comparisons(self) -> str:
        """Return the widths of comparisons as text."""
        widths = [step.bits for step in self.steps if isinstance(step, Rectify | Maximum)]
        return ", ".join(map(str, [*widths, self.argmax_bits]))
