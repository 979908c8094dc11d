"""A whole session in a process that is killed with SIGKILL: at one of its journals' operations, or at any time.

Each statement is on the disk before it is sent, in a log beside the journals: the log tells the test what others could
have received.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from secagg import Aborted, Completed
from tests.transport.link_world import MODES, Evidence, World


class LoggedEvidence(Evidence):
    """Evidence that outlives the process."""

    log: int

    def _write(self, *values: object) -> None:
        os.write(self.log, (json.dumps(values) + "\n").encode())

    def note(self, said, client_id, message) -> None:
        super().note(said, client_id, message)
        kind = "down" if said is self.down else "up"
        self._write(kind, client_id, message.sequence, said[client_id, message.sequence].hex())

    def note_acknowledged(self, client_id, sequence) -> None:
        super().note_acknowledged(client_id, sequence)
        self._write("acknowledged", client_id, sequence)

    def note_input(self, client_id, vector) -> None:
        super().note_input(client_id, vector)
        self._write("input", client_id, vector.tolist())

    def note_outcome(self, outcome) -> None:
        super().note_outcome(outcome)
        self._write(type(outcome).__name__)


def read_log(path: Path) -> tuple[Evidence, list[str]]:
    """Return what a killed process had sent, and which ends it had announced."""
    evidence, ends = Evidence(), []
    for line in path.read_text().splitlines():
        match json.loads(line):
            case ["down" | "up" as kind, client_id, sequence, body]:
                getattr(evidence, kind)[client_id, sequence] = bytes.fromhex(body)
            case ["acknowledged", client_id, sequence]:
                evidence.note_acknowledged(client_id, sequence)
            case ["input", client_id, vector]:
                evidence.note_input(client_id, np.array(vector))
            case [end]:
                ends.append(end)
    return evidence, ends


def finish(files: Path, mode: str, log: Path) -> Completed | Aborted:
    """Restart everything from a killed process's files, and run to the end; its earlier statements must still hold."""
    evidence, ends = read_log(log)
    world = World(MODES[mode], files, "after", evidence=evidence)
    try:
        outcome = world.settle()
    finally:
        world.close()
    assert set(ends) <= {type(outcome).__name__}
    return outcome


def main(files: str, log: str, mode: str, kill_at: int) -> None:
    evidence = LoggedEvidence()
    evidence.log = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    operations = 0

    def on_point() -> None:
        nonlocal operations
        operations += 1
        if operations == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    world = World(MODES[mode], Path(files), "child", evidence=evidence, on_point=on_point)
    print("begun", flush=True)  # noqa: T201
    world.settle()
    print(operations, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
