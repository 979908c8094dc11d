"""Masks beside the raw keystream: what the generator, the addition and the recovery add to OpenSSL's time."""

import os
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.case import Case
from benchmarks.interleave import Work
from secagg import masking
from secagg.masking import Mask
from secagg.primitives.prg import CHUNK_BYTES, KEY_BYTES, Keystream, chunk_buffer
from secagg.unmask_job import RecoveredMaskKey, UnmaskJob

_LENGTH = 1_000_000
_RECOVERED_LENGTH = 100_000
_TAG_BYTES = 16
_NONCE = bytes(12)


def prg_expansion() -> Case:
    """One mask of 1,000,000 u32, chunk by chunk, into the buffer of one chunk."""
    size = 4 * _LENGTH

    def build() -> tuple[Work, Work]:
        keystream = Keystream(os.urandom(KEY_BYTES))
        view = memoryview(chunk_buffer())
        sizes = [min(CHUNK_BYTES, size - start) for start in range(0, size, CHUNK_BYTES)]

        def expand() -> None:
            for chunk, chunk_bytes in enumerate(sizes):
                keystream.chunk_into(chunk, view, chunk_bytes)

        return expand, raw_keystreams(1, size)

    of = "speed over one raw AESGCM.encrypt_into"
    return Case("prg_expansion", {"elements": _LENGTH, "word_bits": 32}, of, build, num_bytes=size)


def masked_add(num_masks: int, word_bits: int) -> Case:
    """``num_masks`` masks added to one vector of 1,000,000 words."""
    size = _LENGTH * word_bits // 8

    def build() -> tuple[Work, Work]:
        vector = np.zeros(_LENGTH, dtype=f"<u{word_bits // 8}")
        masks = random_masks(num_masks)
        # Looked up at each call, so that another `accumulate` put in its place is what is measured.
        return lambda: masking.accumulate(vector, masks), raw_keystreams(num_masks, size)

    return Case(
        "masked_add",
        {"elements": _LENGTH, "word_bits": word_bits, "masks": num_masks},
        "speed over raw AESGCM.encrypt_into of as many bytes",
        build,
        goal=0.6 if word_bits == 32 else None,
        num_bytes=num_masks * size,
    )


def recovered_pair(num_pairs: int = 300) -> Case:
    """`UnmaskJob.run` over the pairs of one vanished client, 100,000 x 24 bits; the reference is the same for each."""

    def build() -> tuple[Work, Work]:
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
    """A job of real keys on the complete graph: each dropped client's masks with each survivor."""
    survivors = tuple(range(num_survivors))
    public_keys = tuple(X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in survivors)
    recovered = tuple(
        RecoveredMaskKey(num_survivors + i, os.urandom(16), survivors, public_keys) for i in range(num_dropped)
    )
    seeds = tuple((i, os.urandom(16)) for i in survivors) if self_masks else ()
    return UnmaskJob(os.urandom(32), ring_bits, vector_length, seeds, recovered)


def random_masks(count: int) -> list[Mask]:
    """Masks of random keys, half of them subtracted."""
    return [Mask(os.urandom(KEY_BYTES), subtract=i % 2 == 1) for i in range(count)]


def raw_keystreams(count: int, size: int) -> Work:
    """``count`` keystreams of ``size`` bytes each, one call to OpenSSL a keystream, all into one buffer."""
    ciphers = [AESGCM(os.urandom(KEY_BYTES)) for _ in range(count)]
    zeros = bytes(size)
    buffer = bytearray(size + _TAG_BYTES)
    draws = [partial(cipher.encrypt_into, _NONCE, zeros, None, buffer) for cipher in ciphers]

    def draw_all() -> None:
        for draw in draws:
            draw()

    return draw_all
