"""The privacy that a run may give away, and how it is spent."""

from dataclasses import dataclass

from fl.privacy.accounting import least_epsilon
from fl.privacy.mechanism import Noise
from secagg.algebra import ring

# At 4 deviations at most one element in 16,000 wraps around, which adds 0.4% to the error of the sum; at 3, 10%.
DEVIATIONS = 4.0

FIGURES_COST = 0.01
"""The noise that figures add, as a fraction of the updates' noise."""

_MOST_FIGURES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The privacy that a run may give away, and how it is spent.

    Attributes:
        epsilon, delta: the bound on what all rounds together say of one client.
        rounds: number of rounds.
        sampling_rate: the probability with which a client takes part in a round, independently of all others.
        clip: updates are scaled down to this L2 norm.
        noise: the distribution of the noise.
        ring_bits: bits of an element; None for the planner's choice.
        deviations: standard deviations of the sum that fit the ring.
        figures: number of figures that travel with each update.
        scores: number of figures of held-out examples that are summed after each round.
        figures_cost: the noise that each of the two adds, as a fraction of the updates' noise.
        exact: whether noise that a sum does not need is taken off again (`fl.privacy.exact_noise`); Skellam only.
    """

    epsilon: float
    delta: float
    rounds: int
    clip: float
    sampling_rate: float = 1.0
    noise: Noise = Noise.SKELLAM
    ring_bits: int | None = None
    deviations: float = DEVIATIONS
    figures: int = 0
    scores: int = 0
    figures_cost: float = FIGURES_COST
    exact: bool = False

    def faults(self) -> list[str]:
        """Return what is wrong with the numbers."""
        faults = []
        for name, value, most in (
            ("epsilon", self.epsilon, 1e6),
            ("delta", self.delta, 0.5),
            ("the clip", self.clip, 1e30),
            ("the sampling rate", self.sampling_rate, 1.0),
            ("deviations", self.deviations, 100.0),
            ("the figures' cost", self.figures_cost, 1.0),
        ):
            if not 0 < value <= most:
                faults.append(f"{name} is {value}, but must be above 0 and at most {most:g}")
        if not 1 <= self.rounds <= 10**9:
            faults.append(f"rounds is {self.rounds}, but must be between 1 and 1,000,000,000")
        if self.ring_bits is not None and not 2 <= self.ring_bits <= ring.MAX_RING_BITS:
            faults.append(f"the ring has {self.ring_bits} bits, but must have between 2 and {ring.MAX_RING_BITS}")
        for name, count in (("figures", self.figures), ("scores", self.scores)):
            if not 0 <= count <= _MOST_FIGURES:
                faults.append(f"{name} is {count}, but must be between 0 and {_MOST_FIGURES}")
        if self.exact and self.noise is not Noise.SKELLAM:
            faults.append(
                f"{self.noise.value} noise cannot be taken off exactly: what is left has another distribution; "
                "take Skellam noise"
            )
        if 0 < self.delta <= 0.5 and 0 < self.epsilon <= (least := least_epsilon(self.delta)):
            faults.append(
                f"epsilon {self.epsilon:g} is out of reach: by Rényi orders up to 256 no noise proves less than "
                f"{least:.4f} at delta {self.delta:g}"
            )
        return faults
