"""What an experiment's arms have to say about each other's runs: curves and personal models for `secagg report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from fl.experiments.federated import RUN
from fl.experiments.folder import ExperimentFolder
from fl.report.extras import Personalization, Point, Series, save_personalization, save_series


@dataclass(frozen=True, slots=True)
class Beside:
    """What is shown beside a run's own figures."""

    series: tuple[Series, ...] = ()
    personalization: Personalization | None = None


def leave(folder: ExperimentFolder, besides: dict[str, Beside]) -> None:
    """Put it into the arms' runs, by the arm's name. ConfigError where a folder cannot be written to."""
    for name, beside in besides.items():
        run = folder.of(name) / RUN
        if beside.series:
            save_series(run, beside.series)
        if beside.personalization is not None:
            save_personalization(run, beside.personalization)


def curve(name: str, arms: Sequence[dict[str, Any]], note: str = "") -> Series:
    """The arms' mean test accuracy and loss by round, up to the last round that all of them have."""
    by_round = zip(*(_rounds(arm) for arm in arms), strict=False)
    points = (
        Point(number, accuracy=mean(one[0] for one in measured), loss=mean(one[1] for one in measured))
        for number, measured in enumerate(by_round, 1)
    )
    return Series(name, tuple(points), note)


def _rounds(arm: dict[str, Any]) -> list[tuple[float, float]]:
    return list(zip(arm["by_round"]["accuracy"], arm["by_round"]["loss"], strict=True))
