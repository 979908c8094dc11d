"""A run's history: a sequence of records, and a table whose columns are those of ``metrics.jsonl``."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from fl.errors import ConfigError
from fl.runs.history import History
from fl.runs.records import RoundRecord
from fl.runs.rounds import start_runs
from tests.fl.runs import tiny_config, tiny_dataset


@pytest.fixture(scope="module")
def history() -> History:
    config = tiny_config(compare=True, dropout=0.34, rounds=3)
    runs = start_runs(config, tiny_dataset())
    return History([run.run_round() for _ in range(3) for run in runs], "secure")


def test_it_is_the_sequence_of_the_runs_own_records(history: History) -> None:
    assert len(history) == 3
    assert [record.round for record in history] == [1, 2, 3]
    assert history[-1].round == 3
    assert {record.aggregator for record in history} == {"secure"}
    assert [record.aggregator for record in history.plain] == ["plain"] * 3
    assert repr(history) == "<History of 3 rounds>"
    assert [record.round for record in history[1:]] == [2, 3]


def test_the_columns_are_those_of_the_records(history: History) -> None:
    pytest.importorskip("pandas")
    frame = history.to_frame()
    assert frame["aggregator"].tolist() == ["secure", "plain"] * 3
    assert frame["accuracy"].tolist() == [
        record.accuracy for pair in zip(history, history.plain, strict=True) for record in pair
    ]
    columns = {name.partition(".")[0] for name in frame.columns}
    assert columns - {"dropped"} <= set(RoundRecord.__dataclass_fields__)
    documented = RoundRecord.__doc__ or ""
    assert all(f"{name}:" in documented or f"{name}," in documented for name in columns)
    dropped = frame[[name for name in frame.columns if name.startswith("dropped.")]].sum(axis=1)
    assert dropped.tolist() == [
        sum(one.dropped.values()) for pair in zip(history, history.plain, strict=True) for one in pair
    ]
    assert frame.loc[0, "phases.Unmasking.bytes_up"] == history[0].phases["Unmasking"]["bytes_up"]


def test_it_is_saved_as_csv(history: History, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    history.save(tmp_path / "history.csv")
    assert pandas.read_csv(tmp_path / "history.csv")["loss"].tolist() == pytest.approx(
        history.to_frame()["loss"].tolist()
    )
    with pytest.raises(ConfigError, match="cannot write"):
        history.save(tmp_path / "missing" / "history.csv")


def test_without_pandas_it_says_how_to_get_it(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_pandas(name: str, *arguments: Any, **others: Any) -> Any:
        if name == "pandas":
            raise ImportError
        return original(name, *arguments, **others)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ConfigError, match="to_frame needs pandas: pip install pandas"):
        history.to_frame()
