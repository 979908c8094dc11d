"""A run's folder: a run that ended in any way resumes as if it had not, and foreign files are not taken for a run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from fl import files
from fl.data import load_dataset
from fl.learning.models import build_model
from fl.runs.checkpoint import RunFolder
from fl.runs.rounds import FederatedRun
from tests.fl.runs import (
    REPOSITORY,
    assert_refused,
    command,
    environment,
    invoke,
    state_bytes,
    use_tiny_data,
)
from tests.fl.stored_runs import (
    CLIENTS,
    DAMAGE,
    FILES,
    assert_same_run,
    break_off,
    metadata_of,
    metrics,
    resume,
    start,
    start_well,
    summary_of,
    tensor_bytes,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small data, and skip the figure, which would take longer than all else."""
    use_tiny_data(monkeypatch)
    monkeypatch.setattr("fl.federated_training.save_plot", lambda path, *_: path.write_bytes(b""))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--dropout", 0.34),
        ("--sample", 4, "--partition", "dirichlet", "--value-bits", 8),
        ("--model", "small-cnn", "--momentum", 0.9),
        ("--server-optimizer", "fedadam", "--server-lr", 0.03, "--learning-rate-decay", 0.9),
        ("--server-optimizer", "fedavgm", "--optimizer", "adam", "--lr", 0.01, "--holdout", 0.2),
        ("--dropout", 0.34, "--dropout-model", "slow", "--proximal", 0.1),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(options: tuple[object, ...], tmp_path: Path) -> None:
    whole = start_well(tmp_path / "whole", *options, num_rounds=4)
    start_well(tmp_path / "part", *options, num_rounds=2)
    resumed = summary_of(resume(tmp_path / "part", "--rounds", 4))
    assert_same_run(tmp_path / "part", tmp_path / "whole")
    for name in ("rounds", "accuracy", "plain_accuracy", "loss", "included_clients", "bytes_down", "ring_difference"):
        assert resumed[name] == whole[name], name
    # Each round changes the model: a second part that started again, or from another seed, would show.
    lines = metrics(tmp_path / "part")
    assert [(line["round"], line["aggregator"]) for line in lines] == [
        (number, name) for number in (1, 2, 3, 4) for name in ("secure", "plain")
    ]
    assert len({line["loss"] for line in lines if line["aggregator"] == "secure"}) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_round", "in_run"), [(3, "secure"), (3, "plain"), (1, "secure"), (1, "plain"), (4, "secure")]
)
def test_a_run_broken_off_in_a_round_continues(
    in_round: int, in_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_well(tmp_path / "whole", num_rounds=4)
    start_well(tmp_path / "shorter", num_rounds=max(in_round - 1, 1))
    with monkeypatch.context() as patch:
        break_off(patch, (in_round - 1) * 2 * CLIENTS + (3 if in_run == "secure" else CLIENTS + 3))
        result = start(tmp_path / "part", num_rounds=4)
    summary = summary_of(result, exit_code=130)
    assert summary["rounds"] == in_round - 1
    assert f"interrupted after round {in_round - 1} of 4" in result.stderr
    assert f"--resume {tmp_path / 'part'}" in result.stderr
    assert RunFolder(tmp_path / "part").load_config()[1] == in_round - 1
    if in_round > 1:
        # The files belong to the last whole round, not to a round in which one of two models was changed.
        models = [tensor_bytes(tmp_path / folder / "model.safetensors") for folder in ("part", "shorter")]
        assert models[0] == models[1]
        assert metrics(tmp_path / "part") == metrics(tmp_path / "shorter")
    assert summary_of(resume(tmp_path / "part"))["rounds"] == 4
    assert_same_run(tmp_path / "part", tmp_path / "whole")


def test_a_run_may_be_broken_off_and_resumed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_well(tmp_path / "whole")
    with monkeypatch.context() as patch:
        break_off(patch, 5)
        summary_of(start(tmp_path / "part"), exit_code=130)
    for done in (1, 2):
        with monkeypatch.context() as patch:
            break_off(patch, 2 * CLIENTS + 8)
            assert summary_of(resume(tmp_path / "part"), exit_code=130)["rounds"] == done
    assert summary_of(resume(tmp_path / "part"))["rounds"] == 3
    assert_same_run(tmp_path / "part", tmp_path / "whole")


def fail_to_write(patch: pytest.MonkeyPatch, name: str, at_time: int, error: BaseException) -> None:
    """Let the ``number``-th write of a file fail halfway."""
    current = ""
    times = 0

    def open_file(*args: Any, **options: Any) -> Any:
        nonlocal current
        current = options["prefix"]
        return tempfile.NamedTemporaryFile(*args, **options)

    def fsync(_: int) -> None:
        nonlocal times
        if name in current:
            times += 1
            if times == at_time:
                raise error

    patch.setattr(files, "tempfile", SimpleNamespace(NamedTemporaryFile=open_file))
    patch.setattr(os, "fsync", fsync)


DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt(), DISK_FULL], ids=["interrupt", "disk full"])
@pytest.mark.parametrize(
    ("name", "in_round", "done"),
    [
        ("checkpoint", 1, 0),
        ("checkpoint", 2, 1),
        ("checkpoint", 3, 2),
        ("metrics", 2, None),
        ("metrics", 3, None),
    ],
)
def test_a_half_written_file_keeps_its_last_version(
    name: str, in_round: int, done: int | None, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``done`` rounds are kept; the metrics have the round before or, if the checkpoint came first, this one."""
    start_well(tmp_path / "whole")
    with monkeypatch.context() as patch:
        # The first write is before the first round.
        fail_to_write(patch, name, 1 + in_round, error)
        result = start(tmp_path / "part")
    kept = RunFolder(tmp_path / "part").load_config()[1]
    assert kept == done or (done is None and kept in (in_round - 1, in_round))
    if isinstance(error, KeyboardInterrupt):
        # It reported the true state.
        assert summary_of(result, exit_code=130)["rounds"] == kept
        assert f"interrupted after round {kept} of 3" in result.stderr
    else:
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert "No space left on device" in result.stderr
    assert {path.name for path in (tmp_path / "part").iterdir()} <= FILES
    assert summary_of(resume(tmp_path / "part"))["rounds"] == 3
    assert_same_run(tmp_path / "part", tmp_path / "whole")


def test_without_a_folder_an_interrupted_run_still_sums_up(monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(monkeypatch, 2 * CLIENTS + 3)
    result = invoke("train", "--model", "logistic", "--clients", CLIENTS, "--compare", "--json")
    summary = summary_of(result, exit_code=130)
    assert summary["rounds"] == 1
    assert summary["plain_accuracy"] is not None
    assert "nothing is kept without --out" in result.stderr


def test_a_run_broken_off_at_once_gives_an_empty_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(monkeypatch, 1)
    summary = summary_of(start(tmp_path), exit_code=130)
    assert summary["rounds"] == 0
    assert summary["accuracy"] is summary["seconds_per_round"] is summary["ring_difference"] is None
    assert summary["included"] == []


@pytest.mark.live
def test_an_interrupt_from_the_keyboard_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    """A real process gets a real signal at any moment."""
    out = tmp_path / "run"
    options = ("--model", "logistic", "--clients", 4, "--epochs", 10, "--rounds", 100_000, "--seed", 5)
    with subprocess.Popen(  # noqa: S603 - our own program
        command("train", *options, "--json", "--out", out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(),
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("round") and line.split()[1].startswith("2/"):
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, rest = process.communicate(timeout=60)
    said.append(rest)
    assert process.returncode == 130, "".join(said)
    assert "Traceback" not in "".join(said)
    config, done = RunFolder(out).load_config()
    assert done >= 2
    assert json.loads(stdout)["rounds"] == done
    assert {path.name for path in out.iterdir()} == FILES

    # The rest of the run happens in this process, and so does an uninterrupted run.
    digits = load_dataset("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fl.commands.train.make_dataset", lambda name, data_dir=None: digits)
        resumed = summary_of(resume(out, "--rounds", done + 1))
    assert resumed["rounds"] == done + 1
    whole = FederatedRun(config, digits, "secure")
    for _ in range(done + 1):
        whole.run_round()
    restored = build_model("logistic", image_shape=(1, 8, 8), num_classes=10, seed=0)
    restored.load_state_dict(safetensors.torch.load_file(out / "model.safetensors"))
    assert state_bytes(restored) == state_bytes(whole.model)


def test_a_finished_run_has_its_files_and_no_others(tmp_path: Path) -> None:
    start_well(tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == FILES
    metadata = metadata_of(tmp_path / "new" / "folder")
    assert metadata["rounds_done"] == "3"
    assert json.loads((tmp_path / "new" / "folder" / "config.json").read_text()) == json.loads(metadata["config"])


def test_results_are_as_readable_as_other_files(tmp_path: Path) -> None:
    start_well(tmp_path / "run")
    (tmp_path / "other").write_text("")
    for name in FILES - {"accuracy.png"}:
        assert (tmp_path / "run" / name).stat().st_mode == (tmp_path / "other").stat().st_mode, name


def test_the_stored_model_can_be_loaded_elsewhere(tmp_path: Path) -> None:
    start_well(tmp_path)
    model = build_model("logistic", image_shape=(1, 4, 4), num_classes=3, seed=0)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    secure = {
        name.removeprefix("secure/model/"): value
        for name, value in safetensors.torch.load_file(tmp_path / "checkpoint.safetensors").items()
        if name.startswith("secure/model/")
    }
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, secure[name], rtol=0, atol=0)


def test_the_config_to_read_is_that_of_the_resumed_run(tmp_path: Path) -> None:
    start_well(tmp_path, num_rounds=1)
    summary_of(resume(tmp_path, "--rounds", 2))
    assert json.loads(metadata_of(tmp_path)["config"])["rounds"] == 2
    assert json.loads((tmp_path / "config.json").read_text())["rounds"] == 2


def test_more_rounds_are_remembered_by_a_run_that_is_broken_off_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_well(tmp_path, num_rounds=1)
    with monkeypatch.context() as patch:
        break_off(patch, 1)
        summary_of(resume(tmp_path, "--rounds", 2), exit_code=130)
    # As the message says: no other option.
    assert summary_of(resume(tmp_path))["rounds"] == 2


def test_a_folder_with_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    start_well(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = invoke("train", "--model", "logistic", "--clients", CLIENTS, "--out", tmp_path)
    assert_refused(result, str(tmp_path), "already holds a run", "--resume")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["more lines", "half a line", "no lines", "no file", "not JSON"])
@pytest.mark.parametrize("num_rounds", [4, 2])
def test_metrics_are_those_of_the_rounds_in_the_checkpoint(damage: str, num_rounds: int, tmp_path: Path) -> None:
    """The file may hold lines of a round that was not stored, or half a line after a power failure."""
    start_well(tmp_path / "whole", num_rounds=4)
    later = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines(keepends=True)[4]
    start_well(tmp_path / "part", num_rounds=2)
    expected = tmp_path / "whole"
    if num_rounds == 2:
        # Nothing is left to do.
        expected = tmp_path / "two"
        shutil.copytree(tmp_path / "part", expected)
    file = tmp_path / "part" / "metrics.jsonl"
    if damage == "no file":
        file.unlink()
    else:
        lines = file.read_text()
        file.write_text(
            {"more lines": lines + later, "half a line": lines + later[:100], "no lines": "", "not JSON": "[\n" * 4}[
                damage
            ]
        )
    assert summary_of(resume(tmp_path / "part", "--rounds", num_rounds))["rounds"] == num_rounds
    assert_same_run(tmp_path / "part", expected)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    finished = start_well(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "before")
    assert summary_of(resume(tmp_path / "run")) == finished
    assert_same_run(tmp_path / "run", tmp_path / "before")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "before" / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_data(patch)
        patch.setattr("fl.federated_training.save_plot", lambda path, *_: path.write_bytes(b""))
        start_well(out, num_rounds=2)
    return out


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_run_is_refused(damage: str, finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    DAMAGE[damage](out)
    assert_refused(invoke("train", "--resume", out, "--rounds", 3))


def test_resuming_needs_a_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("empty", "file", "missing"):
        assert_refused(invoke("train", "--resume", tmp_path / name), "no run to resume", str(tmp_path / name))


@pytest.mark.parametrize(
    "options",
    [("--clients", 7), ("--seed", 1), ("--out", "elsewhere"), ("--dropout-at", "unmasking"), ("--lr", 0.1)],
)
def test_a_resumed_run_takes_no_other_settings(options: tuple[object, ...], finished_run: Path) -> None:
    name = {"--lr": "--learning-rate"}.get(str(options[0]), str(options[0]))
    assert_refused(invoke("train", "--resume", finished_run, *options), "leave out", name)


def test_settings_that_are_the_default_are_refused_as_well_beside_resume(finished_run: Path) -> None:
    assert_refused(invoke("train", "--resume", finished_run, "--clients", 40, "--compare"), "--clients", "--compare")


def test_a_run_cannot_be_resumed_to_fewer_rounds(finished_run: Path) -> None:
    assert_refused(invoke("train", "--resume", finished_run, "--rounds", 1), "2 rounds already")
    assert_refused(invoke("train", "--resume", finished_run, "--rounds", 0), "rounds")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "model.safetensors", "accuracy.png"])
def test_a_strangers_file_is_not_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    result = invoke("train", "--model", "logistic", "--clients", CLIENTS, "--out", tmp_path)
    assert_refused(result, f"already holds a file {name}")
    assert (tmp_path / name).read_text() == "mine"
