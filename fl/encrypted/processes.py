"""The processes of the three parties: they are started, watched, and ended in all cases."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fl.encrypted.errors import EncryptedEvaluationError
from fl.encrypted.jobs import PARTIES, ROLES, Job
from transport.processes import ChildDiedError, ChildProcess

_ENVIRONMENT = {
    # More threads would only spin: the parties already outnumber the cores of most machines.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # For glibc's allocator; others ignore it. Keep an array's megabytes for the next array: returning them to the
    # system and faulting them in again takes a third of the time of array arithmetic.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}

# Time for the other parties to report their errors after one has failed.
_ERROR_GRACE = 2.0


@dataclass(frozen=True)
class Event:
    """An event of a party; the last one is ``ended``, with the reason why its process ended."""

    party: int
    name: str
    values: dict[str, Any]


class PartyProcesses:
    """One process per job. All end when the context is left; they also end if this process dies."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs
        self._processes: list[ChildProcess] = []
        self._listeners: list[threading.Thread] = []
        self._events: queue.Queue[Event] = queue.Queue()

    def __enter__(self) -> Self:
        try:
            for job in self._jobs:
                self._start(job)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pids(self) -> list[int]:
        """Return the processes' ids."""
        return [process.process_id for process in self._processes]

    def run(self, on_event: Callable[[Event], None], timeout: float) -> list[dict[str, Any]]:
        """Wait until all parties are done; return the result of each.

        Raises:
            EncryptedEvaluationError: a party failed, or no party sent an event for ``timeout`` seconds.
        """
        results: dict[int, dict[str, Any]] = {}
        ended: set[int] = set()
        while len(ended) < PARTIES:
            try:
                event = self._events.get(timeout=timeout)
            except queue.Empty:
                raise EncryptedEvaluationError(
                    f"the three parties sent nothing for {timeout:g} seconds, so they were ended"
                ) from None
            if event.name == "done":
                results[event.party] = event.values
            elif event.name == "error" or (event.name == "ended" and event.party not in results):
                raise self._failure(event)
            if event.name == "ended":
                ended.add(event.party)
            else:
                on_event(event)
        return [results[party] for party in range(PARTIES)]

    def _start(self, job: Job) -> None:
        # Quiet, since tracebacks of MPyC may hold shares and must not be shown.
        process = ChildProcess("fl.encrypted.party:run_party", environment=_ENVIRONMENT, quiet=True)
        self._processes.append(process)
        with contextlib.suppress(ChildDiedError):
            process.send(job)
        listener = threading.Thread(target=self._listen, args=(job.party, process), daemon=True)
        listener.start()
        self._listeners.append(listener)

    def _listen(self, party: int, process: ChildProcess) -> None:
        try:
            while True:
                self._events.put(Event(party, *process.receive()))
        except ChildDiedError as error:
            self._events.put(Event(party, "ended", {"how": str(error)}))

    def _failure(self, first: Event) -> EncryptedEvaluationError:
        """Return the most specific of the next errors: when one party fails, the others lose their connections."""
        heard = [first]
        until = time.monotonic() + _ERROR_GRACE
        while (left := until - time.monotonic()) > 0 and not any("message" in event.values for event in heard):
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                break
            if event.name in ("error", "ended"):
                heard.append(event)
        for event in heard:
            if "message" in event.values:
                return EncryptedEvaluationError(f"{self._called(event.party)}: {event.values['message']}")
        killed = [event for event in heard if event.name == "ended" and "signal" in event.values["how"]]
        event = (killed or heard)[0]
        if event.name == "ended":
            return EncryptedEvaluationError(
                f"{self._called(event.party)} ended early: {event.values['how']}; start again"
            )
        kind = event.values.get("kind", "an error")
        return EncryptedEvaluationError(f"{self._called(event.party)} failed with {kind}; start again")

    def _called(self, party: int) -> str:
        return f"party {party} ({ROLES[party]})"

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for listener in self._listeners:
            listener.join()
        for process in self._processes:
            process.close()
