"""`secagg new`: write a starter project."""

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from typer import Argument

from fl.commands.output import open_console


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` prints the user's mistakes as all commands do."""

    @app.command()
    def new(folder: Annotated[Path, Argument(help="Folder to write the project to; made if missing.")]) -> None:
        """Write a small project to start from: a model, data, settings and a test, all yours to change."""
        with reported(False):
            from fl.commands.starter import write_project

            written = write_project(folder)
        console = open_console()
        for path in written:
            console.print(escape(str(path)), highlight=False, soft_wrap=True)
        steps = (f"cd {shlex.quote(str(folder))}", "secagg train --config experiment.toml", "python -m pytest")
        lines = "\nnow:  " + "\n      ".join(steps)
        console.print(escape(lines), highlight=False, soft_wrap=True)
