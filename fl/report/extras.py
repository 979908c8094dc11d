"""Write and read what others put into a run's folder for its report: further curves, and each client's own model.

    series.json             {"central": [{"round": 1, "accuracy": 0.71, "loss": 0.9}, ...], "local": [...],
                            "notes": {"central": "an epoch a round"}}
    personalization.json    {"what": "writer", "methods": [{"name": "Ditto", "note": "", "clients": [
                            {"id": 17, "examples": 12, "global_accuracy": 0.83, "personal_accuracy": 0.92}, ...]}]}
    origin.json             {"experiment": "mnist-hundred", "arm": "cnn-iid", "quick": false, "seed": 0, "threads": 1,
                            "outcome": "99.01% after 20 rounds"}

They are written and read here alone, and each is parsed before it is written: what can be written can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.errors import ConfigError
from fl.formatting import json_line
from fl.report.files import replace_file
from transport.errors import MAX_ERROR_TEXT, printable

SERIES, PERSONALIZATION, ORIGIN = "series.json", "personalization.json", "origin.json"

MOST_SERIES = 6
"""Further curves, beside secure and plain."""

_MOST_METHODS = 8
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_OWN = ("secure", "plain", "notes")
_LARGEST_FILE = 64 << 20
# Charts compute with floats: sums of figures must not overflow, and rounds must stay one apart.
LARGEST_WHOLE, _LARGEST = 1 << 64, 1e100
_MOST_ROUNDS = 10**9

_Parser = Callable[[str, Any], Any]
"""Takes the place that an error names and a value of JSON; returns the parsed value, or raises ConfigError."""


@dataclass(frozen=True, slots=True)
class Point:
    """A model after ``round`` rounds, on the run's test set; a figure not measured, or not finite, is None."""

    round: int
    accuracy: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A curve beside the run's own; a single point is a level to compare with."""

    name: str
    points: tuple[Point, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class PersonalizedClient:
    """A client's own model and the global one, on the ``examples`` that it held out; accuracies are in 0..1."""

    id: int
    examples: int
    global_accuracy: float
    personal_accuracy: float


@dataclass(frozen=True, slots=True)
class PersonalizedMethod:
    """One way to make each client a model of its own, and its outcome."""

    name: str
    clients: tuple[PersonalizedClient, ...]
    note: str = ""

    @property
    def gains(self) -> npt.NDArray[np.float64]:
        """Return own model minus global model, in percentage points, in the order of ``clients``."""
        return np.array([100 * (client.personal_accuracy - client.global_accuracy) for client in self.clients])


@dataclass(frozen=True, slots=True)
class Personalization:
    """All methods; ``what`` is the word for a client, in the singular."""

    methods: tuple[PersonalizedMethod, ...]
    what: str = "client"


@dataclass(frozen=True, slots=True)
class Origin:
    """The experiment and arm that a finished run belongs to, and its outcome.

    The report makes the run's command of these fields. The file holds no command, since a folder from elsewhere could
    then show the reader any command it likes.
    """

    experiment: str
    arm: str
    quick: bool
    seed: int
    threads: int
    outcome: str


def save_series(folder: Path, series: Sequence[Series]) -> None:
    """Write ``series.json``.

    Raises:
        ConfigError: a report would refuse the series, or the file cannot be written.
    """
    path = folder / SERIES
    names = [one.name for one in series]
    if len(set(names)) < len(names) or "notes" in names:
        raise ConfigError(f"{path}: each series needs a name of its own, and not 'notes'")
    values: dict[str, Any] = {one.name: [asdict(point) for point in one.points] for one in series}
    if notes := {one.name: one.note for one in series if one.note}:
        values["notes"] = notes
    _save(path, values, _parse_series)


def save_personalization(folder: Path, personalization: Personalization) -> None:
    """Write ``personalization.json``; errors as in `save_series`."""
    _save(folder / PERSONALIZATION, asdict(personalization), _parse_personalization)


def save_origin(folder: Path, origin: Origin) -> None:
    """Write ``origin.json``; errors as in `save_series`."""
    _save(folder / ORIGIN, asdict(origin), _parse_origin)


def _save(path: Path, values: dict[str, Any], parse: _Parser) -> None:
    """Write values that can be read again: numpy's numbers become Python's, and losses that are not finite null."""
    text = json_line(json.loads(json.dumps(values, default=np.generic.item)))
    parse(str(path), json.loads(text))
    replace_file(path, (text + "\n").encode())


def load_series(folder: Path) -> tuple[Series, ...]:
    """Return the further curves, none if there is no file.

    Raises:
        ConfigError: the file is damaged; the text names the place in it.
    """
    values = _read(folder / SERIES)
    return () if values is None else _parse_series(str(folder / SERIES), values)


def load_personalization(folder: Path) -> Personalization | None:
    """Return the clients' own models, None if there is no file; errors as in `load_series`."""
    values = _read(folder / PERSONALIZATION)
    return None if values is None else _parse_personalization(str(folder / PERSONALIZATION), values)


def load_origin(folder: Path) -> Origin | None:
    """Return what made the run, None if there is no file; errors as in `load_series`."""
    values = _read(folder / ORIGIN)
    return None if values is None else _parse_origin(str(folder / ORIGIN), values)


def _read(path: Path) -> Any:
    try:
        if not path.exists():
            return None
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{path} has more than {_LARGEST_FILE >> 20} MiB: it is not the summary of a run")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{path} is not JSON, or half of a file: {why}; write it again, or move it away") from None


