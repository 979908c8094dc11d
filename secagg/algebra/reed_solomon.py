"""Find wrong shares: Shamir shares of one secret are a word of a Reed-Solomon code (McEliece and Sarwate 1981).

Of r shares and a threshold t, r - t syndromes are sums over the errors alone, S_j = sum e_i x_i^j.  The shortest linear
recurrence that they obey has the errors' points for roots; the algorithm of Berlekamp and Massey (1969) finds it in
O((r - t)^2) steps, here in r - t array operations for all words at once.
"""

import numpy as np
import numpy.typing as npt

from secagg.algebra import field, shamir
from secagg.algebra.field import PRIME, FieldArray

_P = np.uint64(PRIME)


def find_errors(
    points: FieldArray, held: npt.NDArray[np.bool_], values: FieldArray, dimension: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Flag the values of each word that are not on the polynomial through the others, of a degree below ``dimension``.

    Args:
        points: distinct evaluation points, shape (places,).
        held: flags of the values that a word has, at least ``dimension`` of them, shape (words, places).
        values: reduced, shape (words, places); values that are not held are ignored.
        dimension: t; among r values, up to (r - t) // 2 errors are always found.

    Returns:
        The errors, shape (words, places), and flags of the words that were decoded, shape (words,). A word with too
        many errors for any polynomial is not decoded, and has no errors flagged.
    """
    spare = np.count_nonzero(held, axis=1) - dimension
    num_syndromes = max(1, int(spare.max(initial=0)))
    powers = shamir.powers(points, num_syndromes).astype(np.float64)
    weighted = field.multiply(shamir.dual_weights(held, points), values)
    recurrences, lengths = _recurrences(field.matmul(weighted.astype(np.float64), powers), spare)
    # The roots of x^L C(1 / x); its coefficients are those of C from the L-th down.
    width = recurrences.shape[1]
    order = lengths[:, None] - np.arange(width)
    coefficients = np.take_along_axis(recurrences, order % width, axis=1)
    coefficients[order < 0] = 0
    at_points = field.matmul(coefficients.astype(np.float64), powers[:, :width].T)
    errors = held & (at_points == 0)
    found = (2 * lengths <= spare) & (np.count_nonzero(errors, axis=1) == lengths)
    errors[~found] = False
    return errors, found


def _recurrences(syndromes: FieldArray, counts: npt.NDArray[np.intp]) -> tuple[FieldArray, npt.NDArray[np.intp]]:
    """Return the shortest recurrence sum_i C_i S_(k - i) = 0 of the first ``counts`` syndromes, and its length L.

    There are no divisions, so C is determined up to a factor.  Coefficients beyond half of the syndromes are cut off;
    the length still shows that such a recurrence is too long.
    """
    words, most = syndromes.shape
    width = most // 2 + 1
    current = np.zeros((words, width), dtype=np.uint64)
    current[:, 0] = 1
    # The discrepancy of an earlier, shorter recurrence, and its coefficients, shifted by one place for each syndrome.
    earlier, left_over = current.copy(), np.ones(words, dtype=np.uint64)
    lengths = np.zeros(words, dtype=np.intp)
    for step in range(most):
        earlier = np.concatenate((np.zeros_like(earlier[:, :1]), earlier[:, :-1]), axis=1)
        used = min(step + 1, width)
        last = syndromes[:, step + 1 - used : step + 1][:, ::-1]
        discrepancy = field.reduce((current[:, :used] * last).sum(axis=1, dtype=np.uint64))
        discrepancy[step >= counts] = 0
        if not discrepancy.any():
            continue
        grows = (discrepancy != 0) & (2 * lengths <= step)
        corrected = field.reduce(current * left_over[:, None] + earlier * (_P - discrepancy)[:, None])
        earlier = np.where(grows[:, None], current, earlier)
        left_over = np.where(grows, discrepancy, left_over)
        lengths = np.where(grows, step + 1 - lengths, lengths)
        current = corrected
    return current, lengths
