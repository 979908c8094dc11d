"""`secagg study` and `fl.study`: refusals, kept runs, and that a run equals that of `secagg train`."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import fl
from fl.errors import ConfigError
from fl.experiments.federated import FederatedArm
from fl.experiments.workers import ExperimentError
from fl.runs.checkpoint import RunFolder
from fl.studies.running import StudyFolder
from fl.studies.tables import ROUND_COLUMNS, RUN_COLUMNS
from tests.fl.experiments.test_experiment_command import children_of, wait_for, wait_until_gone
from tests.fl.runs import REPOSITORY, assert_refused, command, environment, invoke, untimed

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

SMALL: dict[str, Any] = {"model": "logistic", "rounds": 2, "epochs": 1}
FILE = """
seeds = 2
rounds = 2
[data]
model = "logistic"
[local]
epochs = 1
[grid]
dropout = [0.0, 0.25]
clients = [4, 6]
"""


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def study_file(path: Path, text: str = FILE) -> Path:
    (path / "study.toml").write_text(text)
    return path / "study.toml"


@pytest.mark.parametrize(
    "damage",
    [
        {"headline": "x", "seconds": 1.0},
        {"headline": "x", "seconds": 1.0, "parameters": "many", "personal": {}},
        {"headline": "x", "seconds": 1.0, "parameters": 650, "personal": [1]},
        "[" * 100_000,
    ],
    ids=["no parameters", "parameters", "personal", "nested"],
)
def test_a_damaged_result_is_named_with_its_remedy(tmp_path: Path, damage: Any) -> None:
    file, out = study_file(tmp_path, FILE.replace("[0.0, 0.25]", "[0.0]").replace("[4, 6]", "[4]")), tmp_path / "out"
    assert invoke("study", file, "--out", out, "--jobs", 1).exit_code == 0
    stored = next(out.glob("runs/*/result.json"))
    stored.write_text(damage if isinstance(damage, str) else json.dumps(damage))
    assert_refused(invoke("study", file, "--out", out, "--jobs", 1), "result.json is")


def test_ctrl_c_while_a_study_starts_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `check` makes each cell's model, before anything is trained."""

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyFolder, "check", interrupt)
    done = invoke("study", study_file(tmp_path), "--out", tmp_path / "out")
    assert done.exit_code == 130
    assert "interrupted; the same command goes on with it" in done.stderr


