"""All pieces of the library that cost time, each with the raw primitive that it uses."""

import os
from functools import partial
from typing import Literal

import msgpack
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.case import Case, Pair
from benchmarks.interleave import Work
from secagg import (
    ClientId,
    Parameters,
    decode_client_message,
    decode_server_message,
    encode,
    masking,
    plan,
    sharing,
)
from secagg.algebra import packing, ring, shamir
from secagg.algebra.field import PRIME
from secagg.masking import Mask
from secagg.messages import MaskedInput, PeerKeys
from secagg.primitives.agreement import SecretKey
from secagg.primitives.prg import CHUNK_BYTES, KEY_BYTES, Keystream, chunk_buffer
from secagg.sharing import LIMBS, SHARE_BYTES, ShareChannel
from secagg.unmask_job import RecoveredMaskKey, UnmaskJob
from transport import PortableInputs
from transport.driver import InputVector

LENGTH = 1_000_000
_RECOVERED_LENGTH = 100_000
_TAG_BYTES = 16
_NONCE = bytes(12)
_HOLDERS, _THRESHOLD = 500, 334
_CODEC_BITS = 26

Way = Literal["there", "back"]


class SameInputs(PortableInputs):
    """The same vector for all clients, made where it is needed."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __call__(self, client_id: ClientId) -> InputVector:
        """Return the vector."""
        return np.ones(self._length, dtype=np.uint16)


# Masks


def prg_expansion() -> Case:
    """Expand one mask of 1,000,000 u32, chunk by chunk, into a buffer of one chunk."""
    size = 4 * LENGTH

    def build() -> Pair:
        keystream = Keystream(os.urandom(KEY_BYTES))
        view = memoryview(chunk_buffer())
        sizes = [min(CHUNK_BYTES, size - start) for start in range(0, size, CHUNK_BYTES)]

        def expand() -> None:
            for chunk, chunk_bytes in enumerate(sizes):
                keystream.chunk_into(chunk, view, chunk_bytes)

        return expand, raw_keystreams(1, size)

    params = {"elements": LENGTH, "word_bits": 32}
    return Case("prg_expansion", params, "speed over one raw AESGCM.encrypt_into", build, num_bytes=size)


def masked_add(num_masks: int, word_bits: int) -> Case:
    """Add ``num_masks`` masks to one vector of 1,000,000 words."""
    size = LENGTH * word_bits // 8

    def build() -> Pair:
        vector = np.zeros(LENGTH, dtype=f"<u{word_bits // 8}")
        masks = random_masks(num_masks)
        # Look `accumulate` up at each call, so that a replacement is measured.
        return lambda: masking.accumulate(vector, masks), raw_keystreams(num_masks, size)

    return Case(
        "masked_add",
        {"elements": LENGTH, "word_bits": word_bits, "masks": num_masks},
        "speed over raw AESGCM.encrypt_into of as many bytes",
        build,
        goal=0.6 if word_bits == 32 else None,
        num_bytes=num_masks * size,
    )


def recovered_pair(num_pairs: int = 300) -> Case:
    """Recover the masks that one dropped client shares with 300 others, 100,000 x 24 bits."""

    def build() -> Pair:
        job = recovery_job(num_survivors=num_pairs, num_dropped=1, ring_bits=24, self_masks=False)
        private = X25519PrivateKey.generate()
        peers = [X25519PrivateKey.generate().public_key() for _ in range(num_pairs)]
        masks = random_masks(num_pairs)
        vector = np.zeros(_RECOVERED_LENGTH, dtype="<u4")

        def exchanges_and_masks() -> None:
            for peer in peers:
                private.exchange(peer)
            masking.accumulate(vector, masks)

        return job.run, exchanges_and_masks

    of = "time of a job of pairs over that of as many raw X25519 exchanges and masked adds"
    params = {"elements": _RECOVERED_LENGTH, "ring_bits": 24, "pairs": num_pairs}
    return Case("recovered_pair", params, of, build, goal=1.25, costs=True)


def recovery_job(
    *,
    num_survivors: int,
    num_dropped: int,
    ring_bits: int,
    vector_length: int = _RECOVERED_LENGTH,
    self_masks: bool = True,
) -> UnmaskJob:
    """Return a job of real keys on the complete graph: each dropped client's masks with each survivor."""
    survivors = tuple(range(num_survivors))
    public_keys = tuple(X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in survivors)
    recovered = tuple(
        RecoveredMaskKey(num_survivors + i, os.urandom(16), survivors, public_keys) for i in range(num_dropped)
    )
    seeds = tuple((i, os.urandom(16)) for i in survivors) if self_masks else ()
    return UnmaskJob(os.urandom(32), ring_bits, vector_length, seeds, recovered)


