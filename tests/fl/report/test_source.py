"""Each figure of a checkpoint is checked: it is of its kind, or the checkpoint is damaged."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fl.errors import ConfigError
from fl.report import source
from fl.report.source import load_run
from fl.runs.personal_scores import PersonalScores, save_scores
from fl.runs.records import RoundRecord
from tests.fl.report.pages import rewrite_checkpoint

WRONG: dict[str, list[Any]] = {
    "round": ["1", 7],
    "aggregator": [None, "other"],
    "accuracy": ["0.5", True],
    "included": ["all", [1.5], [-1]],
    "dropped": [[], {"ShareKeys": -1}, {"<b>": 1}],
    "refused": [{"3": 4}, "none"],
    "phases": [{"ShareKeys": {}}, {"Other": {}}, {"ShareKeys": {"server_seconds": "1"}}, []],
    "aborted": [1],
    "held_out_aborted": [1],
}


def test_every_figure_is_looked_at() -> None:
    assert source._CHECKS.keys() == RoundRecord.__dataclass_fields__.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", RoundRecord.__dataclass_fields__)
def test_a_figure_of_another_kind_is_damage(name: str, folder: Path) -> None:
    intact = (folder / "checkpoint.safetensors").read_bytes()
    for value in [*WRONG.get(name, ["0.5", [], True]), 10**400, float("inf")]:
        (folder / "checkpoint.safetensors").write_bytes(intact)
        rewrite_checkpoint(folder, lambda stored, value=value: stored["records"][2].update({name: value}))
        with pytest.raises(ConfigError, match="damaged"):
            load_run(folder)


@pytest.mark.parametrize("records", [None, 3, [], [[]], {}, [{"round": 1}]])
def test_invalid_records_are_damage(records: Any, folder: Path) -> None:
    rewrite_checkpoint(folder, lambda stored: stored.update(records=records))
    with pytest.raises(ConfigError) as refused:
        load_run(folder)
    assert "\n" not in str(refused.value)


SCORES = PersonalScores(
    method="full", clients=4, held_out=20, loss=0.7, metrics={"accuracy": 0.5, "none": math.nan}, personal_loss=0.6,
    personal_metrics={"accuracy": 0.6, "none": math.nan}, gain="accuracy", p10=-0.1, median=0.0, p90=0.2, better=0.5,
    worse=0.25, lower_loss=0.5, histogram=(0,) * 40 + (4,) + (0,) * 40,
)  # fmt: skip


def test_damaged_scores_of_personal_models_are_one_line(folder: Path) -> None:
    """Somebody else's run may be reported, so its file must not end the program with another error."""
    save_scores(folder, SCORES)
    found = load_run(folder).personal
    assert found is not None
    assert found.to_json() | {"metrics": 0, "personal_metrics": 0} == SCORES.to_json() | {
        "metrics": 0,
        "personal_metrics": 0,
    }
    assert str(found) == str(SCORES)
    intact = json.loads((folder / "personal.json").read_text())
    assert source._SCORES_CHECKS.keys() == intact.keys()
    for name, value in itertools.product(intact, (None, True, ["0.5"], {"a": "b"}, -(10**400), "\x1b[2J", "none")):
        if value != "none" or name not in ("method", "gain"):
            (folder / "personal.json").write_text(json.dumps({**intact, name: value}))
            with pytest.raises(ConfigError, match=r"personal\.json is damaged"):
                load_run(folder)
    # No figure of this name, or one that is not a number.
    for gain in ("other", "none"):
        (folder / "personal.json").write_text(json.dumps({**intact, "gain": gain}))
        with pytest.raises(ConfigError, match=f"it has no {gain}"):
            load_run(folder)
    (folder / "personal.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"personal\.json is damaged"):
        load_run(folder)


def test_an_unharmed_run_is_read_as_it_was_written(trained: Path) -> None:
    run = load_run(trained)
    assert run.rounds_done == 3
    assert [record.round for record in run.own] == [record.round for record in run.plain] == [1, 2, 3]
    assert run.config.protocol.compare
    assert run.network is None
    assert run.series == ()
    assert run.personalization is None
