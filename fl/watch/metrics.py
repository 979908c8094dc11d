"""The metrics of one training for Prometheus.

The registry belongs to the training, so two trainings in one process stay apart. Labels are phases, outcomes and
reasons from fixed lists, never clients.
"""

import platform
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fl.watch.events import DECLINE_REASONS, PHASES, label
from secagg import AbortReason, DropReason
from transport.durable.links import Counters

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""The buckets of durations: from a phase on loopback to the longest deadline for slow clients."""

_TRAFFIC: Final = {
    "bytes_up": ("received_bytes", "Bytes of the clients' frames."),
    "bytes_down": ("sent_bytes", "Bytes of the frames to clients."),
    "frames_up": ("received_frames", "The clients' frames."),
    "frames_down": ("sent_frames", "Frames to clients."),
    "connections": ("connections", "Connections that clients made."),
    "reconnects": ("reconnects", "Connections by clients that had been connected to the same session before."),
    "repeated": ("repeated_messages", "Messages that clients sent again after a reconnect."),
    "commits": ("journal_commits", "Commits that wrote to the journal."),
}

# By name: the path in the status, and the help text.
_GAUGES: Final = {
    "round": ("round", "Number of the running round, or of the last one; from 1."),
    "rounds_planned": ("total_rounds", "The planned number of rounds."),
    "clients_invited": ("session.invited", "Clients that may take part in the session."),
    "clients_surviving": ("session.survivors", "Clients of the session that were not dropped."),
    "clients_connected": ("session.connected", "Clients of the session that have a connection now."),
    "clients_included": ("session.included", "Clients whose inputs are in the last session's sum."),
    "clients_waiting": ("waiting_clients", "Enrolled clients that wait for a session."),
    "clients_absent": ("absent_clients", "Enrolled clients that neither wait for a session nor are connected to one."),
    "connections_open": ("open_connections", "Open connections of authenticated clients."),
    "messages_received": ("session.received", "Clients whose message of this phase has arrived."),
    "messages_pending": ("session.pending", "Clients whose message of this phase is awaited."),
    "messages_needed": ("session.needed", "Messages that this phase needs; with fewer the session is aborted."),
    "bytes_in_flight": ("session.bytes_in_flight", "Bytes of large messages that clients may send now."),
    "event_loop_lag_seconds": ("event_loop_lag_seconds", "Seconds that the server's event loop is late."),
    "accuracy_ratio": ("accuracy", "The model's accuracy when it was last measured, 0 to 1."),
    "loss": ("loss", "The model's loss when it was last measured."),
    "rounding_noise_ratio": ("noise", "Rounding noise divided by the mean update, in the last round that had one."),
    "epsilon": ("epsilon", "The epsilon that a private training has spent."),
    "epsilon_budget": ("epsilon_budget", "The epsilon that a private training may spend."),
    "recovery_seconds": ("recovery_seconds", "Duration of the last recovery of masks."),
}


class Metrics:
    """The metrics that Prometheus scrapes, with the process's own, such as `process_resident_memory_bytes`.

    Args:
        run_name: the name of the training.
        status: returns the present figures; `fl.watch.Watch.status`.

    Attributes:
        last_round: the last round with a result, also of an earlier process.
    """

    def __init__(self, run_name: str, status: Callable[[], dict[str, Any]]) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._counters = self._seen = Counters()

        def labelled(name: str, text: str, key: str, values: Iterator[str] | tuple[str, ...]) -> Counter:
            counter = Counter(f"secagg_{name}", text, [key], registry=registry)
            for value in values:
                # Start at 0, so that Prometheus sees the first event as an increase.
                counter.labels(value)
            return counter

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"secagg_{name}_seconds", text, labels, registry=registry, buckets=SECONDS)

        outcomes = ("completed", "aborted")
        self._sessions = labelled("sessions", "Sessions that ended, by outcome.", "outcome", outcomes)
        self._rounds = labelled("rounds", "Rounds that ended, by outcome.", "outcome", outcomes)
        self._aborts = labelled("aborts", "Sessions without a sum, by reason.", "reason", map(label, AbortReason))
        self._drops = labelled("drops", "Clients that sessions dropped, by reason.", "reason", map(label, DropReason))
        self._declines = labelled("declines", "Clients that declined a session, by reason.", "reason", DECLINE_REASONS)
        self._retries = Counter(
            "secagg_retries", "Sessions begun because the one before was aborted.", registry=registry
        )
        self._phase_seconds = seconds(
            "phase_duration", "Duration of phases, from the first commit in a phase to the first after it.", "phase"
        )
        self._session_seconds = seconds("session_duration", "Duration of sessions.")
        self._round_seconds = seconds("round_duration", "Duration of rounds, without the test of the model.")
        self._traffic = {
            field: Counter(f"secagg_{name}", text, registry=registry) for field, (name, text) in _TRAFFIC.items()
        }
        Info("secagg_run", "The name of the training.", registry=registry).info({"name": run_name})
        Info("secagg_build", "The versions of the running software.", registry=registry).info(_versions())
        Gauge("secagg_start_time_seconds", "Start of watching, in Unix time.", registry=registry).set_to_current_time()
        self.last_round = Gauge("secagg_last_completed_round", "The last round with a result.", registry=registry)
        self._last_time = Gauge(
            "secagg_last_completed_round_timestamp_seconds",
            "Time of the last round with a result, in Unix time; before the first, the start of watching.",
            registry=registry,
        )
        self._last_time.set_to_current_time()
        registry.register(_Now(status))
        ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def traffic(self, counters: Counters) -> bool:
        """Add a session's counts since the last call; return whether the session is a new one."""
        is_new = counters is not self._counters
        if is_new:
            self._counters, self._seen = counters, Counters()
        for field, counter in self._traffic.items():
            if more := getattr(counters, field) - getattr(self._seen, field):
                counter.inc(more)
        self._seen = copy(counters)
        return is_new

    def session_traffic(self, *, has_begun: bool) -> dict[str, int]:
        """Return the counts of the session of the last `traffic` call; zeros if the present one has not begun."""
        return {field: getattr(self._seen, field) if has_begun else 0 for field in self._traffic}

    def count(self, event: str, fields: Mapping[str, Any]) -> None:
        """Count an event of `fl.watch.Events`."""
        match event:
            case "phase_ended":
                self._phase_seconds.labels(fields["phase"]).observe(fields["seconds"])
            case "clients_dropped":
                self._drops.labels(fields["reason"]).inc(fields["count"])
            case "client_declined":
                self._declines.labels(fields["reason"]).inc()
            case "round_retried":
                self._retries.inc()
            case "session_ended":
                self._sessions.labels(fields["outcome"]).inc()
                self._session_seconds.observe(fields["seconds"])
                if fields["reason"] is not None:
                    self._aborts.labels(fields["reason"]).inc()
            case "round_ended":
                self._rounds.labels("completed" if fields["aborted"] is None else "aborted").inc()
                self._round_seconds.observe(fields["seconds"])
                if fields["aborted"] is None:
                    self._last_time.set_to_current_time()


