"""`secagg experiment` as a program: quick arms, arms that are broken off, and every mistake in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.page import page
from fl.commands.experiment import ExperimentRequest, run_experiment
from fl.errors import DataError
from fl.experiments.catalog import EXPERIMENTS, find
from fl.experiments.results import read_document
from fl.experiments.workers import ExperimentError
from fl.report.source import load_run
from tests.fl.experiments.arms import BrokenArm, digits_arm, experiment_of, untimed
from tests.fl.runs import REPOSITORY, assert_refused, command, environment, invoke

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]


@pytest.mark.parametrize("name", ["fashion-six", "mnist-hundred"])
def test_a_quick_experiment_gives_a_document_a_table_and_a_page(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "results" / f"{name}.json"
    result = invoke("experiment", name, "--quick", "--out", tmp_path / "run", "--jobs", 1, "--results", copy, "--json")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    document = json.loads(result.stdout)
    assert document == json.loads(copy.read_text()) == read_document(tmp_path / "run" / "results.json")
    assert document["command"] == f"secagg experiment {name} --quick --seed 0 --jobs 1 --threads 1"
    assert document["unfinished"] == []
    arms = find(name).build(quick=True, seed=0).arms
    assert [arm["name"] for arm in document["arms"]] == [arm.name for arm in arms]
    assert {"python", "torch", "secagg"} <= document["versions"].keys()
    for arm in document["arms"]:
        assert arm["title"] in page({name: document})[0] or arm["name"].startswith(("alone", "central"))
    assert "done" in result.stderr
    first = document["arms"][0]
    run = load_run(tmp_path / "run" / first["name"] / "run")
    if name == "fashion-six":
        assert [(one.name, len(one.points)) for one in run.series] == [("plain sums", 3), ("central", 2), ("local", 2)]
        alone = [arm["by_round"]["accuracy"][1] for arm in document["arms"] if arm["name"].startswith("alone-sgd")]
        assert run.series[2].points[1].accuracy == pytest.approx(sum(alone) / 6)
    else:
        assert [one.name for one in run.series] == ["faster"]
    # Started again, it has nothing left to do, and the results are the same.
    again = invoke("experiment", name, "--quick", "--out", tmp_path / "run", "--jobs", 1, "--json")
    assert json.loads(again.stdout)["arms"] == document["arms"]
    assert "done," not in again.stderr


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("quick", [False, True])
def test_every_experiment_can_be_built_and_says_so(name: str, quick: bool) -> None:
    experiment = find(name).build(quick=quick, seed=5)
    assert experiment.name == name
    for arm in experiment.arms:
        settings = arm.settings()
        assert json.loads(json.dumps(settings)) == settings


def test_the_help_names_every_experiment_without_loading_torch() -> None:
    modules = "fl.commands.app, fl.experiments.catalog"
    program = f"import sys, {modules}; assert fl.experiments.catalog.EXPERIMENTS; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, timeout=100)  # noqa: S603
    shown = " ".join(invoke("experiment", "--help").stdout.replace("│", " ").split())
    assert f"{', '.join(EXPERIMENTS[:-1])} or {EXPERIMENTS[-1]}." in shown


def test_an_experiment_killed_at_any_moment_resumes_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    """A real command with two processes is killed without a chance to clean up; they end by themselves."""
    arguments = ("experiment", "fashion-six", "--quick", "--arm", "central-sgd", "--arm", "alone-sgd-0")
    process = subprocess.Popen(  # noqa: S603 - our own program
        command(*arguments, "--out", tmp_path / "broken", "--jobs", 2),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPOSITORY, env=environment(),
    )  # fmt: skip
    try:
        wait_for(tmp_path / "broken" / "central-sgd" / "run" / "metrics.jsonl")
        children = children_of(process.pid)
    finally:
        process.kill()
        process.wait()
    assert children
    for child in children:
        wait_until_gone(child)
    broken = invoke(*arguments, "--out", tmp_path / "broken", "--jobs", 1, "--json")
    whole = invoke(*arguments, "--out", tmp_path / "whole", "--jobs", 1, "--json")
    results = [json.loads(result.stdout)["arms"] for result in (broken, whole)]
    assert [untimed(arm) for arm in results[0]] == [untimed(arm) for arm in results[1]]
    assert len(results[0]) == 2


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    """Return its processes that run arms, without the tracker of shared resources, which also ends by itself."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 300
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} continued alone"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        # An orphan that has ended and that no process waited for is a zombie: it does nothing any more.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_keeps_the_finished_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes in the middle of the second round."""
    experiment = experiment_of(digits_arm("first", rounds=2), digits_arm("second", rounds=2))

    def interrupting_table(event: object) -> None:
        if getattr(event, "arm", "") == "second":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("fl.experiments.catalog.find", lambda name: Building(experiment))
    monkeypatch.setattr(
        "fl.experiments.display.ExperimentDisplay.on_event", lambda self, event: interrupting_table(event)
    )
    request = ExperimentRequest(name="trial", out=tmp_path / "run", quick=True)
    with (tmp_path / "said").open("w") as said:
        finished = run_experiment(request, Console(file=said, width=100))
    assert finished.interrupted
    assert [arm["name"] for arm in finished.document["arms"]] == ["first"]
    assert finished.document["unfinished"] == ["second"]
    text = (tmp_path / "said").read_text()
    assert "interrupted; the same command goes on with it" in text
    assert "not run to its end" in text
    monkeypatch.undo()
    monkeypatch.setattr("fl.experiments.catalog.find", lambda name: Building(experiment))
    again = run_experiment(request, Console(quiet=True))
    assert not again.interrupted
    assert again.document["unfinished"] == []


