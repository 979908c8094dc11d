"""Expand the masks of many keys with AES-128-CTR and add them to a vector, in one pass.

A tile of the vector stays in registers while the masks of all keys are added to it: the keystream is never written to
memory. AES comes from the processor's instructions (x86: AES-NI or VAES; ARMv8: the cryptography extension), whose time
does not depend on their operands. No branch and no address depends on a key, a mask or the vector.

The counter blocks are those of `secagg.primitives.prg`: BE96(chunk) || BE32(2 + block). The key schedule is that of
FIPS 197, section 5.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from secagg.native import machine_code
from secagg.native.machine_code import at, intrinsic, loop, variable

ir = machine_code.ir

_KEY_BYTES, _BLOCK_BYTES, _ROUNDS = 16, 16, 10
_SCHEDULE_BYTES = _BLOCK_BYTES * (_ROUNDS + 1)

# Registers of a tile: enough blocks in flight to hide the latency of an AES instruction.
_REGISTERS = 8


@dataclass(frozen=True, slots=True)
class Instructions:
    """The AES instructions of a kind of processor.

    Attributes:
        architecture: the kind.
        width: bytes of a register.
        features: LLVM's names of the features that a processor must have.
    """

    architecture: str
    width: int
    features: frozenset[str]


KINDS = (
    Instructions("x86_64", 64, frozenset({"vaes", "avx512f"})),
    Instructions("x86_64", 32, frozenset({"vaes", "avx2"})),
    Instructions("x86_64", 16, frozenset({"aes"})),
    Instructions("aarch64", 16, frozenset({"aes"})),
)
"""All forms, the fastest first."""


def usable_instructions() -> tuple[Instructions, ...]:
    """Return the forms that this processor can run, the fastest first."""
    if not machine_code.available():
        return ()
    architecture, features = machine_code.architecture(), machine_code.features()
    return tuple(kind for kind in KINDS if kind.architecture == architecture and kind.features <= features)


MaskAdder = Callable[[Any, Sequence[bytes], Sequence[bytes], int], None]
"""Adds masks to a contiguous, writable vector in place.

