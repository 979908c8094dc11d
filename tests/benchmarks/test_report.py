"""The report: the committed page follows from the committed results; goals, gaps and fits are computed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.blocks import REPOSITORY
from benchmarks.figures import FIGURES, log_fit
from benchmarks.report import SECTIONS, main, page

DOCUMENT = results.read(results.path_of("full"))


def of_groups(*groups: str, **changes: Any) -> dict[str, Any]:
    """Return the committed results of these groups, as the latest run found them."""
    assert DOCUMENT is not None
    entries = [copy.deepcopy(entry) for entry in DOCUMENT["results"] if entry["group"] in groups]
    return {**DOCUMENT, "results": [{k: v for k, v in entry.items() if k != "from"} for entry in entries], **changes}


def report(folder: Path, document: Any) -> int:
    """Run the command; return its exit code."""
    source = folder / "results.json"
    source.write_text(json.dumps(document), encoding="utf-8")
    return main(["--results", str(source), "--out", str(folder / "docs")])


def test_the_committed_page_is_made_of_the_committed_results() -> None:
    assert DOCUMENT is not None
    committed = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert committed == page(DOCUMENT, set(FIGURES)), "run `make bench-report`"


def test_every_published_time_stands_beside_ours() -> None:
    document = of_groups("figure8")
    text = page(document, set())
    for entry in document["results"]:
        for milliseconds in (entry["published_milliseconds"] if "milliseconds" in entry else {}).values():
            assert f" / {milliseconds:,} |" in text


def test_missed_goals_are_computed_from_the_data() -> None:
    document = of_groups("scaling", "communication")
    ratios = [entry["ratio"] for entry in document["results"] if entry["name"] == "bytes_of_a_client"]
    limits = [limit for entry in document["results"] for limit in entry.get("limits", {}).values()]
    for ratio in ratios:
        ratio["value"] = ratio["goal"] or 1.0
    for limit in limits:
        limit["value"] = limit["most"]
    assert "**5 of 5 goals are reached.**" in page(document, set())
    for ratio in ratios:
        ratio["value"] = 9.0
    for limit in limits:
        limit["value"] = 1e12
    text = page(document, set())
    assert "**0 of 5 goals are reached.**" in text
    assert "9.00, goal ≤ 1.73;" in text
    assert "limit 240" in text
    assert text.count(", missed)") == 3


def test_the_page_opens_with_whole_rounds_beside_the_peer() -> None:
    document = of_groups("scaling", "peers")
    for entry in document["results"]:
        if entry["name"] == "clients" and entry["params"]["clients"] == 1000:
            entry["seconds"]["median"] = 12.3
        if entry["name"] == "flower_round" and entry["params"]["clients"] == 100:
            entry["peer_seconds"], entry["secagg_seconds"] = 456.0, 7.89
    opening, _ = page(document, set()).split("## ", maxsplit=1)
    assert "| 1,000 clients, sparse graph, 5% drop out | 12.3 s |" in opening
    assert "| 100 clients, complete graph, 10 drop out | 7.89 s | Flower 1.41.0: 456 s |" in opening


def test_pieces_of_which_one_parameter_varies_share_a_row_unless_they_have_goals() -> None:
    document = of_groups("micro")
    chunks = [entry for entry in document["results"] if entry["name"] == "chunk_size"]
    assert page(document, set()).count("\n| chunk size |") == 1
    chunks[0]["ratio"]["goal"] = 0.5
    assert page(document, set()).count("\n| chunk size |") == len(chunks)


@pytest.mark.parametrize("group", SECTIONS)
def test_groups_that_were_not_run_are_listed(group: str) -> None:
    assert page(of_groups(group), set()).count("*Not run.*") == len(SECTIONS) - 1


def test_entries_of_earlier_runs_are_marked() -> None:
    document = of_groups("communication")
    document["results"][0]["from"] = {"commit": "0ldc0de", "created": "2025-12-31T00:00:00", "machine": {}}
    text = page(document, set())
    assert text.count("\u00a0†") == 1
    assert "commit 0ldc0de, 2025-12-31, on another machine" in text


def test_figures_are_drawn_of_what_was_run_and_no_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "benchmarks"
    for groups, drawn in ((("peers", "figure8"), {"peers", "figure8"}), (("peers",), {"peers"})):
        assert report(tmp_path, of_groups(*groups)) == 0
        assert {path.stem for path in folder.iterdir()} == drawn
        text = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
        assert all(f"](benchmarks/{name}.png)" in text for name in drawn)
        assert text.count(".png)") == len(drawn)


@pytest.mark.parametrize("broken", [{"format": 99}, {}])
def test_results_of_another_version_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: dict[str, Any]
) -> None:
    assert report(tmp_path, broken) == 1
    assert "run `make bench` first" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


def test_a_missing_file_is_refused_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path / "none.json"), "--out", str(tmp_path)]) == 1
    assert "run `make bench` first" in capsys.readouterr().err


def test_a_logarithm_is_found_to_be_one() -> None:
    fit = log_fit([10, 100, 1000], [1.0, 2.0, 3.0])
    assert fit is not None
    assert fit.r_squared == pytest.approx(1)
    assert fit.at([10_000]) == pytest.approx([4.0])
    constant = log_fit([10, 100, 1000], [5.0, 5.0, 5.0])
    assert constant is not None
    assert constant.exponent == pytest.approx(0, abs=1e-9)
    assert log_fit([10, 100], [1.0, 2.0]) is None
