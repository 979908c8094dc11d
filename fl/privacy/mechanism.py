"""The distributed mechanism: a clipped, rotated, rounded update with its client's share of the noise, in the ring.

The sum of the clients' vectors modulo 2^b, lifted to [-2^(b-1), 2^(b-1)), is that of their integers, unless it wraps
around; the noise of the sum is the sum of the clients' noise.  See docs/privacy.md.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from enum import Enum, unique

import numpy as np
import numpy.typing as npt

from fl.errors import ConfigError
from fl.privacy import rounding, samplers
from fl.privacy.rotation import FloatVector, padded_length, rotate_back, rotate_in_place
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
        figures: number of figures that travel behind the update, each in [-1, 1] (k).
        figure_weight: a figure counts in the vector times this and times the clip (w).

    Raises:
        ConfigError: a number is out of range.
    """

    length: int
    clip: float
    granularity: float
    variance: float
    ring_bits: int
    noise: Noise = Noise.SKELLAM
    figures: int = 0
    figure_weight: float = 0.0

    def __post_init__(self) -> None:
        wrong = []
        if self.length < 1:
            wrong.append(f"the length is {self.length}, but must be at least 1")
        for name, value in (("clip", self.clip), ("granularity", self.granularity)):
            if not (math.isfinite(value) and value > 0):
                wrong.append(f"the {name} is {value}, but must be positive and finite")
        if self.figures < 0 or not (math.isfinite(self.figure_weight) and self.figure_weight >= 0):
            wrong.append(f"{self.figures} figures of weight {self.figure_weight}: neither can be negative")
        elif bool(self.figures) != bool(self.figure_weight):
            wrong.append(f"{self.figures} figures have weight {self.figure_weight}: give both or neither")
        if not wrong and self.norm / self.granularity + math.sqrt(self.dimension) > _MOST_STEPS:
            wrong.append(
                f"the clip of {self.clip:g} is {self.clip / self.granularity:.3g} steps of {self.granularity:g}, but "
                f"with figures and rounding it can be at most {_MOST_STEPS:.0f}: take a larger granularity"
            )
        if not wrong and not self.squared_l2:
            wrong.append(
                f"the clip of {self.clip:g} is so small beside a step of {self.granularity:g} that every update would "
                "be rounded to 0: take a smaller granularity"
            )
        if not 0 < self.variance <= samplers.LARGEST_STDDEV**2:
            wrong.append(f"the variance is {self.variance}, but must be above 0 and at most 2^32")
        if not ring.MIN_RING_BITS < self.ring_bits <= ring.MAX_RING_BITS:
            wrong.append(f"ring_bits is {self.ring_bits}, but must be between 2 and {ring.MAX_RING_BITS}")
        if wrong:
            raise ConfigError("; ".join(wrong))

    @property
    def dimension(self) -> int:
        """Return the length of an encoded update with its figures, a power of two (D)."""
        return padded_length(self.length + self.figures)

    @property
    def norm(self) -> float:
        """Return the bound on the L2 norm of the clipped update together with its figures: c sqrt(1 + k w^2)."""
        return self.clip * joint_norm(self.figures, self.figure_weight)

    @property
    def squared_l2(self) -> int:
        """Return the bound on the squared L2 norm of a client's integers before the noise (D2^2)."""
        return rounding.squared_bound(self.norm / self.granularity, self.dimension)

    @property
    def l1(self) -> float:
        """Return the bound on their L1 norm (D1)."""
        return rounding.l1_bound(self.squared_l2, self.dimension)

    def with_clip(self, clip: float) -> "Mechanism":
        """Return the mechanism for another clip: the same integers for updates that are longer by as much.

        In steps nothing changes, neither bounds nor noise, so a round costs the same privacy whatever its clip.
        """
        if clip == self.clip:
            return self
        # A little coarser, so that no rounding error of the division lets a vector be longer than was planned.
        return replace(self, clip=clip, granularity=self.granularity * (clip / self.clip) * (1 + 2.0**-50))

    def is_within(self, update: npt.NDArray[np.floating]) -> bool:
        """Return whether an update is within the clip. ValueError: it is not finite."""
        return rounding.clip_factor(update.astype(np.float64), self.clip) >= 1

    def stddev(self, clients: int) -> float:
        """Return the standard deviation of noise and rounding in an element of a sum of this many updates, at most."""
        return math.sqrt(clients * (self.variance + 0.25)) * self.granularity

    def figure_stddev(self, clients: int) -> float:
        """Return the standard deviation of noise and rounding in the mean of a figure in [-1, 1], at most."""
        return self.stddev(clients) / (clients * self.figure_weight * self.clip)

    def encode(
        self,
        update: npt.NDArray[np.floating],
        *,
        rotation: bytes,
        rng: np.random.Generator,
        entropy: EntropySource,
        figures: npt.ArrayLike = (),
    ) -> ring.RingVector:
        """Return an update and its figures with noise, as elements of the ring, shape (dimension,).

        Args:
            update, rotation, rng, figures: as for `rounded`.
            entropy: source of the noise's key. Who knows the key can take the noise off again.

        Raises:
            ValueError: the update or a figure is not finite, or has another shape.
        """
        integers = self.rounded(update, rotation=rotation, rng=rng, figures=figures)
        add_noise = samplers.add_skellam if self.noise is Noise.SKELLAM else samplers.add_discrete_gaussian
        add_noise(integers, entropy(KEY_BYTES), self.variance)
        return self.in_ring(integers)

    def rounded(
        self,
        update: npt.NDArray[np.floating],
        *,
        rotation: bytes,
        rng: np.random.Generator,
        figures: npt.ArrayLike = (),
    ) -> npt.NDArray[np.int64]:
        """Return an update and its figures as integers, still without noise, shape (dimension,).

        Args:
            update: shape (length,), finite.
            rotation: the round's public seed, from `rotation_seed`.
            rng: generator for the rounding, which need not be secret.
            figures: shape (figures,), each in [-1, 1]; one beyond counts as the nearest end.

        Raises:
            ValueError: the update or a figure is not finite, or has another shape.
        """
        tail = np.asarray(figures, dtype=np.float64)
        for what, given, length in (("update has", update, self.length), ("figures have", tail, self.figures)):
            if given.shape != (length,):
                raise ValueError(f"the {what} shape {given.shape}, but ({length},) was planned")
        if not np.isfinite(tail).all():
            raise ValueError("figures that are not finite cannot be sent")
        # In steps, with zeros behind.
        vector = np.zeros(self.dimension)
        clipped, behind = vector[: self.length], vector[self.length : self.length + self.figures]
        clipped[:] = update
        clipped *= min(1.0, rounding.clip_factor(clipped, self.clip)) / self.granularity
        behind[:] = np.clip(tail, -1.0, 1.0) * (self.figure_weight * self.clip / self.granularity)
        rotate_in_place(vector, rotation)
        return rounding.round_within(vector, self.squared_l2, rng)

    def in_ring(self, integers: npt.NDArray[np.int64]) -> ring.RingVector:
        """Return integers with their noise as elements of the ring."""
        encoded = integers.astype(ring.word_dtype(self.ring_bits))
        ring.reduce_in_place(encoded, self.ring_bits)
        return encoded

    def decode(self, total: ring.RingVector, *, rotation: bytes) -> tuple[FloatVector, FloatVector]:
        """Return the sums of updates and of figures, with their noise, from the sum in the ring.

        Both float64, of shapes (length,) and (figures,). Noise can bring a sum of figures out of its range.
        """
        lifted = ring.centered_lift(total, self.ring_bits).astype(np.float64)
        lifted *= self.granularity
        both = rotate_back(lifted, self.length + self.figures, rotation)
        if not self.figures:
            return both, np.empty(0)
        return both[: self.length], both[self.length :] / (self.figure_weight * self.clip)


def joint_norm(figures: int, weight: float) -> float:
    """Return the bound on the L2 norm of a vector of norm 1 with figures in [-1, 1] of this weight behind it."""
    return math.sqrt(1 + figures * weight**2)


def weight_for(figures: int, cost: float) -> float:
    """Return the weight with which figures lengthen the vector, and so its noise, by this fraction.

    From sqrt(1 + k w^2) = 1 + cost. 0 without figures.
    """
    return math.sqrt(((1 + cost) ** 2 - 1) / figures) if figures else 0.0


def rotation_seed(context: bytes) -> bytes:
    """Return the public seed of a round's rotation, from the bytes that the round's session is bound to."""
    return hashlib.sha256(_ROTATION + context).digest()[:KEY_BYTES]
