"""The settings of differential privacy: a part of a run's settings."""

from collections.abc import Iterable
from dataclasses import dataclass

from fl.errors import ConfigError
from fl.privacy.budget import Budget
from fl.privacy.mechanism import Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """The privacy that a run may give away. Without an epsilon there is no noise, and the rest has no meaning.

    Attributes:
        epsilon, delta: the bound on what all rounds together say of one client.
        l2_clip: each client's whole update is scaled down to this L2 norm.
        noise: skellam or gaussian.
        ring_bits: bits of an element. None: the fewest with which rounding costs 1% more noise.
    """

    epsilon: float | None = None
    delta: float | None = None
    l2_clip: float = 1.0
    noise: str = Noise.SKELLAM.value
    ring_bits: int | None = None

    def problems(self) -> Iterable[str]:
        """Yield one message for each value that is out of range."""
        known = [noise.value for noise in Noise]
        if self.noise not in known:
            yield f"unknown noise {self.noise!r}; known are {', '.join(known)}"
        elif self.epsilon is None and self != Privacy():
            yield "delta, l2_clip, noise and ring_bits are for private runs: give epsilon too"
        elif self.epsilon is not None and self.delta is None:
            yield "epsilon needs a delta, well below 1 over the number of clients"
        elif self.epsilon is not None:
            yield from self.budget(1, 1.0).faults()

    def leaks(
        self, *, aggregator: str, compare: bool, holdout: float, clip: float | None, **others: object
    ) -> Iterable[str]:
        """Yield one message for each of a run's other settings that does not go with epsilon."""
        if self.epsilon is None:
            return
        if aggregator != "secure" or compare:
            yield "with epsilon only the secure aggregator runs, alone: a plain run beside it would have no noise"
        if holdout:
            yield "with epsilon nothing may be reported without noise: set holdout to 0"
        if clip is not None:
            yield "with epsilon, l2_clip takes the place of clip"

    def budget(self, rounds: int, sampling_rate: float) -> Budget:
        """Return the budget of a run with this many rounds; epsilon and delta must be given."""
        if self.epsilon is None or self.delta is None:
            raise ConfigError("a budget needs epsilon and delta: give both")
        return Budget(
            epsilon=self.epsilon,
            delta=self.delta,
            rounds=rounds,
            clip=self.l2_clip,
            sampling_rate=sampling_rate,
            noise=Noise(self.noise),
            ring_bits=self.ring_bits,
        )
