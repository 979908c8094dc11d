"""Define a private session: its parameters for a number of clients, and what clients send in it.

Simulated runs, served runs and their clients all take it from here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

import secagg
from fl.aggregation.counters import IntegerVector
from fl.aggregation.encoding import Aggregate, ClientUpdate, QuantizationError
from fl.aggregation.held_out import HeldOutResult
from fl.errors import ConfigError
from fl.learning.figures import Evaluation, FigureRange, Total, private_ranges, ratio
from fl.privacy.accounting import Release
from fl.privacy.exact_noise import ExactNoise, UpdateAwaitingNoise, exact_noise, with_components
from fl.privacy.figures import WITHIN_CLIP, BoundedFigure, centred, means, stddevs
from fl.privacy.mechanism import Mechanism, rotation_seed
from fl.privacy.planner import PrivacyPlan, private_session, with_ring
from fl.privacy.terms import PrivateTerms
from secagg import EntropySource
from secagg.primitives.prg import KEY_BYTES
from transport import KeyedInput


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSession:
    """The numbers of one session.

    Attributes:
        parameters: the parameters of the protocol, with the modular ring.
        terms: what clients are told.
        release: what the session gives away to all who do not learn who takes part.
    """

    parameters: secagg.Parameters
    terms: PrivateTerms
    release: Release


class PrivatePlans:
    """The sessions of a private run, by their number of clients.

    That number may differ from the plan's, as with Poisson sampling: each client's noise is then for the fewest honest
    clients of that session, so that the sum has the same noise.

    Args:
        private: the run's plan.
        model: its dropout, corrupt, adversary, threshold and min_inputs, as for `private_session`.
        ranges: the stated ranges of figures, by name.

    Attributes:
        private: the run's plan.
    """

    def __init__(
        self,
        private: PrivacyPlan,
        model: Mapping[str, Any],
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.private = private
        self._ranges = tuple((name, *pair) for name, pair in (ranges or {}).items())
        self._model = dict(model)
        self._planned: dict[tuple[int, int], secagg.Plan] = {}

    def plan(self, num_clients: int) -> secagg.Plan:
        """Return the plan of an update's session with this many clients; PlanError if there are too few."""
        planned = replace(self.private.session, reasons=self.private.reasons)
        return self._plan_of(num_clients, planned, self.private.mechanism)

    def session(self, num_clients: int, clip: float | None = None) -> PrivateSession:
        """Return the numbers of an update's session.

        Args:
            num_clients: the number of clients that are asked.
            clip: the L2 norm to which updates are scaled down. None: the plan's.

        Raises:
            PlanError, ConfigError: there are too few clients.
        """
        own = self.private
        mechanism = own.mechanism if clip is None else own.mechanism.with_clip(clip)
        return self._session_of(num_clients, own.session, mechanism, own.release)

    def scores(self, num_clients: int) -> PrivateSession:
        """Return the numbers of a session of held-out scores; the plan must have them. Errors as for `session`."""
        own = self.private.scores
        if own is None:
            raise ConfigError("a private run was planned without scores of held-out examples: plan it with them")
        return self._session_of(num_clients, own.session, own.mechanism, own.release)

    def _session_of(
        self, num_clients: int, planned: secagg.Plan, mechanism: Mechanism, release: Release
    ) -> PrivateSession:
        plan = self._plan_of(num_clients, planned, mechanism)
        honest = plan.parameters.threshold - plan.corrupt_clients
        if honest != release.honest:
            variance = release.honest * release.variance / honest
            mechanism, release = (
                replace(mechanism, variance=variance),
                replace(release, variance=variance, honest=honest),
            )
        terms = PrivateTerms(
            mechanism=mechanism,
            honest=honest,
            corrupt=plan.corrupt_clients,
            sampling_rate=release.sampling_rate,
            figure_ranges=self._ranges,
        )
        return PrivateSession(parameters=plan.parameters, terms=terms, release=release)

    def _plan_of(self, num_clients: int, planned: secagg.Plan, mechanism: Mechanism) -> secagg.Plan:
        if num_clients == planned.parameters.num_clients:
            return planned
        key = num_clients, mechanism.dimension
        if key not in self._planned:
            made = private_session(num_clients, mechanism.dimension, **self._model)
            params = with_ring(made.parameters, mechanism.ring_bits)
            if self.private.exact:
                params = with_components(params, made.corrupt_clients)
            self._planned[key] = replace(made, parameters=params)
        return self._planned[key]