Its arguments are the vector, the keys to add, those to subtract, and the chunk of the vector's first element.
"""


@cache
def mask_adder(word_bits: int, chunk_bytes: int, kind: Instructions) -> MaskAdder:
    """Return a function that adds masks to vectors of ``word_bits`` bits an element, in place.

    Args:
        word_bits: 8, 16, 32 or 64.
        chunk_bytes: keystream bytes of a chunk.
        kind: the instructions, one of `usable_instructions`.
    """
    add = machine_code.compiled(module_for(word_bits, chunk_bytes, kind))

    def add_masks(vector: Any, added: Sequence[bytes], subtracted: Sequence[bytes], first_chunk: int) -> None:
        keys = (*added, *subtracted)
        if not all(len(key) == _KEY_BYTES for key in keys):
            raise ValueError(f"each key of a mask must be {_KEY_BYTES} bytes")
        num_keys = len(keys)
        schedules = np.empty((num_keys, _SCHEDULE_BYTES), dtype=np.uint8)
        schedules[:, :_KEY_BYTES] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
        add(vector.ctypes.data, schedules.ctypes.data, vector.nbytes, len(added), num_keys, first_chunk)

    return add_masks


def module_for(word_bits: int, chunk_bytes: int, kind: Instructions) -> Any:
    """Return LLVM's code of the function (vector, schedules, vector bytes, number added, number of keys, chunk).

    The first 16 bytes of each schedule are a key; the function zeroes all schedules at its end.
    """
    return _Emitter(word_bits, chunk_bytes, kind).module


class _Emitter:
    """Emits the function."""

    def __init__(self, word_bits: int, chunk_bytes: int, kind: Instructions) -> None:
        self._kind = kind
        self._i64 = ir.IntType(64)
        self._register = ir.VectorType(ir.IntType(32), kind.width // 4)
        self._elements = ir.VectorType(ir.IntType(word_bits), kind.width * 8 // word_bits)
        self._tile_bytes = _REGISTERS * kind.width
        self.module, self._builder, (vector, self._schedules), numbers = machine_code.new_function("add_masks", 2, 4)
        size, self._num_added, self._num_keys, first_chunk = numbers
        builder, zero, step = self._builder, self._number(0), self._number(chunk_bytes)
        # What does not fill a tile is moved to one that does.
        self._spare = variable(builder, ir.ArrayType(ir.IntType(8), self._tile_bytes))
        with loop(builder, zero, self._num_keys) as key:
            self._expand_key(self._schedule(key))
        with loop(builder, zero, builder.udiv(builder.add(size, self._number(chunk_bytes - 1)), step)) as chunk:
            start = builder.mul(chunk, step)
            left = builder.sub(size, start)
            part = builder.select(builder.icmp_unsigned("<", left, step), left, step)
            self._add_chunk(at(builder, vector, start), part, builder.add(first_chunk, chunk))
        self._zero(self._schedules, builder.mul(self._num_keys, self._number(_SCHEDULE_BYTES)))
        builder.ret_void()

    def _add_chunk(self, part: Any, size: Any, chunk: Any) -> None:
        """Add all masks to ``size`` bytes, the first of a chunk."""
        builder, tile = self._builder, self._number(self._tile_bytes)
        num_tiles, rest = builder.udiv(size, tile), builder.urem(size, tile)
        with loop(builder, self._number(0), num_tiles) as place:
            self._add_tile(at(builder, part, builder.mul(place, tile)), place, chunk)
        with builder.if_then(builder.icmp_unsigned("!=", rest, self._number(0))):
            end = at(builder, part, builder.mul(num_tiles, tile))
            self._copy(self._spare, end, rest)
            self._add_tile(self._spare, num_tiles, chunk)
            self._copy(end, self._spare, rest)

    def _schedule(self, key: Any) -> Any:
        """Return the place of a key's schedule."""
        return at(self._builder, self._schedules, self._builder.mul(key, self._number(_SCHEDULE_BYTES)))

    def _number(self, value: int) -> Any:
        return ir.Constant(self._i64, value)

    def _copy(self, to: Any, source: Any, size: Any) -> None:
        pointer, flag = ir.PointerType(), ir.IntType(1)
        copy = intrinsic(self.module, "llvm.memcpy.p0.p0.i64", ir.VoidType(), pointer, pointer, self._i64, flag)
        self._builder.call(copy, [to, source, size, flag(0)])

    def _zero(self, to: Any, size: Any) -> None:
        pointer, byte, flag = ir.PointerType(), ir.IntType(8), ir.IntType(1)
        fill = intrinsic(self.module, "llvm.memset.p0.i64", ir.VoidType(), pointer, byte, self._i64, flag)
        # Volatile: nobody reads the zeros.
        self._builder.call(fill, [to, byte(0), size, flag(1)])

    def _add_tile(self, pointer: Any, place: Any, chunk: Any) -> None:
        """Add all masks to the tile at a pointer, number ``place`` of its chunk."""
        builder, width = self._builder, self._kind.width
        counters = self._counter_blocks(place, chunk)
        places = [at(builder, pointer, register * width) for register in range(_REGISTERS)]
        sums = []
        for address in places:
            sums.append(variable(builder, self._elements))
            builder.store(builder.load(address, typ=self._elements, align=1), sums[-1])
        for first, stop, combine in (
            (self._number(0), self._num_added, builder.add),
            (self._num_added, self._num_keys, builder.sub),
        ):
            with loop(builder, first, stop) as key:
                for total, stream in zip(sums, self._encrypted(counters, self._schedule(key)), strict=True):
                    old = builder.load(total, typ=self._elements)
                    builder.store(combine(old, builder.bitcast(stream, self._elements)), total)
        for address, total in zip(places, sums, strict=True):
            builder.store(builder.load(total, typ=self._elements), address, align=1)

    def _counter_blocks(self, place: Any, chunk: Any) -> list[Any]:
        """Return the counter blocks of a tile, as registers."""
        builder, word, lanes = self._builder, ir.IntType(32), self._kind.width // 4
        blocks = lanes // 4
        block = builder.trunc(builder.mul(place, self._number(_REGISTERS * blocks)), word)
        words = [
            word(0),
            builder.trunc(builder.lshr(chunk, self._number(32)), word),
            builder.trunc(chunk, word),
            builder.add(block, word(2)),
        ]
        first = ir.Constant(self._register, ir.Undefined)
        for lane in range(lanes):
            first = builder.insert_element(first, words[lane % 4], word(lane))
        swap = intrinsic(self.module, f"llvm.bswap.v{lanes}i32", self._register, self._register)
        registers = []
        for register in range(_REGISTERS):
            steps = [register * blocks + lane // 4 if lane % 4 == 3 else 0 for lane in range(lanes)]
            native = builder.add(first, ir.Constant(self._register, [word(step) for step in steps]))
            registers.append(builder.call(swap, [native]))
        return registers

    def _encrypted(self, blocks: list[Any], schedule: Any) -> list[Any]:
        """Return AES-128 of the blocks under the key whose schedule is at a pointer."""
        builder = self._builder
        keys = [self._round_key(schedule, number) for number in range(_ROUNDS + 1)]
        if self._kind.architecture == "aarch64":
            for key in keys[:-2]:
                blocks = [self._aes("aesmc", self._aes("aese", block, key)) for block in blocks]
            return [builder.xor(self._aes("aese", block, keys[-2]), keys[-1]) for block in blocks]
        blocks = [builder.xor(block, keys[0]) for block in blocks]
        for key in keys[1:-1]:
            blocks = [self._aes("aesenc", block, key) for block in blocks]
        return [self._aes("aesenclast", block, keys[-1]) for block in blocks]

    def _round_key(self, schedule: Any, number: int) -> Any:
        """Return a round key, repeated for each block of a register."""
        builder, word = self._builder, ir.IntType(32)
        one = builder.load(at(builder, schedule, _BLOCK_BYTES * number), typ=ir.VectorType(word, 4), align=1)
        lanes = ir.Constant(
            ir.VectorType(word, self._kind.width // 4), [word(i % 4) for i in range(self._kind.width // 4)]
        )
        return builder.shuffle_vector(one, ir.Constant(one.type, ir.Undefined), lanes)

    def _aes(self, name: str, *operands: Any) -> Any:
        """Emit an AES instruction, on whatever registers the operands are."""
        builder, size = self._builder, operands[0].type.count * 4
        if self._kind.architecture == "aarch64":
            kind, full = ir.VectorType(ir.IntType(8), 16), f"llvm.aarch64.crypto.{name}"
        else:
            kind = ir.VectorType(self._i64, size // 8)
            full = f"llvm.x86.aesni.{name}" + ("" if size == _BLOCK_BYTES else f".{8 * size}")
        function = intrinsic(self.module, full, kind, *[kind] * len(operands))
        result = builder.call(function, [builder.bitcast(operand, kind) for operand in operands])
        return builder.bitcast(result, operands[0].type)

    def _expand_key(self, schedule: Any) -> None:
        """Complete the schedule whose first 16 bytes are the key (FIPS 197, section 5.2)."""
        builder, word = self._builder, ir.IntType(32)
        rotate = intrinsic(self.module, "llvm.fshr.i32", word, word, word, word)
        words = [builder.load(at(builder, schedule, 4 * i), typ=word, align=1) for i in range(4)]
        constant = 1
        for i in range(4, 4 * (_ROUNDS + 1)):
            last = words[-1]
            if i % 4 == 0:
                last = builder.call(rotate, [self._substituted(last)] * 2 + [word(8)])
                last = builder.xor(last, word(constant))
                # Doubling in GF(2^8), modulo x^8 + x^4 + x^3 + x + 1.
                constant = constant << 1 ^ (0x11B if constant & 0x80 else 0)
            words.append(builder.xor(words[i - 4], last))
            builder.store(words[i], at(builder, schedule, 4 * i), align=1)

    def _substituted(self, word: Any) -> Any:
        """Return SubWord: the last round of AES on four equal columns, of which ShiftRows changes nothing."""
        builder, block = self._builder, ir.VectorType(ir.IntType(32), 4)
        columns = ir.Constant(block, ir.Undefined)
        for lane in range(4):
            columns = builder.insert_element(columns, word, ir.IntType(32)(lane))
        name = "aese" if self._kind.architecture == "aarch64" else "aesenclast"
        substituted = self._aes(name, columns, ir.Constant(block, [ir.IntType(32)(0)] * 4))
        return builder.extract_element(substituted, ir.IntType(32)(0))
