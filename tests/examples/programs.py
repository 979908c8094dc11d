"""Run the examples as a user would: the program itself, in its own process and folder."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# One thread each: many processes share few cores.
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def run(program, *arguments, folder, stdin=b"", seconds=120):
    """Run a Python program of the examples to its end; it must not have shown a traceback."""
    command = [sys.executable, EXAMPLES / program, *map(str, arguments)]
    finished = subprocess.run(  # noqa: S603 - our own interpreter with our own code
        command, cwd=folder, env=ENVIRONMENT, input=stdin, capture_output=True, timeout=seconds, check=False
    )
    assert b"Traceback" not in finished.stderr, finished.stderr.decode()
    return finished


class Running:
    """A program of the examples that runs in the background, and its output. Close it in all cases."""

    def __init__(self, program, *arguments, folder):
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
            [sys.executable, EXAMPLES / program, *map(str, arguments)],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self._said = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put(None)

    def wait_for(self, text, seconds=60):
        """Return the next line that contains the text."""
        while True:
            try:
                line = self._said.get(timeout=seconds)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"it never printed {text!r}, but {self.lines}")
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return line

    def wait(self, seconds=60):
        """Wait for the end; return all output, and the exit code."""
        code = self._process.wait(seconds)
        self._reader.join(seconds)
        while (line := self._said.get()) is not None:
            self.lines.append(line.rstrip("\n"))
        assert not any("Traceback" in line for line in self.lines), self.lines
        return self.lines, code

    def close(self):
        """End the program by signal 9, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):
            self._process.stdout.close()