def test_an_arm_that_cannot_be_run_does_not_lose_the_results_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_of(digits_arm("first", rounds=1), BrokenArm(name="second"))
    monkeypatch.setattr("fl.experiments.catalog.find", lambda name: Building(experiment))
    copy = tmp_path / "copy.json"
    request = ExperimentRequest(name="trial", out=tmp_path / "run", quick=True, results=copy)
    with pytest.raises(ExperimentError, match="second: there is no such thing"):
        run_experiment(request, Console(quiet=True))
    document = read_document(copy)
    assert [arm["name"] for arm in document["arms"]] == ["first"]
    assert document["unfinished"] == ["second"]
    origin = load_run(tmp_path / "run" / "first" / "run").origin
    assert origin is not None
    assert (origin.experiment, origin.arm, origin.quick) == ("trial", "first", True)


class Building:
    """A module with an experiment."""

    def __init__(self, experiment: object) -> None:
        self._experiment = experiment

    def build(self, *, quick: bool, seed: int) -> object:
        return self._experiment

    def beside(self, document: object) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cifar",), "unknown experiment 'cifar'; known are fashion-six, mnist-hundred"),
        (("fashion-six", "--arm", "federated"), "fashion-six has no arm 'federated'; it has federated-sgd"),
        (("fashion-six", "--jobs", -1), "jobs must be between 1 and 256, not -1"),
        (("fashion-six", "--threads", 0), "threads must be between 1 and 256, not 0"),
        (("fashion-six", "--seed", -1), "seed must be at least 0"),
    ],
)
def test_mistakes_are_a_line(tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    assert_refused(invoke("experiment", *arguments, "--quick", "--out", tmp_path / "run"), said)
    assert not (tmp_path / "run").exists()


def test_places_that_cannot_be_written_to_are_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    quick = ("experiment", "fashion-six", "--quick")
    assert_refused(invoke(*quick, "--out", tmp_path / "file"), "cannot read", "Not a directory")
    assert_refused(invoke(*quick, "--out", tmp_path / "file" / "below"), "Not a directory")
    assert_refused(invoke(*quick, "--out", tmp_path / "run", "--results", tmp_path), "is a folder")
    below = tmp_path / "file" / "results.json"
    assert_refused(invoke(*quick, "--out", tmp_path / "run", "--results", below), "cannot write to")


@pytest.mark.usefixtures("user_cache")
def test_missing_data_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> bytes:
        raise DataError(f"{url}: no route")

    monkeypatch.setattr("fl.data.search.fetch", refuse)
    result = invoke("experiment", "mnist-hundred", "--arm", "2nn-iid", "--out", tmp_path / "run", "--jobs", 1)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "error: 2nn-iid: mnist: " in result.stderr
    assert "put mnist/train-images-idx3-ubyte" in result.stderr
    assert "Traceback" not in result.stderr
