"""Figures as text."""

import json
import math
from collections.abc import Sequence
from typing import Any

_MOST_LISTED = 8


def json_line(value: Any) -> str:
    """JSON on one line. Numbers that are not finite, of a model that ran away, become null: JSON has none such."""
    return json.dumps(finite(value), allow_nan=False)


def finite(value: Any) -> Any:
    """The value with None for each number in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def listed(numbers: Sequence[int]) -> str:
    """The first few of them: 1, 2, 3, ..."""
    return ", ".join(map(str, numbers[:_MOST_LISTED])) + (", ..." if len(numbers) > _MOST_LISTED else "")


def format_bytes(count: float) -> str:
    """Decimal units, three figures: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        # What would be rounded up to 1000 is one of the next unit.
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def percent(fraction: float | None) -> str:
    """Two decimals, since half a point is what runs differ by."""
    return "-" if fraction is None else f"{100 * fraction:.2f}%"
