"""docs/experiments.md follows from the committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.page import main, page, read_results
from experiments.section import table
from fl.errors import ConfigError
from fl.experiments.catalog import EXPERIMENTS, find
from fl.experiments.private_users import PrivateArm
from tests.fl.runs import REPOSITORY

RESULTS = REPOSITORY / "experiments" / "results"


def test_the_committed_page_is_made_of_the_committed_results() -> None:
    text, _ = page(read_results(RESULTS))
    assert (REPOSITORY / "docs" / "experiments.md").read_text(encoding="utf-8") == text, "run `make experiments-page`"


def arm_result(arm: Any, accuracies: list[float], reached: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": arm.name, "title": arm.title, "settings": arm.settings(), "headline": "done", "seconds": 10.0,
        "rounds": len(accuracies), "reached": reached, "accuracy": accuracies[-1], "best_accuracy": max(accuracies),
        "train_accuracy": 0.99, "seconds_per_round": 2.5, "bytes_up": 10**6, "bytes_down": 10**6, "clients": None,
        "by_round": {"accuracy": accuracies}, **more,
    }  # fmt: skip


def document_of(name: str, arms: list[dict[str, Any]], unfinished: list[str]) -> dict[str, Any]:
    return {
        "format": 1, "experiment": name, "title": find(name).build(quick=False, seed=0).title, "quick": False,
        "seed": 0, "command": f"secagg experiment {name}", "created": "2020-01-02T03:04:05+00:00", "jobs": 2,
        "threads": 1, "versions": {"python": "3"},
        "machine": {"cpu": "abacus", "cores": 2, "system": "bone", "memory_bytes": 8e9},
        "elapsed_seconds": 3600.0, "arms": arms, "unfinished": unfinished,
    }  # fmt: skip


def test_six_clients_are_compared_with_the_source_and_with_each_other() -> None:
    built = find("fashion-six").build(quick=False, seed=0).arms
    arms = []
    for arm in built:
        level = {"federated-sgd": 0.925, "federated-sgd-plain": 0.9235}.get(arm.name, 0.9)
        more: dict[str, Any] = {}
        if arm.name in ("federated-sgd", "federated-adam"):
            more["clients"] = [{"train_accuracy": 0.97, "test_accuracy": 0.871 + i / 1000} for i in range(6)]
        arms.append(arm_result(arm, [0.5, level], **more))
    text, sections = page({"fashion-six": document_of("fashion-six", arms, [])})
    assert "reaches the goal of 92.00%: 92.50%" in text
    assert "+0.15 points" in text
    assert "87.40%" in text
    assert "| a client alone, SGD | 2 | 90.00% to 90.00% | 90.00% | 99.00% to 99.00% |" in text
    assert "| before averaging, SGD |  | 87.10% to 87.60% |  | 97.00% to 97.00% |" in text
    assert "60 minutes on abacus, 2 cores, bone, 8 GB; 2 arms at once, 1 thread each" in text
    assert sections["fashion-six"].figures


def test_rounds_are_compared_with_the_published_and_capped_runs_are_marked() -> None:
    built = {arm.name: arm for arm in find("mnist-hundred").build(quick=False, seed=0).arms}
    arms = [
        arm_result(built["cnn-iid"], [0.98, 0.991], reached=2),
        arm_result(built["cnn-iid-fast"], [0.98] * 14 + [0.991], reached=15),
        arm_result(built["cnn-shards"], [0.8] * 60),
        arm_result(built["cnn-shards-fast"], [0.8] * 60),
    ]
    text, _ = page({"mnist-hundred": document_of("mnist-hundred", arms, ["2nn-iid"])})
    assert "| 99.00% | 20 | 2 | 0.10 |" in text
    assert "| 99.00% | 20 | 15 | 0.75 |" in text
    assert "CNN, E = 5, IID, faster: learning rate 0.1" in text
    assert "| 99.00% | 229 | not in 60 |" in text
    assert "stopped after 60 rounds, before the published 229" in text
    assert "**Not finished:** 2nn-iid." in text


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_nothing_finished_is_a_page_too(name: str) -> None:
    text, sections = page({name: document_of(name, [], ["all"])})
    assert "**Not finished:** all." in text
    assert not sections[name].figures
    assert f"`secagg experiment {name}` makes them" in page({})[0]


def test_the_command_writes_page_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = find("mnist-hundred").build(quick=False, seed=0).arms
    results = tmp_path / "results"
    results.mkdir()
    document = document_of("mnist-hundred", [arm_result(built[0], [0.98, 0.991], reached=2)], [])
    (results / "mnist-hundred.json").write_text(json.dumps(document))
    out = tmp_path / "docs" / "experiments.md"
    assert main(["--results", str(results), "--out", str(out)]) == 0
    written = capsys.readouterr().out.split()
    assert [Path(path).name for path in written] == ["experiments.md", "mnist-hundred.png"]
    shown = re.findall(r"\]\(([^)]+\.png)\)", out.read_text())
    assert shown
    for path in shown:
        assert (out.parent / path).is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quick": True}, "a quick run"),
        ({"format": 99}, "from another version"),
        ({"experiment": "fashion-six"}, "holds the results of fashion-six"),
    ],
)
def test_invalid_results_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    document = {**document_of("mnist-hundred", [], []), **changes}
    (tmp_path / "mnist-hundred.json").write_text(json.dumps(document))
    assert main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
    with pytest.raises(ConfigError, match=said):
        read_results(tmp_path)


def test_a_table_is_markdown() -> None:
    assert table(["", "a"], [["x", "1"]]) == "|  | a |\n|---|---:|\n| x | 1 |"


def test_private_users_show_means_ranges_gaps_and_refusals() -> None:
    arms = []
    for arm in find("private-users").build(quick=False, seed=0).arms:
        assert isinstance(arm, PrivateArm)
        seed = arm.config.seed
        shift = {"central": 0.002, "distributed": 0.001, "local": 0.0}[arm.privacy.kind] if arm.privacy else 0.05
        if arm.privacy and arm.privacy.ring_bits == 12:
            arms.append({"name": arm.name, "title": arm.title, "settings": arm.settings(), "refused": ["too narrow"]})
        elif seed < 2 or arm.config.data.dataset == "mnist":
            noise = {"noise_multiplier": 0.7} if arm.privacy else {}
            arms.append(arm_result(arm, [0.5, 0.8 + shift + seed / 1000], client_bytes=16384, **noise))
    text, sections = page({"private-users": document_of("private-users", arms, ["x"] * 20)})
    assert "**Not finished:** 20 of " in text
    assert "| MNIST: no noise, no clip | 85.10 (85.00 to 85.20) |  |  |  | 16,384 |" in text
    assert "| MNIST: central Gaussian | 80.30 (80.20 to 80.40) | 80.30 (80.20 to 80.40) |" in text
    assert "| Fashion-MNIST: local Gaussian | 80.05 (80.00 to 80.10, 2 seeds) |" in text
    assert "| MNIST: Skellam, 12 bits | refused: too narrow | refused: too narrow |" in text
    assert "-0.10 on MNIST at epsilon 1" in text
    assert sections["private-users"].figures
