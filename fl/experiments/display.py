"""The display of an experiment: a bar for each arm, lines above them about progress, and the final table."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from fl.experiments.results import Document
from fl.experiments.workers import ArmEvent, ArmFinished, ArmProgressed

_LINES_AN_ARM = 10


class ExperimentDisplay:
    """Bars for the running arms; a line for about each tenth of an arm, and for each finished arm."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Bars need a terminal: a file or a pipe gets the lines only.
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_event(self, event: ArmEvent) -> None:
        """Show an arm's progress."""
        if isinstance(event, ArmProgressed):
            self._show_progress(event)
        elif isinstance(event, ArmFinished):
            if event.arm in self._tasks:
                self._progress.remove_task(self._tasks.pop(event.arm))
            self._line(f"{event.arm}: done, {event.result['headline']}, {event.result['seconds']:.1f} s")

    def _show_progress(self, event: ArmProgressed) -> None:
        task = self._tasks.get(event.arm)
        if task is None:
            task = self._tasks[event.arm] = self._progress.add_task(event.arm, total=event.total, note="")
        self._progress.update(task, completed=event.done, total=event.total, note=event.note)
        part = event.done * _LINES_AN_ARM // event.total
        if part > self._said.get(event.arm, -1):
            self._said[event.arm] = part
            self._line(f"{event.arm}: {event.done}/{event.total}  {event.note}")

    def _line(self, text: str) -> None:
        self._console.print(escape(text), highlight=False, soft_wrap=True)


def results_table(document: Document) -> Table:
    """Return the final table, with a row for each arm."""
    table = Table(title=document["title"])
    for heading, justify in (("arm", "left"), ("result", "left"), ("seconds", "right")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    for arm in document["arms"]:
        table.add_row(escape(arm["title"]), escape(arm["headline"]), f"{arm['seconds']:.1f}")
    for name in document["unfinished"]:
        table.add_row(escape(name), "not run to its end", "")
    return table
