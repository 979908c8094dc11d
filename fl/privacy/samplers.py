"""Integer noise from a cryptographic keystream: Skellam and discrete Gaussian, exact except for a stated distance.

**Skellam**, the difference of two Poisson variables of mean v/2, has P(k) = e^-v I_|k|(v) and variance v.  **Discrete
Gaussian**: P(k) is proportional to e^(-k^2 / 2v).  Both by inversion: with thresholds T_j = P(X <= j) of 128 bits and a
uniform U, X is the number of thresholds that U has reached.  Nearly always the upper 64 bits of U decide, so that one
word of the keystream makes one value; if they equal those of a threshold, a further word decides.  The probabilities
are computed in integers of 256 bits, and cut off where less than 2^-110 is left on both sides together.  So a value has
a total-variation distance of at most **2^-100** from the exact distribution.

The table grows with the standard deviation.  Beyond `LARGEST_TABLE` a Skellam variable is the sum of independent ones
of smaller variance, and a discrete Gaussian is drawn by rejection (Canonne, Kamath, Steinke 2020, algorithm 3) from a
discrete Laplace variable.  The test against e^-x is in float64 where its error bound allows a decision, and otherwise,
once in 2^43 draws, in decimals of 60 digits.

What leaks: tables are read at secret places, the second word and rejected draws take time.  A process on the same
machine that observes caches or exact times learns something of a client's noise.
"""

import math
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from secagg.primitives.prg import Keystream, chunk_buffer

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

LARGEST_TABLE = 1 << 12
"""The largest standard deviation with a table of its own: 100,000 thresholds of 16 bytes."""

LARGEST_STDDEV = 1 << 16
"""Beyond this a Skellam value would be a sum of more than 256 draws."""

_FRACTION_BITS = 256
_ONE = 1 << _FRACTION_BITS
_TAIL = 112 * math.log(2)  # of one side: together 2^-111
_START = 400 * math.log(2)
_GUIDE_BITS = 16
# Small enough for the processor's cache. Of each chunk of the keystream only so much is used.
_BLOCK = 1 << 14
# Far above the error of e^-x as `_accepted` computes it, which is below 2^-50.
_UNDECIDED = 2.0**-44


def skellam(key: bytes, variance: float, length: int) -> Integers:
    """Return Skellam noise of this variance, int64, shape (length,); the 16-byte ``key`` must be secret and new."""
    noise = np.zeros(length, dtype=np.int64)
    add_skellam(noise, key, variance)
    return noise


def add_skellam(vector: Integers, key: bytes, variance: float) -> None:
    """Add `skellam` noise to a vector in place."""
    _check(variance)
    parts = math.ceil(variance / LARGEST_TABLE**2)
    table, stream = _skellam_table(Fraction(variance) / parts), _Stream(key)
    for block in _blocks(vector):
        for _ in range(parts):
            block += table.values(stream.words(len(block)), stream.bytes)


def discrete_gaussian(key: bytes, variance: float, length: int) -> Integers:
    """Return discrete Gaussian noise with parameter ``variance``, int64, shape (length,); ``key`` as for `skellam`."""
    noise = np.zeros(length, dtype=np.int64)
    add_discrete_gaussian(noise, key, variance)
    return noise


def add_discrete_gaussian(vector: Integers, key: bytes, variance: float) -> None:
    """Add `discrete_gaussian` noise to a vector in place."""
    _check(variance)
    stream = _Stream(key)
    table = _gaussian_table(Fraction(variance)) if variance <= LARGEST_TABLE**2 else None
    for block in _blocks(vector):
        if table:
            block += table.values(stream.words(len(block)), stream.bytes)
        else:
            block += _rejection(stream, variance, len(block))


class _Stream:
    """The keystream of a key as words, a block or less at a time, and as the bytes that single values need."""

    # Chunks from here on are for single values.
    _FURTHER = 1 << 64

    def __init__(self, key: bytes) -> None:
        self._keystream = Keystream(key)
        self._buffer = chunk_buffer(8 * _BLOCK)
        self._chunks = self._singles = 0

    def words(self, count: int) -> Words:
        """Return ``count`` words, at most a block, that no other call gives; valid until the next call."""
        self._keystream.chunk_into(self._chunks, memoryview(self._buffer), 8 * count)
        self._chunks += 1
        return np.frombuffer(self._buffer, dtype="<u8", count=count)

    def bytes(self, size: int) -> bytes:
        """Return ``size`` bytes that no other call gives."""
        buffer = chunk_buffer(size)
        self._keystream.chunk_into(self._FURTHER + self._singles, memoryview(buffer), size)
        self._singles += 1
        return bytes(buffer[:size])


