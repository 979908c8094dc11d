"""Machine code for masks and packing: the same bits as pyca's cipher and numpy, and neither needs it."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from secagg import masking
from secagg.algebra import packing, ring
from secagg.masking import Mask, accumulate
from secagg.native import machine_code, masks
from secagg.native.masks import KINDS, Instructions, mask_adder, module_for, usable_instructions
from secagg.native.packing import GROUP, packing_code
from secagg.primitives.prg import CHUNK_BYTES

needs_llvm = pytest.mark.skipif(not machine_code.available(), reason="needs llvmlite: pip install '.[fast]'")

# Small chunks, so that vectors of a few kilobytes have many.
SMALL_CHUNK = 1 << 12
TILE = 8 * 64
SIZES = [8, TILE - 8, TILE, TILE + 8, SMALL_CHUNK - 8, SMALL_CHUNK, SMALL_CHUNK + 16, 3 * SMALL_CHUNK + TILE + 24]


def keystream(key: bytes, size: int, chunk: int, chunk_bytes: int) -> bytes:
    """Return plain AES-CTR from the chunk on."""
    found = b""
    while len(found) < size:
        first = chunk.to_bytes(12, "big") + (2).to_bytes(4, "big")
        found += Cipher(AES(key), CTR(first)).encryptor().update(bytes(chunk_bytes))
        chunk += 1
    return found[:size]


def expected(vector: Any, added: Sequence[bytes], subtracted: Sequence[bytes], chunk: int, chunk_bytes: int) -> Any:
    total = vector.copy()
    for sign, keys in ((1, added), (-1, subtracted)):
        for key in keys:
            mask = np.frombuffer(keystream(key, vector.nbytes, chunk, chunk_bytes), vector.dtype)
            total = total + mask if sign > 0 else total - mask
    return total


@pytest.fixture(params=usable_instructions() or [None], ids=lambda kind: kind and f"{kind.architecture}-{kind.width}")
def kind(request: pytest.FixtureRequest) -> Instructions:
    if request.param is None:
        pytest.skip("needs llvmlite (pip install '.[fast]') and a processor with AES instructions")
    return request.param


@pytest.mark.parametrize("word_bits", [8, 16, 32, 64])
@pytest.mark.parametrize("chunk", [0, 1, 1 << 40])
def test_masks_are_plain_aes_in_counter_mode(kind: Instructions, word_bits: int, chunk: int) -> None:
    add = mask_adder(word_bits, SMALL_CHUNK, kind)
    keys = [os.urandom(16) for _ in range(5)]
    for size in SIZES:
        vector = np.frombuffer(os.urandom(size), f"<u{word_bits // 8}").copy()
        for split in (0, 2, 5):
            found = vector.copy()
            add(found, keys[:split], keys[split:], chunk)
            assert np.array_equal(found, expected(vector, keys[:split], keys[split:], chunk, SMALL_CHUNK)), size


def test_memory_beside_the_vector_stays_as_it_was(kind: Instructions) -> None:
    add = mask_adder(32, SMALL_CHUNK, kind)
    memory = np.zeros(3000, dtype="<u4")
    add(memory[1000:2000], [bytes(16)], [], 0)
    assert memory[1000:2000].any()
    assert not memory[:1000].any()
    assert not memory[2000:].any()


@pytest.mark.usefixtures("uncached")
def test_memory_that_must_not_be_written_is_not() -> None:
    """With machine code and without it. A vector of bytes stands for a message, which other objects may share."""
    shared = bytes(1 << 12)
    with pytest.raises(ValueError, match="read-only"):
        accumulate(np.frombuffer(shared, "<u4"), [Mask(bytes(16))])
    assert not any(shared)
    own = np.zeros(1 << 10, "<u4")
    accumulate(own, [Mask(bytes(16))])
    assert own.tobytes() == keystream(bytes(16), own.nbytes, 0, CHUNK_BYTES)


@pytest.mark.usefixtures("uncached")
@pytest.mark.parametrize("sizes", [(8, 24), (15, 17), (0, 32), (16, 15), (16, 17)])
def test_keys_of_other_sizes_are_refused(sizes: tuple[int, int]) -> None:
    """The first three pairs fill the place of two keys together."""
    vector = np.zeros(100, "<u4")
    with pytest.raises(ValueError, match="must be 16 bytes"):
        accumulate(vector, [Mask(bytes(size)) for size in sizes])


def test_key_schedules_are_erased(kind: Instructions) -> None:
    run = machine_code.compiled(module_for(32, SMALL_CHUNK, kind))
    vector, schedules = np.zeros(64, dtype="<u4"), np.full((3, 176), 7, dtype=np.uint8)
    run(vector.ctypes.data, schedules.ctypes.data, vector.nbytes, 1, 3, 0)
    assert vector.any()
    assert not schedules.any()


@needs_llvm
def test_code_for_arm_uses_its_aes_instructions_and_no_tables() -> None:
    """The code is compiled but not run: there may be no such processor here."""
    (arm,) = (kind for kind in KINDS if kind.architecture == "aarch64")
    text = machine_code.assembly(module_for(32, CHUNK_BYTES, arm), "aarch64-unknown-linux-gnu", "generic", "+aes")
    # Eight blocks of ten rounds for the added and the subtracted masks, once for tiles and once for the rest.
    assert text.count("\taese\t") >= 4 * 8 * 10
    assert "\ttbl\t" not in text


@needs_llvm
@pytest.mark.parametrize("ring_bits", range(1, 65))
def test_packing_is_that_of_numpy(ring_bits: int) -> None:
    dtype = ring.word_dtype(ring_bits)
    code = packing_code(ring_bits, 8 * dtype.itemsize)
    assert code is not None
    vector = np.frombuffer(os.urandom(dtype.itemsize * (2 * GROUP + 5)), dtype).copy()
    ring.reduce_in_place(vector, ring_bits)
    whole = 2 * GROUP * ring_bits // 8
    packed = np.zeros(whole + 1, dtype=np.uint8)
    assert code.pack(packed, vector) == 2 * GROUP
    assert packed[:whole].tobytes() == packing.pack(vector[: 2 * GROUP], ring_bits).tobytes()
    assert packed[whole] == 0
    unpacked = np.zeros_like(vector)
    assert code.unpack(packed, unpacked) == 2 * GROUP
    assert np.array_equal(unpacked[: 2 * GROUP], vector[: 2 * GROUP])
    assert not unpacked[2 * GROUP :].any()


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test make both choices again, without the caches."""
    for module in (masking, packing):
        monkeypatch.setattr(module, "_machine_code", module._machine_code.__wrapped__)
    monkeypatch.setattr(packing, "_WORTH_COMPILING", 1)


