"""Arms run in the order of their needs, in this process or in several, and finished arms are not run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fl.errors import ConfigError
from fl.experiments.display import ExperimentDisplay
from fl.experiments.experiment import Experiment
from fl.experiments.folder import ExperimentFolder, ExperimentIdentity
from fl.experiments.running import chosen_arms, run_arms
from fl.experiments.workers import ArmEvent, ArmFinished, ArmProgressed, ExperimentError
from tests.fl.experiments.arms import IDENTITY, BrokenArm, NotingArm, digits_arm, experiment_of, run_in, untimed
from tests.fl.experiments.test_experiment_command import wait_for, wait_until_gone
from tests.fl.runs import REPOSITORY, environment

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def test_an_arm_waits_for_those_that_it_needs(tmp_path: Path) -> None:
    arms = [
        NotingArm(name="last", needs=("first", "middle")),
        NotingArm(name="middle", needs=("first",)),
        NotingArm(name="first"),
    ]
    results = run_in(tmp_path, *arms)
    assert results["first"]["finished"] == []
    assert results["middle"]["finished"] == ["first"]
    assert results["last"]["finished"] == ["first", "middle"]


def test_finished_arms_are_not_run_again(tmp_path: Path) -> None:
    arms = [NotingArm(name="first"), NotingArm(name="second")]
    run_in(tmp_path, *arms[:1])
    seen: list[ArmEvent] = []
    run_in(tmp_path, *arms, listen=seen.append)
    assert [event.arm for event in seen if isinstance(event, ArmFinished)] == ["second"]


def test_several_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    """Real processes load torch by themselves; an arm that needs another runs after it."""
    arms = [digits_arm("one"), digits_arm("two", seed=4), NotingArm(name="after", needs=("one", "two"))]
    together = run_in(tmp_path / "together", *arms, jobs=2)
    apart = run_in(tmp_path / "apart", *arms)
    for name in ("one", "two"):
        assert untimed(together[name]) == untimed(apart[name])
    assert together["after"]["finished"] == ["one", "two"]
    assert together["after"]["process"] != os.getpid()
    assert apart["after"]["process"] == os.getpid()


def test_a_failure_names_the_arm_and_keeps_the_others(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"^bad: there is no such thing$"):
        run_in(tmp_path, NotingArm(name="good"), BrokenArm(name="bad"))
    assert ExperimentFolder(tmp_path).result("good") is not None
    assert ExperimentFolder(tmp_path).result("bad") is None


def test_a_process_that_is_killed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"^bad: its process died \(signal 9"):
        run_in(tmp_path, BrokenArm(name="bad", dies=True), BrokenArm(name="worse", needs=("bad",)), jobs=2)


@pytest.mark.live
def test_processes_end_in_the_middle_of_an_arm_when_their_parent_is_killed(tmp_path: Path) -> None:
    """A new start may resume the same arms at once: no other process may write into their folders."""
    program = (
        "from pathlib import Path\n"
        "from tests.fl.experiments.arms import LongArm, run_in\n"
        f"run_in(Path({str(tmp_path)!r}), LongArm(name='one'), LongArm(name='two'), jobs=2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, env=environment())  # noqa: S603
    notes = [tmp_path / name / "process" for name in ("one", "two")]
    try:
        for note in notes:
            wait_for(note)
    finally:
        parent.kill()
        parent.wait()
    for note in notes:
        wait_until_gone(int(note.read_text()))
    # No process computed for its whole minute.
    assert not any((note.parent / "woke").exists() for note in notes)


def test_arms_train_on_the_users_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rows.py").write_text("from tests.fl.runs import tiny_dataset\ndef load(_): return tiny_dataset()")
    monkeypatch.chdir(tmp_path)
    results = run_in(tmp_path / "runs", digits_arm(dataset="own_rows:load", rounds=1, partition="iid"))
    assert results["run"]["rounds"] == 1


def test_an_arm_whose_needs_are_left_out_is_refused(tmp_path: Path) -> None:
    arms = (NotingArm(name="first"), NotingArm(name="last", needs=("first",)))
    experiment = experiment_of(*arms)
    chosen = chosen_arms(experiment, ["last"])
    with pytest.raises(ConfigError, match="last needs first, which has not finished"):
        run_arms(experiment, chosen, ExperimentFolder(tmp_path), IDENTITY, jobs=1, data_dir=None, listen=print)


def test_arms_that_need_each_other_are_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need each other"):
        run_in(tmp_path, NotingArm(name="hen", needs=("egg",)), NotingArm(name="egg", needs=("hen",)))


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "..", "two words", "-"])
def test_an_arms_name_is_a_folders_name(name: str) -> None:
    with pytest.raises(ValueError, match="an arm's name"):
        Experiment(name="trial", title="", arms=(NotingArm(name=name),))


def test_names_are_taken_once_and_needs_are_known() -> None:
    with pytest.raises(ValueError, match="taken"):
        experiment_of(NotingArm(name="one"), NotingArm(name="one"))
    with pytest.raises(ValueError, match="which is not an arm"):
        experiment_of(NotingArm(name="one", needs=("two",)))


@pytest.mark.parametrize("changes", [{"seed": 1}, {"threads": 2}, {"quick": False}, {"experiment": "other"}])
def test_a_folder_is_of_one_experiment(tmp_path: Path, changes: dict[str, Any]) -> None:
    run_in(tmp_path, NotingArm(name="one"))
    other = ExperimentIdentity(**{**IDENTITY.to_json(), **changes})
    with pytest.raises(ConfigError, match=f"holds an experiment with {next(iter(changes))}"):
        ExperimentFolder(tmp_path).open(other, [])


def test_an_arm_with_other_settings_is_not_resumed(tmp_path: Path) -> None:
    run_in(tmp_path, NotingArm(name="one"))
    with pytest.raises(ConfigError, match=r"one with other settings \(size\)"):
        run_in(tmp_path, NotingArm(name="one", size=2))
    run_in(tmp_path, digits_arm("run"))
    with pytest.raises(ConfigError, match=r"other settings \(learning_rate\)"):
        run_in(tmp_path, digits_arm("run", learning_rate=0.2))


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="already holds something else"):
        run_in(tmp_path, NotingArm(name="one"))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("name", ["experiment.json", "one/arm.json", "one/result.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\ufffd"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    run_in(tmp_path, NotingArm(name="one"))
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=r"damaged|other settings") as refusal:
        run_in(tmp_path, NotingArm(name="one"))
    assert str(tmp_path / name).removesuffix("/arm.json") in str(refusal.value)


def test_the_time_is_kept_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process has no time to write."""
    monkeypatch.setattr("fl.experiments.running._SECONDS_BETWEEN_SAVES", 0.0)
    stored: list[float] = []

    def look(event: object) -> None:
        stored.append(json.loads((tmp_path / "experiment.json").read_text())["elapsed_seconds"])
        time.sleep(0.15)

    run_in(tmp_path, NotingArm(name="one"), NotingArm(name="two"), listen=look)
    assert stored == sorted(stored)
    assert stored[-1] >= 0.1


def test_the_time_of_all_starts_is_kept(tmp_path: Path) -> None:
    run_in(tmp_path, NotingArm(name="one"))
    path = tmp_path / "experiment.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "elapsed_seconds": 1000.0}))
    run_in(tmp_path, NotingArm(name="two"))
    assert 1000 <= json.loads(path.read_text())["elapsed_seconds"] < 1100


def test_lines_come_at_every_tenth_for_any_number_of_steps(tmp_path: Path) -> None:
    """Personal models are reported twenty at a time, of 539."""
    with (tmp_path / "said").open("w") as said, ExperimentDisplay(Console(file=said, width=100)) as display:
        for done in [*range(20, 539, 20), 539]:
            display.on_event(ArmProgressed("personal", done, 539, "20 ms a client"))
    lines = (tmp_path / "said").read_text().splitlines()
    assert len(lines) == 11
    assert lines[1] == "personal: 60/539  20 ms a client"
