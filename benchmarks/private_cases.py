"""The cost of privacy for a client: the encoding with noise, compared with the masks that it adds anyway."""

import os

import numpy as np

from benchmarks.case import Case, Pair
from fl.privacy import samplers
from fl.privacy.mechanism import Mechanism, rotation_seed
from secagg import masking
from secagg.algebra import ring
from secagg.masking import Mask
from secagg.primitives.prg import KEY_BYTES

_RING_BITS = 16
_DEGREE = 30
_NOISE_VARIANCE = 300.0


def private_encoding(elements: int) -> Case:
    """Clip, rotate, round and noise an update of float32, beside the masks of a graph of degree 30 in the same ring."""

    def build() -> Pair:
        mechanism = Mechanism(
            length=elements, clip=1.0, granularity=1 / 300, variance=_NOISE_VARIANCE, ring_bits=_RING_BITS
        )
        rng = np.random.default_rng(1)
        update = rng.normal(size=elements).astype(np.float32)
        rotation = rotation_seed(b"benchmark")
        vector = np.zeros(mechanism.dimension, dtype=ring.word_dtype(_RING_BITS))
        # One for each neighbour, and the self-mask.
        masks = [Mask(os.urandom(KEY_BYTES), subtract=bool(i % 2)) for i in range(_DEGREE + 1)]
        return (
            lambda: mechanism.encode(update, rotation=rotation, rng=rng, entropy=os.urandom),
            lambda: masking.accumulate(vector, masks),
        )

    params = {"elements": elements, "ring_bits": _RING_BITS, "degree": _DEGREE}
    return Case("private_encoding", params, "time over that of the client's masks", build, goal=3.0, costs=True)


def noise(length: int) -> Case:
    """Draw Skellam noise, beside numpy's normal distribution, which is neither secret nor exact."""

    def build() -> Pair:
        vector, rng = np.zeros(length, dtype=np.int64), np.random.default_rng(1)
        return (
            lambda: samplers.add_skellam(vector, os.urandom(KEY_BYTES), _NOISE_VARIANCE),
            lambda: rng.standard_normal(length),
        )

    params = {"elements": length, "variance": _NOISE_VARIANCE}
    return Case("skellam_noise", params, "speed over numpy's standard_normal", build)
