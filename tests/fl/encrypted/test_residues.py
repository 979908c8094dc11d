"""Word-sized arithmetic modulo 2^61 - 1 against Python's integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl.encrypted.residues import MODULUS, Residues, from_words, residues, signed, words


def random_residues(*shape: int, seed: int = 1) -> Residues:
    """Return uniform residues, with the smallest and largest ones among them."""
    values = np.random.default_rng(seed).integers(0, MODULUS, shape, dtype=np.uint64)
    edges = [0, 1, MODULUS - 1, MODULUS >> 1, (MODULUS >> 1) + 1]
    values.reshape(-1)[: len(edges)] = edges[: values.size]
    return from_words(values)


def integers(array: Any) -> Any:
    """Return Python's integers in an array of objects."""
    return np.array(words(array), dtype=object)


def assert_same(result: Any, expected: Any) -> None:
    assert isinstance(result, Residues)
    assert result.shape == expected.shape
    assert (integers(result) == expected % MODULUS).all()


BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a * b[0],
    lambda a, b: a - 3 * b + 1,
    lambda a, b: 5 - a,
    lambda a, b: -a,
    lambda a, b: a << 17,
    lambda a, b: a << np.arange(a.shape[1]),
    lambda a, b: (a << 60) + (b << 61),
    lambda a, b: a & 255,
    lambda a, b: a >> 3,
    lambda a, b: np.right_shift.outer(a[0], np.arange(5)) & 1,
    lambda a, b: np.sum(a, axis=1),
    lambda a, b: np.sum(a, axis=0),
    lambda a, b: np.cumsum(a, axis=0),
    lambda a, b: np.cumsum(a, axis=1),
    lambda a, b: np.vstack((np.zeros((1, a.shape[1]), dtype=object), a, b)),
    lambda a, b: np.concatenate((a[:1], b), axis=0),
]


@pytest.mark.parametrize("operation", BINARY, ids=range(len(BINARY)))
@pytest.mark.parametrize("shape", [(3, 7), (5, 4000)])
def test_operations_are_those_of_integers(operation: Callable[[Any, Any], Any], shape: tuple[int, int]) -> None:
    a, b = random_residues(*shape), random_residues(*shape, seed=2)[::-1]
    assert_same(operation(a, b), operation(integers(a), integers(b)))


def test_in_place_operations_change_the_array() -> None:
    a, b = random_residues(4, 9), random_residues(4, 9, seed=2)
    expected = (integers(a) + integers(b)) * integers(b)
    view = a
    a += b
    a *= b
    assert view is a
    assert_same(a, expected)


@pytest.mark.parametrize("terms", [1, 5, 2048, 2049, 5000])
def test_matrix_products_are_exact(terms: int) -> None:
    a, b = random_residues(3, terms), random_residues(terms, 4, seed=2)
    assert_same(a @ b, integers(a) @ integers(b))
    assert_same(a @ b[:, 0], integers(a) @ integers(b)[:, 0])


def test_matrix_products_are_exact_where_every_limb_is_largest() -> None:
    a = from_words(np.full((2, 2048), MODULUS - 1, np.uint64))
    assert_same(a @ a.T, integers(a) @ integers(a).T)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint64, object])
def test_arrays_of_any_integers_become_residues(dtype: Any) -> None:
    values = np.array([0, 1, 1, 0]).astype(dtype)
    assert_same(residues(values), np.array([0, 1, 1, 0], dtype=object))


def test_negative_and_large_integers_are_reduced() -> None:
    assert_same(residues(np.array([-1, -(2**62)])), np.array([-1, -(2**62)], dtype=object))
    assert_same(residues(np.array([2**64 - 1], np.uint64)), np.array([2**64 - 1], dtype=object))
    assert_same(residues(np.array([2**200, -(2**90)], dtype=object)), np.array([2**200, -(2**90)], dtype=object))
    assert int(residues(-1)) == MODULUS - 1


def test_signed_gives_the_integers_nearest_to_zero() -> None:
    values = np.array([0, 1, -1, 2**59, -(2**59), MODULUS >> 1, -(MODULUS >> 1)])
    assert signed(residues(values)).tolist() == values.tolist()


@pytest.mark.parametrize(
    "meaningless",
    [lambda a: a / 2, lambda a: a**2, lambda a: a < 1, lambda a: a % 7, lambda a: np.max(a), lambda a: a | 1],
)
def test_operations_without_meaning_in_the_field_are_refused(meaningless: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="residues"):
        meaningless(random_residues(3, 4))


def test_floats_are_refused() -> None:
    with pytest.raises(TypeError, match="integers"):
        residues(np.array([0.5]))
    with pytest.raises(TypeError, match="integers"):
        random_residues(2, 2) + np.array([0.5, 1.0])


def test_words_that_are_not_residues_are_refused() -> None:
    with pytest.raises(ValueError, match="modulus"):
        from_words(np.array([MODULUS], np.uint64))