class PrivateFigures:
    """The figures of a task that clients report in private runs, each in a public range.

    Args:
        names: the names of the loss and of each metric, in the order of an update's.
        ranges: the range of each that is reported; the others stay at the clients.

    Attributes:
        bounded: the figures that are reported, in the order in which they travel.
    """

    def __init__(self, names: tuple[str, ...], ranges: Mapping[str, tuple[float, float]]) -> None:
        if WITHIN_CLIP in names:
            raise ConfigError(f"private runs report a figure {WITHIN_CLIP} of their own: rename the metric")
        self._names = names
        self.bounded = tuple(BoundedFigure(name, *ranges[name]) for name in names if name in ranges)

    @classmethod
    def of_task(
        cls, figures: tuple[FigureRange, ...], stated: Mapping[str, tuple[float, float]], num_classes: int
    ) -> "PrivateFigures":
        """Return the figures of a task, as server and clients find them alike; arguments of `private_ranges`."""
        return cls(tuple(one.name for one in figures), private_ranges(figures, stated, num_classes))

    @property
    def of_updates(self) -> tuple[BoundedFigure, ...]:
        """Return the figures that travel behind an update."""
        return (*self.bounded, BoundedFigure(WITHIN_CLIP))

    @property
    def num_metrics(self) -> int:
        """Return the number of metrics of an update, reported or not."""
        return len(self._names) - 1

    @property
    def num_scores(self) -> int:
        """Return the number of elements of a client's scores: each figure, and whether it has any."""
        return 1 + len(self.bounded)

    def values(self, loss: Total, metrics: tuple[Total, ...]) -> dict[str, float | None]:
        """Return a client's values by name; None for one without a denominator."""
        totals = dict(zip(self._names, (loss, *metrics), strict=True))
        return {name: ratio(total) if total[1] else None for name, total in totals.items()}


@dataclass(frozen=True, slots=True)
class _Noisy:
    """How clients encode in a private session.

    Attributes:
        mechanism: what each client does.
        figures: the figures that clients report; None if they report none.
        exact: the session's noise, if what a sum does not need of it is taken off.
    """

    mechanism: Mechanism
    figures: PrivateFigures | None
    exact: ExactNoise | None

    @classmethod
    def of(cls, mechanism: Mechanism, figures: PrivateFigures | None, params: secagg.Parameters) -> Self:
        """Return the encoding of a session; ConfigError if it has noise components and other noise than Skellam."""
        return cls(mechanism, figures, exact_noise(mechanism, params))

    def _noised(
        self, vector: np.ndarray, rng: np.random.Generator, context: bytes, entropy: EntropySource, figures: Any = ()
    ) -> IntegerVector | KeyedInput:
        """Return the vector with noise; for exact noise, what adds it where the session's keys are."""
        rotation = rotation_seed(context)
        if self.exact is None:
            return self.mechanism.encode(vector, rotation=rotation, rng=rng, entropy=entropy, figures=figures)
        rounded = self.mechanism.rounded(vector, rotation=rotation, rng=rng, figures=figures)
        return UpdateAwaitingNoise(self.exact, rounded, entropy(KEY_BYTES))

    def _sums(self, completed: secagg.Completed, context: bytes) -> tuple[np.ndarray, np.ndarray, Mechanism]:
        """Return the sums of vectors and of figures, and the mechanism of the noise that is in them."""
        total, left = completed.sum, self.mechanism
        if self.exact is not None:
            total = self.exact.take_off(total, completed.noise_keys)
            left = self.exact.left(len(completed.included))
        return *self.mechanism.decode(total, rotation=rotation_seed(context)), left

    @property
    def vector_length(self) -> int:
        """Return the number of elements."""
        return self.mechanism.dimension

    @property
    def value_bits(self) -> int:
        """Return the bits of an element."""
        return self.mechanism.ring_bits


