"""The data that an experiment adds to its arms' runs: curves and personal models for `secagg report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from fl.experiments.federated import RUN
from fl.experiments.folder import ExperimentFolder
from fl.experiments.results import Document
from fl.report.extras import (
    Origin,
    Personalization,
    Point,
    Series,
    save_origin,
    save_personalization,
    save_series,
)


@dataclass(frozen=True, slots=True)
class Beside:
    """The data that a report shows beside a run's own figures."""

    series: tuple[Series, ...] = ()
    personalization: Personalization | None = None


def leave(folder: ExperimentFolder, document: Document, besides: dict[str, Beside]) -> None:
    """Write the data into the arms' runs, by the arm's name, and into all of them how they were made.

    Raise ConfigError if a folder is not writable.
    """
    for arm in document["arms"]:
        run = folder.of(arm["name"]) / RUN
        if run.is_dir():
            origin = Origin(
                experiment=document["experiment"],
                arm=arm["name"],
                quick=document["quick"],
                seed=document["seed"],
                threads=document["threads"],
                outcome=arm["headline"],
            )
            save_origin(run, origin)
    for name, beside in besides.items():
        run = folder.of(name) / RUN
        if beside.series:
            save_series(run, beside.series)
        if beside.personalization is not None:
            save_personalization(run, beside.personalization)


def curve(name: str, arms: Sequence[dict[str, Any]], note: str = "") -> Series:
    """Return the arms' mean test accuracy and loss by round, up to the last round that all of them have."""
    by_round = zip(*(_rounds(arm) for arm in arms), strict=False)
    points = (
        Point(number, accuracy=_mean([one[0] for one in measured]), loss=_mean([one[1] for one in measured]))
        for number, measured in enumerate(by_round, 1)
    )
    return Series(name, tuple(points), note)


def _mean(values: list[float | None]) -> float | None:
    """Return the mean, or None if one of the values diverged."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def _rounds(arm: dict[str, Any]) -> list[tuple[float | None, float | None]]:
    return list(zip(arm["by_round"]["accuracy"], arm["by_round"]["loss"], strict=True))
