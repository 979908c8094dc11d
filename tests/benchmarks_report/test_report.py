"""The report: every figure of the results in it, gaps said, and a page that needs nothing but itself."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.report.__main__ import main
from benchmarks.report.fits import log_fit
from benchmarks.report.goals import goals
from tests.benchmarks_report.made_up import COMMUNICATION, FIGURE8, MALICIOUS, MICRO, NETWORK, PEERS, SCALING, document

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FIGURES = ("figure8", "peers", "scaling-clients", "scaling-length", "micro")


def report(folder: Path, results: dict[str, Any]) -> tuple[str, str]:
    """Run the command; its Markdown and its page."""
    source = folder / "results.json"
    source.write_text(json.dumps(results), encoding="utf-8")
    assert main(["--results", str(source), "--out", str(folder / "docs")]) == 0
    markdown = (folder / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    return markdown, (folder / "docs" / "benchmarks" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A report of all groups: its folder, its Markdown, its page."""
    folder = tmp_path_factory.mktemp("report")
    return folder / "docs" / "benchmarks", *report(folder, document())


def test_every_published_figure_stands_beside_ours(written: tuple[Path, str, str]) -> None:
    _, markdown, page = written
    for row in FIGURE8:
        for milliseconds in row["published_milliseconds"].values():
            assert f"12.5 / {milliseconds:,} |" in markdown
            assert f">12.5 / {milliseconds:,}<" in page
    assert "| 1.73 |" in markdown


def test_ratios_goals_and_verdicts_of_all_groups_are_there(written: tuple[Path, str, str]) -> None:
    _, markdown, page = written
    for value in ("0.65", "1.13", "1.72", "157", "17.0"):
        assert f"| {value} |" in markdown
        assert f">{value}</td>" in page
    for text in ("Some CPU", "abc1234", "2026-01-02", "declearn masking[100]", "not installed", "make bench-quick"):
        assert text in markdown
        assert text in page


def test_missed_goals_are_computed_from_the_data(written: tuple[Path, str, str]) -> None:
    _, markdown, _ = written
    missed = markdown.split("## Goals not reached")[1].split("## Goals reached")[0]
    assert [line.split("|")[1].strip() for line in missed.splitlines() if line.startswith("| ")][2:] == [
        "micro", "figure8", "scaling",
    ]  # fmt: skip
    assert "| 0.97 | ≥ 1.6 | 39% |" in missed
    assert "| 84.0 s | ≤ 60.0 s | 40% |" in missed
    assert "6 of 9 goals are reached." in markdown
    assert sum(goal.reached for goal in goals(document())) == 6


def test_without_missed_goals_nothing_is_said_to_be_missed(tmp_path: Path) -> None:
    markdown, page = report(tmp_path, document(COMMUNICATION))
    assert "not reached" not in markdown + page
    assert "1 of 1 goals are reached." in page


def test_all_figures_are_written_as_png_and_svg(written: tuple[Path, str, str]) -> None:
    folder, markdown, page = written
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(PNG_SIGNATURE)
        ElementTree.parse(folder / f"{name}.svg")  # noqa: S314 - our own file
        assert f"(benchmarks/{name}.png)" in markdown
    assert page.count('<svg role="img"') == len(FIGURES)


def test_the_page_refers_to_nothing_outside_itself(written: tuple[Path, str, str]) -> None:
    _, _, page = written
    targets = re.findall(r"""(?:href|src|srcset|data|action)\s*=\s*["']([^"']*)["']""", page)
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert not re.search(r"@import|<script|<link|<img|<iframe", page)


def test_what_the_page_refers_to_in_itself_is_there_once(written: tuple[Path, str, str]) -> None:
    _, _, page = written
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) | set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)


def test_the_page_escapes_what_it_is_given(written: tuple[Path, str, str]) -> None:
    _, _, page = written
    assert "It survives &lt;little&gt; &amp; warns." in page


def test_figures_of_the_page_take_its_colours(written: tuple[Path, str, str]) -> None:
    _, _, page = written
    assert "prefers-color-scheme: dark" in page
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert "currentColor" in svg
    assert not re.search(r"fill: (#ffffff|white)", svg)


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    assert report(tmp_path, document(PEERS)) == report(tmp_path, document(PEERS))


@pytest.mark.parametrize("run_alone", range(7))
def test_groups_that_were_not_run_are_said(tmp_path: Path, run_alone: int) -> None:
    groups = [MICRO, FIGURE8, COMMUNICATION, PEERS, SCALING, MALICIOUS, NETWORK]
    titles = [
        "Pieces",
        "The paper's figure 8",
        "Communication",
        "Peers",
        "Scaling",
        "Against a server that lies",
        "Between processes",
    ]
    markdown, page = report(tmp_path, document(groups[run_alone]))
    assert markdown.count("*Not run.*") == page.count(">Not run.<") == 6
    run = titles.pop(run_alone)
    assert all(title in markdown.split("Not run: ")[1].split("\n")[0] for title in titles)
    assert run not in markdown.split("Not run: ")[1].split("\n")[0]


def test_figures_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    report(tmp_path, document(PEERS))
    report(tmp_path, document(COMMUNICATION))
    assert [path.name for path in (tmp_path / "docs" / "benchmarks").iterdir()] == ["index.html"]


def test_few_points_give_curves_without_fits(tmp_path: Path) -> None:
    markdown, _ = report(tmp_path, document(SCALING[:1]))
    assert "More clients" in markdown
    assert "as a power of n" not in markdown


def test_entries_of_earlier_runs_are_marked(tmp_path: Path) -> None:
    older = [{**COMMUNICATION[0], "from": {"commit": "0ldc0de", "created": "2025-12-31", "machine": {}}}]
    markdown, _ = report(tmp_path, document(older))
    assert "1,024\u00a0†" in markdown
    assert "0ldc0de, 2025-12-31, on another machine" in markdown


def test_a_logarithm_is_found_to_be_one() -> None:
    fit = log_fit([10, 100, 1000], [1.0, 2.0, 3.0])
    assert fit is not None
    assert fit.r_squared == pytest.approx(1)
    assert fit.at([10_000]) == pytest.approx([4.0])
    constant = log_fit([10, 100, 1000], [5.0, 5.0, 5.0])
    assert constant is not None
    assert constant.exponent == pytest.approx(0, abs=1e-9)
    assert log_fit([10, 100], [1.0, 2.0]) is None
