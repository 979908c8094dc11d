"""Numbers as text."""

import json
import math
from collections.abc import Sequence
from typing import Any

_MOST_LISTED = 8


def json_line(value: Any) -> str:
    """Return JSON on one line. Numbers that are not finite become null, since JSON cannot hold them."""
    return json.dumps(finite(value), allow_nan=False)


def finite(value: Any) -> Any:
    """Return the value with None in place of each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def listed(numbers: Sequence[int]) -> str:
    """Return the first few numbers as text: 1, 2, 3, ..."""
    return ", ".join(map(str, numbers[:_MOST_LISTED])) + (", ..." if len(numbers) > _MOST_LISTED else "")


def format_bytes(count: float) -> str:
    """Return a size in decimal units with three digits: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        # A value that would round up to 1000 is shown as 1 of the next unit.
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def percent(fraction: float | None) -> str:
    """Return a percentage with two decimals, since runs differ by half a point."""
    return "-" if fraction is None else f"{100 * fraction:.2f}%"
