"""Shamir's secret sharing over GF(65521), many secrets at once, as matrix products (Shamir 1979; paper section 3.1).

The holder in place i (from 0) has the evaluation point i + 1.
"""

import numpy as np
import numpy.typing as npt

from secagg.algebra import field
from secagg.algebra.field import PRIME, FieldArray

MAX_HOLDERS = PRIME - 1

# Rows of the Vandermonde matrix held at a time; bounds memory to a few MB for any number of holders.
_BLOCK_ELEMENTS = 1 << 19


def powers(points: FieldArray, count: int) -> FieldArray:
    """Return the Vandermonde matrix (len(points), count): x^0 ... x^(count-1), by doubling in log2(count) products."""
    matrix = np.empty((len(points), count), dtype=np.uint64)
    matrix[:, 0] = 1
    filled = 1
    stride = points  # points^filled
    while filled < count:
        step = min(filled, count - filled)
        matrix[:, filled : filled + step] = field.multiply(matrix[:, :step], stride[:, None])
        stride = field.multiply(stride, stride)
        filled += step
    return matrix


def share(
    secrets: npt.NDArray[np.uint16], coefficients: npt.NDArray[np.uint16], num_holders: int
) -> npt.NDArray[np.uint16]:
    """Return the shares of each secret for each holder.

    Args:
        secrets: shape (s,), elements below p.
        coefficients: shape (t - 1, s), uniform below p: the polynomials' higher coefficients.
        num_holders: number of shares of each secret, t <= num_holders < p.

    Returns:
        Shape (num_holders, s), uint16.  Any t rows give the secrets; fewer rows reveal nothing.
    """
    threshold = coefficients.shape[0] + 1
    if not threshold <= num_holders <= MAX_HOLDERS:
        raise ValueError(f"num_holders must be between the threshold {threshold} and {MAX_HOLDERS}, not {num_holders}")
    return values(np.concatenate((secrets[None, :], coefficients)), num_holders).astype(np.uint16)


