"""Output that all commands share: consoles, errors as single lines, and only a JSON object on stdout with --json."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.markup import escape

from fl.errors import ConfigError, FLError, in_words
from fl.formatting import json_line
from secagg import SecAggError
from transport import TransportError
from transport.errors import MAX_ERROR_TEXT, printable

INTERRUPTED = 130
"""The exit code of a command that the user interrupted."""


def open_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged; rich would turn ``:name:`` in a path into an emoji."""
    return Console(stderr=stderr, emoji=False)


@contextlib.contextmanager
def reported(as_json: bool, when_interrupted: str = "interrupted") -> Iterator[None]:
    """Print the user's or the system's error as one line on stderr, without a traceback, and exit with a code above 0.

    With ``as_json``, other output goes to stderr, and an error is also a JSON object on stdout. If the user interrupts
    the command, the line is ``when_interrupted``.
    """
    code = 1
    try:
        with _prints_on_stderr() if as_json else contextlib.nullcontext():
            yield
    except typer.Exit:
        raise
    except (FLError, SecAggError, TransportError) as error:
        text, reasons = str(error), getattr(error, "reasons", (str(error),))
    except OSError as error:
        # The reader of the output has closed it; that is not an error.
        if isinstance(error, BrokenPipeError):
            raise
        text = in_words(error)
        reasons = (text,)
    except MemoryError as error:
        text = f"this machine's memory is too small for that{f': {error}' if str(error) else ''}"
        reasons = (text,)
    except SystemExit as error:
        text = f"own code ended the program by SystemExit: {error.code}"
        reasons = (text,)
    except KeyboardInterrupt:
        text, reasons, code = when_interrupted, (when_interrupted,), INTERRUPTED
    except Exception as error:
        # A bug of this program: keep the traceback, but also print the JSON object that the caller expects.
        if as_json:
            typer.echo(json_line({"error": f"{type(error).__name__}: {printable(str(error), MAX_ERROR_TEXT)}"}))
        raise
    else:
        return
    shown = [printable(reason, MAX_ERROR_TEXT) for reason in reasons]
    _print_error(shown)
    if as_json:
        typer.echo(json_line({"error": text, "reasons": shown}))
    raise typer.Exit(code) from None


def check_is_file_to_be(path: Path, option: str) -> None:
    """Raise ConfigError now, rather than after an hour of work, if the option's file cannot be written."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: {option} names a file")
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(
            f"cannot write to {path}: {existing} is not a writable folder; name another file with {option}"
        )


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM, which service managers send, like Ctrl-C: the results so far are kept."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_error(reasons: list[str]) -> None:
    console = open_console(stderr=True)
    # The text quotes users and peers, so it must not be read as markup.
    headline = escape(reasons[0]) if len(reasons) == 1 else "this cannot work:"
    with contextlib.suppress(OSError):
        console.print("[bold red]error:[/bold red]", headline, highlight=False, soft_wrap=True)
        if len(reasons) > 1:
            for reason in reasons:
                console.print(f"  - {escape(reason)}", highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _prints_on_stderr() -> Iterator[None]:
    """Send all output to stderr, also that of C libraries and child processes."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stdout = os.dup(1)
            stack.callback(os.close, stdout)
            os.dup2(2, 1)
            stack.callback(os.dup2, stdout, 1)
            # Flush the object that was stdout at the start, while its output still goes to stderr.
            stack.callback(sys.__stdout__.flush if sys.__stdout__ is not None else lambda: None)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
