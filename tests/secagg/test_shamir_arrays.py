"""The arrays of the sharing: their element types, and the blocks that split large arrays."""

import numpy as np
import pytest

from secagg.algebra import shamir
from secagg.algebra.field import PRIME

HELD = np.array([[True, False, True, True], [False, True, True, True]])


def test_shares_are_field_elements_of_two_bytes():
    shares = shamir.share(np.array([7, 9], dtype=np.uint16), np.array([[1, 2]], dtype=np.uint16), 4)
    assert shares.dtype == np.uint16
    assert shares.tolist() == [[8, 11], [9, 13], [10, 15], [11, 17]]


def test_weights_are_integers():
    """Floats of the same values would lose the low bits in later products."""
    assert shamir.dual_weights(HELD).dtype == np.uint64
    assert shamir.lagrange_weights(HELD).dtype == np.uint64


def test_evaluated_shares_are_field_elements_of_two_bytes():
    shares = shamir.share(np.array([7, 9], dtype=np.uint16), np.array([[1, 2]], dtype=np.uint16), 4)
    values = shamir.evaluate(HELD, np.stack((shares, shares)), np.array([0, 1]))
    assert values.dtype == np.uint16
    assert values[0, 1].tolist() == [9, 13]
    assert values[1, 0].tolist() == [8, 11]


@pytest.mark.parametrize("one_for_all", [True, False], ids=["one row of weights", "a row each"])
def test_combinations_of_which_a_block_holds_one_owner_are_exact(one_for_all):
    """Each of two owners has enough shares to fill a block alone."""
    width = shamir._BLOCK_ELEMENTS // 3
    shares = np.empty((2, 3, width), dtype=np.uint16)
    shares[:] = np.array([[1, 2, 3], [PRIME - 1, 5, 7]])[:, :, None]
    weights = np.array([[1, 10, 100]] if one_for_all else [[1, 10, 100], [2, 20, 200]], dtype=np.uint64)
    combined = shamir.combine(weights, shares)
    second = PRIME - 1 + 50 + 700 if one_for_all else 2 * (PRIME - 1) + 100 + 1400
    assert np.array_equal(combined, np.repeat([[321], [second % PRIME]], width, axis=1))
