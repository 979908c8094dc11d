"""The bounds of a job's updates, which the server changes from round to round, and the log's lines about them."""

from collections.abc import Iterator

from fl.aggregation.scales import Exceeded, Ranges, Scales, ScaleTracker
from fl.integrations.nvflare.model_encoding import MeanUpdate
from transport.errors import printable

MOST_NOISE = 0.05
"""The rounding noise, as a fraction of the mean change, above which the log warns."""

_MOST_NAMED = 5


class ModelScales:
    """The bounds for the updates of one model.

    Args:
        shapes: the shapes of the averaged entries, by name.
        value_bits: bits that an element is rounded to.
        clip: a fixed bound for all elements; None: each entry's bound follows the changes.
        max_steps: a fixed bound on a site's steps; None: it follows the sites' steps.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self, shapes: dict[str, tuple[int, ...]], value_bits: int, *, clip: float | None, max_steps: int | None
    ) -> None:
        self.shapes = shapes
        self._value_bits = value_bits
        self._fixed = [name for name, value in (("clip", clip), ("max_steps", max_steps)) if value is not None]
        self._tracker = ScaleTracker(len(shapes), value_bits, clip=clip, max_weight=max_steps)

    @property
    def scales(self) -> Scales | None:
        """Return the bounds of the next session; None if it must measure."""
        return self._tracker.scales

    def follow_measured(self, ranges: Ranges) -> None:
        """Take the ranges from a session that measured."""
        self._tracker.follow(ranges)

    def follow(self, mean: MeanUpdate, num_sites: int) -> tuple[list[str], list[str]]:
        """Take the ranges and the noise that a round reported.

        Returns:
            Two lists of lines for the server's log: warnings, each with a remedy, and notes that need no action.
        """
        assert mean.ranges is not None  # noqa: S101 - the round was not private
        *entries, steps = self._tracker.exceeded(mean.ranges)
        self._tracker.follow(mean.ranges, mean.total_steps)
        named = {name: one for name, one in zip(self.shapes, entries, strict=True) if one is not None}
        # Bounds that follow the changes grow in the next round, if that does not hurt the others.
        clipped, warnings = list(_of_clipped(mean, named, num_sites)), []
        if "clip" in self._fixed:
            clipped, warnings = [], clipped
        if steps is not None:
            warnings.append(f"steps: {_of_exceeded(steps, num_sites)}; they count as the bound")
        if mean.noise > MOST_NOISE:
            remedy = f"leave out {' and '.join(self._fixed)}, or " if self._fixed else ""
            warnings.append(
                f"rounding noise is {100 * mean.noise:.2g}% of the mean change: {remedy}give more value_bits than "
                f"{self._value_bits}"
            )
        return warnings, clipped


def _of_clipped(mean: MeanUpdate, exceeded: dict[str, Exceeded], num_sites: int) -> Iterator[str]:
    if mean.clipped > 0:
        yield f"{100 * mean.clipped:.2g}% of all elements were clipped to the bounds of their entries"
    for name, one in list(exceeded.items())[:_MOST_NAMED]:
        yield f"entry {printable(repr(name))}: {_of_exceeded(one, num_sites)}"
    if len(exceeded) > _MOST_NAMED:
        yield f"and {len(exceeded) - _MOST_NAMED} more entries"


def _of_exceeded(exceeded: Exceeded, num_sites: int) -> str:
    remedy = "far more is needed" if exceeded.enough is None else f"{exceeded.enough:g} would do"
    return f"{exceeded.clients} of {num_sites} sites exceed {exceeded.bound:g}; {remedy}"
