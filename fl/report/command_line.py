"""Make the command that repeats a stored run."""

import shlex
from typing import Any

from fl.config.run_config import SETTINGS, RunConfig
from fl.errors import ConfigError
from fl.report.extras import Origin


def train_command(config: RunConfig) -> str:
    """Return `secagg train` with all options that differ from their defaults, quoted for the shell."""
    words = ["secagg", "train"]
    for name, value in config.settled().options().items():
        if not is_default(config, name):
            words.extend(_option(name, value))
    return shlex.join(words)


def arm_command(origin: Origin) -> str:
    """Return `secagg experiment` for the one arm, quoted for the shell."""
    words = ["secagg", "experiment", origin.experiment, *(["--quick"] if origin.quick else []), "--arm", origin.arm]
    return shlex.join([*words, "--seed", str(origin.seed), "--threads", str(origin.threads)])


def is_default(config: RunConfig, name: str) -> bool:
    """Check whether a setting is what it would be if it were not given."""
    options = config.settled().options()
    default = SETTINGS[name].default
    # The default is chosen by the other settings.
    if default in (None, "auto"):
        try:
            default = RunConfig.of(**{**options, name: None}).settled().options()[name]
        except ConfigError:
            # Other settings need it.
            return False
    return bool(options[name] == default)


def _option(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else "--no-" + option.removeprefix("--")]
    if isinstance(value, tuple):
        return [word for item in value for word in (option, str(item))]
    return [option, str(value)]
