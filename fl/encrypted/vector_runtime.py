"""MPyC's runtime with its inner loops on machine words.

The protocols (comparison, truncation, products, argmax) are MPyC's, unchanged. This module replaces the few methods
below them that handle each element: dealing shares, resharing after a product, opening, random numbers and bits. They
do the same as MPyC's methods, for `VectorArray` instead of arrays of Python objects, and pass other values to MPyC's.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from mpyc import asyncoro, finfields, sectypes
from mpyc.runtime import Future, Runtime

from fl.encrypted.residues import BITS, MODULUS, Residues, Words, from_words, residues, signed, words
from secagg.primitives.prg import CHUNK_BYTES, KEY_BYTES, Keystream, chunk_buffer

PARTIES, THRESHOLD = 3, 1
"""Shamir's sharing among three parties; any single party learns nothing."""

_POINTS = (1, 2, 3)


class VectorArray(finfields.PrimeFieldArray):
    """MPyC's array of field elements for p = 2^61 - 1, with `Residues` as its values."""

    __slots__ = ()

    field = finfields.GF(MODULUS)

    def __init__(self, value: Any, check: bool = True, copy: bool = False) -> None:
        self.value = residues(value)  # type: ignore[misc]  # A slot of the base class.

    def signed_(self) -> Any:
        """Return the integers nearest to zero, int64."""
        return signed(self.value)

    @classmethod
    def _reciprocal(cls, a: Any) -> Any:
        """Return the inverse of a single number: MPyC divides by powers of two only."""
        return pow(int(a), -1, MODULUS)


def vector_integers(bit_length: int) -> Any:
    """Return MPyC's secure integers over that field, with `VectorArray` as their arrays."""
    secure = sectypes.SecInt(bit_length, p=MODULUS)
    secure.field.array = VectorArray
    VectorArray.field = secure.field
    return secure


def _random_words(count: int, bits: int = BITS) -> Words:
    """Return uniform numbers of this width from a fresh key (61 bits: below p; 0 is more likely by 2^-61)."""
    stream = Keystream(os.urandom(KEY_BYTES))
    drawn = np.empty(count, np.uint64)
    per_chunk = CHUNK_BYTES // 8
    buffer = chunk_buffer(min(8 * count, CHUNK_BYTES))
    for chunk, start in enumerate(range(0, count, per_chunk)):
        size = min(per_chunk, count - start)
        stream.chunk_into(chunk, memoryview(buffer), 8 * size)
        drawn[start : start + size] = np.frombuffer(buffer, np.uint64, size)
    drawn >>= np.uint64(64 - bits)
    if bits == BITS:
        drawn[drawn == MODULUS] = 0
    return drawn


def _deal(secrets: Any) -> list[Any]:
    """Return the parties' Shamir shares of a flat array: f(i) = secret + i * random."""
    slope = _random_words(len(secrets)).view(Residues)
    first = secrets + slope
    second = first + slope
    return [first, second, second + slope]


