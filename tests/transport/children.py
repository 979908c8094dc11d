"""Child processes of the tests, and their output: lines of JSON."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def may_open(files: int) -> bool:
    """Raise the limit on open files as far as allowed, also for children; return whether it suffices."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < files and (hard == resource.RLIM_INFINITY or hard >= files):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= files


class Child:
    """A child process; ``before`` is the command that starts it, if any. Close it in all cases."""

    def __init__(self, module, role, *, before=(), **options):
        # One thread each: many processes share few cores.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
            [*before, sys.executable, "-m", module, role, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        self.lines = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self):
        """Return the system's number of the process."""
        return self._process.pid

    def _read(self):
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, key, seconds=60, *, count=1):
        """Return the ``count``-th line that has the key."""
        end = time.monotonic() + seconds
        with self._changed:
            while len(found := [line for line in self.lines if key in line]) < count:
                if self._ended or not self._changed.wait(end - time.monotonic()):
                    raise AssertionError(
                        f"it never printed {key!r}, but {[str(line)[:80] for line in self.lines[-3:]]}"
                    )
        return found[count - 1]

    def go(self):
        """Send the word that the process waits for."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close(self):
        """End the process, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
