"""Benchmarks run by plain pytest, and pytest-benchmark's output becomes entries of the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.blocks import REPOSITORY

pytestmark = pytest.mark.slow


def test_a_run_of_pytest_becomes_entries(tmp_path: Path) -> None:
    run = tmp_path / "run.json"
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider", "--quick"]
    command += ["-k", "degree or 1024-1048576-sparse or key_agreement", f"--benchmark-json={run}"]
    # A worker of xdist says so in its environment, and benchmarks are off there.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(  # noqa: S603 - ours
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "benchmark 'share': 1 tests" in done.stdout
    document = results.of_run(json.loads(run.read_text(encoding="utf-8")))
    assert document["mode"] == "quick"
    assert sorted((entry["group"], entry["name"]) for entry in document["results"]) == [
        ("communication", "bytes_of_a_client"),
        ("micro", "key_agreement"),
        ("scaling", "degree"),
    ]
    (agreement,) = (entry for entry in document["results"] if entry["name"] == "key_agreement")
    assert agreement["ratio"]["value"] > 0
