"""Test if an operation's time depends on the secret: `python -m benchmarks.timing_leaks [--samples N]`.

After Reparaz, Balasch and Verbauwhede, "dude, is my code constant time?" (DATE 2017): the operation runs on a fixed
input and on random inputs in random order.  The slowest tenth is removed, since the machine causes it.  Welch's t shows
if the two means differ: above 10 is a leak; between 4.5 and 10, run it again with more samples.  It is a measurement,
not a test: a busy machine gives false alarms.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt

from secagg import sharing
from secagg.algebra import field, packing, ring, shamir
from secagg.algebra.field import PRIME
from secagg.masking import Mask, accumulate

_SUSPECT, _LEAK = 4.5, 10.0
_CUT = 0.9

Input = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation to time.

    Attributes:
        name: its name in the table.
        run: the operation.
        fixed: the input that is always the same.
        random: returns a random input.
    """

    name: str
    run: Callable[[Input], object]
    fixed: Input
    random: Callable[[np.random.Generator], Input]


def _field(shape: tuple[int, ...], dtype: type = np.uint64) -> Callable[[np.random.Generator], Input]:
    return lambda rng: rng.integers(0, PRIME, shape).astype(dtype)


def _words(length: int, ring_bits: int) -> Callable[[np.random.Generator], Input]:
    dtype = ring.word_dtype(ring_bits)
    return lambda rng: rng.integers(0, (1 << ring_bits) - 1, length, dtype=np.uint64, endpoint=True).astype(dtype)


def _operations() -> list[Operation]:
    coefficients = np.random.default_rng(0).integers(0, PRIME, (9, 18)).astype(np.uint16)
    held = np.ones((1, 10), dtype=bool)
    weights = shamir.lagrange_weights(held)
    packed = packing.pack(_words(1000, 26)(np.random.default_rng(0)), 26)
    mask = Mask(bytes(16))
    operations = [
        Operation("field.reduce", field.reduce, np.zeros(1000, np.uint64), _field((1000,))),
        Operation("field.multiply", lambda x: field.multiply(x, x), np.zeros(1000, np.uint64), _field((1000,))),
        Operation("field.inverse", field.inverse, np.ones(100, np.uint64), _field((100,))),
        Operation(
            "shamir.share",
            lambda x: shamir.share(x.astype(np.uint16), coefficients, 20),
            np.zeros(18, np.uint16),
            _field((18,), np.uint16),
        ),
        Operation(
            "shamir.combine",
            lambda x: shamir.combine(weights, x.astype(np.uint16)),
            np.zeros((1, 10, 9), np.uint16),
            _field((1, 10, 9), np.uint16),
        ),
        Operation(
            "seed to limbs to shares",
            lambda x: sharing.share_seeds((x.tobytes(),), 2, 3, lambda size: b"\x01" * size),
            np.zeros(16, np.uint8),
            _words(16, 8),
        ),
        Operation(
            "packing.unpack", lambda x: packing.unpack(x, 1000, 26), np.zeros_like(packed), _words(len(packed), 8)
        ),
    ]
    for bits in (8, 16, 26, 34, 64):
        dtype = ring.word_dtype(bits)
        operations.append(
            Operation(
                f"packing.pack, {bits} bits",
                lambda x, bits=bits: packing.pack(x, bits),  # type: ignore[misc]
                np.zeros(1000, dtype),
                _words(1000, bits),
            )
        )
        operations.append(
            Operation(
                f"masking.accumulate, {bits} bits",
                lambda x: accumulate(x.copy(), [mask]),
                np.zeros(1000, dtype),
                _words(1000, bits),
            )
        )
    return operations


def welch(fixed: npt.NDArray[np.float64], random: npt.NDArray[np.float64]) -> float:
    """Return Welch's t of two samples."""
    variance = fixed.var(ddof=1) / len(fixed) + random.var(ddof=1) / len(random)
    return float((fixed.mean() - random.mean()) / np.sqrt(variance)) if variance else 0.0


def measure(operation: Operation, samples: int, seed: int) -> tuple[float, float]:
    """Return Welch's t between fixed and random inputs, and the median time in microseconds."""
    rng = np.random.default_rng(seed)
    is_fixed = rng.random(samples) < 0.5
    # Make each input in the same steps and pass it in the same buffer, so that none has an advantage from its place in
    # memory.
    work = operation.fixed.copy()
    for _ in range(50):
        operation.run(work)
    times = np.empty(samples)
    for index, flag in enumerate(is_fixed):
        work[...] = np.where(flag, operation.fixed, operation.random(rng))
        started = perf_counter_ns()
        operation.run(work)
        times[index] = perf_counter_ns() - started
    kept = times <= np.quantile(times, _CUT)
    return welch(times[kept & is_fixed], times[kept & ~is_fixed]), float(np.median(times)) / 1000


def main() -> int:
    """Print a line for each operation; return 1 if one of them leaks."""
    parser = argparse.ArgumentParser(description="Time the secret-handling operations on fixed and on random secrets.")
    parser.add_argument("--samples", type=int, default=20_000, help="runs of each operation (default: %(default)s)")
    samples = parser.parse_args().samples
    if samples < 100:
        parser.error("--samples must be at least 100")
    print(f"{'operation':32} {'median':>12} {'t':>8}")
    leaks = 0
    for operation in _operations():
        statistic, median = measure(operation, samples, seed=len(operation.name))
        verdict = "LEAK" if abs(statistic) > _LEAK else "look again" if abs(statistic) > _SUSPECT else ""
        leaks += abs(statistic) > _LEAK
        print(f"{operation.name:32} {median:9.1f} us {statistic:8.1f} {verdict}")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
