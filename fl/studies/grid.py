"""The runs of a study: each combination of the axes' values, with each seed."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl.config.run_config import SETTINGS, RunConfig
from fl.errors import ConfigError, FLError
from secagg import SecAggError

Cell = dict[str, Any]
"""One value for each axis, by the name of the option."""

# Cells that are named in one line of a refusal.
_MOST_NAMED = 4


class RefusedCellsError(ConfigError):
    """Some cells of a grid are impossible; ``reasons`` has one line for each reason, with the cells that it is for."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One run of a study.

    Attributes:
        cell: its values of the axes.
        seed: its seed.
        config: its whole config; None if the settings do not fit each other.
        name: its folder, which depends on its settings alone: a study whose file has changed keeps the runs that are
            still in it. Empty without a config.
        refusal: the reason why it cannot be trained, as far as it is known.
    """

    cell: Cell
    seed: int
    config: RunConfig | None = None
    name: str = ""
    refusal: str = ""

    @property
    def label(self) -> str:
        """Return the text that names it to people."""
        return label({**self.cell, "seed": self.seed})


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A grid of settings.

    Attributes:
        settings: the settings that all runs share, by option (`fl.config.run_config.SETTINGS`).
        axes: for each option that varies, its values. The first with numbers is the figure's horizontal axis.
        seeds: the seeds with which each cell is run.

    Raises:
        ConfigError: a name is unknown or given twice, or an axis is empty or has a value twice.
    """

    settings: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        for name in (*self.settings, *self.axes):
            if name == "seed":
                raise ConfigError("a study's seeds are given as seeds, a number or a list: leave out seed")
            if name == "compare":
                raise ConfigError('a study does not compare in pairs: make aggregator an axis, ["secure", "plain"]')
            if name not in SETTINGS:
                near = difflib.get_close_matches(name, SETTINGS, 1)
                raise ConfigError(f"a run has no setting {name}{f': did you mean {near[0]}?' if near else ''}")
        for name, values in {**self.axes, "seeds": self.seeds}.items():
            if name in self.settings:
                raise ConfigError(f"{name} is an axis and has a single value too: leave one of them out")
            if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or not len(values):
                raise ConfigError(f"{name} must be a list of values, not {values!r}")
            if twice := next((value for place, value in enumerate(values) if value in list(values)[:place]), None):
                raise ConfigError(f"{name} has {shown(twice)} twice")

    def cells(self) -> list[Cell]:
        """Return all combinations; the last axis changes first."""
        return cells_of(self.axes)

    def runs(self) -> list[StudyRun]:
        """Return each cell's runs; those whose settings do not fit each other have a refusal.

        Raises:
            ConfigError: two runs are the same, since one has as a value what the other has by default.
        """
        runs = [self._run(cell, int(seed)) for cell in self.cells() for seed in self.seeds]
        seen: dict[str, StudyRun] = {}
        for run in runs:
            if run.name and (other := seen.setdefault(run.name, run)) is not run:
                raise ConfigError(f"{other.label} and {run.label} are the same run: leave one of them out")
        return runs

    def _run(self, cell: Cell, seed: int) -> StudyRun:
        try:
            config = RunConfig.of(**{**self.settings, **cell, "seed": seed})
            settings = json.dumps(config.to_json(), sort_keys=True)
        except (FLError, SecAggError) as error:
            return StudyRun(cell=cell, seed=seed, refusal=str(error))
        return StudyRun(cell=cell, seed=seed, config=config, name=hashlib.sha256(settings.encode()).hexdigest()[:12])


def cells_of(axes: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Return all combinations of the axes' values; the last axis changes first."""
    columns = [[value.item() if isinstance(value, np.generic) else value for value in axes[name]] for name in axes]
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*columns)]


def refused_cells(refused: Sequence[tuple[Cell, str]], *, remedy: str) -> RefusedCellsError:
    """Return the error that names these cells, those with the same reason in one line."""
    by_reason: dict[str, dict[str, None]] = {}
    for cell, reason in refused:
        by_reason.setdefault(reason, {})[label(cell)] = None
    lines = []
    for reason, cells in by_reason.items():
        names = [*cells][:_MOST_NAMED]
        more = len(cells) - len(names)
        lines.append(f"{'; '.join(names)}{f'; and {more} more' if more else ''}: {reason}")
    return RefusedCellsError([*lines, remedy])


def label(cell: Mapping[str, Any]) -> str:
    """Return a cell as text: ``clients 20, dropout 0.2``."""
    return ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in cell.items()) or "all"


def shown(value: Any) -> str:
    """Return a setting's value as text."""
    if isinstance(value, list | tuple):
        return "+".join(map(shown, value))
    if value is None:
        return "default"
    return str(value).lower() if isinstance(value, bool) else str(value)