def random_masks(count: int) -> list[Mask]:
    """Return masks of random keys, half of them subtracted."""
    return [Mask(os.urandom(KEY_BYTES), subtract=i % 2 == 1) for i in range(count)]


def raw_keystreams(count: int, size: int) -> Work:
    """Return a function that draws ``count`` keystreams of ``size`` bytes into one buffer, each in one OpenSSL call."""
    ciphers = [AESGCM(os.urandom(KEY_BYTES)) for _ in range(count)]
    zeros = bytes(size)
    buffer = bytearray(size + _TAG_BYTES)
    draws = [partial(cipher.encrypt_into, _NONCE, zeros, None, buffer) for cipher in ciphers]

    def draw_all() -> None:
        for draw in draws:
            draw()

    return draw_all


# Shares and keys

_OF_PRODUCT = "speed over the float64 matrix product of that shape"


def shamir_share() -> Case:
    """Share two seeds of 9 limbs each with 500 holders, t = 334."""

    def build() -> Pair:
        rng, limbs = np.random.default_rng(1), 2 * LIMBS
        secrets = rng.integers(PRIME, size=limbs, dtype=np.uint16)
        coefficients = rng.integers(PRIME, size=(_THRESHOLD - 1, limbs), dtype=np.uint16)
        powers = rng.integers(PRIME, size=(_HOLDERS, _THRESHOLD)).astype(np.float64)
        polynomials = rng.integers(PRIME, size=(_THRESHOLD, limbs)).astype(np.float64)
        return lambda: shamir.share(secrets, coefficients, _HOLDERS), lambda: powers @ polynomials

    params = {"holders": _HOLDERS, "threshold": _THRESHOLD, "limbs": 2 * LIMBS}
    return Case("shamir_share", params, _OF_PRODUCT, build)


def shamir_reconstruct() -> Case:
    """Reconstruct the seeds of 500 clients, 9 limbs each, from 334 shares."""

    def build() -> Pair:
        rng = np.random.default_rng(2)
        places = np.sort(rng.permutation(_HOLDERS)[:_THRESHOLD])
        shares = rng.integers(PRIME, size=(_THRESHOLD, _HOLDERS * LIMBS), dtype=np.uint16)
        weights = rng.integers(PRIME, size=(1, _THRESHOLD)).astype(np.float64)
        floats = shares.astype(np.float64)
        return lambda: shamir.reconstruct(places, shares), lambda: weights @ floats

    params = {"secrets": _HOLDERS, "threshold": _THRESHOLD, "limbs": _HOLDERS * LIMBS}
    return Case("shamir_reconstruct", params, _OF_PRODUCT, build)


def key_agreement() -> Case:
    """Agree on a pairwise mask's key: exchange and HKDF, the peer's key given as bytes."""

    def build() -> Pair:
        peer = X25519PrivateKey.generate().public_key()
        peer_bytes = peer.public_bytes_raw()
        secret = SecretKey(os.urandom(32))
        private = X25519PrivateKey.generate()
        session_id = os.urandom(32)
        return lambda: masking.pairwise_mask(secret, peer_bytes, session_id, 1, 2), lambda: private.exchange(peer)

    return Case("key_agreement", {}, "speed over a raw X25519 exchange", build)


