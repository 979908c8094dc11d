"""The settings of differential privacy: a part of a run's settings."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from fl.errors import ConfigError
from fl.privacy.budget import FIGURES_COST, Budget
from fl.privacy.clipping import RATE, Clipping
from fl.privacy.mechanism import Noise


def _text_of_range(pair: object) -> str:
    return ":".join(map(str, pair)) if isinstance(pair, Iterable) else str(pair)


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """The privacy that a run may give away. Without an epsilon there is no noise, and the rest has no meaning.

    Attributes:
        epsilon, delta: the bound on what all rounds together say of one client.
        l2_clip: each client's whole update is scaled down to this L2 norm; with ``clip_quantile``, in the first round.
        clip_quantile: the share of updates that the clip should leave as they are: after each round it moves towards
            this quantile of their norms (Andrew et al. 2021). None: it stays.
        clip_rate: the speed of that: the clip moves by at most a factor of e^rate a round.
        figures_cost: the noise that clients' figures (loss, metrics, whether the update was clipped) add to updates, as
            a fraction; more makes figures less noisy. 0: clients report none.
        figure_ranges: the range to which a client's mean of the loss or a metric is bounded, as ``name=low:high``; in
            Python also a dict, such as ``{"mae": (0, 3)}``. Accuracy has 0 to 1, and cross-entropy 0 to 2 ln(classes);
            others without a range are not reported.
        noise: skellam or gaussian.
        ring_bits: bits of an element. None: the fewest with which rounding costs 1% more noise.
        exact_noise: take off the noise that a sum of updates does not need because more clients stayed than planned.
    """

    epsilon: float | None = None
    delta: float | None = None
    l2_clip: float = 1.0
    clip_quantile: float | None = None
    clip_rate: float = RATE
    figures_cost: float = FIGURES_COST
    figure_ranges: tuple[str, ...] | None = None
    noise: str = Noise.SKELLAM.value
    ring_bits: int | None = None
    exact_noise: bool = False

    def __post_init__(self) -> None:
        if isinstance(given := self.figure_ranges, Mapping):
            texts = tuple(f"{name}={_text_of_range(pair)}" for name, pair in given.items())
            object.__setattr__(self, "figure_ranges", texts)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the stated ranges of figures, by name; ConfigError if one is not a rising pair."""
        found = {}
        for text in self.figure_ranges or ():
            name, _, pair = text.rpartition("=")
            try:
                low, high = map(float, pair.split(":"))
            except ValueError:
                raise ConfigError(f"figure_ranges has {text!r}, but must have NAME=LOW:HIGH, such as mae=0:3") from None
            if not (name and math.isfinite(high - low) and low < high):
                raise ConfigError(f"figure_ranges has {text!r}: the range must rise from low to high, both finite")
            found[name] = low, high
        return found

    def problems(self) -> Iterable[str]:
        """Yield one message for each value that is out of range."""
        known = [noise.value for noise in Noise]
        if self.noise not in known:
            yield f"unknown noise {self.noise!r}; known are {', '.join(known)}"
        elif self.epsilon is None and self != Privacy():
            given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
            yield f"only private runs have {', '.join(given)}: give epsilon too"
        elif self.epsilon is not None and self.delta is None:
            yield "epsilon needs a delta, well below 1 over the number of clients"
        elif self.epsilon is not None:
            yield from self.budget(1, 1.0).faults()
            if self.clip_quantile is not None and not 0 < self.clip_quantile < 1:
                yield f"clip_quantile must be between 0 and 1, not {self.clip_quantile}"
            if not 0 < self.clip_rate <= 10:
                yield f"clip_rate must be above 0 and at most 10, not {self.clip_rate}"
            elif self.clip_rate != RATE and self.clip_quantile is None:
                yield "clip_rate is the speed of a clip that moves: give clip_quantile too, or leave out clip_rate"
            try:
                self.ranges()
            except ConfigError as error:
                yield str(error)
            if self.clip_quantile is not None and not self.figures_cost:
                yield "clip_quantile needs figures, which say whether updates were clipped: set figures_cost above 0"

    def leaks(
        self,
        *,
        aggregator: str,
        compare: bool,
        holdout: float,
        clip: float | None,
        personalize: str | None,
        **others: object,
    ) -> Iterable[str]:
        """Yield one message for each of a run's other settings that does not go with epsilon."""
        if self.epsilon is None:
            return
        if aggregator != "secure" or compare:
            yield "with epsilon only the secure aggregator runs, alone: a plain run beside it would have no noise"
        if holdout and not self.figures_cost:
            yield "with epsilon, scores of held-out examples need noise: set figures_cost above 0, or holdout to 0"
        if personalize is not None:
            yield "with epsilon nothing may be reported without noise, such as the scores of personal models"
        if clip is not None:
            yield "with epsilon, l2_clip takes the place of clip"

    def clipping(self) -> Clipping:
        """Return the clip before the first round."""
        return Clipping(self.l2_clip, self.clip_quantile, self.clip_rate)

    def budget(self, rounds: int, sampling_rate: float, *, figures: int = 0, scores: int = 0) -> Budget:
        """Return the budget of a run with this many rounds; epsilon and delta must be given.

        Args:
            rounds: the number of rounds.
            sampling_rate: the probability with which a client takes part in a round.
            figures, scores: the number of figures of an update, and of held-out examples; see `Budget`.
        """
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
            figures=figures if self.figures_cost else 0,
            scores=scores,
            figures_cost=self.figures_cost or FIGURES_COST,
            exact=self.exact_noise,
        )
