"""The experiments by name. Each is a module that is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from fl.errors import ConfigError

# The command line lists the names in its help; it must not wait seconds for torch and matplotlib to do so.
if TYPE_CHECKING:
    from fl.experiments.beside import Beside
    from fl.experiments.experiment import Experiment
    from fl.experiments.results import Document

_MODULES = {
    "fashion-six": "fl.experiments.fashion_six",
    "mnist-hundred": "fl.experiments.mnist_hundred",
    "mnist-writers": "fl.experiments.writers",
}

EXPERIMENTS: tuple[str, ...] = tuple(_MODULES)
"""Every name that `find` knows, in the order of the page."""


class ExperimentModule(Protocol):
    """What such a module offers."""

    def build(self, *, quick: bool, seed: int) -> Experiment:
        """The experiment; ``quick``: the same arms on scikit-learn's digits, in seconds, to see that it works."""
        ...

    def beside(self, document: Document) -> dict[str, Beside]:
        """What the reports of its runs show beside them, by the arm's name, from the results so far."""
        ...


def find(name: str) -> ExperimentModule:
    """The experiment of that name; ConfigError if there is none."""
    if name not in _MODULES:
        raise ConfigError(f"unknown experiment {name!r}; known are {', '.join(EXPERIMENTS)}")
    return cast(ExperimentModule, importlib.import_module(_MODULES[name]))
