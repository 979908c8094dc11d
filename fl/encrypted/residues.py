"""Arrays of integers modulo the Mersenne prime 2^61 - 1, in machine words.

MPyC's field arrays hold Python integers in arrays of objects and take about 50 ns per operation; here it is a few ns.
`Residues` is a numpy array whose operators calculate in the field. Code for arrays of unbounded integers that are
reduced at the end, such as MPyC's protocols, gets the same residues with it.

    2^61 = 1 (mod p), so reduction is a shift and an addition. A product of two 61-bit numbers is composed of products
    of 31-bit halves, which fit a word. A matrix product is composed of products of 21-bit limbs in float64, which BLAS
    computes exactly while sums stay below 2^53.

Operations without a meaning in the field raise TypeError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = 61
MODULUS = 2**BITS - 1

Words = npt.NDArray[np.uint64]

_P = np.uint64(MODULUS)
# Halves for products: a number is high * 2^31 + low, of 30 and 31 bits.
_HALF, _LOW = np.uint64(31), np.uint64(2**31 - 1)
_MIDDLE, _MIDDLE_LOW = np.uint64(30), np.uint64(2**30 - 1)
# Halves for sums of very many words.
_WORD_HALF, _WORD_LOW = np.uint64(32), np.uint64(2**32 - 1)
_ONE, _BITS = np.uint64(1), np.uint64(BITS)

# Number of words whose product has temporaries that fit a core's cache.
_CHUNK = 8192

_LIMB, _LIMBS = 21, 3
# Maximum number of products of two limbs whose sum is exact in float64.
_MOST_TERMS = 2 ** (53 - 2 * _LIMB)


class Residues(np.ndarray[Any, np.dtype[np.uint64]]):
    """A uint64 array of any shape, with elements in 0..p-1; `residues` makes it.

    `+ - * @ <<`, negation, sums and running sums are modulo p. `& >> == !=` and indexing use the numbers 0..p-1.
    """

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        operation = _OPERATIONS.get((ufunc.__name__, method))
        if operation is None:
            raise TypeError(f"numpy.{ufunc.__name__} ({method}) has no meaning for residues")
        result = operation(*inputs, **kwargs)
        if out is None:
            return result
        (target,) = out
        np.copyto(words(target), words(result))
        return target

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        if func in (np.concatenate, np.vstack):
            parts, *rest = args
            return func([words(residues(part)) for part in parts], *rest, **kwargs).view(Residues)
        return super().__array_function__(func, types, args, kwargs)

    def cumsum(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        """Return running sums along an axis."""
        return _accumulate(self, axis=axis)


def residues(value: Any) -> Residues:
    """Return integers as residues: an array of any integer dtype or of Python integers, or residues (not copied)."""
    if isinstance(value, Residues):
        return value
    array = np.asarray(value)
    if array.dtype == object:
        array = np.asarray(array % MODULUS, dtype=np.uint64)
    elif array.dtype == np.uint64:
        array = np.asarray(array % _P)
    elif array.dtype.kind in "bui":
        array = np.asarray(np.asarray(array.astype(np.int64) % MODULUS).astype(np.uint64))
    else:
        raise TypeError(f"residues are integers, not {array.dtype}")
    return array.view(Residues)


def from_words(array: Words) -> Residues:
    """Return a uint64 array as residues, without a copy. Raises ValueError if an element is not below p."""
    if array.size and int(array.max()) >= MODULUS:
        raise ValueError("an element is not below the field's modulus")
    return array.view(Residues)


def words(value: Any) -> npt.NDArray[Any]:
    """Return the same memory as a plain numpy array."""
    return np.asarray(value).view(np.ndarray)


def signed(values: Residues) -> npt.NDArray[np.int64]:
    """Return the integers nearest to zero with these residues, int64 of the same shape."""
    array = words(values)
    return np.asarray(np.where(array > _P >> _ONE, array - _P, array)).view(np.int64)


def _operand(value: Any) -> Words:
    return words(residues(value))


def _below_p(array: Words) -> Words:
    """Reduce numbers below 2p, in place."""
    for part in _chunks(array):
        # For a number below p the difference wraps around and is the larger one.
        np.minimum(part, part - _P, out=part)
    return array


def _folded(array: Words) -> Words:
    """Reduce words of any value, in place."""
    for part in _chunks(array):
        high = part >> _BITS
        part &= _P
        part += high
        # For a number below p the difference wraps around and is the larger one.
        np.minimum(part, part - _P, out=part)
    return array


def _chunks(array: Words) -> list[Words]:
    """Yield views of a new array, so small that temporaries stay in the cache."""
    if array.size <= _CHUNK or not array.flags.c_contiguous:
        return [array]
    flat = array.reshape(-1)
    return [flat[start : start + _CHUNK] for start in range(0, len(flat), _CHUNK)]


def _add(left: Any, right: Any) -> Residues:
    return _below_p(np.asarray(np.add(_operand(left), _operand(right)))).view(Residues)


def _subtract(left: Any, right: Any) -> Residues:
    # A difference that wrapped around is larger than itself plus p, so the minimum is right.
    with np.errstate(over="ignore"):
        difference = np.asarray(np.subtract(_operand(left), _operand(right)))
        for part in _chunks(difference):
            np.minimum(part, part + _P, out=part)
    return difference.view(Residues)


def _negative(values: Any) -> Residues:
    return _subtract(0, values)


def _multiply(left: Any, right: Any) -> Residues:
    first, second = _operand(left), _operand(right)
    shape = np.broadcast_shapes(first.shape, second.shape)
    product = np.empty(shape, np.uint64)
    if first.shape == second.shape:
        flat = product.reshape(-1)
        first, second = first.reshape(-1), second.reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            part = slice(start, start + _CHUNK)
            _multiply_into(first[part], second[part], flat[part])
    else:
        _multiply_into(first, second, product)
    return product.view(Residues)


def _multiply_into(first: Words, second: Words, product: Words) -> None:
    high1, low1 = first >> _HALF, first & _LOW
    high2, low2 = second >> _HALF, second & _LOW
    middle = np.asarray(high1 * low2)
    middle += low1 * high2  # Below 2^62.
    # high * 2^62 = 2 * high, middle * 2^31 = (middle >> 30) + (middle's low 30 bits << 31); together below 2^64.
    np.multiply(high1, high2, out=product)
    product <<= _ONE
    product += low1 * low2
    product += middle >> _MIDDLE
    middle &= _MIDDLE_LOW
    middle <<= _HALF
    product += middle
    _folded(product)


def _left_shift(values: Any, places: Any) -> Residues:
    array = _operand(values)
    by = (np.asarray(places).astype(np.int64) % BITS).astype(np.uint64)
    shifted = np.asarray(array << by)
    shifted &= _P
    # A shift by n rotates 61 bits: bits that leave at the top enter at the bottom.
    shifted |= array >> (_BITS - by)
    return _below_p(shifted).view(Residues)


def _as_numbers(operation: np.ufunc) -> Callable[..., Residues]:
    """Return an operation on the numbers 0..p-1 whose results are in that range."""

    def apply(left: Any, right: Any) -> Residues:
        return np.asarray(operation(_operand(left), np.asarray(right).astype(np.uint64))).view(Residues)

    return apply


def _right_shift_outer(values: Any, places: Any) -> Residues:
    return np.right_shift.outer(_operand(values), np.asarray(places).astype(np.uint64)).view(Residues)


def _compared(operation: np.ufunc) -> Callable[..., Any]:
    return lambda left, right: operation(_operand(left), _operand(right))


def _remainder(values: Any, modulus: Any) -> Residues:
    if modulus != MODULUS:
        raise TypeError("residues can only be reduced by their own modulus")
    return residues(values)


def _reduce(values: Any, axis: Any = 0, dtype: Any = None, keepdims: bool = False, **_: Any) -> Residues:
    array = _operand(values)
    high = np.asarray(np.sum(array >> _WORD_HALF, axis=axis, keepdims=keepdims))
    low = np.asarray(np.sum(array & _WORD_LOW, axis=axis, keepdims=keepdims))
    return _add(_left_shift(_folded(high).view(Residues), 32), _folded(low).view(Residues))


def _accumulate(values: Any, axis: Any = 0, dtype: Any = None, **_: Any) -> Residues:
    array = _operand(values)
    if axis is None:
        array, axis = array.reshape(-1), 0
    result = np.empty(array.shape, np.uint64)
    lines, sums = np.moveaxis(array, axis, 0), np.moveaxis(result, axis, 0)
    for index, line in enumerate(lines):
        sums[index] = line if index == 0 else words(_below_p(sums[index - 1] + line))
    return result.view(Residues)


def _matmul(left: Any, right: Any) -> Residues:
    first, second = _operand(left), _operand(right)
    if second.ndim == 1:
        return np.asarray(_matmul(first, second[:, None]))[:, 0].view(Residues)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[0]:
        raise TypeError(f"a product needs a matrix and a matrix or vector, not {first.shape} and {second.shape}")
    total = np.zeros((first.shape[0], second.shape[1]), np.uint64).view(Residues)
    for start in range(0, first.shape[1], _MOST_TERMS):
        part = slice(start, start + _MOST_TERMS)
        total = _add(total, _exact_matmul(first[:, part], second[part]))
    return total


def _exact_matmul(first: Words, second: Words) -> Residues:
    limbs1, limbs2 = _float_limbs(first), _float_limbs(second)
    total = np.zeros((first.shape[0], second.shape[1]), np.uint64).view(Residues)
    for power in range(2 * _LIMBS - 1):
        pairs = [(i, power - i) for i in range(_LIMBS) if 0 <= power - i < _LIMBS]
        # Each sum is below 2^53: three of them fit a word, but not a float64.
        sums = sum((limbs1[i] @ limbs2[j]).astype(np.uint64) for i, j in pairs)
        total = _add(total, _left_shift(np.asarray(sums).view(Residues), _LIMB * power))
    return total


def _float_limbs(array: Words) -> list[npt.NDArray[np.float64]]:
    mask = np.uint64(2**_LIMB - 1)
    return [((array >> np.uint64(_LIMB * index)) & mask).astype(np.float64) for index in range(_LIMBS)]


_OPERATIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("add", "__call__"): _add,
    ("subtract", "__call__"): _subtract,
    ("negative", "__call__"): _negative,
    ("multiply", "__call__"): _multiply,
    ("matmul", "__call__"): _matmul,
    ("left_shift", "__call__"): _left_shift,
    ("right_shift", "__call__"): _as_numbers(np.right_shift),
    ("right_shift", "outer"): _right_shift_outer,
    ("bitwise_and", "__call__"): _as_numbers(np.bitwise_and),
    ("equal", "__call__"): _compared(np.equal),
    ("not_equal", "__call__"): _compared(np.not_equal),
    ("remainder", "__call__"): _remainder,
    ("add", "reduce"): _reduce,
    ("add", "accumulate"): _accumulate,
}