class InverseTable:
    """The thresholds of a symmetric distribution on the integers, from the weights of 0, 1, .., K."""

    def __init__(self, weights: list[int]) -> None:
        total, sums, running = 2 * sum(weights) - weights[0], [], 0
        self.largest = len(weights) - 1
        for weight in (*weights[:0:-1], *weights[:-1]):
            running += weight
            sums.append(min((running << 128) // total, (1 << 128) - 1))
        self.high = np.array([threshold >> 64 for threshold in sums], dtype=np.uint64)
        self.low = np.array([threshold & (1 << 64) - 1 for threshold in sums], dtype=np.uint64)
        # For each value of the upper bits: the number of thresholds below them, or -1 if several begin with them, so
        # that a search must tell. Small integers, so that the table stays in the processor's cache.
        starts = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(64 - _GUIDE_BITS)
        first = np.searchsorted(self.high, starts)
        crowded = np.diff(first, append=len(self.high)) > 1
        small = np.int16 if len(self.high) < 1 << 15 else np.int32
        self._first: npt.NDArray[np.signedinteger] = np.where(crowded, -1, first).astype(small)
        # The last is for values that have reached all thresholds, and for -1.
        self._next = np.append(self.high, np.uint64((1 << 64) - 1))

    def values(self, words: Words, more: Callable[[int], bytes]) -> Integers:
        """Return one value for each word; ``more`` gives the bytes that undecided ones need."""
        first = self._first.take((words >> np.uint64(64 - _GUIDE_BITS)).view(np.int64), mode="wrap")
        values = first.astype(np.int64)
        threshold = self._next.take(values, mode="wrap")
        values += (words >= threshold).astype(np.int64)
        undecided = words == threshold
        if len(crowded := np.flatnonzero(first < 0)):
            values[crowded] = self._reached(words[crowded])
            undecided[crowded] = words[crowded] == self._next[np.maximum(values[crowded] - 1, 0)]
        if undecided.any():
            for place in np.flatnonzero(undecided):
                values[place] = self.decided(words[place], _word(more))
        values -= self.largest
        return values

    def decided(self, word: np.uint64, second: np.uint64) -> int:
        """Return how many thresholds the number with these two words, upper one first, has reached."""
        below, reached = np.searchsorted(self.high, word), int(self._reached(word))
        return int(below) + int(np.count_nonzero(self.low[below:reached] <= second))

    def _reached(self, words: Words | np.uint64) -> Integers:
        return np.searchsorted(self.high, words, side="right")


# Each noise component has a table, of about 600 KB.
@lru_cache(maxsize=32)
def _skellam_table(variance: Fraction) -> InverseTable:
    """Return the table from I_(k-1) = I_(k+1) + (2k/v) I_k, computed downwards (Miller's algorithm).

    With r_k = I_(k+1) / I_k, an error of r_k becomes one of r_(k-1) that is smaller by the factor r_k r_(k-1), relative
    to the ratio. Begun far out, from 0, the ratios are right to all 256 bits where the table needs them.
    """
    start, largest = _reach(variance, _START), _reach(variance, _TAIL)
    ratio, ratios = 0, []
    for k in range(start, 0, -1):
        ratio = (_ONE << _FRACTION_BITS) // (
            (2 * k * variance.denominator << _FRACTION_BITS) // variance.numerator + ratio
        )
        if k <= largest:
            ratios.append(ratio)
    weights = [_ONE]
    for ratio in reversed(ratios):
        weights.append(weights[-1] * ratio >> _FRACTION_BITS)
    return InverseTable(weights)


def _reach(variance: Fraction, exponent: float) -> int:
    """Return a k with P(X >= k) <= e^-exponent for Skellam X, by Chernoff's bound at its best point, asinh(k/v)."""
    v, low, high = float(variance), 0, 1

    def bound(k: int) -> float:
        return k * math.asinh(k / v) - k * k / (v + math.hypot(k, v))

    while bound(high) < exponent:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bound(middle) < exponent else (low, middle)
    return high


@lru_cache(maxsize=4)
def _gaussian_table(variance: Fraction) -> InverseTable:
    """Return the table from e^(-(k+1)^2 / 2v) = e^(-k^2 / 2v) q^(2k+1), q = e^(-1/2v)."""
    with localcontext(prec=100):
        step = int((-Decimal(variance.denominator) / (2 * variance.numerator)).exp() * _ONE)
    squared, weights = step * step >> _FRACTION_BITS, [_ONE]
    # A discrete Gaussian variable has the tail bound of the continuous one.
    for _ in range(math.ceil(math.sqrt(2 * variance * _TAIL))):
        weights.append(weights[-1] * step >> _FRACTION_BITS)
        step = step * squared >> _FRACTION_BITS
    return InverseTable(weights)


def _rejection(stream: _Stream, variance: float, length: int) -> Integers:
    """Return discrete Gaussian values by rejection from discrete Laplace ones of a scale t = 2^b near their deviation.

    |Y| = U + t V with U uniform in [0, t), accepted with probability e^(-U/t), and V geometric, P(V) ~ e^-V. The sign
    is random, and -0 is rejected. Y is accepted with probability e^(-(|Y| - v/t)^2 / 2v). Both tests are made as one.
    """
    bits = round(math.log2(math.sqrt(variance)))
    scale, found, count = 1 << bits, [], 0
    while count < length:
        words = stream.words(min(_BLOCK, 2 * (length - count) + 64))
        offset = (words & np.uint64(scale - 1)).view(np.int64)
        negative = (words >> np.uint64(63)).astype(np.bool_)
        size = offset + scale * _geometric(stream, len(offset))
        kept = ~(negative & (size == 0))
        kept &= _accepted(stream, offset, size, scale, variance)
        values = np.where(negative, -size, size)[kept]
        found.append(values)
        count += len(values)
    return np.concatenate(found)[:length]


def _geometric(stream: _Stream, length: int) -> Integers:
    """Return values V >= 0 with P(V) proportional to e^-V."""
    table = _laplace_table()
    values = table.values(stream.words(length), stream.bytes)
    # The table has two sides. Of values other than 0, |value| - 1 has the wanted distribution.
    while len(zeros := np.flatnonzero(values == 0)):
        values[zeros] = table.values(stream.words(len(zeros)), stream.bytes)
    return np.abs(values) - 1


@lru_cache(maxsize=1)
def _laplace_table() -> InverseTable:
    with localcontext(prec=100):
        return InverseTable([int((-Decimal(k)).exp() * _ONE) for k in range(math.ceil(_TAIL) + 1)])


def _accepted(stream: _Stream, offset: Integers, size: Integers, scale: int, variance: float) -> npt.NDArray[np.bool_]:
    """Return for each proposal whether it is accepted, with probability exp(-offset/t - (size - v/t)^2 / 2v)."""
    # A power of two as scale makes both divisions exact; all else is a few roundings, and p x <= 1/e for p = e^-x.
    probability = np.exp(-(offset / scale + np.square(size - variance / scale) / (2 * variance)))
    words = stream.words(len(size))
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    accepted: npt.NDArray[np.bool_] = uniform < probability
    for place in np.flatnonzero(np.abs(uniform - probability) < _UNDECIDED):
        accepted[place] = _exactly_accepted(
            int(words[place]) << 64 | int(_word(stream.bytes)), int(offset[place]), int(size[place]), scale, variance
        )
    return accepted


def _exactly_accepted(uniform: int, offset: int, size: int, scale: int, variance: float) -> bool:
    """Return whether a uniform number of 128 bits is below exp(-offset/t - (size - v/t)^2 / 2v)."""
    v = Fraction(variance)
    exponent = Fraction(offset, scale) + (size - v / scale) ** 2 / (2 * v)
    with localcontext(prec=60):
        return uniform < (-Decimal(exponent.numerator) / exponent.denominator).exp() * 2**128


def _blocks(vector: Integers) -> Iterator[Integers]:
    """Yield the vector in views of a block or less."""
    for start in range(0, len(vector), _BLOCK):
        yield vector[start : start + _BLOCK]


def _word(more: Callable[[int], bytes]) -> np.uint64:
    return np.uint64(int.from_bytes(more(8), "little"))


def _check(variance: float) -> None:
    if not 0 < variance <= LARGEST_STDDEV**2:
        raise ValueError(f"the variance of noise must be above 0 and at most {LARGEST_STDDEV**2}, not {variance}")
