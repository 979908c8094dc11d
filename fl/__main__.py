"""The console script. Every expected failure, from the first import to the last flush, is one line, not a traceback."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from fl.errors import in_words

_Handler = Callable[[int, FrameType | None], None]

_INTERRUPTED = 130
_OWN_PACKAGES = ("fl", "transport", "secagg")


def main() -> None:
    """Run the command line."""
    try:
        _on_interrupt(_interrupter())
        code = _run()
    except KeyboardInterrupt:
        _leave_interrupted()
    except OSError as error:
        code = f"error: {in_words(error)}"
    _on_interrupt(lambda *_: _leave_interrupted())
    sys.exit(_flush(code))


def _run() -> str | int | None:
    """Run the command; return its exit code, or an error's text."""
    # This must be set before torch is loaded. Otherwise its threads wait for each other by spinning, and on busy cores
    # two threads are then many times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from fl.commands.app import app

        app()
    except SystemExit as end:
        return end.code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _OWN_PACKAGES:
            raise
        how = "pip install '.[fl]' in the repository's folder"
        return f"secagg: the command line needs {error.name}; install it with: {how}"
    return 0


def _flush(code: str | int | None) -> str | int | None:
    """Write the rest of stdout's buffer; return the exit code, or an error's text."""
    if sys.stdout is None:
        return code
    instead = 2
    try:
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python tries to write the rest again at its exit.
        instead = os.open(os.devnull, os.O_WRONLY)
        code = code or f"error: {in_words(error)}"
    if instead != 2 or "--json" in sys.argv:
        # Text that the user's own code prints at its exit must not follow the JSON object.
        with contextlib.suppress(OSError):
            os.dup2(instead, sys.stdout.fileno())
    return code


def _on_interrupt(handler: _Handler) -> None:
    # A shell starts background jobs with Ctrl-C ignored; it is not meant for them.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _interrupter() -> _Handler:
    """Return the handler for Ctrl-C while the command runs."""
    stdout = None
    if "--json" in sys.argv:
        with contextlib.suppress(OSError):
            # While the user's own code runs, descriptor 1 points to stderr.
            stdout = os.dup(1)

    def interrupt(_: int, frame: FrameType | None) -> None:
        # An interrupted import may end in any error, or swallow the interrupt. Nothing is running yet, so exit at once.
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                _leave_interrupted(stdout)
            frame = frame.f_back
        raise KeyboardInterrupt

    return interrupt


def _leave_interrupted(json_to: int | None = None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"error: interrupted\n")
        if json_to is not None:
            os.write(json_to, b'{"error": "interrupted", "reasons": ["interrupted"]}\n')
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
