"""The server's recovery of the masks on all cores.

Key agreement holds the interpreter lock, so threads alone leave the second core idle for half of a recovery: the parts
of the job go to processes.
"""

import contextlib
import os
from types import TracebackType
from typing import Protocol

from secagg import LocalProtocolError, MaskSum, UnmaskJob
from transport.processes import ChildDiedError, ChildProcess, Parent

# With fewer key agreements (about 50 us each), starting a child costs more than it saves.
_WORTH_STARTING = 10_000
_WORTH_SENDING = 500

_ENTRY = "transport.recovery:_serve"
# Seconds in which a child may finish the part that it works on.
_PATIENCE = 1.0


class MaskRecovery(Protocol):
    """Interface of the parts that run the server's jobs: `RecoveryPool`, or further machines of the server.

    Security: it receives the seeds of the masks that are left in the sum, so its machines must belong to the server.
    """

    def run(self, job: UnmaskJob) -> MaskSum:
        """Return the job's whole result."""
        ...


class RecoveryPool:
    """A pool that runs jobs on ``workers`` cores: this process and ``workers - 1`` children.

    The first job that is large enough starts the children, and later jobs use them again; smaller jobs run on
    threads.  Close the pool, or use it as a context manager, to end them::

        with RecoveryPool(workers=2) as pool:
            server.finish(pool.run(job))

    Security: a child receives the seeds of its part through a pipe that no other process can read.

    Args:
        workers: number of cores; by default all that this process may use.

    Raises:
        LocalProtocolError: workers is not a positive int.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is None:
            workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if type(workers) is not int or workers < 1:
            raise LocalProtocolError(f"workers must be a positive int, not {workers!r}")
        self._workers = workers
        self._children: list[ChildProcess] = []
        self._closed = False

    def __enter__(self) -> "RecoveryPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Return the process ids of the running children."""
        return tuple(child.process_id for child in self._children)

    def start(self) -> None:
        """Start the children now, instead of with the first large job."""
        if self._closed:
            raise LocalProtocolError("the pool is closed")
        for child in self._children:
            if not child.is_running:
                child.close()
        self._children = [child for child in self._children if child.is_running]
        while len(self._children) < self._workers - 1:
            try:
                self._children.append(ChildProcess(_ENTRY))
            except OSError:
                # No interpreter, or no memory for another process: use threads.
                break

    def run(self, job: UnmaskJob) -> MaskSum:
        """Return the sum of the job's masks, for `Server.finish`; do the part of a child that died in this process."""
        if self._closed:
            raise LocalProtocolError("the pool is closed")
        if job.num_agreements >= _WORTH_STARTING:
            self.start()
        children = self._children if job.num_agreements >= _WORTH_SENDING else []
        if not children:
            return job.run(self._workers)
        own, *others = job.split(len(children) + 1)
        sent = list(zip(others, children, strict=False))
        for part, child in sent:
            # A dead child is found when its result is read.
            with contextlib.suppress(ChildDiedError):
                child.send(part)
        results = [own.run()]
        for part, child in sent:
            try:
                results.append(child.receive())
            except ChildDiedError:
                results.append(part.run())
        return job.combine(results)

    def close(self) -> None:
        """End the children. May be called twice; the pool cannot be used again."""
        self._closed = True
        for child in self._children:
            child.close(_PATIENCE)
        self._children = []


def _serve(parent: Parent) -> None:
    """Run in a child: answer parts with their results."""
    for part in parent:
        parent.send(part.run())
