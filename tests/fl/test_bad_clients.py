"""Unusual clients: without examples, of one class, with values that break training, too few."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fl.data.catalog import CATALOG
from fl.runs.checkpoint import RunFolder
from tests.fl.runs import assert_refused, invoke, own_module

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

OWNERS = """
    from pathlib import Path
    import numpy as np
    import torch
    from fl.data import Dataset

    def owners(data_dir):
        rng = np.random.default_rng(3)
        labels = np.arange(100) % 2
        rows = torch.tensor(rng.normal(size=(100, 4)) + 2 * labels[:, None], dtype=torch.float32)
        owner = np.arange(100) // 20
        if Path("one-has-one-class").exists():
            labels = np.where(owner == 2, 0, labels)
        labels = torch.tensor(labels)
        if Path("everything-is-huge").exists():
            rows *= 1e30
        return Dataset("owners", rows, labels, rows, labels, 2, owner)

    def three_are_huge(data_dir):
        \"\"\"And their labels are wrong as often as right, so that there is something to learn from.\"\"\"
        data = owners(data_dir)
        data.train_images[40:] *= 1e30
        data.train_labels[40:] = torch.arange(60) // 2 % 2
        return data

    def one_is_huge(data_dir):
        \"\"\"Owner 4's table is in another unit.\"\"\"
        data = owners(data_dir)
        data.train_images[80:] *= 1e30
        return Dataset("huge", data.train_images, data.train_labels, data.test_images[:80], data.test_labels[:80], 2,
                       data.train_writers)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a module in the working directory; return its name."""
    return own_module(tmp_path, OWNERS, monkeypatch)


def by_owner(project: str, loader: str, **options: Any) -> tuple[object, ...]:
    values = {"model": "logistic", "clients": 5, "rounds": 2, "epochs": 1, "batch": 10, "out": "run", **options}
    return (
        "train", "--dataset", f"{project}:{loader}", "--partition", "by-owner",
        *(item for name, value in values.items() for item in (f"--{name}", value)),
    )  # fmt: skip


def test_an_owner_of_one_class_is_refused_by_name_before_anything_is_written(project: str, tmp_path: Path) -> None:
    assert invoke(*by_owner(project, "owners", out="before")).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}
    (tmp_path / "one-has-one-class").touch()
    assert_refused(invoke(*by_owner(project, "owners")), "owner 2 has examples of one class only", "--allow-one-class")
    assert not (tmp_path / "run").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()} == before


def test_an_owner_of_one_class_takes_part_if_allowed(project: str, tmp_path: Path) -> None:
    (tmp_path / "one-has-one-class").touch()
    result = invoke(*by_owner(project, "owners"), "--allow-one-class")
    assert result.exit_code == 0, result.output
    assert re.search(r"1 of 5 clients have examples of one class only \(\d\)", result.output)
    assert re.search(r"clients in the sum, by round +│ +5 +│", result.output)
    assert_refused(invoke("train", "--resume", "run", "--allow-one-class"), "leave out --allow-one-class")


def test_a_client_that_is_dealt_one_class_takes_part_and_is_named(project: str) -> None:
    """Shards are dealt out so that clients have few classes."""
    result = invoke(
        "train", "--dataset", f"{project}:owners", "--partition", "shards", "--shards-per-client", 1, "--clients", 4,
        "--model", "logistic", "--rounds", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "4 of 4 clients have examples of one class only (0, 1, 2, 3)" in result.output


def test_clients_without_examples_are_refused_before_anything_is_written(project: str, tmp_path: Path) -> None:
    assert_refused(invoke(*by_owner(project, "owners", clients=6)), "6 clients, but only 5")
    assert_refused(invoke("train", "--dataset", f"{project}:owners", "--clients", 101), "101 clients, but only 100")
    assert not (tmp_path / "run").exists()


def test_a_client_whose_training_runs_away_sends_nothing_and_the_others_continue(project: str) -> None:
    result = invoke(*by_owner(project, "one_is_huge"))
    assert result.exit_code == 0, result.output
    assert len(set(re.findall(r"client (\d) sent nothing: the loss is", result.output))) == 1
    assert re.search(r"clients in the sum, by round +│ +4 +│", result.output)


def test_a_run_without_any_update_ends_and_keeps_its_rounds(project: str, tmp_path: Path) -> None:
    assert invoke(*by_owner(project, "owners")).exit_code == 0
    (tmp_path / "everything-is-huge").touch()
    model = load_file(tmp_path / "run" / "checkpoint.safetensors")
    result = invoke("train", "--resume", "run", "--rounds", 4)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no client has an update that may be sent; client 0: the loss is")
    assert "Traceback" not in result.output
    kept = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert {name: value.tobytes() for name, value in kept.items()} == {n: value.tobytes() for n, value in model.items()}
    (tmp_path / "everything-is-huge").unlink()
    assert invoke("train", "--resume", "run", "--rounds", 4).exit_code == 0
    assert RunFolder(tmp_path / "run").load_config()[1] == 4


def test_too_few_updates_give_no_sum_and_no_model(project: str, tmp_path: Path) -> None:
    """Three of five refuse, and the threshold is three."""
    result = invoke(*by_owner(project, "three_are_huge"))
    assert result.exit_code == 1
    assert "error: no round came to a sum, and the model is what it was; the last one: " in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert RunFolder(tmp_path / "run").load_config()[1] == 2


def test_a_continued_run_keeps_no_earlier_model_file(project: str, tmp_path: Path) -> None:
    assert invoke(*by_owner(project, "owners")).exit_code == 0
    model = tmp_path / "run" / "model.safetensors"
    assert model.exists()
    (tmp_path / "everything-is-huge").touch()
    assert invoke("train", "--resume", "run", "--rounds", 3).exit_code == 1
    assert not model.exists()


def test_more_dropouts_than_the_threshold_bears_are_refused_beforehand(project: str, tmp_path: Path) -> None:
    assert_refused(invoke(*by_owner(project, "owners", dropout=0.7)), "fewer than the threshold")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_truncated_data_file_is_named_with_the_hash_that_it_should_have(
    ending: str, tmp_path: Path, mnist_folder: Path
) -> None:
    file = "train-labels-idx1-ubyte"
    folder = tmp_path / "mnist"
    folder.mkdir()
    for path in (mnist_folder / "mnist").iterdir():
        (folder / path.name).symlink_to(path)
    packed = (folder / f"{file}.gz").read_bytes()
    (folder / f"{file}.gz").unlink()
    damaged = folder / f"{file}{ending}"
    damaged.write_bytes((packed if ending else gzip.decompress(packed))[:-1])
    result = invoke("train", "--dataset", "mnist", "--data-dir", tmp_path, "--rounds", 1, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert str(damaged) in result.stderr
    (entry,) = (one for one in CATALOG["mnist"].files if one.name == file)
    assert entry.sha256 in result.stderr
    assert not (tmp_path / "run").exists()
