"""The command that would make a run again, from what is stored of it."""

import shlex
from typing import Any

from fl.config.run_config import SETTINGS, RunConfig
from fl.report.extras import Origin


def train_command(config: RunConfig) -> str:
    """Return `secagg train` with the options that are not by default; the shell takes it as it is."""
    words = ["secagg", "train"]
    for name, value in config.settled().options().items():
        if not is_default(config, name):
            words.extend(_option(name, value))
    return shlex.join(words)


def arm_command(origin: Origin) -> str:
    """`secagg experiment` of the one arm."""
    words = ["secagg", "experiment", origin.experiment, *(["--quick"] if origin.quick else []), "--arm", origin.arm]
    return shlex.join([*words, "--seed", str(origin.seed), "--threads", str(origin.threads)])


def is_default(config: RunConfig, name: str) -> bool:
    """Whether a setting is what it would be if nobody had said anything."""
    options = config.settled().options()
    default = SETTINGS[name].default
    if default is None:
        default = RunConfig.of(**{**options, name: None}).settled().options()[name]
    return bool(options[name] == default)


def _option(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else "--no-" + option.removeprefix("--")]
    if isinstance(value, tuple):
        return [word for item in value for word in (option, str(item))]
    return [option, str(value)]
