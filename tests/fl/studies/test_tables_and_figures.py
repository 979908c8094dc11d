"""The tables and figures of a study, without a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.axes import Axes

from fl.errors import ConfigError
from fl.studies.costs import FIGURES
from fl.studies.figure import Curves, Layout, save_figures, save_multiples
from fl.studies.grid import Study
from fl.studies.tables import ROUND_COLUMNS, RUN_COLUMNS, Row, csv_of, metrics_of, save_table

ROWS = [
    {"run": "a", "dropout_at": ("any", "unmasking"), "channels_last": True, "accuracy": 0.1 + 0.2, "reason": None},
    {"run": "b", "dropout_at": ("any",), "channels_last": False, "accuracy": None, "reason": 'said "no",\nand left'},
]


def test_a_table_can_be_read_back(tmp_path: Path) -> None:
    save_table(tmp_path / "new" / "runs.csv", ROWS)
    with (tmp_path / "new" / "runs.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "run": "a",
        "dropout_at": "any+unmasking",
        "channels_last": "true",
        "accuracy": "0.30000000000000004",
        "reason": "",
    }
    assert (second["accuracy"], second["reason"]) == ("", 'said "no",\nand left')


def test_a_table_without_rows_is_a_file(tmp_path: Path) -> None:
    save_table(tmp_path / "rounds.csv", [])
    assert csv_of([]).strip() == b""


def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    save_table(tmp_path / "runs.csv", ROWS)
    assert parquet.read_table(tmp_path / "runs.parquet").to_pylist() == [
        {**row, "dropout_at": "+".join(row["dropout_at"])} for row in ROWS
    ]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to"):
        save_table(tmp_path / "file" / "runs.csv", ROWS)


@pytest.mark.parametrize(
    ("axes", "layout"),
    [
        ({"model": 2, "dropout": 3, "clients": 2}, ("dropout", "model", ("clients",))),
        ({"model": 2, "partition": 2}, ("model", "partition", ())),
        ({"dropout": 1, "clients": 3}, ("clients", None, ())),
        ({"channels_last": 2, "clients": 2, "model": 2}, ("clients", "channels_last", ("model",))),
    ],
)
def test_axes_are_laid_out_as_x_lines_and_panels(axes: dict[str, int], layout: tuple[Any, ...]) -> None:
    values = {"model": ["cnn", "2nn"], "partition": ["iid", "shards"], "channels_last": [True, False]}
    found = Layout.of({name: values.get(name, [0, 1, 2])[:count] for name, count in axes.items()})
    assert found is not None
    assert (found.x, found.lines, found.panels) == layout


def test_an_axis_of_one_value_needs_no_figure() -> None:
    assert Layout.of({"clients": [4]}) is None
    assert Layout.of({"clients": [4]}, "round") == Layout("round", None, ())


def test_the_center_is_the_mean_and_the_band_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, bands = [], []
    plot, fill = Axes.plot, Axes.fill_between
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: lines.append((*a, k["label"])) or plot(self, *a, **k))
    monkeypatch.setattr(Axes, "fill_between", lambda self, *a, **k: bands.append(a) or fill(self, *a, **k))
    rows = [
        {"clients": clients, "partition": partition, "accuracy": accuracy}
        for partition, by_clients in (("iid", {10: (0.5, 0.7), 5: (0.4, None)}), ("shards", {10: (None, None)}))
        for clients, accuracies in by_clients.items()
        for accuracy in accuracies
    ]
    layout = Layout("clients", "partition", ())
    save_multiples(tmp_path / "f.png", layout, [Curves("accuracy", "accuracy (%)", 100)], rows, title="$not a formula")
    assert lines == [([5, 10], pytest.approx([40, 60]), "iid"), ([], [], "shards")]
    assert bands[0] == ([5, 10], pytest.approx([40, 50]), pytest.approx([40, 70]))
    assert matplotlib.image.imread(tmp_path / "f.png").shape[1] > 500


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"f\.abc: .*abc"):
        save_multiples(tmp_path / "f.abc", Layout("x", None, ()), [Curves("y", "y")], [{"x": 1, "y": 2}], title="")


def test_a_task_without_accuracy_shows_its_first_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert metrics_of({"metrics": {"accuracy": 0.5, "mae": 2.0}, "train_metrics": {"mae": 1.0}}) == {
        "metrics.mae": 2.0,
        "train_metrics.mae": 1.0,
    }
    lines = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: lines.append(a) or plot(self, *a, **k))
    runs: list[Row] = [{"clients": count, "accuracy": None, "loss": 1.0, "metrics.mae": count / 2} for count in (4, 6)]
    runs.append({"clients": 8, "accuracy": None, "loss": None})
    save_figures(tmp_path, Study(settings={}, axes={"clients": [4, 6, 8]}, seeds=(0,)), runs, [])
    assert lines == [([4, 6], [2.0, 3.0])]


def test_without_accuracies_the_figures_show_losses(tmp_path: Path) -> None:
    study = Study(settings={}, axes={"clients": [4, 6]}, seeds=(0,))
    runs = [{"clients": count, "accuracy": None, "loss": 1.0} for count in (4, 6)]
    save_figures(tmp_path, study, runs, [])
    assert [path.name for path in tmp_path.iterdir()] == ["final.png"]
    save_figures(tmp_path, study, [{**row, "loss": None} for row in runs], [{**row, "round": 1} for row in runs])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final.png", "rounds.png"]


def test_the_page_has_the_example_and_every_column() -> None:
    root = Path(__file__).resolve().parents[3]
    page = (root / "docs" / "how-to" / "studies.md").read_text(encoding="utf-8")
    for columns in (RUN_COLUMNS, ROUND_COLUMNS, FIGURES):
        assert "\n".join(f"| `{name}` | {text} |" for name, text in columns.items()) in page
    example = (root / "examples" / "study.toml").read_text(encoding="utf-8")
    assert f"```toml\n{example[example.index('seeds =') :]}```" in page
