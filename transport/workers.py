"""Worker processes for simulated sessions: they compute for the clients, and recover the server's masks.

Why processes: an X25519 exchange, HKDF and the Python around them hold the interpreter lock; only the masks' cipher and
additions release it. On the complete graph the former are 40% of a masked input of 100,000 values, and nearly all of a
client's other work, so threads gain little.
"""

from __future__ import annotations

import importlib
import traceback
import weakref
from collections import deque
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from types import TracebackType
from typing import Any, Protocol, Self

from secagg import LocalProtocolError, MaskSum, SecAggError, UnmaskJob
from transport.errors import TransportError, WorkerLostError
from transport.processes import Buffer, ChildDiedError, ChildProcess, Parent, pickled

# Seconds of work on one core below which processes cost more than they save: to start them, and to send to them.
_WORTH_STARTING = 1.0
_WORTH_SENDING = 0.1

_SECONDS_PER_AGREEMENT = 50e-6
_SECONDS_PER_ELEMENT = 6e-10

# Each worker has one core: numpy's matrix products must not start threads for all of them.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def estimated_seconds(*, agreements: int, elements: int) -> float:
    """Return the seconds on one core of key agreements, and of masks with this number of elements in all."""
    return agreements * _SECONDS_PER_AGREEMENT + elements * _SECONDS_PER_ELEMENT


class Workers(Protocol):
    """Interface of the places that compute for simulated sessions, one at a time: `WorkerPool`, or a cluster.

    Security: workers hold clients with their secrets and seeds of masks, so they must belong to the simulation alone.
    """

    @property
    def count(self) -> int:
        """Return the number of workers."""
        ...

    def is_worth(self, seconds: float) -> bool:
        """Return whether work that takes so long on one core is done sooner by the workers."""
        ...

    def start(self) -> None:
        """Start the workers that do not run."""
        ...

    def call(self, place: int, target: str, argument: object) -> Future[Any]:
        """Call ``package.module:Class.method`` in a worker; a worker's calls run one after the other.

        The worker makes one object of each class, for the first call. The argument is pickled before this returns. The
        future raises WorkerLostError if the worker ends first.
        """
        ...

    def run(self, job: UnmaskJob) -> MaskSum:
        """Return the job's whole result; see `transport.MaskRecovery`."""
        ...


class WorkerPool:
    """`Workers` in child processes on this machine, from the first session that is large enough until `close`.

    Args:
        workers: number of processes.
    """

    def __init__(self, workers: int) -> None:
        if type(workers) is not int or workers < 1:
            raise LocalProtocolError(f"workers must be a positive int, not {workers!r}")
        self._count = workers
        self._workers: list[_Worker] = []
        # A pool that is not closed ends its processes when it is collected.
        weakref.finalize(self, _close_all, self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def count(self) -> int:
        """Return the number of workers."""
        return self._count

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Return the process ids of the running workers."""
        return tuple(worker.process_id for worker in self._workers if worker.is_running)

    def is_worth(self, seconds: float) -> bool:
        """See `Workers`."""
        return self._count > 1 and seconds >= (_WORTH_SENDING if self._workers else _WORTH_STARTING)

    def start(self) -> None:
        """See `Workers`. If one has ended, all are replaced: the others may be ending too."""
        if not all(worker.is_running for worker in self._workers):
            self.close()
        self._workers += [_Worker() for _ in range(self._count - len(self._workers))]

    def call(self, place: int, target: str, argument: object) -> Future[Any]:
        """See `Workers`."""
        return self._workers[place].call(pickled((target, argument)))

    def run(self, job: UnmaskJob) -> MaskSum:
        """See `Workers`. Small jobs run on threads."""
        seconds = estimated_seconds(agreements=job.num_agreements, elements=job.num_masks * job.vector_length)
        if not job.num_agreements or not self.is_worth(seconds):
            return job.run(self._count)
        self.start()
        parts = enumerate(job.split(self._count))
        results = [self.call(place, "transport.workers:JobRunner.run", part) for place, part in parts]
        return job.combine([result.result() for result in results])

    def close(self) -> None:
        """End the processes, even during a call; may be called again."""
        _close_all(self._workers)


class JobRunner:
    """Runs parts of the server's jobs in a worker."""

    def run(self, part: UnmaskJob) -> MaskSum:
        """Return a part's result."""
        return part.run()


class WorkerObjects:
    """The objects of one worker, one for each class that was called."""

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}

    def outcome(self, target: str, argument: object) -> tuple[Any, Exception | None]:
        """Return the result of a call, or the error that it raised."""
        try:
            owner, _, method = target.rpartition(".")
            if owner not in self._objects:
                module, name = owner.split(":")
                self._objects[owner] = getattr(importlib.import_module(module), name)()
            return getattr(self._objects[owner], method)(argument), None
        except Exception as error:  # noqa: BLE001 - raised again in the process that called
            return None, portable(error)


def portable(error: Exception) -> Exception:
    """Return an error that can be raised again in another process: one of ours, or one that says what it was."""
    if isinstance(error, SecAggError | TransportError):
        return error.with_traceback(None)
    told = RuntimeError(f"{type(error).__name__} in a worker process: {error}")
    told.add_note("".join(traceback.format_exception(error)))
    return told


class _Worker:
    """A child process, with one thread that sends it calls and one that receives their results."""

    def __init__(self) -> None:
        try:
            self._child = ChildProcess("transport.workers:_serve", environment=_ONE_THREAD)
        except OSError as error:
            raise WorkerLostError(f"no worker process could be started ({error}): use fewer workers") from error
        self._lock = Lock()
        self._lost: WorkerLostError | None = None
        self._calls: SimpleQueue[list[Buffer] | None] = SimpleQueue()
        self._waiting: deque[Future[Any]] = deque()
        # Daemon threads, so that a host can exit without closing the pool.
        self._threads = [Thread(target=run, daemon=True) for run in (self._send_all, self._receive_all)]
        for thread in self._threads:
            thread.start()

    @property
    def process_id(self) -> int:
        return self._child.process_id

    @property
    def is_running(self) -> bool:
        return self._lost is None and self._child.is_running

    def call(self, parts: list[Buffer]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._lost is not None:
                future.set_exception(self._lost)
                return future
            self._waiting.append(future)
        self._calls.put(parts)
        return future

    def close(self) -> None:
        self._child.kill()
        self._calls.put(None)
        for thread in self._threads:
            # Garbage may be collected in any thread.
            if thread is not current_thread():
                thread.join()
        self._child.close()

    def _send_all(self) -> None:
        while (parts := self._calls.get()) is not None:
            try:
                self._child.send_pickled(parts)
            except ChildDiedError:
                # The other thread says so to those who wait.
                return

    def _receive_all(self) -> None:
        while True:
            try:
                result, error = self._child.receive()
            except ChildDiedError as death:
                self._lose(death)
                return
            future = self._waiting.popleft()
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def _lose(self, death: ChildDiedError) -> None:
        lost = WorkerLostError(f"a worker process ended ({death}), and its clients with it: use fewer workers")
        lost.__cause__ = death
        with self._lock:
            self._lost = lost
        while self._waiting:
            self._waiting.popleft().set_exception(lost)


def _close_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().close()


def _serve(parent: Parent) -> None:
    """Run in the child: answer calls with their outcomes."""
    objects = WorkerObjects()
    for target, argument in parent:
        parent.send(objects.outcome(target, argument))