def test_a_study_gives_tables_figures_and_runs_as_train_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke("study", study_file(tmp_path), "--out", out, "--jobs", 1, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["outcomes"] == {"finished": 8}
    assert sorted(Path(file).name for file in summary["files"]) == ["final.png", "rounds.csv", "rounds.png", "runs.csv"]
    assert "8/8  dropout 0.25, clients 6, seed 1: " in result.stderr
    runs, rounds = rows_of(out / "runs.csv"), rows_of(out / "rounds.csv")
    assert (len(runs), len(rounds)) == (8, 16)
    assert {*runs[0]} == {*RUN_COLUMNS, "dropout", "clients"}
    assert {*rounds[0]} == {*ROUND_COLUMNS, "dropout", "clients"}
    assert [float(row["accuracy"]) for row in runs] == [row["accuracy"] for row in summary["runs"]]
    # The same run as that of `secagg train`, to the bit.
    row = runs[-1]
    alone = tmp_path / "alone"
    options = {**SMALL, "dropout": row["dropout"], "clients": row["clients"], "seed": row["seed"], "threads": 1}
    trained = invoke(
        "train", "--out", alone, *(word for name, value in options.items() for word in (f"--{name}", value))
    )
    assert trained.exit_code == 0, trained.output
    records = [RunFolder(path).restore([], 2) for path in (alone, out / "runs" / row["run"] / "run")]
    assert [untimed(record) for record in records[0]] == [untimed(record) for record in records[1]]
    assert [float(one["accuracy"]) for one in rounds[-2:]] == [record.accuracy for record in records[0]]
    assert [int(one["included"]) for one in rounds[-2:]] == [len(record.included) for record in records[0]]


def test_finished_runs_are_kept_when_the_grid_grows(tmp_path: Path) -> None:
    first = fl.study({"clients": [4]}, out=tmp_path, jobs=1, **SMALL)
    (before,) = first.runs
    seen: list[str] = []
    larger = StudyFolder(fl.studies.grid.Study(settings=SMALL, axes={"clients": [4, 6]}, seeds=(0,)), tmp_path)
    with larger.opened():
        larger.check()
        larger.train(jobs=1, listen=lambda event: seen.append(event.arm))
        after = larger.save()
    assert after.runs[0] == before
    assert set(seen) == {after.runs[1]["run"]}
    assert [row["clients"] for row in after.rounds] == [4, 4, 6, 6]


def test_cells_that_are_impossible_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = FILE.replace("0.25", "0.75").replace("[grid]", '[grid]\npartition = ["iid", "by-writer"]')
    result = invoke("study", study_file(tmp_path, text), "--out", out, "--json")
    assert result.exit_code == 1
    reasons = json.loads(result.stdout)["reasons"]
    assert any("partition by-writer, dropout 0.0, clients 4" in reason for reason in reasons)
    assert any("dropout 0.75" in reason and "threshold" in reason for reason in reasons)
    assert reasons[-1] == "change the grid, or leave such cells out with --skip-impossible"
    assert not (out / "runs").exists()
    done = invoke("study", study_file(tmp_path, text), "--out", out, "--skip-impossible", "--jobs", 1, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outcomes"] == {"finished": 4, "impossible": 12}
    refused = [row for row in rows_of(out / "runs.csv") if row["outcome"] == "impossible"]
    assert len(refused) == 12
    assert all(row["reason"] and not row["accuracy"] for row in refused)


def test_a_study_without_a_possible_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run is possible"):
        fl.study({"sample": [5, 7]}, out=tmp_path, clients=4, skip_impossible=True)


def test_a_run_that_diverges_is_a_row(tmp_path: Path) -> None:
    result = fl.study({"learning_rate": [0.1, 1e38]}, out=tmp_path, jobs=1, clients=4, **SMALL)
    assert [row["outcome"] for row in result.runs] == ["finished", "failed"]
    assert "update" in result.runs[1]["reason"]
    again = fl.study({"learning_rate": [0.1, 1e38]}, out=tmp_path, jobs=1, clients=4, **SMALL)
    assert again.runs == result.runs


def test_personal_models_are_scored(tmp_path: Path) -> None:
    grid = {"personalize": ["full", "ditto"]}
    result = fl.study(grid, out=tmp_path, jobs=1, clients=4, holdout=0.2, partition="shards", **SMALL)
    for row in result.runs:
        assert row["outcome"] == "finished"
        assert row["personal.clients"] == 4
        assert row["personal.personal_metrics.accuracy"] > row["personal.metrics.accuracy"]
    with pytest.raises(ConfigError, match="set holdout, such as"):
        fl.study(grid, out=tmp_path / "none", jobs=1, clients=4, **SMALL)


def test_an_error_of_a_run_names_its_settings_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FederatedArm.run

    def second_fails(self: Any, work: Any) -> Any:
        if self.config.data.clients == 6:
            raise ConfigError("the disk is full")
        return honest(self, work)

    monkeypatch.setattr(FederatedArm, "run", second_fails)
    with pytest.raises(ExperimentError, match=r"^clients 6, seed 0: the disk is full$"):
        fl.study({"clients": [4, 6]}, out=tmp_path, jobs=1, **SMALL)
    assert [row["outcome"] for row in rows_of(tmp_path / "runs.csv")] == ["finished", "open"]


@pytest.mark.parametrize("jobs", [0, 257])
def test_numbers_of_jobs_are_checked(tmp_path: Path, jobs: int) -> None:
    assert_refused(invoke("study", study_file(tmp_path), "--out", tmp_path / "out", "--jobs", jobs), "jobs must be")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    with StudyFolder(fl.studies.reading.read_study(path), tmp_path / "out").opened():
        assert_refused(invoke("study", path, "--out", tmp_path / "out"), "in use by another process")


def test_ctrl_c_keeps_the_finished_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes in the middle of the second run."""
    path, out, shown = study_file(tmp_path), tmp_path / "out", []

    def interrupt(_: object, event: Any) -> None:
        shown.append(event.arm)
        if len(set(shown)) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr("fl.studies.display.StudyDisplay.on_event", interrupt)
        broken = invoke("study", path, "--out", out, "--jobs", 1, "--json")
    assert broken.exit_code == 130
    summary = json.loads(broken.stdout)
    assert summary["interrupted"]
    assert summary["outcomes"] == {"finished": 1, "open": 7}
    assert len(rows_of(out / "rounds.csv")) == 2
    whole = json.loads(invoke("study", path, "--out", out, "--jobs", 1, "--json").stdout)
    assert whole["outcomes"] == {"finished": 8}
    assert [row for row in whole["runs"] if row["run"] == shown[0]] == [
        row for row in summary["runs"] if row["run"] == shown[0]
    ]


@pytest.mark.live
def test_a_study_killed_at_any_moment_continues_and_repeats_nothing(tmp_path: Path) -> None:
    """Two processes have no chance to clean up; children end by themselves, in the middle of a round."""
    path, out = study_file(tmp_path, FILE.replace("rounds = 2", "rounds = 8")), tmp_path / "out"
    process = subprocess.Popen(  # noqa: S603 - our own program
        command("study", path, "--out", out, "--jobs", 2),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPOSITORY, env=environment(),
    )  # fmt: skip
    try:
        wait_for(out / "runs.csv")
        children = children_of(process.pid)
    finally:
        process.kill()
        process.wait()
    assert len(children) == 2
    for child in children:
        wait_until_gone(child)
    kept = {file: file.stat().st_mtime_ns for file in out.glob("runs/*/result.json")}
    assert kept
    whole = invoke("study", path, "--out", out, "--jobs", 1, "--json")
    assert json.loads(whole.stdout)["outcomes"] == {"finished": 8}
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    fresh = invoke("study", path, "--out", tmp_path / "fresh", "--jobs", 1, "--json")
    assert timeless(json.loads(whole.stdout)["runs"]) == timeless(json.loads(fresh.stdout)["runs"])


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]
