"""Settings that were stored by this version or an earlier one."""

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from fl.errors import ConfigError

Before: TypeAlias = dict[str, Callable[[dict[str, Any]], Any]]
"""Settings added after the first version, each with a function that gives its value from the stored settings."""


def completed(values: dict[str, Any], names: Collection[str], added: Before) -> dict[str, Any]:
    """Return stored values for all ``names``; ``added`` gives the values that an earlier version lacks.

    Raises:
        ConfigError: a name is unknown, so that its meaning cannot be guessed, or missing.
    """
    values = {**{name: before(values) for name, before in added.items() if name not in values}, **values}
    unknown, missing = sorted(values.keys() - set(names)), sorted(set(names) - values.keys())
    if unknown or missing:
        problems = [
            f"{', '.join(wrong)} {what}" for wrong, what in ((unknown, "not known here"), (missing, "missing")) if wrong
        ]
        raise ConfigError(
            f"a stored run of another version: {'; '.join(problems)}; go on with the version that wrote it, or a later "
            "one"
        )
    return values
