"""`secagg study`: train a grid of settings, and write its results as tables and figures."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from typer import Argument, Option

from fl.commands.output import INTERRUPTED, open_console
from fl.formatting import json_line


def register(app: typer.Typer, reported: Callable[..., AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` prints the user's mistakes as all commands do."""

    @app.command()
    def study(
        file: Annotated[
            Path, Argument(help="TOML file: a run's settings, seeds, and a section grid with lists.", metavar="FILE")
        ],
        out: Annotated[Path, Option(help="Folder for the results; a study in it goes on.")],
        data_dir: Annotated[Path | None, Option(help="Folder with the data sets' files.")] = None,
        jobs: Annotated[int | None, Option(help="Runs that train at once (default: one for each core).")] = None,
        skip_impossible: Annotated[
            bool, Option("--skip-impossible", help="Leave out the cells of the grid whose settings are refused.")
        ] = False,
        as_json: Annotated[
            bool, Option("--json", help="Print the results as one JSON object on stdout, all other output on stderr.")
        ] = False,
    ) -> None:
        """Train a grid of settings, each with several seeds, or go on with it; write tables and figures."""
        with reported(as_json, "interrupted; the same command goes on with it"):
            from fl.studies.api import run_study
            from fl.studies.reading import read_study
            from fl.studies.running import StudyFolder

            console = open_console(stderr=as_json)
            folder = StudyFolder(read_study(file), out, data_dir)
            finished = run_study(folder, jobs=jobs, skip_impossible=skip_impossible, console=console)
            outcomes = Counter(row["outcome"] for row in finished.result.runs)
            if finished.interrupted:
                console.print("[yellow]interrupted[/yellow]; the same command goes on with it", soft_wrap=True)
            console.print(f"runs: {', '.join(f'{count} {name}' for name, count in outcomes.items())}", highlight=False)
            files = ", ".join(str(path) for path in folder.files)
            console.print(escape(f"results {files}"), highlight=False, soft_wrap=True)
        if as_json:
            typer.echo(
                json_line(
                    {
                        "out": str(out),
                        "files": [str(path) for path in folder.files],
                        "outcomes": outcomes,
                        "interrupted": finished.interrupted,
                        "runs": finished.result.runs,
                    }
                )
            )
        if finished.interrupted:
            sys.exit(INTERRUPTED)
