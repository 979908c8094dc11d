"""The distributed mechanism: a clipped, rotated, rounded update with its client's share of the noise, in the ring.

The sum of the clients' vectors modulo 2^b, lifted to [-2^(b-1), 2^(b-1)), is that of their integers, unless it wraps
around; the noise of the sum is the sum of the clients' noise.  See docs/privacy.md.
"""

import hashlib
import math
from dataclasses import dataclass
from enum import Enum, unique

import numpy as np
import numpy.typing as npt

from fl.errors import ConfigError
from fl.privacy import rounding, samplers
from fl.privacy.rotation import FloatVector, padded_length, rotate, rotate_back
from secagg import EntropySource
from secagg.algebra import ring
from secagg.primitives.prg import KEY_BYTES

_ROTATION = b"secagg/1 rotation of private updates"

# Squared norms are computed in 64-bit integers.
_MOST_STEPS = 2.0**30


@unique
class Noise(Enum):
    """The distribution of noise. Sums of Skellam variables are Skellam; sums of discrete Gaussians nearly Gaussian."""

    SKELLAM = "skellam"
    GAUSSIAN = "gaussian"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """The numbers of the mechanism; the same on the server and all clients.

    Attributes:
        length: number of elements of an update.
        clip: updates are scaled down to this L2 norm (c).
        granularity: the size of a rounding step (gamma).
        variance: of one client's noise, in steps squared (v).
        ring_bits: the ring is Z modulo 2^ring_bits (b).
        noise: the distribution of the noise.

    Raises:
        ConfigError: a number is out of range.
    """

    length: int
    clip: float
    granularity: float
    variance: float
    ring_bits: int
    noise: Noise = Noise.SKELLAM

    def __post_init__(self) -> None:
        wrong = []
        if self.length < 1:
            wrong.append(f"the length is {self.length}, but must be at least 1")
        for name, value in (("clip", self.clip), ("granularity", self.granularity)):
            if not (math.isfinite(value) and value > 0):
                wrong.append(f"the {name} is {value}, but must be positive and finite")
        if not wrong and self.clip / self.granularity + math.sqrt(self.dimension) > _MOST_STEPS:
            wrong.append(
                f"the clip of {self.clip:g} is {self.clip / self.granularity:.3g} steps of {self.granularity:g}, but "
                f"with the rounding it can be at most {_MOST_STEPS:.0f}: take a larger granularity"
            )
        if not 0 < self.variance <= samplers.LARGEST_STDDEV**2:
            wrong.append(f"the variance is {self.variance}, but must be above 0 and at most 2^32")
        if not ring.MIN_RING_BITS < self.ring_bits <= ring.MAX_RING_BITS:
            wrong.append(f"ring_bits is {self.ring_bits}, but must be between 2 and {ring.MAX_RING_BITS}")
        if wrong:
            raise ConfigError("; ".join(wrong))

    @property
    def dimension(self) -> int:
        """Return the length of an encoded update, a power of two (D)."""
        return padded_length(self.length)

    @property
    def squared_l2(self) -> int:
        """Return the bound on the squared L2 norm of a client's integers before the noise (D2^2)."""
        return rounding.squared_bound(self.clip / self.granularity, self.dimension)

    @property
    def l1(self) -> float:
        """Return the bound on their L1 norm (D1)."""
        return rounding.l1_bound(self.squared_l2, self.dimension)

    def encode(
        self, update: npt.NDArray[np.floating], *, rotation: bytes, rng: np.random.Generator, entropy: EntropySource
    ) -> ring.RingVector:
        """Return an update with noise, as elements of the ring, shape (dimension,).

        Args:
            update: shape (length,), finite.
            rotation: the round's public seed, from `rotation_seed`.
            rng: generator for the rounding, which need not be secret.
            entropy: source of the noise's key. Who knows the key can take the noise off again.

        Raises:
            ValueError: the update is not finite or has another shape.
        """
        if update.shape != (self.length,):
            raise ValueError(f"the update has shape {update.shape}, but ({self.length},) was planned")
        vector = update.astype(np.float64)
        scale = rounding.clip_factor(vector, self.clip) / self.granularity
        integers = rounding.round_within(rotate(vector, rotation, scale), self.squared_l2, rng)
        sample = samplers.skellam if self.noise is Noise.SKELLAM else samplers.discrete_gaussian
        integers += sample(entropy(KEY_BYTES), self.variance, self.dimension)
        encoded = integers.astype(ring.word_dtype(self.ring_bits))
        ring.reduce_in_place(encoded, self.ring_bits)
        return encoded

    def decode(self, total: ring.RingVector, *, rotation: bytes) -> FloatVector:
        """Return the sum of updates, with its noise, from the sum in the ring; float64, shape (length,)."""
        lifted = ring.centered_lift(total, self.ring_bits).astype(np.float64)
        lifted *= self.granularity
        return rotate_back(lifted, self.length, rotation)


def rotation_seed(context: bytes) -> bytes:
    """Return the public seed of a round's rotation, from the bytes that the round's session is bound to."""
    return hashlib.sha256(_ROTATION + context).digest()[:KEY_BYTES]
