"""Alerts, dashboard and documentation name the existing metrics; their own tools read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from fl.watch import Watch
from secagg import Aborted, AbortReason, Round
from tests.fl.watch.sessions import run_session

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "dashboard.json").read_text())

NAME = re.compile(r"\b(?:secagg|process)_[a-z_]+\b")


class _Listener:
    """The state of a listening server."""

    addresses = (("127.0.0.1", 7000),)
    num_connections, num_waiting, num_enrolled = 1, 1, 3
    refusals: ClassVar = Counter({"expired": 1})
    certificate_expiry: ClassVar = {"server": 2e9, "authority": 2e9}


@pytest.fixture(scope="module")
def exported() -> bytes:
    """Return all metrics that can be exported."""
    watch = Watch("digits", total_rounds=2, epsilon=8.0, delta=1e-5)
    run_session(watch)
    watch.listener(_Listener())
    watch.round_ended(1, None, 1.0, accuracy=0.5, loss=1.0, noise=0.1, epsilon=2.5)
    watch.round_ended(2, Aborted(AbortReason.TOO_FEW_CLIENTS, Round.UNMASKING, 3, 2), 1.0)
    watch._pulse = _Turning()  # type: ignore[assignment]
    return watch.metrics.text()


class _Turning:
    def lag(self) -> float:
        return 0.01


@pytest.fixture(scope="module")
def names(exported: bytes) -> set[str]:
    """Return names of samples."""
    return {sample.name for family in text_string_to_metric_families(exported.decode()) for sample in family.samples}


@pytest.fixture
def promtool() -> str:
    command = shutil.which("promtool")
    if command is None:
        pytest.skip("no promtool; apt-get install prometheus")
    return command


def run(*command: str | Path, stdin: bytes = b"") -> bytes:
    """Run a tool; return its output."""
    done = subprocess.run(  # noqa: S603 - the system's
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """Return the dashboard's queries, with its variables filled in."""
    filled = {"$job": "secagg", "$instance": ".*", "$__rate_interval": "5m"}
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    for variable, value in filled.items():
        found = [query.replace(variable, value) for query in found]
    return found


def test_alerts_name_metrics_that_are_exported(names: set[str]) -> None:
    expressions = re.findall(r"(?ms)^ +expr: (.*?)^ +(?:for|labels):", (DEPLOY / "alerts.yaml").read_text())
    assert len(expressions) == 11
    used = set(NAME.findall(" ".join(expressions)))
    assert len(used) >= 12
    assert used <= names


def test_the_dashboard_names_metrics_that_are_exported(names: set[str]) -> None:
    used = set(NAME.findall(" ".join(queries())))
    assert len(used) >= 40
    assert used <= names


def test_documentation_and_metrics_name_the_same(names: set[str]) -> None:
    page = (ROOT / "docs" / "how-to" / "deployment.md").read_text()
    named = re.findall(r"`(secagg_\w+)(?:\{[\w,]*\})?`", page)
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if not name.endswith("_created")}
    assert set(named) == {name for name in families if name.startswith("secagg_")}


def test_the_dashboard_is_one_by_grafanas_own_model() -> None:
    """A field that is unknown, or in the wrong place, does not come back; defaults are added."""
    register_default_plugins()

    def comes_back(dashboard: dict[str, Any]) -> bool:
        return is_in(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard))))

    assert comes_back(DASHBOARD)
    assert not comes_back({**DASHBOARD, "panles": []})
    panel = next(panel for panel in panels() if panel["type"] == "timeseries")
    assert not comes_back({**DASHBOARD, "panels": [{**panel, "fieldConfig": {"units": "s"}}]})


def is_in(ours: Any, theirs: Any) -> bool:
    """Return whether both are equal apart from added fields."""
    if isinstance(ours, dict):
        return all(key in theirs and is_in(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(is_in, ours, theirs))
    return bool(ours == theirs)


def test_panels_lie_side_by_side_and_are_described() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not own & cells
        assert max(x for x, _ in own) < 24
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            # Only those of the one job, however many jobs this Prometheus has.
            assert target["expr"].count("{job=") >= 1


def test_promtool_takes_the_alerts_and_their_tests_pass(promtool: str) -> None:
    assert b"11 rules found" in run(promtool, "check", "rules", DEPLOY / "alerts.yaml")
    assert b"SUCCESS" in run(promtool, "test", "rules", DEPLOY / "alerts.test.yaml")


def test_promtool_takes_the_queries_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"q{number}", "expr": query} for number, query in enumerate(queries())]
    path = tmp_path / "queries.yaml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found".encode() in run(promtool, "check", "rules", path)


def test_promtool_finds_no_fault_in_the_metrics(promtool: str, exported: bytes) -> None:
    assert run(promtool, "check", "metrics", stdin=exported) == b""
