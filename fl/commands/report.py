"""`secagg report`: a run's folder as one page to look at, and as TensorBoard's event files."""

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
"""In the run's folder, if nothing else is said."""


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` shows the user's mistakes the way all commands do."""

    @app.command()
    def report(
        run: Annotated[Path, Argument(help="Folder of a run: what --out said.", metavar="RUN_DIR")],
        out: Annotated[Path | None, Option(help=f"The page's file (default: RUN_DIR/{PAGE}).")] = None,
        data_dir: Annotated[
            Path | None, Option(help="Folder with the data set's files, for what the model takes for what.")
        ] = None,
        beside: Annotated[
            list[str] | None,
            Option(help="NAME=RUN_DIR: another run's curves beside this one's; may be repeated."),
        ] = None,
        own_code: Annotated[
            bool, Option("--own-code", help="Run the package.module:name that the run names as its data set or model.")
        ] = False,
        tensorboard: Annotated[
            bool, Option("--tensorboard", help="Write RUN_DIR/tensorboard too, for TensorBoard.")
        ] = False,
        as_json: Annotated[bool, Option("--json", help="One JSON object on stdout.")] = False,
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
    """Read the run, test its final model, write the page; gives what was written as a JSON object.

    Raises:
        ConfigError: no run, a damaged one, or a place that cannot be written to; nothing is written then.
    """
    # These take seconds to import, which other commands must not wait for.
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
    """Where a page is to go there may be nothing, or an older page: another file is somebody's work."""
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: --out names the page's file")
        if not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")
        if path.exists():
            with path.open("rb") as file:
                if mark not in file.read(2048):
                    raise ConfigError(f"{path} is there and is no report: move it away, or name another file by --out")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _say(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)
