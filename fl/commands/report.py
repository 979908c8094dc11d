"""`secagg report`: show a run as one HTML page, and as TensorBoard's event files."""

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from fl.commands.output import open_console
from fl.errors import ConfigError
from fl.formatting import json_line

PAGE = "report.html"
"""Name of the page in the run's folder, unless --out names another file."""


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` prints the user's mistakes as all commands do."""

    @app.command()
    def report(
        run: Annotated[Path, Argument(help="Folder of the run (its --out).", metavar="RUN_DIR")],
        out: Annotated[Path | None, Option(help=f"File for the page (default: RUN_DIR/{PAGE}).")] = None,
        data_dir: Annotated[
            Path | None, Option(help="Folder with the data set's files, which are needed to test the final model.")
        ] = None,
        beside: Annotated[
            list[str] | None,
            Option(help="NAME=RUN_DIR: also draw the curves of another run, labelled NAME; repeatable."),
        ] = None,
        own_code: Annotated[
            bool,
            Option(
                "--own-code",
                help="Allow to run the code (package.module:name) that the run names as its data set or model.",
            ),
        ] = False,
        tensorboard: Annotated[
            bool, Option("--tensorboard", help="Also write event files for TensorBoard to RUN_DIR/tensorboard.")
        ] = False,
        as_json: Annotated[bool, Option("--json", help="Print one JSON object on stdout.")] = False,
    ) -> None:
        """Write one HTML page about a run: learning, dropouts, costs, confusion matrix, parameters."""
        with reported(as_json):
            result = write_report(
                run, out, data_dir, beside=beside or [], own_code=own_code, with_tensorboard=tensorboard
            )
        if as_json:
            typer.echo(json_line(result))
            return
        console = open_console()
        _say(console, f"page {result['page']}")
        if result["missing"]:
            _say(console, f"left out: {result['missing']}")
        if result["tensorboard"]:
            _say(console, f"events {result['tensorboard']}: tensorboard --logdir {shlex.quote(result['tensorboard'])}")


def write_report(
    folder: Path,
    out: Path | None,
    data_dir: Path | None,
    *,
    beside: list[str],
    own_code: bool,
    with_tensorboard: bool,
) -> dict[str, Any]:
    """Read the run, test its final model and write the page; return the command's JSON object.

    Raises:
        ConfigError: the run is missing or damaged, or a file cannot be written; nothing is written then.
    """
    # These imports take seconds, and other commands do not need them.
    from fl.report.files import replace_file
    from fl.report.page import MARK, render_page
    from fl.report.source import load_run, run_beside
    from fl.report.tensorboard import EventFiles, require_tensorboard
    from fl.report.verdict import judge_final_model

    if with_tensorboard:
        require_tensorboard()
    run = load_run(folder)
    for named in beside:
        run = run_beside(run, named)
    path = out or folder / PAGE
    _check_place(path, MARK)
    final = judge_final_model(run, data_dir, own_code=own_code)
    page = render_page(run, final)
    events = None
    if with_tensorboard:
        with EventFiles(folder, run.config, final.plan, run.records, ended=run.changed) as files:
            files.add_series(run.series, ended=run.changed)
            if final.verdict is not None:
                files.add_verdict(final.verdict, run.rounds_done, ended=run.changed)
        events = str(files.path)
    replace_file(path, page)
    return {
        "page": str(path),
        "bytes": len(page),
        "rounds": run.rounds_done,
        "accuracy": run.own[-1].accuracy,
        "missing": " ".join(final.missing.split()),
        "tensorboard": events,
    }


def _check_place(path: Path, mark: bytes) -> None:
    """Raise ConfigError if a page may not be written here: only an older page may be replaced."""
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: --out names the page's file")
        if not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")
        if path.exists():
            with path.open("rb") as file:
                if mark not in file.read(2048):
                    raise ConfigError(
                        f"{path} exists and is not a report: move it away, or name another file with --out"
                    )
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _say(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)
