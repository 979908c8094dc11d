"""What others put into a run's folder for its report: further curves, and each client's own model.

    series.json             {"central": [{"round": 1, "accuracy": 0.71, "loss": 0.9}, ...], "local": [...],
                            "notes": {"central": "an epoch a round"}}
    personalization.json    {"what": "writer", "methods": [{"name": "Ditto", "note": "", "clients": [
                            {"id": 17, "examples": 12, "global_accuracy": 0.83, "personal_accuracy": 0.92}, ...]}]}
    origin.json             {"experiment": "mnist-hundred", "arm": "cnn-iid", "quick": false, "seed": 0, "threads": 1,
                            "outcome": "99.01% after 20 rounds"}

All are written and read here alone, so that what can be written can be read.
"""

from __future__ import annotations

import json
import math
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
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Point:
    """A model after so many rounds, on the run's test set; what was not measured, or is not finite, is None."""

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
    """A client's own model and the global one, both on the ``examples`` that it held out; accuracies in 0..1."""

    id: int
    examples: int
    global_accuracy: float
    personal_accuracy: float


@dataclass(frozen=True, slots=True)
class PersonalizedMethod:
    """One way to make each client a model of its own, and what came of it."""

    name: str
    clients: tuple[PersonalizedClient, ...]
    note: str = ""

    @property
    def gains(self) -> npt.NDArray[np.float64]:
        """Own model less global one, in percentage points, in the order of ``clients``."""
        return np.array([100 * (client.personal_accuracy - client.global_accuracy) for client in self.clients])


@dataclass(frozen=True, slots=True)
class Personalization:
    """All methods; ``what`` is what a client is called, in the singular."""

    methods: tuple[PersonalizedMethod, ...]
    what: str = "client"


@dataclass(frozen=True, slots=True)
class Origin:
    """Of which experiment's arm the run is, and what it came to when it was finished.

    Not its command, which is made of this: who looks at a folder from elsewhere must not be shown a command of its own.
    """

    experiment: str
    arm: str
    quick: bool
    seed: int
    threads: int
    outcome: str


def save_series(folder: Path, series: Sequence[Series]) -> None:
    """Write ``series.json``. ConfigError for what a report would refuse, or a folder that cannot be written to."""
    path = folder / SERIES
    names = [one.name for one in series]
    if len(set(names)) < len(names) or "notes" in names:
        raise ConfigError(f"{path}: each series needs a name of its own, and not 'notes'")
    values: dict[str, Any] = {one.name: [asdict(point) for point in one.points] for one in series}
    if notes := {one.name: one.note for one in series if one.note}:
        values["notes"] = notes
    _save(path, values, _parse_series)


def save_personalization(folder: Path, personalization: Personalization) -> None:
    """Write ``personalization.json``. Errors as above."""
    _save(folder / PERSONALIZATION, asdict(personalization), _parse_personalization)


def save_origin(folder: Path, origin: Origin) -> None:
    """Write ``origin.json``. Errors as above."""
    _save(folder / ORIGIN, asdict(origin), _parse_origin)


def _save(path: Path, values: dict[str, Any], parse: Callable[[Path, Any], object]) -> None:
    """Write what can be read again: numpy's numbers become plain ones, a loss that ran away null."""
    text = json_line(_plain(values))
    parse(path, json.loads(text))
    replace_file(path, (text + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def load_series(folder: Path) -> tuple[Series, ...]:
    """The further curves, none if there is no file. ConfigError that names the place of what is wrong in it."""
    values = _read(folder / SERIES)
    return () if values is None else _parse_series(folder / SERIES, values)


def load_personalization(folder: Path) -> Personalization | None:
    """The clients' own models, None if there is no file. Errors as above."""
    values = _read(folder / PERSONALIZATION)
    return None if values is None else _parse_personalization(folder / PERSONALIZATION, values)


def load_origin(folder: Path) -> Origin | None:
    """What made the run, None if there is no file. Errors as above."""
    values = _read(folder / ORIGIN)
    return None if values is None else _parse_origin(folder / ORIGIN, values)


def _read(path: Path) -> Any:
    try:
        if not path.exists():
            return None
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path} has more than {_LARGEST >> 20} MiB: that is no summary of a run")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{path} is not JSON, or half of a file: {why}; write it again, or move it away") from None