class PrivateEncoding(_Noisy):
    """A client's update and its figures as elements of the ring, with noise; and their sum as means."""

    def no_update(self) -> ClientUpdate:
        """Return what a client encodes that has no update: its vector has noise like any other."""
        nothing = np.zeros(self.mechanism.length, dtype=np.float32)
        others = 0 if self.figures is None else self.figures.num_metrics
        return ClientUpdate(nothing, 0, metrics=((0, 0),) * others)

    def encode(
        self, update: ClientUpdate, rng: np.random.Generator, *, context: bytes, entropy: EntropySource
    ) -> IntegerVector | KeyedInput:
        """Return the update with noise; for exact noise, what adds it where the session's keys are.

        Args:
            update: the client's update.
            rng: generator for the rounding, which need not be secret.
            context: the bytes that the session is bound to.
            entropy: source of the noise's key, the client's own. Who knows it can take the noise off again.

        Raises:
            QuantizationError: the update is not finite.
        """
        try:
            return self._noised(update.delta, rng, context, entropy, self._of(update))
        except ValueError as error:
            raise QuantizationError(f"{error}: lower the learning rate") from None

    def _of(self, update: ClientUpdate) -> np.ndarray:
        """Return an update's figures as they travel."""
        if self.figures is None:
            return np.empty(0)
        values = self.figures.values((update.loss_sum, update.num_examples), update.metrics)
        values[WITHIN_CLIP] = float(self.mechanism.is_within(update.delta))
        return centred(self.figures.of_updates, values)

    def decode(self, completed: secagg.Completed, *, context: bytes) -> Aggregate:
        """Return the means over the clients in a sum."""
        included = len(completed.included)
        update, sums, left = self._sums(completed, context)
        found: dict[str, float] = {}
        noise: dict[str, float] = {}
        if self.figures is not None:
            found = means(self.figures.of_updates, sums, included)
            noise = stddevs(self.figures.of_updates, left.figure_stddev(included))
        return Aggregate(
            mean_delta=(update / included).astype(np.float32),
            num_examples=0,
            loss=found.pop("loss", math.nan),
            within_clip=found.pop(WITHIN_CLIP, None),
            metrics=found,
            clipped=math.nan,
            stddevs=noise,
        )


class ScoresEncoding(_Noisy):
    """A client's scores on its held-out examples, with noise; and their sum as means.

    A client without held-out examples sends zeros and a bit that says so, under the same noise.
    """

    def encode(
        self, measured: Evaluation | None, rng: np.random.Generator, *, context: bytes, entropy: EntropySource
    ) -> IntegerVector | KeyedInput:
        """Return the scores with noise; None for a client without held-out examples. Arguments as for updates."""
        return self._noised(self._centred(measured), rng, context, entropy)

    def _centred(self, measured: Evaluation | None) -> np.ndarray:
        """Return a client's scores as they travel."""
        if measured is None or not measured.num_examples:
            return np.array([-1.0, *(0.0 for _ in self._bounded)])
        assert self.figures is not None  # noqa: S101 - scores are figures
        totals = tuple(measured.totals.values())
        values = self.figures.values((measured.loss * measured.num_examples, measured.num_examples), totals)
        return np.array([1.0, *centred(self._bounded, values)])

    @property
    def _bounded(self) -> tuple[BoundedFigure, ...]:
        return () if self.figures is None else self.figures.bounded

    def decode(self, completed: secagg.Completed, *, context: bytes) -> HeldOutResult:
        """Return the means over the clients that have held-out examples, if their noisy number says anything."""
        included = len(completed.included)
        sums, _, left = self._sums(completed, context)
        noise = left.stddev(included)
        have = (included + float(sums[0])) / 2
        # With fewer the quotient would be noise.
        if have <= max(1.0, noise):
            return no_scores(
                f"about {max(have, 0.0):.1f} of {included} clients hold out examples: too few for the noise"
            )
        found = means(self._bounded, sums[1:], have)
        loss = found.pop("loss", math.nan)
        return HeldOutResult(
            evaluation=Evaluation(loss, {name: (value, 1) for name, value in found.items()}, 0),
            included=included,
            stddevs=stddevs(self._bounded, noise / have),
        )


def no_scores(why: str) -> HeldOutResult:
    """Return the result of a session of scores that has none."""
    return HeldOutResult(evaluation=None, included=0, aborted=why)


def require_figures(figures: PrivateFigures) -> None:
    """Raise ConfigError if no figure of the task has a range, so that there would be nothing to report."""
    if not figures.bounded:
        raise ConfigError(
            "held-out examples of a private run need a figure with a range: give figure_ranges, such as loss=0:4, or "
            "set holdout to 0"
        )