@needs_llvm
@pytest.mark.usefixtures("uncached")
def test_machine_code_is_used_where_it_is_available() -> None:
    if not usable_instructions():
        pytest.skip("this processor has no AES instructions")
    assert masking._machine_code(32) is not None
    assert packing._machine_code(26) is not None


class _Wrong:
    """Code that is off by one bit in one element."""

    def __call__(self, vector: Any, *_: Any) -> None:
        vector[-1] ^= 1

    def pack(self, packed: Any, vector: Any) -> int:
        packed[0] ^= 1
        return len(vector) // GROUP * GROUP

    def unpack(self, packed: Any, vector: Any) -> int:
        vector[:] = 0
        return len(vector) // GROUP * GROUP


@pytest.mark.usefixtures("uncached")
def test_code_that_gives_other_bits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "usable_instructions", lambda: (KINDS[0],))
    monkeypatch.setattr(masking, "mask_adder", lambda *_: _Wrong())
    monkeypatch.setattr(packing, "packing_code", lambda *_: _Wrong())
    key = os.urandom(16)
    vector = np.zeros(1000, dtype="<u4")
    accumulate(vector, [Mask(key)])
    assert vector.tobytes() == keystream(key, 4000, 0, CHUNK_BYTES)
    ring.reduce_in_place(vector, 26)
    packed = packing.pack(vector, 26)
    assert np.array_equal(packing.unpack(packed, 1000, 26), vector)
    bits = "".join(f"{element:026b}"[::-1] for element in vector.tolist())
    assert packed.tobytes() == bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


@pytest.mark.usefixtures("uncached")
def test_without_llvm_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "llvm", None)
    assert masks.usable_instructions() == ()
    assert masking._machine_code(32) is None
    assert packing._machine_code(26) is None
