"""Experiments: named arms that run separately, each with its own folder and result."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fl.data import Dataset
from fl.engines import Resources

ArmResult = dict[str, Any]
"""Plain JSON values. Each arm's result has ``headline``, a few words for a table, and ``seconds``, the time of its work
without tests and measurements; the experiment's section of the page uses the rest."""

Report = Callable[[int, int, str], None]
"""A function that an arm calls with the steps done, their total and a note: ``report(12, 50, "accuracy 90.12%")``."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmWork:
    """The resources of an arm.

    Attributes:
        folder: its own folder, which exists. Files in it are from an earlier start of the same arm, which continues
            from them; so files must be complete at any moment (as `fl.runs.checkpoint.RunFolder` writes them).
        folders: the folders of all arms, by name; the arms that it `needs` have finished.
        load: returns the data set of a name. It stays in memory and must not be changed.
        report: reports progress.
        resources: its share of the machine.
    """

    folder: Path
    folders: dict[str, Path]
    load: Callable[[str], Dataset]
    report: Report
    resources: Resources = field(default_factory=Resources)


class Arm(Protocol):
    """One of the runs that an experiment compares. Arms are pickled, so they are frozen dataclasses of plain values."""

    @property
    def name(self) -> str:
        """Return the name of the arm, its folder and its result: lower case words with hyphens."""
        ...

    @property
    def title(self) -> str:
        """Return the title, for people."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the arms that must finish first."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return all values that decide the result, as plain JSON; an arm resumes only if they are equal."""
        ...

    def run(self, work: ArmWork) -> ArmResult:
        """Run the arm, or resume it; raise FLError for faults that the user can mend."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A comparison of arms.

    Attributes:
        name: its name on the command line.
        title: its title, in one line.
        arms: the arms in the order of the tables; they run in this order as far as their needs allow.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        names = {arm.name for arm in self.arms}
        for arm in self.arms:
            if not _NAME.fullmatch(arm.name) or arm.name in seen:
                raise ValueError(
                    f"{self.name}: an arm's name is missing, taken, or not valid for a folder: {arm.name!r}"
                )
            if unknown := set(arm.needs) - names:
                raise ValueError(f"{self.name}: {arm.name} needs {', '.join(sorted(unknown))}, which is not an arm")
            seen.add(arm.name)
