"""Child processes: requests and answers, reports of their deaths, and their end with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transport.processes import ChildDiedError, ChildProcess, Parent

pytestmark = pytest.mark.live

HERE = "tests.transport.test_child_processes"


def echo(parent: Parent, *arguments: str) -> None:
    """Answer each request with itself and the arguments, after a print that must not reach the parent."""
    for request in parent:
        print("printed by the child")  # noqa: T201 - what it prints is the point
        parent.send((request, arguments))


def end_with(parent: Parent, code: str) -> None:
    """End at the first request."""
    next(iter(parent))
    sys.exit(int(code))


def test_objects_of_any_size_go_there_and_back() -> None:
    child = ChildProcess(f"{HERE}:echo", "one", "two")
    for request in ({"a": 1}, b"x" * (3 << 20), None):
        child.send(request)
        assert child.receive() == (request, ("one", "two"))
    assert child.is_running
    child.close()
    assert not child.is_running
    child.close()


def test_an_exit_code_is_reported() -> None:
    child = ChildProcess(f"{HERE}:end_with", "7", quiet=True)
    child.send("go")
    with pytest.raises(ChildDiedError, match="exit code 7"):
        child.receive()
    child.close()


def test_a_signal_is_reported() -> None:
    child = ChildProcess(f"{HERE}:echo")
    os.kill(child.process_id, signal.SIGKILL)
    with pytest.raises(ChildDiedError, match=r"signal 9 \(out of memory\?\)"):
        child.receive()
    child.close()
    with pytest.raises(ChildDiedError):
        child.send("more")


def test_an_entry_that_does_not_exist_is_a_dead_child() -> None:
    child = ChildProcess(f"{HERE}:no_such_function", quiet=True)
    with pytest.raises(ChildDiedError, match="exit code 1"):
        child.receive()
    child.close()


def test_a_child_whose_parent_was_killed_ends() -> None:
    program = (
        f"from transport.processes import *; c = ChildProcess('{HERE}:echo'); print(c.process_id, flush=True); input()"
    )
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        assert parent.stdout is not None
        child_id = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 30
    while _is_alive(child_id) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _is_alive(child_id)


def _is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False
