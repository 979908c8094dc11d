"""Read a study from a TOML file: a run's settings file, with seeds, and with lists of values in ``[grid]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fl.config.config_file import Several, known_values, plain_type, read_toml
from fl.config.run_config import SETTINGS
from fl.config.setting import Setting
from fl.errors import ConfigError
from fl.studies.grid import Study

_GRID = "grid"
_SETTINGS = {name: setting for name, setting in SETTINGS.items() if name != "seed"}
_OF_STUDIES = {
    **_SETTINGS,
    "seeds": Setting("", "seeds", Several(int), (0,)),
    **{
        f"{_GRID}.{option}": Setting(_GRID, option, Several(plain_type(setting.type)), None)
        for option, setting in _SETTINGS.items()
    },
}


def read_study(path: Path) -> Study:
    """Return the study in a file; the docs' page "Studies" describes its format.

    Raises:
        ConfigError: the file cannot be read, or a name or a value in it is wrong; the text names it.
    """
    values = read_toml(path)
    if "seeds" in values:
        values["seeds"] = seed_list(values["seeds"])
    _refuse_lists(path, values)
    known = known_values(path, values, _OF_STUDIES)
    axes = {name.partition(".")[2]: found for name, found in known.items() if name.startswith(f"{_GRID}.")}
    try:
        return Study(
            settings={name: value for name, value in known.items() if name in SETTINGS},
            axes=axes,
            seeds=known.get("seeds", (0,)),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def seed_list(seeds: Any) -> Any:
    """Return the seeds 0, 1, ... for a number of seeds, and a list as it is; ConfigError for a number below 1."""
    if type(seeds) is not int:
        return seeds
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, or a list of seeds, not {seeds}")
    return [*range(seeds)]


def _refuse_lists(path: Path, values: dict[str, Any]) -> None:
    """Raise ConfigError for a list in the place of a single value: it was meant as an axis."""
    for option, setting in _SETTINGS.items():
        part = values.get(setting.section) if setting.section else values
        value = part.get(setting.name) if isinstance(part, dict) else None
        if isinstance(value, list) and plain_type(setting.type) is not tuple:
            raise ConfigError(f"{path}: {setting.name} has several values: write them as {option} in [{_GRID}]")