class _Now(Collector):
    """Metrics that are read at each scrape, all from one status, so that they are consistent."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for name, (path, text) in _GAUGES.items():
            value: Any = status
            for key in path.split("."):
                value = value[key]
            # Without a measurement leave the metric out: 0 would look like a measurement.
            if value is not None:
                yield GaugeMetricFamily(f"secagg_{name}", text, value)
        phase = GaugeMetricFamily("secagg_phase", "1 for the phase that the session is in, else 0.", labels=["phase"])
        for name in PHASES:
            phase.add_metric([name], name == status["session"]["phase"])
        expiry = GaugeMetricFamily(
            "secagg_certificate_expiry_timestamp_seconds",
            "Expiry of a certificate in use, in Unix time: the server's, and the earliest of its authorities'.",
            labels=["certificate"],
        )
        for whose, at in status["certificate_expiry"].items():
            expiry.add_metric([whose], at)
        refusals = CounterMetricFamily(
            "secagg_refusals", "Connections refused or closed, by reason.", labels=["reason"]
        )
        for reason, count in sorted(status["totals"]["refusals"].items()):
            refusals.add_metric([reason], count)
        yield from (phase, expiry, refusals)


def _versions() -> dict[str, str]:
    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"

    return {"version": of("secagg-fl"), "python": platform.python_version(), "cryptography": of("cryptography")}
