"""A served training as its operator sees it: events by their schema, metrics, health checks."""

from __future__ import annotations

import json
import logging
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fl.errors import ConfigError
from fl.network.errors import NetworkError
from fl.network.policy import Policy
from tests.fl.network.harness import CLIENTS, Client, Deployment, until
from tests.fl.watch.schema import events_of
from transport import Deadlines

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    return Deployment(tmp_path, monkeypatch)


def asked(deployment: Deployment, path: str) -> tuple[int, bytes]:
    """Return status and body from the page's server, which may still be starting."""
    until(lambda: any(line.startswith("watch it at ") for line in deployment.output))
    url = next(line.split()[-1] for line in deployment.output if line.startswith("watch it at "))
    try:
        with urllib.request.urlopen(f"{url}{path}", timeout=5) as answer:  # noqa: S310 - our own
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_an_operator_sees_declines_with_reasons_retries_and_the_end(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, "fl.events")
    config = deployment.config(rounds=1, epochs=40, clip=1.0)
    good: list[Client] = []
    seen: dict[str, Any] = {}

    def beside() -> None:
        assert asked(deployment, "healthz") == (200, b'{"alive": true, "reasons": []}')
        assert asked(deployment, "readyz") == (200, b'{"ready": true, "reasons": []}')
        declining = [deployment.client(i, config, policy=Policy(max_epochs=10)) for i in range(3)]
        for client in declining:
            client.start()
        for client in declining:
            with pytest.raises(NetworkError, match="40 epochs"):
                client.finish()
        until(lambda: any("declined" in line for line in deployment.output))
        status = json.loads(asked(deployment, "status.json")[1])
        seen["declines"], seen["absent"] = status["session"]["declines"], status["absent_clients"]
        families = text_string_to_metric_families(asked(deployment, "metrics")[1].decode())
        seen["metrics"] = {
            (sample.name, sample.labels.get("reason")): sample.value for one in families for sample in one.samples
        }
        for i in range(CLIENTS - 1):
            good.append(deployment.client(i, config))
            good[-1].start()

    deadlines = Deadlines(advertise_keys=1.5, share_keys=5, masked_input_collection=5, unmasking=5)
    options = deployment.options(deadlines=deadlines, give_up=None, watch=("127.0.0.1", 0))
    finished = deployment.run_beside(config, beside, options=options)
    for client in good:
        client.finish()
    assert finished.summary["included"] == [CLIENTS - 1]

    assert seen["declines"] == [["40 epochs, but this client does at most 10", 3]]
    assert seen["absent"] == CLIENTS
    assert seen["metrics"]["secagg_declines_total", "epochs"] == 3
    assert seen["metrics"]["secagg_retries_total", None] == 1
    assert seen["metrics"]["secagg_aborts_total", "too-few-clients"] == 1
    assert 0 <= seen["metrics"]["secagg_event_loop_lag_seconds", None] < 10

    events = [event for event in events_of(caplog.records) if event["logger"] == "fl.events"]
    names = [event["event"] for event in events]
    assert [names[0], names[-1]] == ["run_started", "run_ended"]
    assert names.count("client_declined") == 3
    (retried,) = [event for event in events if event["event"] == "round_retried"]
    assert (retried["attempt"], retried["retries"]) == (1, 1)
    assert "3 clients declined: 40 epochs" in retried["reason"]
    ends = [event for event in events if event["event"] == "session_ended"]
    # The round's bounds are measured in their own session.
    assert [event["reason"] for event in ends] == ["too-few-clients", None, None]
    (over,) = [event for event in events if event["event"] == "round_ended"]
    assert (over["aborted"], over["included"]) == (None, CLIENTS - 1)
    assert {event.get("round", 1) for event in events} == {1}


def test_without_the_extra_the_page_says_what_to_install(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fl.watch.server", raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(ConfigError, match=r"--watch needs starlette.*pip install '\.\[serve\]'"):
        deployment.run_beside(
            deployment.config(rounds=1), lambda: None, options=deployment.options(watch=("127.0.0.1", 0))
        )
