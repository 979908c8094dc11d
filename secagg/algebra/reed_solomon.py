"""Finding wrong shares: Shamir shares of one secret are a word of a Reed-Solomon code (McEliece and Sarwate 1981).

The decoder is Gao's (2003): the remainders of Euclid's algorithm on prod (x - x_i) and the polynomial through all
points, stopped half-way, give the locator of the errors.  It takes O(r^2) steps for r shares, here O(r) array
operations.  Polynomials are arrays of coefficients, lowest first, uint64, without leading zeros; the zero
polynomial is the empty array.
"""

import numpy as np
import numpy.typing as npt

from secagg.algebra import field
from secagg.algebra.field import PRIME, FieldArray

_P = np.uint64(PRIME)


def find_errors(points: FieldArray, values: FieldArray, dimension: int) -> npt.NDArray[np.intp] | None:
    """Which of the values are not on the polynomial of a degree below ``dimension`` that most of them are on.

    Args:
        points: distinct, shape (r,).
        values: shape (r,), reduced.
        dimension: t; up to (r - t) // 2 errors are found for certain.

    Returns:
        Their indices, ascending; None if no polynomial agrees with all but so many values.
    """
    remainder, locator = _euclid(points, values, (len(points) + dimension + 1) // 2)
    polynomial, rest = _divide(remainder, locator)
    if rest.size or len(polynomial) > dimension:
        return None
    errors = np.flatnonzero(_evaluate(polynomial, points) != values)
    return errors if 2 * len(errors) <= len(points) - dimension else None


def _euclid(points: FieldArray, values: FieldArray, stop: int) -> tuple[FieldArray, FieldArray]:
    """The first remainder of a degree below ``stop``, with its cofactor of the polynomial through all points."""
    upper, lower = _through(points, values)
    upper_factor, factor = np.zeros(0, dtype=np.uint64), np.ones(1, dtype=np.uint64)
    while len(lower) > stop:
        quotient, remainder = _divide(upper, lower)
        upper, lower = lower, remainder
        upper_factor, factor = factor, _subtract(upper_factor, _multiply(quotient, factor))
    return lower, factor


def _through(points: FieldArray, values: FieldArray) -> tuple[FieldArray, FieldArray]:
    """prod (x - x_i), and the polynomial of a degree below r with f(x_i) = y_i: Newton's, one point at a time."""
    count = len(points)
    vanishing = np.zeros(count + 1, dtype=np.uint64)
    vanishing[0] = 1
    polynomial = np.zeros(count + 1, dtype=np.uint64)
    # What the polynomials so far give at every point.
    vanishing_at = np.ones(count, dtype=np.uint64)
    polynomial_at = np.zeros(count, dtype=np.uint64)
    inverses = field.inverse(np.arange(PRIME, dtype=np.uint64)) if count > _FEW else None
    for i in range(count):
        missing = field.reduce(values[i : i + 1] + _P - polynomial_at[i : i + 1])
        divisor = vanishing_at[i : i + 1]
        inverse = field.inverse(divisor) if inverses is None else inverses[divisor]
        step = field.multiply(missing, inverse)
        polynomial = field.reduce(polynomial + vanishing * step)
        polynomial_at = field.reduce(polynomial_at + vanishing_at * step)
        shifted = np.concatenate((vanishing[-1:], vanishing[:-1]))
        vanishing = field.reduce(shifted + vanishing * (_P - points[i]))
        vanishing_at = field.multiply(vanishing_at, field.reduce(points + _P - points[i]))
    return vanishing, _trimmed(polynomial)


# From so many points on, a table of all inverses is quicker than one power a point.
_FEW = 64


def _divide(numerator: FieldArray, divisor: FieldArray) -> tuple[FieldArray, FieldArray]:
    """Quotient and remainder; ``divisor`` is not zero."""
    degree = len(divisor) - 1
    if len(numerator) <= degree:
        return np.zeros(0, dtype=np.uint64), numerator
    remainder = numerator.copy()
    quotient = np.zeros(len(numerator) - degree, dtype=np.uint64)
    scale = pow(int(divisor[-1]), -1, PRIME)
    for shift in range(len(quotient) - 1, -1, -1):
        coefficient = int(remainder[shift + degree]) * scale % PRIME
        quotient[shift] = coefficient
        window = remainder[shift : shift + degree + 1]
        window[:] = field.reduce(window + divisor * np.uint64((PRIME - coefficient) % PRIME))
    return quotient, _trimmed(remainder[:degree])


def _multiply(left: FieldArray, right: FieldArray) -> FieldArray:
    if len(left) > len(right):
        left, right = right, left
    product = np.zeros(max(0, len(left) + len(right) - 1), dtype=np.uint64)
    for shift, coefficient in enumerate(left):
        window = product[shift : shift + len(right)]
        window[:] = field.reduce(window + right * coefficient)
    return product


def _subtract(left: FieldArray, right: FieldArray) -> FieldArray:
    difference = np.zeros(max(len(left), len(right)), dtype=np.uint64)
    difference[: len(left)] = left
    difference[: len(right)] += _P - right
    return _trimmed(field.reduce(difference))


def _evaluate(polynomial: FieldArray, points: FieldArray) -> FieldArray:
    """f at each point, by Horner."""
    result = np.zeros(len(points), dtype=np.uint64)
    for coefficient in polynomial[::-1]:
        result = field.reduce(result * points + coefficient)
    return result


def _trimmed(polynomial: FieldArray) -> FieldArray:
    nonzero = np.flatnonzero(polynomial)
    return polynomial[: nonzero[-1] + 1] if nonzero.size else polynomial[:0]
