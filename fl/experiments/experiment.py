"""What an experiment is: named arms, each run by itself, with a folder and a result of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fl.data import Dataset

ArmResult = dict[str, Any]
"""Plain JSON values. Every arm's has ``headline``, a few words for a table, and ``seconds``, of its work without tests
and measurements; the rest is between the arm and its experiment's section of the page."""

Report = Callable[[int, int, str], None]
"""Called by an arm with its steps done, of how many, and a note: ``report(12, 50, "accuracy 90.12%")``."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmWork:
    """What an arm has to work with.

    Attributes:
        folder: its own folder, which exists. What it finds there is of an earlier start of the same arm, and it goes
            on from that: whatever is written must be whole at any moment (`fl.runs.checkpoint.RunFolder` is).
        folders: the folders of all arms, by name; those that it `needs` have finished.
        load: the data set of that name. It is kept in memory: it must not be changed.
        report: tells of progress.
    """

    folder: Path
    folders: dict[str, Path]
    load: Callable[[str], Dataset]
    report: Report


class Arm(Protocol):
    """One of the things that an experiment compares. Arms are pickled: frozen dataclasses of plain values."""

    @property
    def name(self) -> str:
        """Lower case words with hyphens; names the arm's folder and its result."""
        ...

    @property
    def title(self) -> str:
        """For people."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the arms that must have finished before."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as plain JSON values; an arm is gone on with under equal ones only."""
        ...

    def run(self, work: ArmWork) -> ArmResult:
        """Do it, or go on with it. FLError for what the user can do something about."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A comparison.

    Attributes:
        name: as the command line has it.
        title: a line for people.
        arms: in the order of their tables; run in that order as far as their needs allow.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        names = {arm.name for arm in self.arms}
        for arm in self.arms:
            if not _NAME.fullmatch(arm.name) or arm.name in seen:
                raise ValueError(f"{self.name}: an arm's name is missing, taken, or no folder's name: {arm.name!r}")
            if unknown := set(arm.needs) - names:
                raise ValueError(f"{self.name}: {arm.name} needs {', '.join(sorted(unknown))}, which is no arm")
            seen.add(arm.name)
