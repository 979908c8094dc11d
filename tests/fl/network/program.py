"""What a `Program` of the harness does in its own process; nothing heavy is imported before it is forked."""

import os
import sys
from multiprocessing.connection import Connection


def run(output: Connection, arguments: list[str]) -> None:
    """`secagg` with these arguments, its two outputs going into the pipe."""
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    from fl.commands.app import app

    app(arguments, prog_name="secagg")
