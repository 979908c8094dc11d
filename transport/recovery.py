"""The server's recovery of the masks on all cores.

Key agreement holds the interpreter lock, so threads alone leave the second core idle for half of a recovery: the parts
of the job go to processes.  They are plain children that speak over their own pipes, which unlike `multiprocessing`
asks nothing of the host's main module and forks no process that has threads.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from types import TracebackType
from typing import IO, Protocol

from secagg import LocalProtocolError, MaskSum, UnmaskJob
from transport.child_python import deaf_children, python_command, python_environment

# Below so many key agreements (about 50 us each) a child's start costs more than it saves.
_WORTH_STARTING = 10_000
_WORTH_SENDING = 500

_CHILD = "from transport.recovery import _serve; _serve()"


class MaskRecovery(Protocol):
    """Whatever runs the server's jobs: `RecoveryPool`, or machines that the host has.

    It is given the seeds of the masks that are left in the sum: it belongs to the server, with all its machines.
    """

    def run(self, job: UnmaskJob) -> MaskSum:
        """The job's whole result."""
        ...


class RecoveryPool:
    """Runs jobs on ``workers`` cores: this process and ``workers - 1`` children.

    Children are started by the first job that is large enough, and kept for the next ones; smaller jobs run on
    threads.  Close the pool, or use it as a context manager, to end them::

        with RecoveryPool(workers=2) as pool:
            server.finish(pool.run(job))

    Security: a child is sent the seeds of its part, through a pipe that nobody else can read.

    Args:
        workers: how many cores; by default all that this process may use.

    Raises:
        LocalProtocolError: workers is not a positive int.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is None:
            workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if type(workers) is not int or workers < 1:
            raise LocalProtocolError(f"workers must be a positive int, not {workers!r}")
        self._workers = workers
        self._children: list[_Child] = []
        self._closed = False

    def __enter__(self) -> "RecoveryPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The children that are running."""
        return tuple(child.process_id for child in self._children)

    def start(self) -> None:
        """Start the children now, instead of with the first large job."""
        if self._closed:
            raise LocalProtocolError("the pool is closed")
        for child in self._children:
            if not child.running:
                child.close()
        self._children = [child for child in self._children if child.running]
        while len(self._children) < self._workers - 1:
            try:
                self._children.append(_Child())
            except OSError:
                # No interpreter to start, or no room for one more: threads will do.
                break

    def run(self, job: UnmaskJob) -> MaskSum:
        """The sum of the job's masks, for `Server.finish`; a child that dies has its part done here."""
        if self._closed:
            raise LocalProtocolError("the pool is closed")
        if job.num_agreements >= _WORTH_STARTING:
            self.start()
        children = self._children if job.num_agreements >= _WORTH_SENDING else []
        if not children:
            return job.run(self._workers)
        own, *others = job.split(len(children) + 1)
        sent = [(part, child, child.send(part)) for part, child in zip(others, children, strict=False)]
        results = [own.run()]
        for part, child, arrived in sent:
            result = child.result() if arrived else None
            results.append(part.run() if result is None else result)
        return job.combine(results)

    def close(self) -> None:
        """End the children. The pool can be closed twice, and not be used again."""
        self._closed = True
        for child in self._children:
            child.close()
        self._children = []


class _Child:
    """One worker process."""

    def __init__(self) -> None:
        with deaf_children():
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
                python_command("-c", _CHILD),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=python_environment(),
            )
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        assert self._process.stdout is not None  # noqa: S101
        self._requests: IO[bytes] = self._process.stdin
        self._results: IO[bytes] = self._process.stdout

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, part: UnmaskJob) -> bool:
        """Whether the part went out."""
        try:
            pickle.dump(part, self._requests)
            self._requests.flush()
        except OSError:
            return False
        return True

    def result(self) -> MaskSum | None:
        """The part's result, or None if the child died over it."""
        try:
            result = pickle.load(self._results)  # noqa: S301 - from our own child
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        return result if isinstance(result, MaskSum) else None

    def close(self) -> None:
        # The end of its input is what ends a child; one that is busy with a part that nobody waits for is ended.
        with contextlib.suppress(OSError):
            self._requests.close()
        self._results.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _serve() -> None:
    """The child: parts in, results out, until the input ends."""
    requests, results = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            part: UnmaskJob = pickle.load(requests)  # noqa: S301 - from our own parent
        except EOFError:
            return
        try:
            pickle.dump(part.run(), results)
            results.flush()
        except BrokenPipeError:
            os._exit(0)
