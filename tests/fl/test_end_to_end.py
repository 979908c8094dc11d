"""The whole way on real data, from the command line: training through the protocol learns like plain training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from fl.data import load_dataset
from fl.learning.models import build_model
from fl.learning.training import evaluate
from tests.fl.runs import invoke

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def run(*options: object) -> dict[str, Any]:
    result = invoke("train", "--json", *options)
    assert result.exit_code == 0, (result.stderr, result.exception)
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def test_digits_with_a_quarter_vanishing_are_learned_as_well_as_in_the_clear(tmp_path: Path) -> None:
    """The demo's run with a model that takes fewer seconds."""
    summary = run("--model", "2nn", "--clients", 40, "--dropout", 0.25, "--rounds", 6, "--compare", "--out", tmp_path)
    assert summary["ring_difference"] == 0
    assert summary["aborted"] == []
    assert all(30 <= count <= 40 for count in summary["included"])
    assert min(summary["included"]) < 40
    assert {where for counts in summary["dropped"] for where in counts} == {
        "AdvertiseKeys", "ShareKeys", "MaskedInputCollection", "Unmasking"
    }  # fmt: skip
    assert [sum(counts.values()) for counts in summary["dropped"]] == [10] * 6
    assert summary["accuracy"] >= 0.94
    assert abs(summary["accuracy"] - summary["plain_accuracy"]) <= 0.005
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")

    # The stored model is the measured one.
    digits = load_dataset("digits")
    model = build_model("2nn", image_shape=digits.image_shape, num_classes=10, seed=1)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert evaluate(model, digits.test_images, digits.test_labels).accuracy == summary["accuracy"]


@pytest.mark.data
@pytest.mark.usefixtures("fashion_mnist_folder")
def test_fashion_mnist_is_learned_by_six_clients_with_the_cnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The issue's set-up with a fiftieth of its images: 6 of 300 clients, of 200 images each, one round."""
    monkeypatch.delenv("SECAGG_DATA", raising=False)
    summary = run(
        "--dataset", "fashion-mnist", "--clients", 300, "--sample", 6, "--rounds", 1, "--model", "cnn",
        "--epochs", 1, "--dropout", 0.2,
    )  # fmt: skip
    assert len(summary["included"]) == 1
    assert summary["included"][0] >= 5
    assert summary["accuracy"] > 0.4
    assert summary["plan"]["vector_length"] > 454_922
    # 454,922 parameters in a ring of 27 bits: less than the 4 bytes that they take in the clear.
    assert 3.37 < summary["bytes_up"] / (454_922 * summary["included"][0]) < 3.5


@pytest.mark.data
def test_mnist_is_learned_by_its_writers(mnist_folder: Path) -> None:
    """Each client has one writer's images; a fifth vanishes in each round."""
    summary = run(
        "--dataset", "mnist-writers", "--data-dir", mnist_folder, "--clients", 200, "--sample", 20, "--rounds", 2,
        "--model", "2nn", "--epochs", 2, "--dropout", 0.2, "--compare",
    )  # fmt: skip
    assert summary["ring_difference"] == 0
    assert all(16 <= count <= 20 for count in summary["included"])
    assert summary["accuracy"] > 0.7
    assert abs(summary["accuracy"] - summary["plain_accuracy"]) <= 0.005