def seal_shares() -> Case:
    """Seal a pair of shares for a peer, 36 bytes; the raw cipher is set up for its one message too."""

    def build() -> Pair:
        channel, key, shares, session_id = _channel()
        data = os.urandom(64)
        return (
            lambda: channel.seal_shares(shares, session_id, 1, 2),
            lambda: AESGCM(key).encrypt(_NONCE, shares, data),
        )

    return Case("seal_shares", {}, "speed over raw AESGCM(key).encrypt", build)


def open_shares() -> Case:
    """Open a peer's sealed shares, and check that the limbs are field elements."""

    def build() -> Pair:
        channel, key, shares, session_id = _channel()
        sealed = channel.seal_shares(shares, session_id, 1, 2)
        data = os.urandom(64)
        raw = AESGCM(key).encrypt(_NONCE, shares, data)
        return (
            lambda: sharing.open_shares(key, sealed, session_id, 1, 2),
            lambda: AESGCM(key).decrypt(_NONCE, raw, data),
        )

    return Case("open_shares", {}, "speed over raw AESGCM(key).decrypt", build)


def _channel() -> tuple[ShareChannel, bytes, bytes, bytes]:
    key, session_id = os.urandom(16), os.urandom(32)
    return ShareChannel(key, key), key, bytes(2 * SHARE_BYTES), session_id


# Bytes


def packed(way: Way, ring_bits: int) -> Case:
    """Pack ("there") or unpack ("back") 1,000,000 elements, compared with np.copyto of the output's bytes."""
    word_bytes = ring.word_dtype(ring_bits).itemsize
    size = packing.packed_size(LENGTH, ring_bits) if way == "there" else LENGTH * word_bytes

    def build() -> Pair:
        vector = _random_vector(ring_bits)
        octets = packing.pack(vector, ring_bits)
        source, copy = np.ones(size, dtype=np.uint8), np.empty(size, dtype=np.uint8)
        work: Work = partial(packing.pack, vector, ring_bits)
        if way == "back":
            work = partial(packing.unpack, octets, LENGTH, ring_bits)
        return work, lambda: np.copyto(copy, source)

    name = "pack" if way == "there" else "unpack"
    params = {"elements": LENGTH, "ring_bits": ring_bits}
    return Case(name, params, "speed over np.copyto of the bytes that come out", build, num_bytes=size)


def masked_input(way: Way) -> Case:
    """Send a masked input of 1,000,000 x 26 bits through the codec, compared with packing or unpacking alone."""

    def build() -> Pair:
        params = _params(1000, value_bits=16)
        vector = _random_vector(_CODEC_BITS)
        message = MaskedInput(os.urandom(32), vector)
        data, octets = encode(message, params), packing.pack(vector, _CODEC_BITS)
        if way == "there":
            return lambda: encode(message, params), lambda: packing.pack(vector, _CODEC_BITS)
        return lambda: decode_client_message(data, params), lambda: packing.unpack(octets, LENGTH, _CODEC_BITS)

    name, of = ("encode", "pack") if way == "there" else ("decode", "unpack")
    params = {"elements": LENGTH, "ring_bits": _CODEC_BITS}
    return Case(f"{name}_masked_input", params, f"speed over {of} alone", build)


def peer_keys(way: Way) -> Case:
    """Send the keys of 1,000 clients through the codec, compared with msgpack on the same three byte strings."""

    def build() -> Pair:
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
    return plan(num_clients=num_clients, vector_length=LENGTH, value_bits=value_bits).parameters


def _random_vector(ring_bits: int) -> ring.RingVector:
    rng = np.random.default_rng(ring_bits)
    top = (1 << ring_bits) - 1
    return rng.integers(top, size=LENGTH, dtype=ring.word_dtype(ring_bits), endpoint=True)
