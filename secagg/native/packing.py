"""Pack elements of b bits without gaps, and unpack them, 64 at a time: they fill exactly b words of 64 bits.

All shifts are constants of the code, which is made for one b. The layout is that of `secagg.algebra.packing`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from secagg.native import machine_code
from secagg.native.machine_code import at, loop

ir = machine_code.ir

GROUP = 64
"""Number of elements that are packed together; the rest of a vector is left to the caller."""

_WORD_BITS = 64


@dataclass(frozen=True, slots=True)
class PackingCode:
    """Machine code for one width of elements.

    Attributes:
        ring_bits, word_bits: bits of a packed and of an unpacked element.
    """

    ring_bits: int
    word_bits: int
    _pack: machine_code.Function
    _unpack: machine_code.Function

    def pack(self, packed: Any, vector: Any) -> int:
        """Pack whole groups at the start of a vector; return the number of elements. All higher bits are zero."""
        return self._move(self._pack, packed, vector)

    def unpack(self, packed: Any, vector: Any) -> int:
        """Fill whole groups at the start of a vector from its bit string; return the number of elements."""
        return self._move(self._unpack, packed, vector)

    def _move(self, function: machine_code.Function, packed: Any, vector: Any) -> int:
        num_groups = len(vector) // GROUP
        function(packed.ctypes.data, vector.ctypes.data, num_groups)
        return num_groups * GROUP


def packing_code(ring_bits: int, word_bits: int) -> PackingCode | None:
    """Return the code for a width; None if there is no compiler."""
    if not machine_code.available():
        return None
    functions = [_function(ring_bits, word_bits, emit) for emit in (_emit_pack, _emit_unpack)]
    return PackingCode(ring_bits, word_bits, *functions)


def _function(ring_bits: int, word_bits: int, emit: Callable[..., None]) -> machine_code.Function:
    """Return a function of the packed octets, the elements, and the number of groups."""
    module, builder, (packed, elements), (num_groups,) = machine_code.new_function("move", 2, 1)
    i64 = ir.IntType(_WORD_BITS)
    with loop(builder, i64(0), num_groups) as group:
        octets = at(builder, packed, builder.mul(group, i64(GROUP * ring_bits // 8)))
        words = at(builder, elements, builder.mul(group, i64(GROUP * word_bits // 8)))
        emit(builder, octets, words, ring_bits, ir.IntType(word_bits))
    builder.ret_void()
    return machine_code.compiled(module)


def _emit_pack(builder: Any, packed: Any, elements: Any, ring_bits: int, word: Any) -> None:
    i64, filled, current = ir.IntType(64), 0, None
    for number in range(GROUP):
        loaded = builder.load(at(builder, elements, number * word.width // 8), typ=word, align=1)
        value = builder.zext(loaded, i64) if word.width < _WORD_BITS else loaded
        place, shift = divmod(number * ring_bits, _WORD_BITS)
        moved = builder.shl(value, i64(shift))
        current = moved if current is None else builder.or_(current, moved)
        filled = shift + ring_bits
        if filled >= _WORD_BITS:
            builder.store(current, at(builder, packed, 8 * place), align=1)
            current = builder.lshr(value, i64(_WORD_BITS - shift)) if filled > _WORD_BITS else None


def _emit_unpack(builder: Any, packed: Any, elements: Any, ring_bits: int, word: Any) -> None:
    i64 = ir.IntType(64)
    words = [builder.load(at(builder, packed, 8 * place), typ=i64, align=1) for place in range(ring_bits)]
    for number in range(GROUP):
        place, shift = divmod(number * ring_bits, _WORD_BITS)
        value = builder.lshr(words[place], i64(shift))
        if shift + ring_bits > _WORD_BITS:
            value = builder.or_(value, builder.shl(words[place + 1], i64(_WORD_BITS - shift)))
        value = builder.and_(value, i64((1 << ring_bits) - 1))
        stored = builder.trunc(value, word) if word.width < _WORD_BITS else value
        builder.store(stored, at(builder, elements, number * word.width // 8), align=1)
