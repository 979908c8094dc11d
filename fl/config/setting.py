"""The place of a setting in a file, and checks of its value."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
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


def not_of_types(settings: Any, parts: Mapping[str, Any]) -> list[str]:
    """Return one message for each of these parts that is no object of its default's class."""
    given = {name: getattr(settings, name) for name in parts}
    wrong = [name for name, part in parts.items() if not isinstance(given[name], type(part))]
    return [f"{name} must be a fl.{type(parts[name]).__name__}, not {given[name]!r}" for name in wrong]


def not_whole(needed: Mapping[str, Any], optional: Mapping[str, Any]) -> list[str]:
    """Return one message for each value that is no whole number; an optional one may be None."""
    given = [*needed.items(), *((name, value) for name, value in optional.items() if value is not None)]
    return [f"{name} must be a whole number, not {value!r}" for name, value in given if type(value) is not int]


def take_whole_numbers(settings: Any, *names: str) -> None:
    """Make NumPy's whole numbers those of Python, since JSON stores no others."""
    for name in names:
        if isinstance(value := getattr(settings, name), Integral):
            object.__setattr__(settings, name, int(value))
