"""GF(p) with p = 65521, the largest prime below 2^16: Shamir's field.

A share then fits a uint16, and a product of matrices over the field can be computed in float64: sums of t
products stay below t * p^2, exact up to 2^53, which holds for t < 2^21.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

PRIME = 65521
GENERATOR = 17
"""A generator: its powers are all elements except zero."""
MAX_INNER_DIMENSION = 2**53 // PRIME**2

FieldArray = npt.NDArray[np.uint64]


def reduce(values: npt.NDArray[np.uint64]) -> FieldArray:
    """Return ``values`` mod p, same shape, uint64.

    numpy divides an array by a scalar through a multiplication, whose time does not depend on the values; its ``%``
    uses the processor's division, whose time may depend on them.
    """
    prime = np.uint64(PRIME)
    quotient = values // prime
    np.multiply(quotient, prime, out=quotient)
    np.subtract(values, quotient, out=quotient)
    return quotient


def multiply(left: FieldArray, right: FieldArray) -> FieldArray:
    """Return the element-wise product mod p, with broadcasting; both operands must be reduced."""
    return reduce(left * right)


def matmul(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> FieldArray:
    """Return the exact matrix product mod p of reduced operands given as float64.

    Shapes (..., a, t) x (..., t, c) -> (..., a, c), uint64.
    """
    if left.shape[-1] > MAX_INNER_DIMENSION:
        raise ValueError(f"inner dimension {left.shape[-1]} is above {MAX_INNER_DIMENSION}: not exact in float64")
    return reduce(np.matmul(left, right).astype(np.uint64))


def inverse(values: FieldArray) -> FieldArray:
    """Return multiplicative inverses by Fermat, values^(p-2); zero maps to zero."""
    result = np.ones_like(values)
    power = values
    exponent = PRIME - 2
    while exponent:
        if exponent & 1:
            result = multiply(result, power)
        power = multiply(power, power)
        exponent >>= 1
    return result


def logarithms(values: FieldArray) -> npt.NDArray[np.float64]:
    """Return logarithms to the base GENERATOR, integers in [0, p - 1); 0 for zero, as if the factor were left out.

    Their sums are logarithms of products, so one matrix product computes many products.  Use this and `exponentials`
    for public values only: they look up tables, and the time may depend on the values.
    """
    return _tables()[0][values]


def exponentials(logarithms: npt.NDArray[np.float64]) -> FieldArray:
    """Return GENERATOR to the power of each element; any integers that float64 holds exactly."""
    return _tables()[1][logarithms.astype(np.int64) % (PRIME - 1)]


@cache
def _tables() -> tuple[npt.NDArray[np.float64], FieldArray]:
    """Return the logarithms of all elements, and all powers of the generator."""
    powers = np.ones(1, dtype=np.uint64)
    while len(powers) < PRIME - 1:
        # The next c powers are the first c times generator^c.
        following = multiply(powers, reduce(powers[-1:] * np.uint64(GENERATOR)))
        powers = np.concatenate((powers, following))[: PRIME - 1]
    logarithms = np.zeros(PRIME)
    logarithms[powers] = np.arange(PRIME - 1)
    for table in (logarithms, powers):
        table.setflags(write=False)
    return logarithms, powers
