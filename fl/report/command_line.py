"""The command that would make a run again, from what is stored of it."""

import dataclasses
import shlex
from typing import Any

from fl.config.run_config import RunConfig
from fl.report.extras import Origin

# What stands for "by default", and is settled when the config is made.
_SETTLED: dict[str, Any] = {"model": "", "partition": "", "sample": 0, "server_learning_rate": None, "value_bits": 0}


def train_command(config: RunConfig) -> str:
    """`secagg train` with the options that are not by default; the shell takes it as it is."""
    words = ["secagg", "train"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != _default(config, field.name):
            words.extend(_option(field.name, value))
    return shlex.join(words)


def arm_command(origin: Origin) -> str:
    """`secagg experiment` of the one arm."""
    words = ["secagg", "experiment", origin.experiment, *(["--quick"] if origin.quick else []), "--arm", origin.arm]
    return shlex.join([*words, "--seed", str(origin.seed), "--threads", str(origin.threads)])


def is_default(config: RunConfig, name: str) -> bool:
    """Whether a setting is what it would be if nobody had said anything."""
    return bool(getattr(config, name) == _default(config, name))


def _default(config: RunConfig, name: str) -> Any:
    if name in _SETTLED:
        return getattr(dataclasses.replace(config, **{name: _SETTLED[name]}), name)
    return RunConfig.__dataclass_fields__[name].default


def _option(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else "--no-" + option.removeprefix("--")]
    if isinstance(value, tuple):
        return [word for item in value for word in (option, str(item))]
    return [option, str(value)]
