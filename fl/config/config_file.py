"""Read a run's settings from a TOML file: names and values of `fl.config.run_config.RunConfig`."""

import difflib
import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fl.config.run_config import RunConfig
from fl.errors import ConfigError

_TYPES = get_type_hints(RunConfig)
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}

# Options whose name is not their setting's.
_SHORT = {
    "lr": "learning_rate",
    "lr_decay": "learning_rate_decay",
    "server_lr": "server_learning_rate",
    "batch": "batch_size",
}
_NEAR = 0.75


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings that the file gives; those it leaves out have their defaults.

    Raises:
        ConfigError: no such file, no TOML, a name that is no setting, or a value of another type.
    """
    try:
        # Some editors begin a UTF-8 file with a byte order mark.
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no TOML file: it is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML file: {' '.join(str(error).split())}") from None
    if unknown := [f"unknown {name}: {_advice(name, value)}" for name, value in values.items() if name not in _TYPES]:
        raise ConfigError(f"{path}: {'; '.join(unknown)}")
    return {name: _of_its_type(path, name, value) for name, value in values.items()}


def _advice(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"settings stand in no table: leave out [{name}]"
    written = name.lower().replace("-", "_")
    near = [_SHORT[written]] if written in _SHORT else difflib.get_close_matches(written, _TYPES, n=1, cutoff=_NEAR)
    return f"did you mean {near[0]}?" if near else f"settings are {', '.join(_TYPES)}"


def _of_its_type(path: Path, name: str, value: Any) -> Any:
    kind = _kind(_TYPES[name])
    if kind is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif type(value) is kind:
        return value
    elif kind is float and type(value) is int:
        return float(value)
    raise ConfigError(f"{path}: {name} must be {_KINDS.get(kind, 'a list of texts')}, not {value!r}")


def _kind(annotation: Any) -> Any:
    """What a setting is written as: a number for ``float | None``, since None is written by leaving it out."""
    if isinstance(annotation, UnionType):
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return str
    return get_origin(annotation) or annotation
