"""The figures of a `Watch` as Prometheus metrics.

The registry is the watch's own, so two trainings in one process do not mix and importing this changes nothing. Labels
are reasons, phases and outcomes, of which there is a fixed number; never a client, of which there may be any.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fl.watch.figures import IDLE, PHASES, Snapshot, Totals
from fl.watch.histogram import Durations
from fl.watch.state import Watch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The text that Prometheus scrapes. With the process's own metrics, such as `process_resident_memory_bytes`."""

    def __init__(self, watch: Watch) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_WatchCollector(watch))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics as they are now."""
        return generate_latest(self._registry)


class _WatchCollector(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        # One snapshot, so that the figures of one scrape belong together.
        snapshot = self._watch.snapshot()
        yield InfoMetricFamily("secagg_run", "What is trained.", {"name": snapshot.run})
        yield from _gauges(snapshot)
        yield from _counters(snapshot.totals)
        yield _histogram(
            "secagg_phase_duration_seconds",
            "How long phases took, from the first commit in it to the first after it.",
            "phase",
            snapshot.totals.phase_seconds,
        )
        sessions = HistogramMetricFamily("secagg_session_duration_seconds", "How long sessions took.")
        sessions.add_metric([], snapshot.totals.session_seconds.cumulative(), snapshot.totals.session_seconds.total)
        yield sessions


def _gauges(snapshot: Snapshot) -> Iterator[Metric]:
    session = snapshot.session
    phase = GaugeMetricFamily("secagg_phase", "1 for the phase that the session is in, 0 for others.", labels=["phase"])
    for name in PHASES:
        phase.add_metric([name], name == session.phase)
    yield phase
    noise = next((one.noise for one in reversed(snapshot.rounds) if one.noise is not None), None)
    plain: dict[str, tuple[str, float | None]] = {
        "round": ("The round that runs, or ran last; from 1.", snapshot.round),
        "rounds_planned": ("The rounds that are to be run.", snapshot.total_rounds),
        "clients_invited": ("Clients that may take part in the session.", session.invited),
        "clients_surviving": ("Those of them that were not dropped.", session.survivors),
        "clients_connected": ("Those of them that have a connection now.", session.connected),
        "clients_included": ("Clients whose inputs are in the last session's sum.", session.included),
        "clients_waiting": ("Enrolled clients that wait for a session.", snapshot.waiting_clients),
        "connections_open": ("Open connections of clients that have shown who they are.", snapshot.open_connections),
        "messages_received": ("Clients whose message of this phase is in.", session.received),
        "messages_pending": ("Clients whose message of this phase is awaited.", session.pending),
        "messages_needed": ("Messages without which this phase ends in an abort.", session.needed),
        "accuracy_ratio": ("The model's accuracy when it was last measured, 0 to 1.", snapshot.accuracy),
        "loss": ("The model's loss when it was last measured.", snapshot.loss),
        "rounding_noise_ratio": ("Rounding noise over the mean update, in the last round that had one.", noise),
        "recovery_seconds": ("How long the last recovery of masks took.", snapshot.recovery_seconds),
    }
    for name, (text, value) in plain.items():
        # What was not measured is left out, since 0 would be a measurement.
        if value is not None:
            yield GaugeMetricFamily(f"secagg_{name}", text, value)
    expiry = GaugeMetricFamily(
        "secagg_certificate_expiry_timestamp_seconds",
        "When a certificate in use runs out, in Unix time: the server's, and the first of its authorities'.",
        labels=["certificate"],
    )
    for whose, at in snapshot.certificate_expiry.items():
        expiry.add_metric([whose], at)
    yield expiry
    yield GaugeMetricFamily(
        "secagg_start_time_seconds", "When watching began, in Unix time.", snapshot.started.timestamp()
    )


def _counters(totals: Totals) -> Iterator[Metric]:
    traffic = totals.traffic
    plain: dict[str, tuple[str, float]] = {
        "received_bytes": ("Bytes of the clients' frames.", traffic.bytes_up),
        "sent_bytes": ("Bytes of the frames to clients.", traffic.bytes_down),
        "received_frames": ("The clients' frames.", traffic.frames_up),
        "sent_frames": ("Frames to clients.", traffic.frames_down),
        "connections": ("Connections that clients made.", traffic.connections),
        "reconnects": ("Those of them by clients that had been connected to the session before.", traffic.reconnects),
        "repeated_messages": ("Messages that came again after a reconnect.", traffic.repeated),
        "journal_commits": ("Commits that wrote to the journal.", traffic.commits),
    }
    for name, (text, value) in plain.items():
        yield CounterMetricFamily(f"secagg_{name}", text, value)
    yield _labelled("secagg_sessions", "Sessions that ended, by outcome.", "outcome", totals.sessions)
    yield _labelled("secagg_drops", "Clients that sessions went on without, by reason.", "reason", totals.drops)
    yield _labelled("secagg_aborts", "Sessions that ended without a sum, by reason.", "reason", totals.aborts)
    yield _labelled("secagg_refusals", "Connections refused or cut off, by reason.", "reason", totals.refusals)


def _labelled(name: str, text: str, key: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[key])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


def _histogram(name: str, text: str, key: str, values: Mapping[str, Durations]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=[key])
    for value in PHASES:
        if value != IDLE and value in values:
            family.add_metric([value], values[value].cumulative(), values[value].total)
    return family
