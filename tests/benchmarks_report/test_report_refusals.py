"""Results that no report can be made of: one clear line, and no file written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.__main__ import main
from tests.benchmarks_report.made_up import PEERS, SCALING, document

BROKEN_PEER = {key: item for key, item in PEERS[0].items() if key != "peer_seconds"}
WITHOUT_RATIO_GOAL = {**PEERS[0], "ratio": {"value": 1.0}}

REFUSED: dict[str, tuple[Any, str]] = {
    "other format": (document() | {"format": 2}, "format 2"),
    "not a document": ([1, 2], "no results file"),
    "another document": ({"a": 1}, "no results file"),
    "no machine": ({key: item for key, item in document().items() if key != "machine"}, "lacks machine"),
    "empty": (document() | {"results": []}, "no results"),
    "results of a wrong type": (document() | {"results": {}}, "no results file"),
    "unknown group": (document([{**SCALING[0], "group": "other"}]), "group 'other'"),
    "entry of a wrong type": (document() | {"results": [7]}, "broken entry"),
    "entry without figures": (document([BROKEN_PEER]), "lacks peer_seconds"),
    "ratio without goal": (document([WITHOUT_RATIO_GOAL]), "ratio"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_broken_results_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    results, expected = REFUSED[name]
    source = tmp_path / "results.json"
    source.write_text(json.dumps(results), encoding="utf-8")
    assert main(["--results", str(source), "--out", str(tmp_path / "docs")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert expected in error
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_what_is_no_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    source = tmp_path / "results.json"
    source.write_bytes(content)
    assert main(["--results", str(source)]) == 1
    assert "is no JSON file" in capsys.readouterr().err


def test_a_missing_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.report", "--results", str(tmp_path / "none.json")]
    repository = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)  # noqa: S603 - ours
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make bench" in done.stderr


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, occupied = tmp_path / "results.json", tmp_path / "docs"
    source.write_text(json.dumps(document(PEERS)), encoding="utf-8")
    occupied.write_text("a file")
    assert main(["--results", str(source), "--out", str(occupied)]) == 1
    assert "cannot be written" in capsys.readouterr().err
