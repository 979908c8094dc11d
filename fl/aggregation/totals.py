"""Encoding of a client's totals, its examples and its figures (loss and metrics), as counters that add up in a ring.

A figure's numerator and denominator are whole numbers of steps; a numerator may be negative, and is shifted by the same
number for each client. A sum is checked: what no clients' totals can add up to gives an error, and no figure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fl.aggregation.counters import CounterEncoding, IntegerVector
from fl.errors import FLError
from fl.learning.figures import MOST_PER_EXAMPLE, FigureRange, Total


class QuantizationError(FLError):
    """An update cannot be encoded: it is not finite, has the wrong length, or a figure out of its range."""


class UndecodableSumError(FLError):
    """Valid inputs cannot add up to this sum: a client sent an invalid one, and there is no result."""


@dataclass(frozen=True, slots=True)
class TotalsEncoding:
    """Counters of a client's examples, metrics, loss and of anything else.

    Attributes:
        figures: the ranges of the loss and of each metric; empty without figures.
        most_examples: the largest number of examples of one client.
        further: the names of the further counters, with the maximum of each for one client.
        value_bits: bits of a digit.
    """

    figures: tuple[FigureRange, ...]
    most_examples: int
    further: tuple[tuple[str, int], ...]
    value_bits: int

    @property
    def vector_length(self) -> int:
        """Return the number of digits of all counters."""
        return self._counters.vector_length

    def encode(
        self,
        num_examples: int,
        loss_sum: float,
        metrics: Sequence[Total],
        further: Sequence[int] = (),
        *,
        clips: bool = False,
    ) -> IntegerVector:
        """Return a client's totals as digits, int64, shape (vector_length,).

        With ``clips``, a figure out of its range counts as the nearest one; not being a number, as the largest.

        Raises:
            QuantizationError: a figure is out of its range, or not one for each of the encoding's.
        """
        if self.figures and len(metrics) != len(self.figures) - 1:
            raise QuantizationError(f"{len(metrics)} metrics were measured, but {len(self.figures) - 1} were planned")
        counters = [num_examples]
        for figure, total in zip(self.figures[1:], metrics, strict=False):
            counters += self._of(figure).encode(total, clips=clips)
        if self.figures:
            counters.append(self._loss.encode((loss_sum, num_examples), clips=clips)[0])
        return self._counters.encode((*counters, *further))

    def decode(
        self, total: IntegerVector, num_clients: int, *, fewest_examples: int, most_examples: int
    ) -> tuple[int, dict[str, Total], tuple[int, ...]]:
        """Return the sums of examples, of figures by their names, and of the further counters.

        Args:
            total: a sum of vectors that end with these counters, shape (at least vector_length,).
            num_clients: number of vectors in the sum.
            fewest_examples, most_examples: bounds on the number of examples of all clients together.

        Raises:
            UndecodableSumError: ``num_clients`` valid vectors cannot add up to it.
        """
        sums = self._counters.decode(total[-self.vector_length :])
        examples, further = sums[0], sums[len(sums) - len(self.further) :]
        if int(total.max()) > num_clients * ((1 << self.value_bits) - 1):
            raise _impossible(num_clients, f"an element of {int(total.max())}", examples)
        if not fewest_examples <= examples <= most_examples:
            raise _impossible(num_clients, f"{examples} examples", examples)
        figures = {}
        if self.figures:
            loss = self._loss
            # The loss's denominator is the number of examples, which travels once.
            pairs = [*zip(sums[1::2], sums[2::2], strict=False)][: len(self.figures) - 1]
            shown = (sums[2 * len(self.figures) - 1], examples << loss.range.fraction_bits)
            encodings = [self._of(figure) for figure in self.figures[1:]]
            for one, counters in zip((*encodings, loss), (*pairs, shown), strict=True):
                most = examples * (1 if one is loss else MOST_PER_EXAMPLE)
                figures[one.range.name] = one.decode(counters, num_clients, most, examples)
        for found, (name, largest) in zip(further, self.further, strict=True):
            if found > num_clients * largest:
                raise _impossible(num_clients, f"{found} {name}", examples)
        return examples, figures, further

    def _of(self, figure: FigureRange) -> "_FigureEncoding":
        return _FigureEncoding(figure, self.most_examples * MOST_PER_EXAMPLE)

    @property
    def _loss(self) -> "_FigureEncoding":
        return _FigureEncoding(self.figures[0], self.most_examples)

    @property
    def _counters(self) -> CounterEncoding:
        largest = [self.most_examples]
        for figure in self.figures[1:]:
            largest += self._of(figure).largest
        if self.figures:
            largest.append(self._loss.largest[0])
        return CounterEncoding((*largest, *(most for _, most in self.further)), self.value_bits)


@dataclass(frozen=True, slots=True)
class _FigureEncoding:
    """A figure's numerator and denominator as two counters; ``most`` is the largest denominator of one client."""

    range: FigureRange
    most: int

    @property
    def largest(self) -> tuple[int, int]:
        return self._offset + int(self.range.high) * self._steps(self.most), self._steps(self.most)

    def encode(self, total: Total, *, clips: bool) -> tuple[int, int]:
        """Return a client's counters; a numerator without a denominator does not count."""
        own, (numerator, denominator) = self.range, total
        if denominator > self.most:
            raise QuantizationError(f"{own.name} has a denominator of {denominator:g}, above {self.most:g}")
        below = self._steps(denominator)
        if not below:
            return self._offset, 0
        value = numerator / denominator
        if not (clips or own.clips) and not own.low <= value <= own.high:
            raise QuantizationError(
                f"{own.name} is {value:g}, but must be from {own.low:g} to {own.high:g}: scale the targets, or lower "
                "the learning rate"
            )
        # The numerator is cut after rounding, so that no honest client is out of range by a rounding error.
        largest, least = int(own.high) * below, int(own.low) * below
        steps = self._steps(numerator) if math.isfinite(numerator) else largest
        return min(max(steps, least), largest) + self._offset, below

    def decode(self, counters: tuple[int, int], num_clients: int, most: int, examples: int) -> Total:
        """Return the sum of the clients' figures."""
        own, (shifted, below) = self.range, counters
        numerator, steps = shifted - num_clients * self._offset, 1 << own.fraction_bits
        low, high = int(own.low) * below, int(own.high) * below
        if not (low <= numerator <= high and below <= self._steps(most)):
            raise _impossible(num_clients, f"{own.name} {numerator / steps:g} over {below / steps:g}", examples)
        return numerator / steps, below / steps

    @property
    def _offset(self) -> int:
        return -int(self.range.low) * self._steps(self.most)

    def _steps(self, value: float) -> int:
        return round(value * (1 << self.range.fraction_bits))


def _impossible(num_clients: int, found: str, examples: int) -> UndecodableSumError:
    return UndecodableSumError(
        f"{num_clients} clients' inputs cannot add up to {found}: a client sent an invalid input"
        + ("" if examples else ", or none of them has any")
    )
