"""The program of a harness `Program` in its process; nothing heavy is imported before the fork."""

import os
import sys
from multiprocessing.connection import Connection


def run(output: Connection, arguments: list[str]) -> None:
    """Run `secagg` with these arguments; both outputs go into the pipe."""
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    from fl.commands.app import app

    app(arguments, prog_name="secagg")
