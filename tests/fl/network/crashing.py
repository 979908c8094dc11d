"""Server processes that are killed at a chosen moment of their start."""

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Python's audit events of calls that change a folder, before they happen.
_CHANGES = frozenset(("open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "sqlite3.connect"))

WITHOUT_END = 0


def nursery(requests: Connection, certs: Path) -> None:
    """Fork a server for each (folder, moment) that comes, and answer with its exit code. Torch is loaded once."""
    import torch._dynamo  # noqa: F401 - what takes seconds and is not asked for before an optimizer is made

    import fl.network.server  # noqa: F401

    while True:
        try:
            run, killed_at = requests.recv()
        except EOFError:
            return
        pid = os.fork()
        if not pid:
            try:
                serve_or_resume(run, certs, killed_at)
            except BaseException:  # noqa: BLE001 - the test sees the exit code, and this
                traceback.print_exc()
            os._exit(1)
        requests.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def serve_or_resume(run: Path, certs: Path, killed_at: int = WITHOUT_END) -> None:
    """Begin or resume the run, as deploy/serve-or-resume does, until it listens; die before change ``killed_at``."""
    from rich.console import Console

    from fl.config.served import ServeOptions
    from fl.network import server as serving
    from tests.fl.runs import tiny_config, tiny_dataset
    from transport import Deadlines
    from transport.certificates.reading import Credentials

    class Listening(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            if str(objects[0]).startswith("listening on"):
                os._exit(0)

    serving.make_dataset = lambda *_: tiny_dataset()  # type: ignore[attr-defined, assignment]
    options = ServeOptions(
        address=("127.0.0.1", 0), tls=Credentials.of_server(certs), directory=certs, give_up=1.0, retries=0,
        deadlines=Deadlines(),
    )  # fmt: skip
    changes = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in _CHANGES and str(arguments[0]).startswith(str(run)):
            changes += 1
            if changes == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    if (run / "checkpoint.safetensors").exists():
        serving.resume_serving(run, None, None, options, Listening())
    else:
        serving.start_serving(tiny_config(clients=3, rounds=2), run, None, options, Listening())
