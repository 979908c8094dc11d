"""The starter project works as written, with the commands in its README."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fl.commands.starter.writer import FILES
from tests.fl.runs import assert_refused, environment, invoke


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=200
    )


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_the_project_trains_and_its_test_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a project"
    result = invoke("new", folder)
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir()} == set(FILES)
    options = ("--config", "experiment.toml", "--rounds", "3", "--out", "runs/first", "--json")
    trained = run_in(folder, "-m", "fl", "train", *options)
    assert trained.returncode == 0, trained.stderr
    summary = json.loads(trained.stdout)
    assert summary["ring_difference"] == 0
    assert summary["included"] == [3, 3, 3] or min(summary["included"]) >= 3
    (report,) = re.findall(r"^\$ secagg (report .*)$", (folder / "README.md").read_text(), flags=re.MULTILINE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("data", "models"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    reported = invoke(*report.split(), "--json")
    assert reported.exit_code == 0, reported.output
    assert json.loads(reported.stdout)["missing"] == ""
    for module in ("data", "models"):
        del sys.modules[module]
    tested = run_in(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "1 passed" in tested.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("mine")
    assert_refused(invoke("new", tmp_path), str(tmp_path), "not an empty folder")
    assert_refused(invoke("new", tmp_path / "models.py"), "not an empty folder")
    assert_refused(invoke("new", tmp_path / "models.py" / "project"), "cannot write to")
    assert [path.name for path in tmp_path.iterdir()] == ["models.py"]
    assert (tmp_path / "models.py").read_text() == "mine"


@pytest.mark.usefixtures("one_thread")
def test_the_documents_functions_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/how-to/own-models.md shows a model and a data set that work as it says."""
    document = (Path(__file__).parents[2] / "docs" / "how-to" / "own-models.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "shown_in_the_docs.py").write_text("\n\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = ["--model", "shown_in_the_docs:make_model", "--dataset", "shown_in_the_docs:load"]
    result = invoke("train", *names, "--partition", "by-owner", "--clients", 6, "--rounds", 5, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accuracy"] > 0.8
    task = ["--loss", "shown_in_the_docs:my_loss", "--metric", "shown_in_the_docs:recall"]
    other = ["--model", "logistic", "--dataset", "tests.fl.own_tasks:several_labels", "--lr", 0.02]
    result = invoke("train", *task, *other, "--clients", 6, "--rounds", 2, "--json")
    assert result.exit_code == 0, result.output
    assert 0 < json.loads(result.stdout)["metrics"]["recall"] <= 1
