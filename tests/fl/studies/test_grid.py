"""The runs of a study, from Python and from a file, and every mistake in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.config.run_config import SETTINGS
from fl.errors import ConfigError
from fl.studies.grid import Study, refused_cells
from fl.studies.reading import read_study

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "study.toml"


def study_of(settings: dict[str, Any] | None = None, seeds: Any = (0, 1), **axes: Any) -> Study:
    return Study(settings=settings or {}, axes=axes, seeds=seeds)


def read(path: Path, text: str) -> Study:
    (path / "study.toml").write_text(text)
    return read_study(path / "study.toml")


def test_each_cell_is_run_with_each_seed() -> None:
    runs = study_of({"rounds": 2}, clients=[4, 6], dropout=[0, 0.2]).runs()
    assert [(run.cell, run.seed) for run in runs[:3]] == [
        ({"clients": 4, "dropout": 0}, 0),
        ({"clients": 4, "dropout": 0}, 1),
        ({"clients": 4, "dropout": 0.2}, 0),
    ]
    assert len(runs) == len({run.name for run in runs}) == 8
    for run in runs:
        assert run.config is not None
        assert (run.config.data.clients, run.config.protocol.dropout) == (run.cell["clients"], run.cell["dropout"])
        assert (run.config.seed, run.config.rounds) == (run.seed, 2)


def test_a_run_keeps_its_name_when_the_grid_grows() -> None:
    before = {run.label: run.name for run in study_of(clients=[4], dropout=[0.1]).runs()}
    after = {run.label: run.name for run in study_of(seeds=(2, 0, 1), clients=[4, 6], dropout=[0.0, 0.1]).runs()}
    assert before.items() < after.items()
    longer = study_of({"rounds": 3}, clients=[4], dropout=[0.1]).runs()
    assert {run.label for run in longer} == before.keys()
    assert not {run.name for run in longer} & {*before.values()}


def test_numbers_of_numpy_are_numbers() -> None:
    runs = study_of(clients=np.array([4, 6]), dropout=np.linspace(0, 0.4, 3)).runs()
    assert not any(run.refusal for run in runs)
    assert {type(value) for run in runs for value in run.cell.values()} == {int, float}


def test_settings_that_do_not_fit_each_other_are_refused_run_by_run() -> None:
    runs = study_of({"sample": 5}, clients=[4, 6]).runs()
    assert [bool(run.refusal) for run in runs] == [True, True, False, False]
    assert "sample must be between 1 and the 4 clients" in runs[0].refusal


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"client": [1]}, "a run has no setting client: did you mean clients?"),
        ({"seed": [1]}, "a study's seeds are given as seeds"),
        ({"compare": [True]}, "make aggregator an axis"),
        ({"rounds": [1]}, "rounds is an axis and has a single value too"),
        ({"clients": []}, "clients must be a list of values"),
        ({"model": "cnn"}, "model must be a list of values, not 'cnn'"),
        ({"clients": [4, 6, 4]}, "clients has 4 twice"),
        ({"seeds": [1, 1]}, "seeds has 1 twice"),
    ],
)
def test_a_mistake_is_named(axes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        study_of({"rounds": 2}, **axes)
    assert said in str(raised.value)


def test_two_names_of_the_same_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="partition default, seed 0 and partition iid, seed 0 are the same run"):
        study_of(partition=[None, "iid"]).runs()


def test_a_refusal_names_few_cells_and_each_reason_once() -> None:
    error = refused_cells([({"clients": count}, "too many") for count in (*range(9), 8)], remedy="take fewer")
    assert error.reasons == ("clients 0; clients 1; clients 2; clients 3; and 5 more: too many", "take fewer")


def test_the_example_is_read() -> None:
    study = read_study(EXAMPLE)
    assert len(study.runs()) == 72
    assert [*study.axes] == ["dropout", "clients", "partition"]
    assert {name: study.settings[name] for name in ("dataset", "rounds", "epochs")} == {
        "dataset": "digits",
        "rounds": 10,
        "epochs": 1,
    }
    assert not any(run.refusal for run in study.runs())


@pytest.mark.parametrize("option", [name for name in SETTINGS if name != "seed"])
def test_every_setting_can_be_an_axis(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, f"[grid]\n{option} = 1\n")
    assert f"{option} must be a list of values in brackets, not 1" in str(raised.value)


def test_lists_of_lists_and_seeds(tmp_path: Path) -> None:
    study = read(
        tmp_path, 'seeds = [3, 5]\n[grid]\ndropout_at = [["any"], ["unmasking", "share-keys"]]\nclip = [1, 0.5]\n'
    )
    assert study.axes == {"dropout_at": (("any",), ("unmasking", "share-keys")), "clip": (1.0, 0.5)}
    assert study.seeds == (3, 5)
    assert study.runs()[-1].label == "dropout at unmasking+share-keys, clip 0.5, seed 5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = 1", "unknown seed: did you mean seeds?"),
        ("seeds = 0", "seeds must be at least 1, or a list of seeds, not 0"),
        ("seeds = 1.5", "seeds must be a list of values in brackets, not 1.5"),
        ('seeds = ["a"]', "seeds must be a whole number, not 'a'"),
        ("[grid]\nlearning-rate = [0.1]", "unknown learning-rate in [grid]: did you mean learning_rate?"),
        ("[grid]\nclients = [4, 'many']", "clients must be a whole number, not 'many'"),
        ("[grids]\nclients = [4]", "unknown section [grids]: sections are data, local, server, protocol, "),
        ("rounds = [1, 2]", "rounds has several values: write them as rounds in [grid]"),
        ("[server]\nlearning_rate = [0.1]", "learning_rate has several values: write them as server_learning_rate in"),
        ("rounds = 2\n[grid]\nrounds = [1, 2]", "rounds is an axis and has a single value too"),
        ("[grid]\nclients = [4, 4]", "clients has 4 twice"),
        ("[protocol]\ncompare = true", "make aggregator an axis"),
        ("[grid", "is not a TOML file"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert said in str(raised.value)
    assert "study.toml" in str(raised.value) or text.startswith("seeds = 0")