def values(polynomials: npt.NDArray[np.unsignedinteger], num_holders: int) -> FieldArray:
    """Return the values of polynomials (columns of coefficients) at each holder's point, shape (num_holders, s)."""
    coefficients = polynomials.astype(np.float64)
    result = np.empty((num_holders, coefficients.shape[1]), dtype=np.uint64)
    rows = max(1, _BLOCK_ELEMENTS // len(coefficients))
    for start in range(0, num_holders, rows):
        points = np.arange(start + 1, min(start + rows, num_holders) + 1, dtype=np.uint64)
        result[start : start + rows] = field.matmul(powers(points, len(coefficients)).astype(np.float64), coefficients)
    return result


def dual_weights(held: npt.NDArray[np.bool_], points: FieldArray | None = None) -> FieldArray:
    """Return v_i = 1 / prod_{j held, j != i} (x_i - x_j) for each held place, 0 elsewhere.

    These are the weights of the dual code: sum v_i q(x_i) f(x_i) = 0 for all polynomials with deg f + deg q below the
    number of held places minus one. Lagrange's formula has the same weights, up to factors that depend on its point.

    Args:
        held: flags of the holders that have a share, shape (patterns, holders).
        points: distinct, shape (holders,); by default the holder in place i has the point i + 1.

    Returns:
        Shape (patterns, holders), uint64.
    """
    points = _points(held.shape[1]) if points is None else points
    return np.where(held, field.exponentials(-_log_distances(held, points)), np.uint64(0))


def _points(holders: int) -> FieldArray:
    return np.arange(1, holders + 1, dtype=np.uint64)


def _log_distances(held: npt.NDArray[np.bool_], points: FieldArray) -> npt.NDArray[np.float64]:
    """Return the logarithm of prod_{j held, j != i} (x_i - x_j) for each place i, shape (patterns, holders)."""
    factors = held.astype(np.float64)
    sums = np.empty(held.shape)
    columns = max(1, _BLOCK_ELEMENTS // held.shape[1])
    for start in range(0, held.shape[1], columns):
        block = points[start : start + columns]
        distances = field.logarithms(field.reduce(block[None, :] + np.uint64(PRIME) - points[:, None]))
        np.matmul(factors, distances, out=sums[:, start : start + columns])
    return sums


def lagrange_weights(held: npt.NDArray[np.bool_], point: int = 0) -> FieldArray:
    """Return weights w with f(point) = sum w_i f(x_i) for any polynomial of a degree below the number of held places.

    Args:
        held: as in `dual_weights`; a holder whose place is ``point`` is not flagged.
        point: where to evaluate; the secret is at 0.

    Returns:
        Shape (patterns, holders), uint64, 0 where not held.
    """
    points = _points(held.shape[1])
    distance = field.reduce(np.uint64(point + PRIME) - points)
    factors = np.where(held, distance, np.uint64(1))
    # Their product by halves: log2(holders) array operations.
    while factors.shape[1] > 1:
        half = factors.shape[1] // 2
        rest = factors[:, 2 * half :]
        factors = np.concatenate((field.multiply(factors[:, :half], factors[:, half : 2 * half]), rest), axis=1)
    others = field.multiply(factors, field.inverse(distance)[None, :])
    return field.multiply(dual_weights(held), others)


def evaluate(
    held: npt.NDArray[np.bool_], shares: npt.NDArray[np.uint16], places: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint16]:
    """Return the shares of further places, by the polynomials through the held shares.

    f(x) = prod_{j held} (x - x_j) sum_{i held} v_i f(x_i) / (x - x_i); the sums of all owners are one matrix product,
    for any pattern of holders.

    Args:
        held: as in `dual_weights`, shape (owners, holders).
        shares: shape (owners, holders, s); shares that are not held are ignored.
        places: shape (places,).

    Returns:
        Shape (owners, places, s), uint16; without meaning for places that are held.
    """
    owners, holders, width = shares.shape
    points = _points(holders)
    logarithms = _log_distances(held, points)
    weights = np.where(held, field.exponentials(-logarithms), np.uint64(0))
    weighted = (
        field.multiply(weights[:, :, None], shares.astype(np.uint64))
        .transpose(0, 2, 1)
        .reshape(owners * width, holders)
    )
    distances = field.reduce(points[places] + np.uint64(PRIME) - points[:, None])
    inverses = field.exponentials(-field.logarithms(distances)).astype(np.float64)
    sums = field.matmul(weighted.astype(np.float64), inverses).reshape(owners, width, len(places))
    values = field.multiply(sums, field.exponentials(logarithms[:, places])[:, None, :])
    return values.transpose(0, 2, 1).astype(np.uint16)


def combine(weights: FieldArray, shares: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return sum_i w_i y_i for each of many secrets.

    Args:
        weights: shape (owners, holders) or (1, holders).
        shares: shape (owners, holders, s).

    Returns:
        Shape (owners, s), uint16 below p.
    """
    owners, holders, width = shares.shape
    combined = np.empty((owners, width), dtype=np.uint16)
    rows = max(1, _BLOCK_ELEMENTS // max(1, holders * width))
    for start in range(0, owners, rows):
        block = shares[start : start + rows].astype(np.float64)
        weight = weights[start : start + rows] if len(weights) > 1 else weights
        combined[start : start + rows] = field.matmul(weight[:, None, :].astype(np.float64), block)[:, 0]
    return combined


def reconstruct(places: npt.NDArray[np.integer], shares: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return the secrets from exactly t shares each.

    Args:
        places: places of the holders (from 0), shape (t,), distinct.
        shares: shape (t, s), row i from the holder in ``places[i]``.

    Returns:
        Shape (s,), uint16 below p.
    """
    held = np.zeros((1, int(places.max()) + 1), dtype=bool)
    held[0, places] = True
    secrets: npt.NDArray[np.uint16] = combine(lagrange_weights(held)[:, places], shares[None, :, :])[0]
    return secrets
