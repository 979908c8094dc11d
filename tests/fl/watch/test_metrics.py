"""The metrics measure what happened."""

from __future__ import annotations

import asyncio
import gc

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fl.watch import RoundFigures, Watch, serve_watch
from secagg import Aborted, Completed
from tests.fl.watch.sessions import get, run_session
from tests.support.sessions import make_params


def samples(text: bytes | str) -> dict[str, float]:
    """Return values by name, with labels as `name{label="value"}`."""
    text = text.decode() if isinstance(text, bytes) else text
    return {
        sample.name + "".join(f'{{{key}="{value}"}}' for key, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def send_garbage(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\xff" * 64)
    await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.mark.live
def test_metrics_agree_with_the_sessions_report() -> None:
    watch = Watch("digits", total_rounds=3, epsilon=8.0, delta=1e-5)
    phases = []

    def observer(host):
        watch.session(host)
        seen = watch.status()["session"]
        phases.append(tuple(seen[name] for name in ("phase", "invited", "survivors", "connected")))

    params = make_params(5, 3)
    watch.round_started(1, params)
    with serve_watch(watch, ("127.0.0.1", 0)) as server:
        report = run_session(watch, observer=observer, during=send_garbage)
        watch.round_ended(1, report.outcome, report.seconds, accuracy=0.5, loss=1.25, noise=0.125, epsilon=2.5)
        status, headers, body = get(f"{server.url}metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found, counters = samples(body), report.counters

    assert isinstance(report.outcome, Completed)
    assert found["secagg_received_bytes_total"] == counters.bytes_up > 0
    assert found["secagg_sent_bytes_total"] == counters.bytes_down > 0
    assert found["secagg_received_frames_total"] == counters.frames_up
    assert found["secagg_sent_frames_total"] == counters.frames_down
    assert found["secagg_connections_total"] == counters.connections == 4
    assert found["secagg_reconnects_total"] == counters.reconnects == 0
    assert found['secagg_drops_total{reason="deadline"}'] == len(report.dropped) == 1
    assert found['secagg_refusals_total{reason="bad-frame"}'] == report.refusals["bad-frame"] == 1
    assert found['secagg_sessions_total{outcome="completed"}'] == 1
    assert found['secagg_sessions_total{outcome="aborted"}'] == 0
    assert found["secagg_clients_invited"] == 5
    assert found["secagg_clients_surviving"] == found["secagg_clients_included"] == 4
    assert (found["secagg_round"], found["secagg_rounds_planned"]) == (1, 3)
    assert (found["secagg_accuracy_ratio"], found["secagg_loss"]) == (0.5, 1.25)
    assert found["secagg_rounding_noise_ratio"] == 0.125
    assert (found["secagg_epsilon"], found["secagg_epsilon_budget"]) == (2.5, 8.0)
    assert found['secagg_phase{phase="completed"}'] == 1
    assert found['secagg_run_info{name="digits"}'] == 1

    expected = ["advertise-keys", "share-keys", "masked-input-collection", "unmasking", "recovery"]
    assert list(dict.fromkeys(phase for phase, *_ in phases)) == [*expected, "completed"]
    assert {invited for _, invited, *_ in phases} == {5}
    assert {survivors for phase, _, survivors, _ in phases if phase != "advertise-keys"} == {4}
    assert max(connected for *_, connected in phases) == 4
    for phase in expected:
        assert found[f'secagg_phase_duration_seconds_count{{phase="{phase}"}}'] == 1
    durations = [found[f'secagg_phase_duration_seconds_sum{{phase="{phase}"}}'] for phase in expected]
    assert durations[0] >= 0.35, "the server waited for the absent client"
    assert found["secagg_recovery_seconds"] == durations[-1]
    assert sum(durations) == pytest.approx(found["secagg_session_duration_seconds_sum"], abs=0.05)
    assert found["secagg_session_duration_seconds_sum"] <= report.seconds


@pytest.mark.live
def test_sessions_add_up_and_a_session_that_is_over_is_let_go() -> None:
    watch = Watch("digits", total_rounds=2)
    first = run_session(watch)
    second = run_session(watch, absent=(0, 1, 2), seconds=0.2)
    gc.collect()
    assert isinstance(second.outcome, Aborted)
    found = samples(watch.metrics.text())
    assert found["secagg_received_bytes_total"] == first.counters.bytes_up + second.counters.bytes_up
    assert found["secagg_sent_frames_total"] == first.counters.frames_down + second.counters.frames_down
    assert found['secagg_drops_total{reason="deadline"}'] == len(first.dropped) + len(second.dropped)
    assert found['secagg_aborts_total{reason="too-few-clients"}'] == 1
    assert found['secagg_sessions_total{outcome="completed"}'] == 1
    assert found['secagg_phase_duration_seconds_count{phase="advertise-keys"}'] == 2
    refusals = first.refusals + second.refusals
    assert {name: found[f'secagg_refusals_total{{reason="{name}"}}'] for name in refusals} == dict(refusals)
    assert found["secagg_clients_connected"] == 0
    assert watch._session.host is not None
    assert watch._session.host() is None


def test_unmeasured_values_are_not_zeros() -> None:
    found = samples(Watch("digits", total_rounds=1).metrics.text())
    assert not {"secagg_accuracy_ratio", "secagg_loss", "secagg_recovery_seconds"} & found.keys()
    assert found['secagg_phase{phase="idle"}'] == 1
    # There from the start, so that the first one is seen as an increase.
    assert found['secagg_aborts_total{reason="too-few-shares"}'] == 0


@pytest.mark.live
def test_watches_share_nothing_and_no_label_is_a_client() -> None:
    before = prometheus_client.generate_latest()
    one, other = Watch("one", total_rounds=1), Watch("other", total_rounds=1)
    run_session(one)
    assert samples(other.metrics.text())["secagg_received_frames_total"] == 0
    assert b"secagg" not in before + prometheus_client.generate_latest()
    labels = {
        key
        for family in text_string_to_metric_families(one.metrics.text().decode())
        for sample in family.samples
        for key in sample.labels
    }
    assert labels == {"name", "phase", "reason", "outcome", "le", "version", "python", "cryptography"}


def test_rounds_of_an_earlier_process_are_shown_and_not_counted() -> None:
    watch = Watch("digits", total_rounds=3)
    watch.restore(RoundFigures(number=1, included=4, seconds=2.0, accuracy=0.4, loss=2.0))
    watch.restore(RoundFigures(number=2, included=0, seconds=1.0, aborted="too-few-clients"))
    seen = watch.status()
    assert [(round_["number"], round_["included"]) for round_ in watch.rounds()] == [(1, 4), (2, 0)]
    assert (seen["round"], seen["accuracy"], seen["state"]) == (2, 0.4, "running")
    assert not any(seen["totals"]["sessions"].values())
    found = samples(watch.metrics.text())
    assert found["secagg_last_completed_round"] == 1
    assert found['secagg_rounds_total{outcome="completed"}'] == 0
    watch.restore(RoundFigures(number=3, included=4, seconds=2.0))
    assert watch.status()["state"] == "finished"
