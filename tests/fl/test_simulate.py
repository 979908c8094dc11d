"""`secagg simulate`: exact sums, figures for each round, and clear refusals."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import secagg
from fl.commands.app import app
from fl.commands.simulate import parse_dropouts
from fl.errors import ConfigError
from fl.runs.simulation import MadeUpInputs, simulate
from secagg import Completed, GraphKind, Round
from transport import FaultSchedule
from transport.faults import ROUNDS_OF_EVERY_SESSION


def run(*options: str):
    return CliRunner().invoke(app, ["simulate", *options])


def test_the_json_has_what_each_round_cost_and_says_that_the_sum_is_exact() -> None:
    result = run("--clients", "20", "--length", "500", "--dropout", "masked-input-collection=0.2", "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["exact"] is True
    assert figures["included"] == 16
    assert figures["dropped"] == 4
    assert figures["peak_rss_bytes"] > 10_000_000
    assert set(figures["rounds"]) == {round_.value for round_ in ROUNDS_OF_EVERY_SESSION}
    masked = figures["rounds"]["MaskedInputCollection"]
    # 500 elements of 16 bits and five more for the sum of 20.
    assert masked["client_bytes_up"] == pytest.approx(500 * 21 / 8, abs=100)
    assert masked["client_seconds"] > 0
    assert masked["server_seconds"] > 0
    assert figures["seconds"] > 0


@pytest.mark.slow
def test_the_sparse_graph_and_the_table() -> None:
    result = run("--clients", "100", "--length", "50", "--graph", "sparse", "--corrupt", "0.05", "--dropout", "0.05")
    assert result.exit_code == 0, result.stderr
    assert "degree 12, threshold 6" in result.stdout
    assert "is exact" in result.stdout
    for round_ in ROUNDS_OF_EVERY_SESSION:
        assert round_.value[:15] in result.stdout
    assert Round.CONSISTENCY_CHECK.value not in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["complete", "sparse"])
def test_a_malicious_session_has_a_round_more(graph: str) -> None:
    options = ("--clients", "60", "--length", "50", "--graph", graph, "--adversary", "malicious", "--json")
    result = run(*options, "--dropout", "consistency-check=0.05")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["exact"] is True
    assert (figures["included"], figures["dropped"]) == (60, 3)
    assert set(figures["rounds"]) == {round_.value for round_ in Round}
    # A signature up; the others' down.
    assert figures["rounds"]["ConsistencyCheck"]["client_bytes_up"] == pytest.approx(64, abs=60)
    assert figures["rounds"]["Unmasking"]["client_bytes_down"] > 64 * figures["plan"]["threshold"]
    assert figures["plan"]["adversary"] == "malicious"


def test_a_sum_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = secagg.plan(num_clients=4, vector_length=10, value_bits=8)
    assert simulate(plan, FaultSchedule(), seed=0, workers=1).exact is True
    honest = MadeUpInputs.sum_of
    monkeypatch.setattr(MadeUpInputs, "sum_of", lambda self, ids: honest(self, ids) ^ np.uint64(1))
    assert simulate(plan, FaultSchedule(), seed=0, workers=1).exact is False


def test_inputs_are_the_same_each_time_and_fill_their_range() -> None:
    plan = secagg.plan(num_clients=4, vector_length=2000, value_bits=5, graph=GraphKind.COMPLETE)
    inputs = MadeUpInputs(plan, seed=3)
    assert np.array_equal(inputs(2), inputs(2))
    assert not np.array_equal(inputs(1), inputs(2))
    assert (int(inputs(1).min()), int(inputs(1).max())) == (0, 31)


def test_a_session_that_aborts_has_no_sum_to_check() -> None:
    # The planner refuses sessions that would abort; an explicit schedule does not ask it.
    plan = secagg.plan(num_clients=10, vector_length=5, value_bits=8)
    schedule = FaultSchedule.dropouts_by_round(range(10), {Round.SHARE_KEYS: 0.6}, seed=0)
    result = simulate(plan, schedule, seed=0, workers=1)
    assert result.exact is None
    assert not isinstance(result.report.outcome, Completed)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_simulation_that_aborts_has_failed_and_says_why(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    schedule = FaultSchedule.dropouts_by_round(range(10), {Round.SHARE_KEYS: 0.6}, seed=0)
    monkeypatch.setattr("fl.commands.simulate.FaultSchedule.dropouts_by_round", lambda *_, **__: schedule)
    options = ["simulate", "--clients", "10", "--length", "5", *(["--json"] if as_json else [])]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the session came to no sum: aborted in ShareKeys: fewer clients than the threshold")
    assert not as_json or json.loads(result.stdout)["error"] == line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dropout", "nowhere=0.1"], "unknown round 'nowhere'"),
        (["--dropout", "lots"], "'lots' is not a number"),
        (["--dropout", "1.5"], "at least 0 and below 1"),
        (["--dropout", "share-keys=0.1", "--dropout", "share-keys=0.1"], "has a fraction already"),
        (["--dropout", "share-keys=0.6", "--dropout", "unmasking=0.6"], "no client would be left"),
        (["--dropout", "0.7", "--graph", "complete"], "fewer than the threshold 51; a sparse graph allows it"),
        (["--seed", "-1"], "must not be negative"),
        (["--clients", "1"], "num_clients"),
        (["--bits", "65"], "value_bits is 65"),
        (["--graph", "star"], "unknown graph 'star'"),
        (["--adversary", "gods"], "unknown adversary 'gods'"),
        (
            ["--dropout", "consistency-check=0.1"],
            "--dropout ConsistencyCheck: --adversary honest-but-curious has no such round",
        ),
    ],
)
def test_mistakes_are_a_line_and_an_exit_code(options: list[str], message: str) -> None:
    result = run(*options)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_dropouts_by_round_and_over_all() -> None:
    assert parse_dropouts(["0.2"]) == dict.fromkeys(ROUNDS_OF_EVERY_SESSION, 0.05)
    assert parse_dropouts(["share-keys=0.2"]) == {Round.SHARE_KEYS: 0.2}
    with pytest.raises(ConfigError):
        parse_dropouts(["0.2", "unmasking=0.1"])


@pytest.mark.live
@pytest.mark.parametrize("clients", ["3", "3,4"])
def test_it_does_without_torch(clients: str) -> None:
    """The protocol alone is measured, and torch would take most of the memory."""
    code = (
        f"import sys; sys.argv = ['secagg', 'simulate', '--clients', '{clients}', '--length', '5', '--json']\n"
        "import fl.__main__\n"
        "try:\n    fl.__main__.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)  # noqa: S603
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures.get("exact", True) is True
    assert len(figures.get("sessions", [figures])) == len(clients.split(","))