def _leaf(
    expected: str, is_right: Callable[[Any], bool], convert: Callable[[Any], Any] = lambda value: value
) -> _Parser:
    """Return a parser of values that are not looked into further."""

    def parse(where: str, value: Any) -> Any:
        if not is_right(value):
            shown = repr(value)
            raise ConfigError(
                f"{where}: {expected} is expected, not {shown if len(shown) <= 40 else shown[:37] + '...'}"
            )
        return convert(value)

    return parse


def _whole(least: int, most: int = LARGEST_WHOLE) -> _Parser:
    return _leaf(
        f"a whole number from {least} to {most:,}", lambda value: type(value) is int and least <= value <= most
    )


def is_number(value: Any, least: float = -_LARGEST, most: float = _LARGEST) -> bool:
    """Check that a value of JSON is a number in ``least`` to ``most``; NaN and true are not."""
    return type(value) in (int, float) and least <= value <= most


def _or_none(parse: _Parser) -> _Parser:
    return lambda where, value: None if value is None else parse(where, value)


_object = _leaf("an object", lambda value: isinstance(value, dict))
_list = _leaf("a list", lambda value: isinstance(value, list))
_flag = _leaf("true or false", lambda value: isinstance(value, bool))
_text = _leaf("a text", lambda value: isinstance(value, str), lambda value: printable(value, MAX_ERROR_TEXT))
_name = _leaf("lower case words with hyphens", lambda value: isinstance(value, str) and bool(_NAME.fullmatch(value)))
_share = _leaf("a number from 0 to 1", lambda value: is_number(value, 0, 1), float)
_loss = _leaf("a number or null", is_number, float)


def _fields(where: str, value: Any, parsers: Mapping[str, _Parser], *optional: str) -> dict[str, Any]:
    """Parse an object that has these fields and no others; those in ``optional`` may be missing."""
    fields = _object(where, value)
    if missing := [name for name in parsers if name not in fields and name not in optional]:
        raise ConfigError(f"{where}: {', '.join(missing)} missing")
    if unknown := sorted(set(fields) - set(parsers)):
        raise ConfigError(f"{where}: {printable(', '.join(unknown))} not known here")
    return {name: parsers[name](f"{where}, {name}", item) for name, item in fields.items()}


def _items(where: str, value: Any, noun: str, parse: _Parser) -> tuple[Any, ...]:
    """Parse a list of at least one item; errors name an item by ``noun`` and number."""
    items = _list(where, value)
    if not items:
        raise ConfigError(f"{where}: no {noun}s")
    return tuple(parse(f"{where}, {noun} {number}", item) for number, item in enumerate(items, 1))


def _point(where: str, value: Any) -> Point:
    parsers = {"round": _whole(0, _MOST_ROUNDS), "accuracy": _or_none(_share), "loss": _or_none(_loss)}
    return Point(**_fields(where, value, parsers, "accuracy", "loss"))


def _parse_series(where: str, values: Any) -> tuple[Series, ...]:
    named = dict(_object(where, values))
    notes = _object(f"{where}: notes", named.pop("notes", {}))
    if unknown := sorted(set(notes) - set(named)):
        raise ConfigError(f"{where}: notes on {printable(', '.join(unknown))}, which are no series in it")
    if len(named) > MOST_SERIES:
        raise ConfigError(f"{where}: {len(named)} series; a figure holds {MOST_SERIES} beside the run's own")
    series = []
    for name, points in named.items():
        if name in _OWN:
            raise ConfigError(f"{where}: {name} is the run's own curve; name another one {name} twin, say")
        shown = printable(name, MAX_ERROR_TEXT)
        place = f"{where}: {shown}"
        parsed = _items(place, points, "point", _point)
        if any(after.round <= before.round for before, after in pairwise(parsed)):
            raise ConfigError(f"{place}: rounds must ascend")
        series.append(Series(shown, parsed, _text(f"{place}, note", notes.get(name, ""))))
    return tuple(series)


def _client(where: str, value: Any) -> PersonalizedClient:
    parsers = {"id": _whole(0), "examples": _whole(1), "global_accuracy": _share, "personal_accuracy": _share}
    return PersonalizedClient(**_fields(where, value, parsers))


def _method(where: str, value: Any) -> PersonalizedMethod:
    def clients(_: str, items: Any) -> tuple[PersonalizedClient, ...]:
        return _items(where, items, "client", _client)

    return PersonalizedMethod(**_fields(where, value, {"name": _text, "clients": clients, "note": _text}, "note"))


def _parse_personalization(where: str, values: Any) -> Personalization:
    def methods(_: str, items: Any) -> tuple[PersonalizedMethod, ...]:
        return _items(where, items, "method", _method)

    parsed = Personalization(**_fields(where, values, {"methods": methods, "what": _text}, "what"))
    if len(parsed.methods) > _MOST_METHODS:
        raise ConfigError(f"{where}: {len(parsed.methods)} methods; a figure holds {_MOST_METHODS}")
    return parsed


def _parse_origin(where: str, values: Any) -> Origin:
    parsers = {"experiment": _name, "arm": _name, "quick": _flag, "seed": _whole(0), "threads": _whole(1)}
    return Origin(**_fields(where, values, {**parsers, "outcome": _text}))
