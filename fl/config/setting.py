"""The place of a setting in a file, and checks of its value."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Setting:
    """The place of an option in a settings file.

    Attributes:
        section: the table in the file; empty for the top, above all tables.
        name: the key in that table.
        type: the type annotation.
        default: the default; None if it depends on other settings.
    """

    section: str
    name: str
    type: Any
    default: Any


def unknown(what: str, value: str, known: Iterable[str]) -> str:
    """Return a message for a name that is not known."""
    return f"unknown {what} {value!r}; known are {', '.join(known)}"


def not_counts(**values: int) -> Iterable[str]:
    """Yield one message for each value that is no count."""
    for name, value in values.items():
        if not 1 <= value <= _MOST:
            yield f"{name} must be at {f'least 1, not {value}' if value < 1 else f'most {_MOST}'}"


def not_fractions(**values: float) -> Iterable[str]:
    """Yield one message for each value that is no fraction below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            yield f"{name} must be a fraction, at least 0 and below 1, not {value}"
