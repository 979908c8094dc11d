"""`secagg report` as a command: its files, and that a mistake changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fl.report.pages import parse, rewrite_checkpoint
from tests.fl.runs import assert_refused, invoke, run_process

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]

OWN_CODE = """
from pathlib import Path

import fl.data

Path("was-run").touch()


def load(data_dir):
    return fl.data.load_dataset("digits")
"""


def test_the_page_goes_into_the_runs_folder_or_where_it_is_wanted(folder: Path, tmp_path: Path) -> None:
    result = invoke("report", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"page {folder / 'report.html'}"]
    first = (folder / "report.html").read_bytes()
    assert parse(first).one("h1").text == "logistic on digits"
    assert b"\x00" not in first

    other = tmp_path / "other.html"
    result = invoke("report", folder, "--out", other, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["page"] == str(other)
    assert said["rounds"] == 3
    assert said["missing"] == ""
    assert said["tensorboard"] is None
    assert said["bytes"] == len(other.read_bytes())


def test_a_newer_page_replaces_only_an_older_page(folder: Path) -> None:
    page = folder / "report.html"
    assert invoke("report", folder).exit_code == 0
    assert invoke("report", folder).exit_code == 0
    page.write_text("<html>my own notes</html>")
    assert_refused(invoke("report", folder), str(page), "exists and is not a report", "--out")
    assert page.read_text() == "<html>my own notes</html>"


def test_it_works_as_a_program(folder: Path) -> None:
    result = run_process("report", folder)
    assert result.returncode == 0, result.stderr
    assert (folder / "report.html").is_file()
    result = run_process("report", folder.parent / "nowhere")
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no folder")
    assert "Traceback" not in result.stderr


def damage_end(folder: Path) -> None:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_start(folder: Path) -> None:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(b"\xff" * 64 + path.read_bytes())


def lose_a_round(folder: Path) -> None:
    rewrite_checkpoint(folder, lambda stored: stored["records"].pop(0))


def no_rounds(folder: Path) -> None:
    rewrite_checkpoint(folder, lambda stored: stored.update(records=[], rounds_done=0))


def another_version(folder: Path) -> None:
    rewrite_checkpoint(folder, lambda stored: stored["config"].pop("momentum"))


def half_series(folder: Path) -> None:
    (folder / "series.json").write_text('{"central": [{"round": 1, "accu')


def wrong_gains(folder: Path) -> None:
    (folder / "personalization.json").write_text('{"methods": []}')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_end, "is not a checkpoint of this program, or is damaged"),
        (damage_start, "is not a checkpoint of this program, or is damaged"),
        (lose_a_round, "its own rounds are not 1 to 3"),
        (no_rounds, "has done no round yet"),
        (another_version, "a stored run of another version: momentum"),
        (half_series, "half of a file"),
        (wrong_gains, "no methods"),
        (lambda folder: (folder / "checkpoint.safetensors").unlink(), "it has no checkpoint.safetensors"),
        (lambda folder: (folder / "network.json").write_text("{"), "network.json cannot be read"),
    ],
)
def test_a_damaged_run_is_a_line_and_the_old_page_stays(
    folder: Path, damage: Callable[[Path], None], said: str
) -> None:
    page = folder / "report.html"
    assert invoke("report", folder).exit_code == 0
    before = page.read_bytes()
    damage(folder)
    assert_refused(invoke("report", folder), str(folder), said)
    assert page.read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_half_written_metrics_do_not_matter(folder: Path) -> None:
    """They are for watching a run; the checkpoint has the same figures, and is whole."""
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-400])
    (folder / "config.json").write_text("{")
    assert invoke("report", folder).exit_code == 0


def test_a_missing_run_and_a_missing_place_are_one_line_each(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(invoke("report", empty), f"there is no run in {empty}")
    assert_refused(invoke("report", folder / "config.json"), "there is no folder")
    assert_refused(invoke("report", tmp_path / ("x" * 300)), "cannot read", "File name too long")
    assert_refused(invoke("report", folder, "--out", empty), "is a folder: --out names the page's file")
    assert_refused(invoke("report", folder, "--out", tmp_path / "no" / "page.html"), "there is no folder")
    assert_refused(invoke("report", folder, "--out", folder / "config.json" / "page.html"), "there is no folder")
    assert list(empty.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_to_is_one_line(folder: Path) -> None:
    assert_refused(invoke("report", folder, "--out", "/proc/report.html"), "cannot write /proc/report.html")


def test_another_runs_curve_needs_a_name_and_a_run(folder: Path, tmp_path: Path) -> None:
    result = invoke("report", folder, "--beside", f"again={folder}", "--json")
    assert result.exit_code == 0, result.output
    assert ">again</title>" not in (folder / "report.html").read_text()
    assert_refused(invoke("report", folder, "--beside", "again"), "NAME=RUN_DIR")
    assert_refused(invoke("report", folder, "--beside", f"plain={folder}"), "there is a curve plain already")
    assert_refused(invoke("report", folder, "--beside", f"a={tmp_path / 'no'}"), "there is no folder")
    many = [word for index in range(7) for word in ("--beside", f"run {index}={folder}")]
    assert_refused(invoke("report", folder, *many), "6 curves")
    rewrite_checkpoint(folder, lambda stored: stored["config"].update(dataset="mnist"))
    other = invoke("report", folder, "--beside", f"digits={folder}")
    assert other.exit_code == 0
    assert "left out: The model could not be tested" in other.stdout


def test_a_runs_own_code_is_run_only_if_the_user_agrees(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_report_data.py").write_text(OWN_CODE)
    monkeypatch.chdir(tmp_path)
    rewrite_checkpoint(folder, lambda stored: stored["config"].update(dataset="my_report_data:load"))
    result = invoke("report", folder)
    assert result.exit_code == 0, result.output
    assert "left out: The run's own code (my_report_data:load) is run with --own-code only." in result.stdout
    assert not (tmp_path / "was-run").exists()

    result = invoke("report", folder, "--own-code")
    assert result.exit_code == 0, result.output
    assert "left out" not in result.stdout
    assert (tmp_path / "was-run").exists()
    assert parse(folder / "report.html").all("table", of_class="matrix")
