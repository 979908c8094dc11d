"""Processes of private trainings that kill themselves with signal 9 at a chosen moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _around(kind: Any, name: str, moment: str, place: str, count: int = 1) -> None:
    """Die before or after the ``count``-th call of a method, if that is the moment."""
    method, calls = getattr(kind, name), 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if moment == f"before {place}" and calls == count:
            _die()
        result = method(*arguments, **named)
        if moment == f"after {place}" and calls == count:
            _die()
        return result

    setattr(kind, name, dying)


def join(options: Any, data: Any, moment: str) -> None:
    """Run a client until it dies: around the charge, or around the journal's entry of its masked input."""
    from fl.network.client import Participant
    from fl.privacy.policy import PrivacyAccount
    from transport import ClientJournal

    _around(PrivacyAccount, "charge", moment, "the charge")
    # The answers of AdvertiseKeys and ShareKeys come first.
    _around(ClientJournal, "save", moment, "the input is saved", 3)
    asyncio.run(Participant(options, data, lambda _: None).run())


def serve(run: Path, options: Any, config: Any, moment: str, listening: Connection) -> None:
    """Run a server until it dies: around a charge, within the session, or around the checkpoint."""
    from rich.console import Console

    from fl.network import server as serving
    from fl.privacy.ledger import Ledger
    from fl.runs.checkpoint import RunFolder
    from secagg import Server
    from tests.fl.runs import tiny_dataset

    class Listening(Console):
        def print(self, *objects: Any, **_: Any) -> None:
            if str(objects[0]).startswith("listening on "):
                listening.send(int(str(objects[0]).rpartition(":")[2]))

    serving.make_dataset = lambda *_: tiny_dataset()  # type: ignore[attr-defined, assignment]
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it ends with the process
    _around(Ledger, "charge", moment, "the charge")
    _around(Server, "finish", moment, "the sum")
    # The first one is that of the new run.
    _around(RunFolder, "save", moment, "the checkpoint", 2)
    serving.start_serving(config, run, None, options, Listening(quiet=True), min_clients=4)
