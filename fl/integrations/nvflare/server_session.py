"""The server's part in one session: the protocol's rounds over a courier of tasks and results."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fl.integrations.nvflare.announcement import TaskAnnouncement
from secagg import Aborted, ClientDropped, Completed, DropReason, Round, Server
from secagg.identity import KeyDirectory
from transport.driver import Deadlines, Delivery, ServerDriver
from transport.errors import printable

# Seconds to wait for a result before checking deadlines, lost sites and the job's end.
_GLANCE = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """A site's result of a task; ``message`` is None if it failed, with the ``reason`` if it gave one."""

    site: str
    message: bytes | None
    reason: str = ""


class Courier(Protocol):
    """The interface that carries tasks to sites and results back."""

    def announce(self, site: str) -> None:
        """Send the announcement."""

    def send(self, site: str, round_: Round, message: bytes) -> None:
        """Send the protocol's message that opens a round, with the model if sites train in it."""

    def next_result(self, timeout: float) -> Result | None:
        """Return a site's result, or None after ``timeout`` seconds."""

    def is_gone(self, site: str) -> bool:
        """Return whether the framework knows that the site will not answer."""

    def cancel(self, site: str) -> None:
        """Cancel a site's task."""

    @property
    def stopped(self) -> bool:
        """Return whether the job was ended."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """The result of a session.

    Attributes:
        outcome: the sum, or why it is missing; None if the job was ended.
        dropped: the sites that left, with the round and the reason.
        reasons: the reasons that sites gave for leaving, in one line each.
        bytes_down, bytes_up: bytes of the protocol's messages to and from each site, without models.
        seconds: seconds of each round.
    """

    outcome: Completed | Aborted | None
    dropped: dict[str, ClientDropped]
    reasons: dict[str, str]
    bytes_down: dict[str, int]
    bytes_up: dict[str, int]
    seconds: dict[Round, float]


def run_session(
    announcement: TaskAnnouncement,
    courier: Courier,
    deadlines: Deadlines,
    *,
    directory: KeyDirectory | None = None,
    workers: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> TaskReport:
    """Run one session to its end.

    Args:
        announcement: the round.
        courier: carries the tasks.
        deadlines: seconds that each round waits for answers.
        directory: in malicious mode, the directory of the sites' identity keys.
        workers: threads for unmasking.
        clock: returns the time in seconds.
    """
    server = Server(announcement.params, context=announcement.to_bytes(), nonce=announcement.nonce, directory=directory)
    session = _Session(announcement.sites, ServerDriver(server, deadlines), courier, clock)
    session.run(workers)
    return session.report()


class _Session:
    def __init__(
        self, sites: tuple[str, ...], driver: ServerDriver, courier: Courier, clock: Callable[[], float]
    ) -> None:
        self._sites, self._driver, self._courier, self._clock = sites, driver, courier, clock
        self._numbers = {site: number for number, site in enumerate(sites)}
        self._busy: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._down = dict.fromkeys(sites, 0)
        self._up = dict.fromkeys(sites, 0)
        self._seconds: dict[Round, float] = {}

    def run(self, workers: int) -> None:
        began = self._clock()
        self._driver.start(began)
        for site in self._sites:
            self._busy.add(site)
            self._courier.announce(site)
        while self._driver.outcome is None and not self._courier.stopped:
            round_, began = self._driver.round, self._clock()
            if self._driver.job is not None:
                self._driver.finish(self._driver.job.run(workers=workers), self._clock())
            else:
                self._wait()
            self._seconds[round_] = self._seconds.get(round_, 0.0) + self._clock() - began
        for site in sorted(self._busy):
            self._courier.cancel(site)

    def report(self) -> TaskReport:
        dropped = {self._sites[number]: event for number, event in self._driver.dropped.items()}
        return TaskReport(self._driver.outcome, dropped, self._reasons, self._down, self._up, self._seconds)

    def _wait(self) -> None:
        """Accept one result, or drop the sites that are gone or late."""
        result = self._courier.next_result(_GLANCE)
        now = self._clock()
        if result is None:
            for site in [site for site in sorted(self._busy) if self._courier.is_gone(site)]:
                self._busy.discard(site)
                self._courier.cancel(site)
                self._deliver(self._driver.drop(self._numbers[site], now))
            self._deliver(self._driver.tick(now))
        elif result.site in self._busy:
            self._busy.discard(result.site)
            number = self._numbers[result.site]
            if result.message is None:
                if result.reason:
                    self._reasons[result.site] = result.reason
                self._deliver(self._driver.drop(number, now))
            else:
                self._up[result.site] += len(result.message)
                self._deliver(self._driver.data_received(number, result.message, now))

    def _deliver(self, deliveries: list[Delivery]) -> None:
        """Open the next round; sites that have not answered the last one take no part in it."""
        if not deliveries:
            return
        for site in sorted(self._busy):
            self._courier.cancel(site)
        self._busy.clear()
        for number, message in deliveries:
            site = self._sites[number]
            self._busy.add(site)
            self._down[site] += len(message)
            self._courier.send(site, self._driver.round, message)


def describe(report: TaskReport, num_sites: int, what: str = "the sum") -> str:
    """Return the session as one line for the log; ``what`` names its result."""
    left = ", ".join(
        f"{printable(site)} in {event.round.value} ({_REASONS.get(event.reason, event.reason.value)})"
        for site, event in sorted(report.dropped.items())
    )
    took = ", ".join(f"{round_.value} {seconds:.1f} s" for round_, seconds in report.seconds.items())
    match report.outcome:
        case Completed(included=included):
            head = f"{what} of {len(included)} of {num_sites} sites"
        case Aborted():
            head = f"no sum: {report.outcome}"
        case _:
            head = "no sum: the job was ended"
    return f"{head}{'; left: ' + left if left else ''}; {took}"


_REASONS = {
    DropReason.DISCONNECTED: "it failed, refused, or is gone",
    DropReason.DEADLINE: "its time was up",
}
