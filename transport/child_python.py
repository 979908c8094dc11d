"""How children that run our own code in Python are started.

A child finds modules where this process does, and nowhere else. By itself Python looks first in the working directory
when it is told what to run by ``-c`` or ``-m``, as it is for children, which the program that started them may not
have done: a folder ``transport`` there would run in a process that is handed secrets.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker


def python_command(*arguments: str) -> list[str]:
    """The command line of a child; start it with `python_environment`."""
    return [sys.executable, "-P", *arguments]


def python_environment(**changes: str) -> dict[str, str]:
    """This process's environment with the places of its modules, and ``changes``."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), **changes}


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Children that are started meanwhile never hear Ctrl-C: it reaches the whole group, and the parent ends them.

    They inherit that it is blocked, from their first instruction on, where a handler of theirs would come too late.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def safe_spawning() -> Iterator[None]:
    """Do all this for children that `multiprocessing` spawns meanwhile; the places of modules it tells them itself."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    # It would be started with the first child, and unblock what is blocked.
    resource_tracker.ensure_running()
    try:
        with deaf_children():
            yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
