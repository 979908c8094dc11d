"""The console script: from the first import to the last flush, what goes wrong is a line, and never a traceback."""

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
    """The command's exit code, or an error."""
    # Before torch is loaded: its threads would wait for each other by spinning, which on cores that are busy with
    # something else makes two of them many times slower than one.
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
    """Write what is left in stdout's buffer; gives the exit code, or an error."""
    if sys.stdout is None:
        return code
    instead = 2
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try to write the rest at its exit.
        instead = os.open(os.devnull, os.O_WRONLY)
        code = code or f"error: {in_words(error)}"
    if instead != 2 or "--json" in sys.argv:
        # What own code prints at its exit is no part of the object.
        with contextlib.suppress(OSError):
            os.dup2(instead, sys.stdout.fileno())
    return code


def _on_interrupt(handler: _Handler) -> None:
    # A shell's background jobs ignore Ctrl-C, which is not meant for them.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _interrupter() -> _Handler:
    """What Ctrl-C does while the command runs."""
    stdout = None
    if "--json" in sys.argv:
        with contextlib.suppress(OSError):
            # While own code runs, 1 is another name of stderr.
            stdout = os.dup(1)

    def interrupt(_: int, frame: FrameType | None) -> None:
        # An import that is broken off may end in any error, or go on without the interrupt. Nothing is lost by leaving.
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
