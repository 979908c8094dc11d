"""`secagg simulate` with lists: every combination, its spread, and the files for a paper."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from fl.commands.simulate import parse_axes
from fl.errors import ConfigError
from fl.runs.simulation import MadeUpInputs, simulate
from fl.studies.costs import FIGURES, HEADINGS, CostSpread, latex_of, save_cost_figure, spreads_of, table_of
from tests.fl.runs import assert_refused, invoke

GRID = ("simulate", "--clients", "4,6", "--graph", "complete", "--dropout", "0,0.25", "--length", 20)


def row_of(clients: int, graph: str, seconds: float, exact: bool = True) -> dict[str, Any]:
    figures = dict.fromkeys(FIGURES, seconds if exact else None)
    return {"clients": clients, "graph": graph, "exact": exact, **figures}


ROWS = [row_of(10, "sparse", second) for second in (0.3, 0.1, 0.2)]
ROWS += [row_of(20, "sparse", 12.345), row_of(20, "complete", 0, exact=False)]
AXES = {"clients": [10, 20], "graph": ["sparse", "complete"], "length": [5]}


def test_each_combination_is_run_and_written(tmp_path: Path) -> None:
    files = [tmp_path / "new" / name for name in ("costs.csv", "costs.tex", "costs.pdf")]
    options = [
        word for option, path in zip(("csv", "latex", "figure"), files, strict=True) for word in (f"--{option}", path)
    ]
    result = invoke(*GRID, "--repeat", 2, "--seed", 7, "--json", *options)
    assert result.exit_code == 0, result.output
    sessions = json.loads(result.stdout)["sessions"]
    assert [(one["clients"], one["dropout"], one["seed"]) for one in sessions] == [
        (clients, dropout, seed) for clients in (4, 6) for dropout in (0, 0.25) for seed in (7, 8)
    ]
    assert all(one["exact"] and one["client_seconds"] > one["masking_seconds"] > 0 for one in sessions)
    assert [one["included"] for one in sessions if one["clients"] == 6] == [6, 6, 6, 6]
    assert "4/4  clients 6, dropout 0.25: " in result.stderr
    with files[0].open(newline="") as file:
        stored = [*csv.DictReader(file)]
    assert [float(one["unmasking_seconds"]) for one in stored] == [one["unmasking_seconds"] for one in sessions]
    assert files[1].read_text().count(r"\\") == 1 + 4
    assert files[2].read_bytes().startswith(b"%PDF")
    # What the table does not show, the verdict and the files are said too.
    assert "length 20, bits 16," in result.stderr
    assert "the sums of 8 of 8 sessions are exact" in result.stderr
    assert f"results {', '.join(map(str, files))}\n" in result.stderr


def test_the_spread_is_median_and_range_of_the_sums(tmp_path: Path) -> None:
    assert spreads_of(ROWS, {"clients": 10, "graph": "sparse"})["seconds"] == CostSpread(0.2, 0.1, 0.3)
    assert spreads_of(ROWS, {"clients": 20, "graph": "complete"}) == {}
    rows = [{**row, "length": 5} for row in ROWS]
    headings, lines = table_of(AXES, rows)
    assert headings == ["clients", "graph", *(heading for heading, _ in HEADINGS.values())]
    assert lines == [
        ["10", "sparse", "200\n(100–300)", "0.200\n(0.100–0.300)", *["0.000200\n(0.000100–0.000300)"] * 2],
        ["20", "sparse", "12,345", "12.3", "0.0123", "0.0123"],
        ["20", "complete", *["no sum"] * 4],
    ]
    assert r"10 & sparse & 200 (100--300) & " in latex_of(headings, lines, note="100% of it")
    save_cost_figure(tmp_path / "f.png", AXES, rows)
    assert (tmp_path / "f.png").exists()


def test_texts_are_escaped_for_latex(tmp_path: Path) -> None:
    text = latex_of(["a", *(heading for heading, _ in HEADINGS.values())], [[r"x_1 & 5% \~"]], note="")
    assert r"x\_1 \& 5\% \textbackslash{}\textasciitilde{} \\" in text


def test_lists_are_separated_by_commas_or_given_one_by_one() -> None:
    axes = parse_axes(clients=["4, 6", "8"], corrupt=["0.1"], graph=["sparse,complete"], dropout=[])
    assert axes == {"clients": [4, 6, 8], "corrupt": [0.1], "graph": ["sparse", "complete"], "dropout": [0.0]}
    assert parse_axes(threshold=None, dropout=[]) == {"threshold": [None], "dropout": [0.0]}
    both = parse_axes(dropout=["share-keys=0.1,share-keys=0.2", "unmasking=0.1"])
    assert both == {"dropout": ["share-keys=0.1+unmasking=0.1", "share-keys=0.2+unmasking=0.1"]}
    assert parse_axes(dropout=["0.1,0.2"]) == {"dropout": [0.1, 0.2]}
    for wrong, said in ((["4,many"], "'many' is not a whole number"), (["4", "4"], "has 4 twice"), ([""], "whole")):
        with pytest.raises(ConfigError, match=said):
            parse_axes(clients=wrong, dropout=[])


def test_impossible_combinations_are_named_before_anything_runs(tmp_path: Path) -> None:
    lists = ("simulate", "--clients", "4,6", "--dropout", "0,0.8", "--graph", "complete", "--length", 20)
    result = invoke(*lists, "--csv", tmp_path / "c.csv", "--json")
    assert result.exit_code == 1
    reasons = json.loads(result.stdout)["reasons"]
    assert reasons[0].startswith("clients 4, dropout 0.8: ")
    assert "--skip-impossible" in reasons[-1]
    assert not (tmp_path / "c.csv").exists()
    skipped = invoke(*lists, "--skip-impossible", "--json")
    assert [one["dropout"] for one in json.loads(skipped.stdout)["sessions"]] == [0, 0]
    assert "impossible and left out: 2 of 4" in skipped.stderr
    nothing = invoke("simulate", "--clients", "4", "--dropout", "0.8,0.9", "--skip-impossible")
    assert nothing.exit_code == 1
    assert "change the options: no session is possible" in nothing.stderr


def test_a_round_that_some_adversaries_lack_is_refused_for_them() -> None:
    lists = ("simulate", "--clients", 6, "--length", 20, "--adversary", "honest-but-curious,malicious")
    result = invoke(*lists, "--dropout", "consistency-check=0.2", "--skip-impossible", "--json")
    assert result.exit_code == 0, result.output
    assert [one["adversary"] for one in json.loads(result.stdout)["sessions"]] == ["malicious"]


def test_ctrl_c_keeps_the_sessions_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        seen.append(options["seed"])
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return simulate(*arguments, **options)

    monkeypatch.setattr("fl.commands.simulate.simulate", interrupted)
    result = invoke(*GRID, "--csv", tmp_path / "c.csv", "--json")
    assert result.exit_code == 130
    assert len(json.loads(result.stdout)["sessions"]) == 2
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 3


def test_sessions_without_a_sum_fail_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = MadeUpInputs.sum_of
    monkeypatch.setattr(MadeUpInputs, "sum_of", lambda self, ids: honest(self, ids) ^ 1)
    result = invoke("simulate", "--clients", "4,6", "--length", 20, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"] == "2 of 2 sessions came to no sum, or to a wrong one"


def test_a_file_that_cannot_be_written_is_named_first(tmp_path: Path) -> None:
    assert_refused(invoke(*GRID, "--csv", tmp_path), "is a folder: --csv names a file")
    (tmp_path / "file").write_text("")
    assert_refused(invoke(*GRID, "--latex", tmp_path / "file" / "a.tex"), "is not a writable folder")


def test_labels_of_wide_scales_are_numbers(tmp_path: Path) -> None:
    rows = [{**row_of(clients, "sparse", clients / 100), "length": 5} for clients in (10, 100)]
    save_cost_figure(tmp_path / "f.svg", {"clients": [10, 100], "length": [5]}, rows)
    drawn = (tmp_path / "f.svg").read_text()
    assert "mathdefault" not in drawn
    assert {"<!-- 100 -->", "<!-- 0.2 -->", "<!-- 0.5 -->"} <= set(re.findall(r"<!-- [^ ]+ -->", drawn))
