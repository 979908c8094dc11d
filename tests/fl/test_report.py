"""The figure and the summary of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl.report import plot, save_plot
from fl.report.rounds_view import stayed
from fl.runs.records import RoundRecord
from fl.runs.summary import summarize
from tests.fl.runs import tiny_config

pytestmark = pytest.mark.slow


def make_record(number: int, aggregator: str = "secure", **changes: Any) -> RoundRecord:
    values: dict[str, Any] = dict.fromkeys(RoundRecord.__dataclass_fields__, 0)
    values |= {
        "round": number, "aggregator": aggregator, "accuracy": 0.2 * number, "loss": 1.0 / number, "sampled": 6,
        "included": (0, 1, 2, 3, 4, 5), "dropped": {},
        "metrics": {}, "train_metrics": {}, "held_out_metrics": {},
        "clipped": None, "aborted": None, "ring_difference": None,
        "seconds": 2.0, "training_seconds": 1.0, "bytes_up": 100, "bytes_down": 200, "model_bytes": 30,
    }  # fmt: skip
    return RoundRecord(**values | changes)


RECORDS = [
    make_record(1, included=(0, 1, 2, 3), dropped={"ShareKeys": 1, "MaskedInputCollection": 1}),
    make_record(1, "plain", accuracy=0.25, included=(0, 1, 2, 3)),
    make_record(2, dropped={"Unmasking": 2}),
    make_record(2, "plain", accuracy=0.45),
    make_record(3, included=(), dropped={"AdvertiseKeys": 5}, aborted="too few"),
    make_record(3, "plain", accuracy=0.65),
]


@pytest.fixture
def axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Figure, Axes, Axes]:
    """Return the axes of the figure of RECORDS."""
    figures: list[Figure] = []

    def keep(*args: Any, **options: Any) -> Figure:
        figures.append(Figure(*args, **options))
        return figures[-1]

    monkeypatch.setattr(plot, "Figure", keep)
    save_plot(tmp_path / "plot.png", tiny_config(clients=9, sample=6, compare=True, partition="shards"), RECORDS)
    (figure,) = figures
    upper, lower = figure.axes
    return figure, upper, lower


def labels(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_the_figure_says_what_it_shows(axes: tuple[Figure, Axes, Axes]) -> None:
    figure, upper, lower = axes
    title = figure.get_suptitle()
    for words in ("logistic", "digits", "9 clients", "6 a round", "shards"):
        assert words in title
    assert upper.get_ylabel() == "test accuracy (%)"
    assert lower.get_xlabel() == "communication round"
    assert lower.get_ylabel() == "clients"
    assert labels(upper) == ["plain: 65.00%", "secure: 60.00%"]
    assert len(labels(lower)) == 6
    assert "in the sum, stayed to the end" in labels(lower)


def test_the_curves_are_the_accuracies_by_round(axes: tuple[Figure, Axes, Axes]) -> None:
    curves = {str(line.get_label()).split(":")[0]: line for line in axes[1].get_lines()}
    for name, accuracies in (("secure", [20, 40, 60]), ("plain", [25, 45, 65])):
        assert list(curves[name].get_xdata()) == [1, 2, 3]
        assert list(curves[name].get_ydata()) == pytest.approx(accuracies)


def test_the_bars_are_the_clients_by_where_they_left(axes: tuple[Figure, Axes, Axes]) -> None:
    drawn: list[Any] = axes[2].containers
    bars = {container.get_label(): [(bar.get_y(), bar.get_height()) for bar in container] for container in drawn}
    assert bars["in the sum, stayed to the end"] == [(0, 4), (0, 4), (0, 0)]
    # They are stacked: each client is counted once, and those that left before unmasking are already in the sum.
    assert bars["in the sum, vanished before unmasking"] == [(4, 0), (4, 2), (1, 0)]
    assert bars["vanished before masked input"] == [(4, 1), (6, 0), (1, 0)]
    assert bars["vanished before shares"] == [(5, 1), (6, 0), (1, 0)]
    assert bars["vanished before keys"] == [(6, 0), (6, 0), (1, 5)]
    assert bars["stayed, but the round was aborted"] == [(4, 0), (4, 0), (0, 1)]
    colors = [container.patches[0].get_facecolor() for container in drawn]
    assert len(set(colors)) == 6


def test_a_client_that_vanishes_before_the_consistency_check_is_in_the_sum_and_counted_once() -> None:
    record = make_record(1, included=(0, 1, 2, 3, 4), dropped={"ShareKeys": 1, "ConsistencyCheck": 2, "Unmasking": 1})
    assert stayed(record) == 2
    assert stayed(record) + sum(record.dropped.values()) == record.sampled


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1], [make_record(number) for number in range(1, 31)]])
def test_the_figure_is_drawn_for_few_rounds_and_many(records: list[RoundRecord], tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    save_plot(path, tiny_config(), records)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")


def test_names_are_text_and_no_formulas(tmp_path: Path) -> None:
    save_plot(tmp_path / "plot.png", tiny_config(model="my.models:$\\frac{$"), RECORDS)
    assert (tmp_path / "plot.png").is_file()


def test_the_summary_adds_up_the_rounds_of_one_run() -> None:
    summary = summarize(tiny_config(compare=True), RECORDS, None)
    assert summary["rounds"] == 3
    assert summary["accuracy"] == pytest.approx(0.6)
    assert summary["plain_accuracy"] == 0.65
    assert summary["loss"] == pytest.approx(1 / 3)
    assert summary["seconds"] == 6
    assert summary["seconds_per_round"] == 2
    assert summary["training_seconds_per_round"] == 1
    assert summary["included"] == [4, 6, 0]
    assert summary["included_clients"] == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5], []]
    assert summary["dropped"] == [record.dropped for record in RECORDS[::2]]
    assert summary["aborted"] == [{"round": 3, "reason": "too few"}]
    assert (summary["bytes_up"], summary["bytes_down"], summary["model_bytes"]) == (300, 690, 90)
    assert (summary["plain_bytes_up"], summary["plain_bytes_down"]) == (300, 690)
    assert summary["plain_seconds"] == 6


@pytest.mark.parametrize(
    ("differences", "largest"), [((0, 0), 0), ((0, 5), 5), ((5, 0), 5), ((7, None), 7), ((None, None), None)]
)
def test_the_summarys_difference_is_the_largest_of_any_round(differences: tuple[Any, ...], largest: Any) -> None:
    records = [make_record(number, ring_difference=value) for number, value in enumerate(differences, start=1)]
    assert summarize(tiny_config(compare=True), records, None)["ring_difference"] == largest
    assert "ring_difference" not in summarize(tiny_config(), records, None)


def test_the_summarys_clipped_share_is_the_largest_of_any_round() -> None:
    records = [make_record(number, clipped=value) for number, value in enumerate((0.1, 0.3, None), start=1)]
    assert summarize(tiny_config(), records, None)["clipped"] == 0.3
    assert summarize(tiny_config(), RECORDS, None)["clipped"] is None
