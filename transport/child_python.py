"""How children that run our own code in Python are started.

A child finds modules where this process does, and nowhere else. By itself Python looks first in the working directory
when it is told what to run by ``-c`` or ``-m``, as it is for children, which the program that started them may not
have done: a folder ``transport`` there would run in a process that is handed secrets.
"""

import contextlib
import os
import sys
from collections.abc import Iterator


def python_command(*arguments: str) -> list[str]:
    """The command line of a child; start it with `python_environment`."""
    return [sys.executable, "-P", *arguments]


def python_environment(**changes: str) -> dict[str, str]:
    """This process's environment with the places of its modules, and ``changes``."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), **changes}


@contextlib.contextmanager
def safe_spawning() -> Iterator[None]:
    """Do the same for children that `multiprocessing` spawns meanwhile; the places of modules it tells them itself."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
