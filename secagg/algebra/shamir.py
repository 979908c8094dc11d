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


def lagrange_weights(points: FieldArray) -> FieldArray:
    """Weights w with f(0) = sum w_i f(x_i) for any polynomial of degree < t.

    w_i = prod_{j != i} x_j / (x_j - x_i), for distinct non-zero points of shape (t,), uint64.
    """
    numerator = np.uint64(1)
    for point in points:
        numerator = numerator * point % np.uint64(PRIME)
    # The i-th denominator gets x_i as its own factor too: then one numerator, the product of all, serves every i.
    denominator = points.copy()
    differences = np.empty_like(points)
    for i, point in enumerate(points):
        np.subtract(point + np.uint64(PRIME), points, out=differences)
        differences[i] = 1
        denominator = field.multiply(denominator, field.reduce(differences))
    return field.multiply(field.inverse(denominator), np.broadcast_to(numerator, denominator.shape))


def reconstruct(places: npt.NDArray[np.integer], shares: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """The secrets from exactly t shares each.

    Args:
        places: the holders' places (from 0), shape (t,), distinct.
        shares: shape (t, s), row i from the holder in ``places[i]``.

    Returns:
        Shape (s,), uint16 below p.
    """
    weights = lagrange_weights(places.astype(np.uint64) + np.uint64(1)).astype(np.float64)
    secrets = np.empty(shares.shape[1], dtype=np.uint16)
    columns = max(1, _BLOCK_ELEMENTS // max(1, len(places)))
    for start in range(0, shares.shape[1], columns):
        block = shares[:, start : start + columns].astype(np.float64)
        secrets[start : start + columns] = field.matmul(weights[None, :], block)[0]
    return secrets
