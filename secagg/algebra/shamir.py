"""Shamir's secret sharing over GF(65521), many secrets at once, as matrix products (Shamir 1979; paper section 3.1).

The holder in place i (from 0) has the evaluation point i + 1.
"""

import numpy as np
import numpy.typing as npt

from secagg.algebra import field
from secagg.algebra.field import PRIME, FieldArray

MAX_HOLDERS = PRIME - 1

# Rows of the Vandermonde matrix that are held at a time: bounds memory at a few MB for any number of holders.
_BLOCK_ELEMENTS = 1 << 19


def _powers(points: FieldArray, count: int) -> FieldArray:
    """Vandermonde matrix (len(points), count): x^0 ... x^(count-1), by doubling: log2(count) array products."""
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
    """Shares of every secret for every holder.

    Args:
        secrets: shape (s,), elements below p.
        coefficients: shape (t - 1, s), uniform below p: the polynomials' higher coefficients.
        num_holders: how many shares of each secret, t <= num_holders < p.

    Returns:
        Shape (num_holders, s), uint16.  Any t rows give the secrets; fewer say nothing of them.
    """
    threshold = coefficients.shape[0] + 1
    if not threshold <= num_holders <= MAX_HOLDERS:
        raise ValueError(f"num_holders must be between the threshold {threshold} and {MAX_HOLDERS}, not {num_holders}")
    polynomial = np.concatenate((secrets[None, :], coefficients)).astype(np.float64)
    shares = np.empty((num_holders, len(secrets)), dtype=np.uint16)
    rows = max(1, _BLOCK_ELEMENTS // threshold)
    for start in range(0, num_holders, rows):
        points = np.arange(start + 1, min(start + rows, num_holders) + 1, dtype=np.uint64)
        shares[start : start + rows] = field.matmul(_powers(points, threshold).astype(np.float64), polynomial)
    return shares


def dual_weights(held: npt.NDArray[np.bool_]) -> FieldArray:
    """v_i = 1 / prod_{j held, j != i} (x_i - x_j) for each held place, 0 elsewhere.

    These are the weights of the dual code: sum v_i q(x_i) f(x_i) = 0 for all polynomials with deg f + deg q below the
    number of held places less one; and those of Lagrange's formula, but for factors that depend on where it is taken.

    Args:
        held: who has a share, shape (patterns, holders); the holder in place i has the point i + 1.

    Returns:
        Shape (patterns, holders), uint64.
    """
    points = np.arange(1, held.shape[1] + 1, dtype=np.uint64)
    product = np.ones(held.shape, dtype=np.uint64)
    for place in np.flatnonzero(held.any(axis=0)).tolist():
        difference = field.reduce(points + np.uint64(PRIME) - points[place])
        difference[place] = 1
        rows = np.flatnonzero(held[:, place])
        product[rows] = field.multiply(product[rows], difference)
    return np.where(held, field.inverse(product), np.uint64(0))


def lagrange_weights(held: npt.NDArray[np.bool_], point: int = 0) -> FieldArray:
    """Weights w with f(point) = sum w_i f(x_i) for any polynomial of a degree below the number of held places.

    Args:
        held: as in `dual_weights`; the holder in the place of ``point``, if there is one, is not among them.
        point: where; 0 is where the secret is.

    Returns:
        Shape (patterns, holders), uint64, 0 where not held.
    """
    points = np.arange(1, held.shape[1] + 1, dtype=np.uint64)
    distance = field.reduce(np.uint64(point + PRIME) - points)
    factors = np.where(held, distance, np.uint64(1))
    # Their product by halves: log2(holders) array operations.
    while factors.shape[1] > 1:
        half = factors.shape[1] // 2
        rest = factors[:, 2 * half :]
        factors = np.concatenate((field.multiply(factors[:, :half], factors[:, half : 2 * half]), rest), axis=1)
    others = field.multiply(factors, field.inverse(distance)[None, :])
    return field.multiply(dual_weights(held), others)


def evaluation_weights(held: npt.NDArray[np.bool_], points: FieldArray) -> FieldArray:
    """Weights w with f(x) = sum w_i f(x_i) at several points x, none of them that of a held place.

    Args:
        held: one pattern of `dual_weights`, shape (holders,).
        points: shape (points,).

    Returns:
        Shape (points, holders), uint64, 0 where not held.
    """
    places = np.flatnonzero(held)
    own = places.astype(np.uint64) + np.uint64(1)
    distance = field.reduce(points[:, None] + np.uint64(PRIME) - own[None, :])
    product = np.ones(len(points), dtype=np.uint64)
    for column in distance.T:
        product = field.multiply(product, column)
    dual = dual_weights(held[None, :])[0, places]
    weights = np.zeros((len(points), len(held)), dtype=np.uint64)
    weights[:, places] = field.multiply(field.multiply(field.inverse(distance), dual[None, :]), product[:, None])
    return weights


def evaluate(weights: FieldArray, shares: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Many polynomials at several points: shapes (points, holders) x (owners, holders, s) -> (owners, points, s)."""
    return field.matmul(weights.astype(np.float64), shares.astype(np.float64)).astype(np.uint16)


def combine(weights: FieldArray, shares: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """sum_i w_i y_i for each of many secrets.

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
    """The secrets from exactly t shares each.

    Args:
        places: the holders' places (from 0), shape (t,), distinct.
        shares: shape (t, s), row i from the holder in ``places[i]``.

    Returns:
        Shape (s,), uint16 below p.
    """
    held = np.zeros((1, int(places.max()) + 1), dtype=bool)
    held[0, places] = True
    secrets: npt.NDArray[np.uint16] = combine(lagrange_weights(held)[:, places], shares[None, :, :])[0]
    return secrets
