"""A real run of `secagg train` on the digits, trained once, and a copy of its folder for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fl.runs import invoke

TRAINED = (
    "--model", "logistic", "--clients", 8, "--rounds", 3, "--epochs", 1, "--dropout", 0.25, "--holdout", 0.2,
    "--compare", "--seed", 3,
)  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder as the run left it; it must not be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    result = invoke("train", *TRAINED, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """Return a copy that the test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
