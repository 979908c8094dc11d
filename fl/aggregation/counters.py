"""Counters as small digits that add up in a ring. Clients send totals in this form, alone or behind an update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

IntegerVector: TypeAlias = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class CounterEncoding:
    """Counters as digits in base 2^value_bits, lowest first.

    Attributes:
        largest: the maximum of each counter of one client.
        value_bits: bits of a digit. Sums of digits are wider; decoding carries them.
    """

    largest: tuple[int, ...]
    value_bits: int

    @property
    def vector_length(self) -> int:
        """Return the number of digits of all counters."""
        return sum(self._digits())

    def encode(self, counters: Sequence[int]) -> IntegerVector:
        """Return the counters' digits, int64, shape (vector_length,). Each counter is in [0, largest]."""
        base = (1 << self.value_bits) - 1
        return np.array(
            [
                counter >> (self.value_bits * place) & base
                for counter, digits in zip(counters, self._digits(), strict=True)
                for place in range(digits)
            ],
            dtype=np.int64,
        )

    def decode(self, total: IntegerVector) -> tuple[int, ...]:
        """Return the sums of the counters from the sums of their digits, shape (vector_length,)."""
        at, counters = 0, []
        for digits in self._digits():
            counters.append(sum(int(total[at + place]) << (self.value_bits * place) for place in range(digits)))
            at += digits
        return tuple(counters)

    def _digits(self) -> tuple[int, ...]:
        return tuple(-(-largest.bit_length() // self.value_bits) for largest in self.largest)
