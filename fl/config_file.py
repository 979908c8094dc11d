"""A run's settings in a TOML file: names and values of `fl.config.RunConfig`, for runs that are kept and repeated."""

import tomllib
from pathlib import Path
from typing import Any

from fl.config import RunConfig
from fl.errors import ConfigError

_FIELDS = RunConfig.__dataclass_fields__


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings that the file gives; those it leaves out have their defaults.

    Raises:
        ConfigError: no such file, no TOML, a name that is no setting, or a value of another type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {' '.join(str(error).split())}") from None
    unknown = sorted(values.keys() - _FIELDS.keys())
    if unknown:
        raise ConfigError(f"{path}: unknown {', '.join(unknown)}; settings are {', '.join(_FIELDS)}")
    return {name: _of_its_type(path, name, value) for name, value in values.items()}


def _of_its_type(path: Path, name: str, value: Any) -> Any:
    default = _FIELDS[name].default
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif type(value) is type(default):
        return value
    elif isinstance(default, float) and type(value) is int:
        return float(value)
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}
    raise ConfigError(f"{path}: {name} must be {wanted.get(type(default), 'a list of texts')}, not {value!r}")