class VectorRuntime(Runtime):
    """MPyC's runtime on words: three parties, threshold one, no pseudorandom secret sharing (`options.no_prss`)."""

    def _send_array(self, peer: int, array: Residues) -> None:
        self._send_message(peer, words(array).tobytes())

    @staticmethod
    def _array(message: bytes, count: int) -> Residues:
        if len(message) != 8 * count:
            raise ValueError(
                f"got a message of {len(message)} bytes, expected {8 * count}: the parties run different programs"
            )
        return from_words(np.frombuffer(message, np.uint64))

    def _distribute(self, x: Any, senders: list[int]) -> Any:
        if len(x) != 1 or not _is_vector(x[0]):
            return super()._distribute(x, senders)
        return self._deal_out(x[0], senders)

    @asyncoro.mpc_coro
    async def _deal_out(self, x, senders):  # type: ignore[no-untyped-def]  # MPyC takes a return type for the placeholder's
        secure = isinstance(x, self.SecureArray)
        await self.returnType((type(x), x.shape) if secure else Future, *((len(senders), 1) if secure else ()))
        shape, size = x.shape, math.prod(x.shape)
        received: list[Any] = []
        for sender in senders:
            if sender == self.pid:
                array = await self.gather(x) if secure else x
                shares = _deal(array.value.reshape(-1))
                for peer in range(PARTIES):
                    if peer != self.pid:
                        self._send_array(peer, shares[peer])
                received.append(shares[self.pid])
            else:
                received.append(self._receive_message(sender))
        received = await self.gather(received)
        return [
            [VectorArray((share if isinstance(share, Residues) else self._array(share, size)).reshape(shape))]
            for share in received
        ]

    def _reshare(self, x: Any) -> Any:
        return self._reshare_vector(x) if isinstance(x, VectorArray) else super()._reshare(x)

    @asyncoro.mpc_coro
    async def _reshare_vector(self, x: VectorArray) -> Future:
        """Turn a product's shares of degree two into fresh ones of degree one (Gennaro, Rabin, Rabin 1998)."""
        flat = x.value.reshape(-1)
        parts = _deal(flat)
        for peer in range(PARTIES):
            if peer != self.pid:
                self._send_array(peer, parts[peer])
        received = [None if peer == self.pid else self._receive_message(peer) for peer in range(PARTIES)]
        received = await self.gather(received)
        first, second, third = (
            parts[peer] if peer == self.pid else self._array(message, len(flat))
            for peer, message in enumerate(received)
        )
        # The value at 0 of a parabola through 1, 2 and 3.
        difference = first - second
        total = (difference << 1) + difference + third
        return VectorArray(total.reshape(x.shape))

    def output(self, x: Any, receivers: Any = None, threshold: Any = None, raw: bool = False) -> Any:
        """Open a value as MPyC's `output` does; arrays of this field are sent without pickle."""
        if not _is_vector(x) or threshold not in (None, THRESHOLD):
            return super().output(x, receivers, threshold, raw)
        return self._open(x, range(PARTIES) if receivers is None else receivers, raw)

    @asyncoro.mpc_coro
    async def _open(self, x: Any, receivers: Any, raw: bool) -> Future:
        receivers = [receivers] if isinstance(receivers, int) else list(receivers)
        secure = isinstance(x, self.SecureArray)
        array = await self.gather(x) if secure else x
        flat = array.value.reshape(-1)
        after, before = (self.pid + 1) % PARTIES, (self.pid - 1) % PARTIES
        if after in receivers:
            self._send_array(after, flat)
        if self.pid not in receivers:
            return None
        (message,) = await self.gather([self._receive_message(before)])
        other = self._array(message, len(flat))
        # The value at 0 of the line through (mine, flat) and (theirs, other).
        mine, theirs = _POINTS[self.pid], _POINTS[before]
        weight = theirs * pow(theirs - mine, -1, MODULUS) % MODULUS
        opened = VectorArray((other + (flat - other) * weight).reshape(array.shape))
        return opened.signed_() if secure and not raw else opened

    def _np_randoms(self, sftype: Any, n: int, bound: int | None = None) -> Any:
        return self._random_vector(n, BITS if bound is None else max(0, (bound // 2).bit_length() - 1))

    @asyncoro.mpc_coro
    async def _random_vector(self, n: int, bits: int) -> Future:
        """Return the sum of two parties' random numbers of this width (or below p)."""
        senders = self._two_senders()
        mine = _random_words(n, bits).view(Residues) if self.pid in senders else np.zeros(n, np.uint64)
        dealt = await self.gather(self._deal_out(VectorArray(mine), senders))
        return dealt[0][0] + dealt[1][0]

    def _two_senders(self) -> list[int]:
        # The pair is the same for all parties, and changes each time, to spread the work.
        turn = self._program_counter[0] % PARTIES
        return [(turn + index) % PARTIES for index in range(THRESHOLD + 1)]

    @asyncoro.mpc_coro
    async def np_random_bits(self, sftype: Any, n: int, signed: bool = False) -> Future:
        """Return bits that no party knows, from the product of two parties' random signs."""
        senders = self._two_senders()
        mine = np.zeros(n, np.int64)
        if self.pid in senders:
            mine = 1 - 2 * np.unpackbits(np.frombuffer(os.urandom(-(-n // 8)), np.uint8), count=n).astype(np.int64)
        dealt = await self.gather(self._deal_out(VectorArray(mine), senders))
        signs = await self._reshare(dealt[0][0] * dealt[1][0])
        # 2^60 = 1/2 (mod p).
        return signs if signed else VectorArray((signs.value + 1) << (BITS - 1))

    @asyncoro.mpc_coro
    async def np_is_zero_public(self, a: Any) -> Future:
        """Tell all parties which elements are zero, and nothing else about them.

        MPyC multiplies by a random number and opens the product's shares, of degree two. They are products of two
        lines, which a party can factor: its own points on the lines leave two candidates for the secret. So the product
        is reshared here before it is opened.
        """
        mask = await self._np_randoms(None, a.size)
        array = await self.gather(a) if isinstance(a, self.SecureArray) else a
        product = await self._reshare(VectorArray(array.value.reshape(-1) * mask.value))
        opened = await self.output(product)
        return (opened.value == 0).reshape(array.shape)


def _is_vector(x: Any) -> bool:
    return isinstance(x, VectorArray) or (isinstance(x, Runtime.SecureArray) and x.sectype.field.array is VectorArray)
