"""`secagg evaluate` in plain text, and its refusals before any party is started."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from fl.data import load_dataset
from fl.encrypted.evaluator import EncryptedTask, make_jobs
from fl.errors import ConfigError
from fl.learning import models
from fl.learning.models import build_model
from fl.learning.serialization import model_to_bytes
from tests.fl.runs import assert_refused, invoke

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """Return an untrained logistic model of digits."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_to_bytes(build_model("logistic", image_shape=(1, 8, 8), num_classes=10, seed=3)))
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    result = invoke(
        *("train", "--dataset", "digits", "--model", "logistic", "--clients", 4, "--rounds", 1, "--epochs", 1),
        *("--aggregator", "plain", "--out", folder),
    )
    assert result.exit_code == 0, result.stderr
    return folder


def test_a_runs_model_is_measured_on_its_test_images(run_folder: Path) -> None:
    result = invoke("evaluate", run_folder, "--json")
    assert result.exit_code == 0, result.stderr
    measured = json.loads(result.stdout)
    recorded = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert measured["accuracy"] == pytest.approx(recorded["accuracy"])
    assert measured["images"] == len(load_dataset("digits").test_images)
    assert measured["encrypted"] is False


def test_a_models_file_is_measured_on_the_first_images(model_file: Path) -> None:
    result = invoke("evaluate", model_file, "--model", "logistic", "--dataset", "digits", "--images", 20, "--json")
    assert result.exit_code == 0, result.stderr
    dataset = load_dataset("digits")
    model = build_model("logistic", image_shape=(1, 8, 8), num_classes=10, seed=3)
    with torch.no_grad():
        expected = (model(dataset.test_images[:20]).argmax(dim=1) == dataset.test_labels[:20]).double().mean().item()
    assert json.loads(result.stdout)["accuracy"] == pytest.approx(expected)


def test_a_path_that_is_not_a_model_is_refused(tmp_path: Path, model_file: Path) -> None:
    assert_refused(invoke("evaluate", tmp_path / "nothing"), "does not exist")
    assert_refused(invoke("evaluate", tmp_path), "no run")
    assert_refused(invoke("evaluate", model_file), "--model", "--dataset")
    assert_refused(invoke("evaluate", model_file, "--model", "2nn", "--dataset", "digits"), "does not hold a 2nn")
    assert_refused(invoke("evaluate", model_file, "--model", "logistics", "--dataset", "digits"), "unknown model")
    model_file.write_bytes(b"no safetensors")
    assert_refused(
        invoke("evaluate", model_file, "--model", "logistic", "--dataset", "digits"), "does not hold a logistic"
    )


def test_a_run_without_a_finished_model_is_refused(run_folder: Path) -> None:
    (run_folder / "model.safetensors").unlink()
    assert_refused(invoke("evaluate", run_folder), "has no model.safetensors", "--resume")
    assert_refused(invoke("evaluate", run_folder, "--model", "2nn"), "trained logistic")


OWN = """
from torch import nn
from fl.data import load_dataset

def model(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def data(data_dir):
    return load_dataset("digits")
"""


def test_code_that_a_run_names_is_run_only_if_the_user_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_evaluated.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    named = ("--model", "own_evaluated:model", "--dataset", "own_evaluated:data")
    result = invoke("train", *named, "--clients", 4, "--rounds", 1, "--aggregator", "plain", "--out", "run")
    assert result.exit_code == 0, result.stderr
    del sys.modules["own_evaluated"]
    options: tuple[str, ...]
    for options in ((), ("--encrypted",), named[:2], named[2:]):
        missing = [name for name in named[1::2] if name not in options]
        assert_refused(invoke("evaluate", "run", *options), f"({', '.join(missing)})", "give --own-code")
    assert_refused(invoke("evaluate", "run", "--dataset", "digits"), "(own_evaluated:model)", "--model own_evaluated")
    assert "own_evaluated" not in sys.modules
    for options in (("--own-code",), named, (*named[:2], "--dataset", "digits"), (*named[2:], "--own-code")):
        result = invoke("evaluate", "run", *options, "--images", 20, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["images"] == 20
    del sys.modules["own_evaluated"]


def test_impossible_numbers_are_refused(model_file: Path) -> None:
    given = ("evaluate", model_file, "--model", "logistic", "--dataset", "digits")
    assert_refused(invoke(*given, "--images", 0), "give --images from 1 to")
    assert_refused(invoke(*given, "--images", 100_000), "give --images from 1 to")
    assert_refused(invoke(*given, "--batch", 0), "batch")


def test_options_of_encryption_are_refused_without_it(model_file: Path) -> None:
    given = ("evaluate", model_file, "--model", "logistic", "--dataset", "digits")
    assert_refused(invoke(*given, "--open", "accuracy", "--compare"), "--open, --compare", "need --encrypted")


def test_settings_of_an_encrypted_evaluation_are_refused_together(model_file: Path) -> None:
    given = ("evaluate", model_file, "--model", "logistic", "--dataset", "digits", "--encrypted")
    assert_refused(
        invoke(*given, "--images", 0, "--batch", -1, "--open", "everything", "--bounds", "none"),
        "images must be",
        "batch must be",
        "predictions or accuracy",
        "guaranteed or measured",
    )
    assert_refused(invoke(*given, "--timeout", 0), "timeout")


def test_layers_that_cannot_run_are_named_before_anything_starts(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_tanh(image_shape: tuple[int, ...], num_classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Tanh(), torch.nn.Linear(64, num_classes))

    monkeypatch.setitem(models._BUILDERS, "with-tanh", with_tanh)
    given = ("evaluate", model_file, "--model", "with-tanh", "--dataset", "digits", "--encrypted")
    assert_refused(invoke(*given), "layer 1 (Tanh)")


@pytest.mark.skipif(importlib.util.find_spec("mpyc") is not None, reason="MPyC is installed here")
def test_without_mpyc_it_says_what_to_install(model_file: Path) -> None:
    given = ("evaluate", model_file, "--model", "logistic", "--dataset", "digits", "--encrypted")
    assert_refused(invoke(*given), "pip install '.[mpc]'")


def test_a_job_names_the_files_of_its_own_party_only(tmp_path: Path) -> None:
    task = EncryptedTask(
        model_path=tmp_path / "model", model="mlp-500", dataset="mnist", data_dir=tmp_path / "data", bounds="measured"
    )
    folders = [tmp_path / str(party) for party in range(3)]
    model_owner, data_owner, helper = make_jobs(task, folders, (1, 2, 3), tls=True, arithmetic="words")
    assert model_owner.data is None
    assert data_owner.model is None
    assert (helper.model, helper.data) == (None, None)
    assert str(tmp_path / "model") not in repr(data_owner)
    assert str(tmp_path / "data") not in repr(helper)


def test_a_task_checks_its_numbers() -> None:
    with pytest.raises(ConfigError, match="batch must be between 1 and 10,000"):
        EncryptedTask(model_path=Path("m"), model="logistic", dataset="digits", batch=10_001)
