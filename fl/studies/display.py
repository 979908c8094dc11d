"""The display of a study: a bar for all its rounds, above it a line for each finished run."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fl.experiments.workers import ArmEvent, ArmFinished, ArmProgressed
from fl.studies.grid import StudyRun


class StudyDisplay:
    """Shows the events of the runs that are trained now."""

    def __init__(self, console: Console, runs: Sequence[StudyRun]) -> None:
        self._console = console
        self._rounds = {run.name: run.config.rounds for run in runs if run.config is not None}
        self._labels = {run.name: run.label for run in runs}
        self._done: dict[str, int] = {}
        self._finished = 0
        self._progress = Progress(
            TextColumn("rounds"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            # Bars need a terminal: a file or a pipe gets the lines only.
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=sum(self._rounds.values()))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_event(self, event: ArmEvent) -> None:
        """Move the bar, and print a line for a run that has ended."""
        if isinstance(event, ArmProgressed):
            self._done[event.arm] = event.done
        elif isinstance(event, ArmFinished):
            # A run that failed has fewer rounds.
            self._done[event.arm] = self._rounds[event.arm]
            self._finished += 1
            total = str(len(self._labels))
            counted = f"{self._finished:>{len(total)}}/{total}"
            line = f"{counted}  {self._labels[event.arm]}: {event.result['headline']}"
            self._console.print(escape(line), highlight=False, soft_wrap=True)
        self._progress.update(self._task, completed=sum(self._done.values()))
