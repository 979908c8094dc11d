"""Packing beside a copy of the same bytes, and the codec beside packing and plain msgpack."""

import os
from functools import partial
from typing import Literal

import msgpack
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks.case import Case
from benchmarks.interleave import Work
from secagg import Parameters, decode_client_message, decode_server_message, encode, plan
from secagg.algebra import packing, ring
from secagg.messages import MaskedInput, PeerKeys

_LENGTH = 1_000_000
_CODEC_BITS = 26

Way = Literal["there", "back"]


def packed(way: Way, ring_bits: int) -> Case:
    """1,000,000 elements packed ("there") or unpacked ("back"), beside np.copyto of as many bytes as come out."""
    word_bytes = ring.word_dtype(ring_bits).itemsize
    size = packing.packed_size(_LENGTH, ring_bits) if way == "there" else _LENGTH * word_bytes

    def build() -> tuple[Work, Work]:
        vector = _random_vector(ring_bits)
        octets = packing.pack(vector, ring_bits)
        source, copy = np.ones(size, dtype=np.uint8), np.empty(size, dtype=np.uint8)
        work: Work = partial(packing.pack, vector, ring_bits)
        if way == "back":
            work = partial(packing.unpack, octets, _LENGTH, ring_bits)
        return work, lambda: np.copyto(copy, source)

    name = "pack" if way == "there" else "unpack"
    params = {"elements": _LENGTH, "ring_bits": ring_bits}
    return Case(name, params, "speed over np.copyto of the bytes that come out", build, num_bytes=size)


def masked_input(way: Way) -> Case:
    """A masked input of 1,000,000 x 26 bits through the codec, beside its packing or unpacking alone."""

    def build() -> tuple[Work, Work]:
        params = _params(1000, value_bits=16)
        vector = _random_vector(_CODEC_BITS)
        message = MaskedInput(os.urandom(32), vector)
        data, octets = encode(message, params), packing.pack(vector, _CODEC_BITS)
        if way == "there":
            return lambda: encode(message, params), lambda: packing.pack(vector, _CODEC_BITS)
        return lambda: decode_client_message(data, params), lambda: packing.unpack(octets, _LENGTH, _CODEC_BITS)

    name, of = ("encode", "pack") if way == "there" else ("decode", "unpack")
    params = {"elements": _LENGTH, "ring_bits": _CODEC_BITS}
    return Case(f"{name}_masked_input", params, f"speed over {of} alone", build)


def peer_keys(way: Way) -> Case:
    """The keys of 1,000 clients through the codec, beside msgpack on the same three byte strings."""

    def build() -> tuple[Work, Work]:
        params = _params(1000, value_bits=16)
        keys = [X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(2000)]
        message = PeerKeys(os.urandom(32), tuple(range(1000)), b"".join(keys[:1000]), b"".join(keys[1000:]))
        data = encode(message, params)
        fields = msgpack.unpackb(data)
        if way == "there":
            return lambda: encode(message, params), lambda: msgpack.packb(fields)
        return lambda: decode_server_message(data, params), lambda: msgpack.unpackb(data)

    name, of = ("encode", "packb") if way == "there" else ("decode", "unpackb")
    return Case(f"{name}_peer_keys", {"clients": 1000}, f"speed over msgpack.{of} of the same fields", build)


def _params(num_clients: int, value_bits: int) -> Parameters:
    return plan(num_clients=num_clients, vector_length=_LENGTH, value_bits=value_bits).parameters


def _random_vector(ring_bits: int) -> ring.RingVector:
    rng = np.random.default_rng(ring_bits)
    top = (1 << ring_bits) - 1
    return rng.integers(top, size=_LENGTH, dtype=ring.word_dtype(ring_bits), endpoint=True)
