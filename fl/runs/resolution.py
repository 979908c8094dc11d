"""Warnings about a round's resolution (noise, clipped tensors, bounded weights), with the remedy."""

from __future__ import annotations

from collections.abc import Iterator

from fl.formatting import percent
from fl.runs.records import RoundRecord

MOST_NOISE = 0.05
"""The largest rounding noise, as a fraction of the mean update, without a warning."""

MOST_CLIPPED = 0.05
"""The largest fraction of the updates' elements that is clipped without a warning."""

_MOST_TENSORS = 5


def resolution_warnings(record: RoundRecord, *, has_fixed_clip: bool) -> Iterator[str]:
    """Yield one line for each problem that the user can solve.

    Bounds that adapt to the updates cause no warning, unless much is clipped: the next round's bounds are larger.
    """
    if record.noise is not None and record.noise > MOST_NOISE:
        remedy = "a smaller --clip, or none, so that the bounds follow the updates" if has_fixed_clip else ""
        yield f"rounding noise is {percent(record.noise)} of the mean update: give {remedy or 'more --value-bits'}"
    if has_fixed_clip:
        for name, exceeded in list(record.clipped_tensors.items())[:_MOST_TENSORS]:
            yield f"{name}: {_exceeded(exceeded, len(record.included))}"
        if (more := len(record.clipped_tensors) - _MOST_TENSORS) > 0:
            yield f"and {more} more tensors; without --clip the bounds follow the updates"
    elif record.clipped is not None and record.clipped > MOST_CLIPPED:
        yield (
            f"{percent(record.clipped)} of the updates' elements were clipped, so the mean is too small: "
            "updates grow faster than their bounds; lower --learning-rate"
        )
    if record.clipped_weights is not None:
        yield f"examples: {_exceeded(record.clipped_weights, len(record.included))}; they count as the bound"


def _exceeded(exceeded: dict[str, float | None], num_clients: int) -> str:
    enough = exceeded["enough"]
    remedy = "far more is needed" if enough is None else f"{enough:g} would do"
    return f"{exceeded['clients']} of {num_clients} clients exceed {exceeded['bound']:g}; {remedy}"
