"""Events: one schema, which real sessions keep to, without secret values."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from fl.watch import Events, Watch
from fl.watch.events import DECLINE_REASONS, PHASES, decline_reason, label
from secagg import AbortReason, Adversary, DropReason, GraphKind, PolicyError, ServerPhase, SessionPolicy
from tests.fl.watch.schema import SCHEMA, check, events_of
from tests.fl.watch.sessions import StubHost, run_session
from tests.support.sessions import make_params, random_inputs

ROOT = Path(__file__).parents[3]

CURIOUS = Adversary.HONEST_BUT_CURIOUS
SESSION = ["phase_started", "phase_ended"] * 5


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, "fl.events")


def written(events: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] in names]


@pytest.mark.live
def test_a_session_is_reported_from_its_first_phase_to_its_end(caplog) -> None:
    events = Events("digits", total_rounds=3)
    events.run_started(5, 0)
    events.round_started(1, make_params(5, 3))
    events.clients_awaited(1, 2, 4)
    report = run_session(Watch("unused", 1), observer=events.session)
    events.round_ended(1, report.outcome, report.seconds, accuracy=0.5, loss=float("nan"))
    events.run_ended(1, "interrupted")
    told = events_of(caplog.records)
    names = [event["event"] for event in told if event["logger"] == "fl.events"]
    assert names == [
        *("run_started", "round_started", "clients_awaited", "phase_started", "clients_dropped"),
        *SESSION[1:],
        *("session_ended", "round_ended", "run_ended"),
    ]
    phases = ["advertise-keys", "share-keys", "masked-input-collection", "unmasking", "recovery"]
    for name in ("phase_started", "phase_ended"):
        assert [event["phase"] for event in written(told, name)] == phases
    (awaited,) = written(told, "clients_awaited")
    assert (awaited["round"], awaited["present"], awaited["needed"]) == (1, 2, 4)
    (drop,) = written(told, "clients_dropped")
    assert (drop["phase"], drop["reason"], drop["count"], drop["client_ids"]) == ("advertise-keys", "deadline", 1, [4])
    (session,) = written(told, "session_ended")
    assert (session["outcome"], session["reason"], session["included"]) == ("completed", None, 4)
    (ended,) = written(told, "round_ended")
    assert (ended["round"], ended["included"], ended["invited"], ended["loss"]) == (1, 4, 5, None)
    assert ended["phases"].keys() == set(phases)
    assert {event["level"] for event in told} == {"INFO", "WARNING"}
    assert [event["event"] for event in told if event["level"] == "WARNING"] == ["run_ended"]


@pytest.mark.live
def test_an_abort_says_why(caplog) -> None:
    watch = Watch("digits", total_rounds=1)
    watch.round_started(1, make_params(5, 3))
    report = run_session(watch, absent=(0, 1, 2), seconds=0.2)
    watch.round_retried(1, 1, 3, "too few")
    watch.round_ended(1, report.outcome, report.seconds)
    told = events_of(caplog.records)
    (session,) = written(told, "session_ended")
    assert (session["outcome"], session["reason"], session["level"]) == ("aborted", "too-few-clients", "WARNING")
    assert session["message"] == f"round 1: the session was {report.outcome}"
    (ended,) = written(told, "round_ended")
    assert (ended["aborted"], ended["included"], ended["level"]) == ("too-few-clients", 0, "WARNING")
    assert sum(event["count"] for event in written(told, "clients_dropped")) == len(report.dropped)


def test_a_client_that_declines_is_named_once_with_what_it_says(caplog) -> None:
    watch = Watch("digits", total_rounds=1)
    drops: dict[int, Any] = {}
    progress = SimpleNamespace(phase=ServerPhase.ADVERTISE_KEYS, received=0, pending=3, needed=2)
    host: Any = StubHost(declined={1: "400 epochs, but this client does at most 10"}, dropped=drops, progress=progress)
    for _ in range(2):
        watch.session(host)  # type: ignore[arg-type]
    host.declined[2] = ""
    watch.session(host)  # type: ignore[arg-type]
    declined = written(events_of(caplog.records), "client_declined")
    assert [(event["client_id"], event["reason"], event["told"]) for event in declined] == [
        (1, "epochs", "400 epochs, but this client does at most 10"),
        (2, "unstated", ""),
    ]
    assert watch.status()["session"]["declined"] == 2
    assert 'secagg_declines_total{reason="epochs"} 1.0' in watch.metrics.text().decode()


@pytest.mark.live
def test_at_most_a_hundred_clients_are_named(caplog) -> None:
    watch = Watch("digits", total_rounds=1)
    run_session(watch, clients=130, threshold=3, absent=tuple(range(120)), seconds=0.6)
    (drop,) = written(events_of(caplog.records), "clients_dropped")
    assert (drop["count"], drop["client_ids"]) == (120, list(range(100)))


@pytest.mark.live
def test_no_event_holds_any_part_of_an_input(caplog) -> None:
    params = make_params(5, 3)
    watch = Watch("digits", total_rounds=1)
    watch.round_started(1, params)
    report = run_session(watch)
    watch.round_ended(1, report.outcome, report.seconds)
    everything = "\n".join(json.dumps(event) for event in events_of(caplog.records))
    for vector in (*random_inputs(params, seed=0).values(), report.outcome.sum):  # type: ignore[union-attr]
        assert ", ".join(map(str, vector[:3].tolist())) not in everything


@pytest.mark.parametrize(
    "change",
    [
        {"event": "unheard_of"},
        {"client_ids": list(range(101))},
        {"reason": "a text of anybody's"},
        {"vector": [1, 2, 3]},
        {"round": None},
    ],
)
def test_the_schema_refuses_undocumented_fields(change: dict[str, Any]) -> None:
    good = {
        "time": "2026-03-01T12:00:00.123Z",
        "level": "INFO",
        "logger": "fl.events",
        "message": "",
        "event": "clients_dropped",
        "round": 1,
        "phase": "share-keys",
        "reason": "deadline",
        "count": 1,
        "client_ids": [4],
    }
    check(json.dumps(good))
    with pytest.raises(jsonschema.ValidationError):
        check(json.dumps(good | change))


def test_the_schema_has_all_reasons_and_phases() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    definitions = SCHEMA["$defs"]
    assert definitions["drop"]["enum"] == [label(reason) for reason in DropReason]
    assert definitions["abort"]["enum"] == [label(reason) for reason in AbortReason]
    assert definitions["decline"]["enum"] == list(DECLINE_REASONS)
    assert definitions["phase"]["enum"] == [name for name in PHASES if name not in ("idle", "completed", "aborted")]


def test_every_event_of_the_code_is_in_the_schema_and_the_documentation() -> None:
    named: set[str] = set()
    for package in ("fl", "transport"):
        for path in (ROOT / package).rglob("*.py"):
            if "encrypted" not in path.parts:
                named |= set(re.findall(r'(?:"event": |_tell\(\s*)"(\w+)"', path.read_text()))
    schema = SCHEMA["$defs"]["event"]
    assert set(schema["properties"]["event"]["enum"]) == named
    described = [case["if"]["properties"]["event"]["const"] for case in schema["allOf"]]
    assert described == schema["properties"]["event"]["enum"]
    page = (ROOT / "docs" / "how-to" / "deployment.md").read_text()
    (logs,) = re.findall(r"(?ms)^### Logs$(.*?)^## ", page)
    assert named <= set(re.findall(r"`(\w+)`", logs))


@pytest.mark.parametrize(
    ("policy", "params", "reason"),
    [
        (SessionPolicy(), {"adversary": CURIOUS}, "mode"),
        (SessionPolicy(min_inputs=4), {}, "min-inputs"),
        (SessionPolicy(max_elements=2), {}, "size"),
        (SessionPolicy(adversary=CURIOUS, min_inputs=2), {"threshold": 2, "adversary": CURIOUS}, "graph"),
        (SessionPolicy(), {"modular": True}, "modular"),
        (SessionPolicy(graph=GraphKind.COMPLETE), {"num_clients": 9, "degree": 4}, "graph"),
        (SessionPolicy(graph=GraphKind.SPARSE, min_inputs=2, corrupt=0.2), {"num_clients": 100, "degree": 4}, "graph"),
    ],
)
def test_each_reason_of_a_policy_has_its_own_label(policy: SessionPolicy, params: dict[str, Any], reason: str) -> None:
    values = {"num_clients": 5, "threshold": 3, "adversary": Adversary.MALICIOUS} | params
    offered = make_params(values.pop("num_clients"), values.pop("threshold"), **values)
    with pytest.raises(PolicyError) as error:
        policy.check(offered)
    assert decline_reason(str(error.value)) == reason


def test_unknown_words_do_not_become_labels() -> None:
    assert decline_reason("I do not like the weather") == "other"
    assert decline_reason("") == "unstated"


@pytest.mark.slow
def test_events_do_not_need_the_page() -> None:
    """`secagg serve` without --watch runs without the extra."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('prometheus_client', 'starlette', 'uvicorn')))\n"
        "import fl.network.server; from fl.watch import Events, configure_logging; Events('x', 1)"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
