"""Each figure of a checkpoint is checked: it is of its kind, or the checkpoint is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl.errors import ConfigError
from fl.report import source
from fl.report.source import load_run
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


def test_an_unharmed_run_is_read_as_it_was_written(trained: Path) -> None:
    run = load_run(trained)
    assert run.rounds_done == 3
    assert [record.round for record in run.own] == [record.round for record in run.plain] == [1, 2, 3]
    assert run.config.protocol.compare
    assert run.network is None
    assert run.series == ()
    assert run.personalization is None
