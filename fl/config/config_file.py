"""Read settings from a TOML file: the whole run's settings at the top, all others in their sections."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fl.config.run_config import SETTINGS
from fl.config.setting import Setting
from fl.errors import ConfigError

SHORT = {
    "lr": "learning_rate",
    "lr_decay": "learning_rate_decay",
    "server_lr": "server_learning_rate",
    "batch": "batch_size",
    "metric": "metrics",
    "figure_range": "figure_ranges",
}
"""Short names of options, each with its full name."""

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list of texts"}
_NEAR = 0.75


def read_config_file(path: Path, settings: Mapping[str, Setting] = SETTINGS) -> dict[str, Any]:
    """Return the file's values, by the names of their options.

    Args:
        path: the file.
        settings: the settings that the file may have, by option; by default those of `RunConfig.of`.

    Raises:
        ConfigError: the file cannot be read, is not TOML, has an unknown name, or a value of the wrong type.
    """
    return known_values(path, read_toml(path), settings)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file; ConfigError if it cannot be read or is not TOML."""
    try:
        # Some editors write a byte order mark at the start of a UTF-8 file.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a TOML file: it is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not a TOML file: {' '.join(str(error).split())}") from None


def known_values(path: Path, values: dict[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the values that `read_toml` read, by the names of their options; arguments and errors as in
    `read_config_file`.
    """
    options = {(setting.section, setting.name): option for option, setting in settings.items()}
    sections = [*dict.fromkeys(section for section, _ in options if section)]
    found, unknown = {}, []
    for section, name, value in _written(values):
        option = options.get((section, name))
        if section and section not in sections:
            unknown.append(f"unknown section [{section}]: sections are {', '.join(sections)}")
        elif option is None:
            unknown.append(f"unknown {name}{f' in [{section}]' if section else ''}: {_advice(section, name, settings)}")
        else:
            found[option] = _of_its_type(path, name, value, plain_type(settings[option].type))
    if unknown:
        raise ConfigError(f"{path}: {'; '.join(dict.fromkeys(unknown))}")
    return found


@dataclass(frozen=True, slots=True)
class Several:
    """The type of a setting that takes a list of values, each of the plain type ``kind``."""

    kind: Any


def plain_type(annotation: Any) -> Any:
    """Return the type of a value in the file: float for ``float | None``, str for a choice, tuple for a list.

    Of several types it is the first.
    """
    if get_origin(annotation) in (UnionType, Union):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal:
        return str
    return tuple if get_origin(annotation) in (tuple, list) else annotation


def _written(values: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Return (section, name, value) for each entry of the file."""
    written: list[tuple[str, str, Any]] = []
    for name, value in values.items():
        inner = [(name, *item) for item in value.items()] if isinstance(value, dict) else [("", name, value)]
        written += inner or [(name, "", None)]
    return written


def _advice(section: str, name: str, settings: Mapping[str, Setting]) -> str:
    written = name.lower().replace("-", "_")
    written = SHORT.get(written, written)
    own = {setting.name: setting for setting in settings.values() if setting.section == section}
    # An option's name is unique, so it names the setting even in the wrong section.
    anywhere = {setting.name: setting for setting in reversed([*settings.values()])} | dict(settings)
    close = [
        *difflib.get_close_matches(written, own, 1, _NEAR),
        *difflib.get_close_matches(written, anywhere, 1, _NEAR),
    ]
    meant = own.get(written) or anywhere.get(written) or next((own.get(name) or anywhere[name] for name in close), None)
    if meant is None:
        return f"settings are {', '.join(own)}"
    if meant.section == section:
        return f"did you mean {meant.name}?"
    return f"did you mean {meant.name} {f'in [{meant.section}]' if meant.section else 'above all sections'}?"


def _of_its_type(path: Path, name: str, value: Any, kind: Any) -> Any:
    if isinstance(kind, Several):
        if isinstance(value, list) and value:
            return tuple(_of_its_type(path, name, item, kind.kind) for item in value)
        raise ConfigError(f"{path}: {name} must be a list of values in brackets, not {value!r}")
    if kind is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif kind is float and type(value) is int:
        return float(value)
    elif (type(value) is kind or (kind not in _KINDS and type(value) is str)) and "\0" not in str(value):
        return value
    raise ConfigError(f"{path}: {name} must be {_KINDS.get(kind, 'a text in quotes')}, not {value!r}")