def _parse_series(path: Path, values: Any) -> tuple[Series, ...]:
    where = str(path)
    named = dict(_mapping(where, values))
    notes = _mapping(f"{where}: notes", named.pop("notes", {}))
    if unknown := sorted(set(notes) - set(named)):
        raise ConfigError(f"{where}: notes on {', '.join(unknown)}, which are no series in it")
    if len(named) > MOST_SERIES:
        raise ConfigError(f"{where}: {len(named)} series; a figure holds {MOST_SERIES} beside the run's own")
    series = []
    for name, points in named.items():
        if name in _OWN:
            raise ConfigError(f"{where}: {name} is the run's own curve; name another one {name} twin, say")
        place = f"{where}: {name}"
        parsed = tuple(_point(f"{place}, point {index}", value) for index, value in enumerate(_list(place, points), 1))
        if not parsed:
            raise ConfigError(f"{place}: no points")
        if any(after.round <= before.round for before, after in pairwise(parsed)):
            raise ConfigError(f"{place}: rounds must ascend")
        series.append(Series(_text(where, name), parsed, _text(f"{place}, note", notes.get(name, ""))))
    return tuple(series)


def _point(where: str, value: Any) -> Point:
    fields = _mapping(where, value)
    _known(where, fields, required=("round",), optional=("accuracy", "loss"))
    accuracy, loss = fields.get("accuracy"), fields.get("loss")
    return Point(
        _whole(f"{where}, round", fields["round"], 0),
        None if accuracy is None else _share(f"{where}, accuracy", accuracy),
        None if loss is None else _number(f"{where}, loss", loss),
    )


def _parse_personalization(path: Path, values: Any) -> Personalization:
    where = str(path)
    fields = _mapping(where, values)
    _known(where, fields, required=("methods",), optional=("what",))
    methods = []
    for index, value in enumerate(_list(f"{where}: methods", fields["methods"]), 1):
        place = f"{where}: method {index}"
        method = _mapping(place, value)
        _known(place, method, required=("name", "clients"), optional=("note",))
        clients = tuple(
            _client(f"{place}, client {number}", client)
            for number, client in enumerate(_list(f"{place}, clients", method["clients"]), 1)
        )
        if not clients:
            raise ConfigError(f"{place}: no clients")
        methods.append(
            PersonalizedMethod(
                _text(f"{place}, name", method["name"]), clients, _text(f"{place}, note", method.get("note", ""))
            )
        )
    if not 1 <= len(methods) <= _MOST_METHODS:
        raise ConfigError(f"{where}: {len(methods)} methods; there must be 1 to {_MOST_METHODS}")
    return Personalization(tuple(methods), _text(f"{where}: what", fields.get("what", "client")))


def _parse_origin(path: Path, values: Any) -> Origin:
    where = str(path)
    fields = _mapping(where, values)
    _known(where, fields, required=tuple(Origin.__dataclass_fields__))
    if not isinstance(fields["quick"], bool):
        raise ConfigError(f"{where}, quick: true or false is expected, not {_shown(fields['quick'])}")
    return Origin(
        experiment=_name(f"{where}, experiment", fields["experiment"]),
        arm=_name(f"{where}, arm", fields["arm"]),
        quick=fields["quick"],
        seed=_whole(f"{where}, seed", fields["seed"], 0),
        threads=_whole(f"{where}, threads", fields["threads"], 1),
        outcome=_text(f"{where}, outcome", fields["outcome"]),
    )


def _client(where: str, value: Any) -> PersonalizedClient:
    fields = _mapping(where, value)
    _known(where, fields, required=("id", "examples", "global_accuracy", "personal_accuracy"))
    return PersonalizedClient(
        id=_whole(f"{where}, id", fields["id"], 0),
        examples=_whole(f"{where}, examples", fields["examples"], 1),
        global_accuracy=_share(f"{where}, global_accuracy", fields["global_accuracy"]),
        personal_accuracy=_share(f"{where}, personal_accuracy", fields["personal_accuracy"]),
    )


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: an object is expected, not {_shown(value)}")
    return value


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: a list is expected, not {_shown(value)}")
    return value


def _known(where: str, fields: Mapping[str, Any], *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    if missing := [name for name in required if name not in fields]:
        raise ConfigError(f"{where}: {', '.join(missing)} missing")
    if unknown := sorted(set(fields) - {*required, *optional}):
        raise ConfigError(f"{where}: {', '.join(unknown)} not known here")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: a text is expected, not {_shown(value)}")
    return printable(value, MAX_ERROR_TEXT)


def _name(where: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigError(f"{where}: lower case words with hyphens are expected, not {_shown(value)}")
    return value


def _whole(where: str, value: Any, least: int) -> int:
    if type(value) is not int or value < least:
        raise ConfigError(f"{where}: a whole number of at least {least} is expected, not {_shown(value)}")
    return value


def _number(where: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ConfigError(f"{where}: a number or null is expected, not {_shown(value)}")
    return float(value)


def _share(where: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ConfigError(f"{where}: a number from 0 to 1 is expected, not {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
