"""The experiments by name. Each is a module that is imported when it is needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from fl.errors import ConfigError

# The command line lists the names in its help, which must not take seconds to import torch and matplotlib.
if TYPE_CHECKING:
    from fl.experiments.beside import Beside
    from fl.experiments.experiment import Experiment
    from fl.experiments.results import Document

_MODULES = {
    "fashion-six": "fl.experiments.fashion_six",
    "mnist-hundred": "fl.experiments.mnist_hundred",
    "mnist-writers": "fl.experiments.writers",
    "private-users": "fl.experiments.private_users",
}

EXPERIMENTS: tuple[str, ...] = tuple(_MODULES)
"""All names that `find` knows, in the order of the page."""


class ExperimentModule(Protocol):
    """The interface of an experiment's module."""

    def build(self, *, quick: bool, seed: int) -> Experiment:
        """Return the experiment; ``quick`` gives the same arms on scikit-learn's digits, in seconds, as a check."""
        ...

    def beside(self, document: Document) -> dict[str, Beside]:
        """Return the extra data for the reports of its runs, by the arm's name, from the results so far."""
        ...


def find(name: str) -> ExperimentModule:
    """Return the experiment of that name; raise ConfigError for an unknown name."""
    if name not in _MODULES:
        raise ConfigError(f"unknown experiment {name!r}; known are {', '.join(EXPERIMENTS)}")
    return cast(ExperimentModule, importlib.import_module(_MODULES[name]))
