"""TensorBoard's event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from fl.report.extras import Point, Series, save_series
from fl.report.source import load_run
from tests.fl.report.conftest import TRAINED
from tests.fl.runs import assert_refused, invoke

pytest.importorskip("tensorboard", reason="pip install '.[tensorboard]'")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def read(folder: Path, name: str) -> Any:
    """Return TensorBoard's view of a folder of events."""
    events = EventAccumulator(str(folder / "tensorboard" / name))
    events.Reload()
    return events


def curve(events: Any, tag: str) -> dict[int, float]:
    points = events.Scalars(tag)
    assert len({point.step for point in points}) == len(points), "a step twice"
    return {point.step: point.value for point in points}


def expected(folder: Path, aggregator: str, name: str) -> dict[int, Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["round"]: line[name] for line in lines if line["aggregator"] == aggregator}


def assert_all_rounds(folder: Path) -> None:
    for aggregator in ("secure", "plain"):
        events = read(folder, aggregator)
        for tag, name in (
            ("accuracy/test", "accuracy"),
            ("loss/test", "loss"),
            ("accuracy/held out", "held_out_accuracy"),
            ("bytes/up", "bytes_up"),
            ("seconds/round", "seconds"),
        ):
            assert curve(events, tag) == pytest.approx(expected(folder, aggregator, name), rel=1e-6)
    events = read(folder, "secure")
    dropped = expected(folder, "secure", "dropped")
    phases = expected(folder, "secure", "phases")
    for phase in ("ShareKeys", "Unmasking"):
        assert curve(events, f"clients/vanished in {phase}") == {
            number: counts.get(phase, 0) for number, counts in dropped.items()
        }
        assert curve(events, f"bytes by phase/{phase}") == pytest.approx(
            {number: costs[phase]["bytes_up"] + costs[phase]["bytes_down"] for number, costs in phases.items()}
        )


def test_training_writes_events_as_it_goes_and_resuming_adds_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = invoke("train", *TRAINED, "--out", folder, "--tensorboard")
    assert result.exit_code == 0, result.output
    assert f"tensorboard --logdir {folder / 'tensorboard'}" in result.output
    assert_all_rounds(folder)
    # Resumed, with and without: TensorBoard has every round once, also those that were not reported to it.
    assert invoke("train", "--resume", folder, "--rounds", 4).exit_code == 0
    assert invoke("train", "--resume", folder, "--rounds", 5, "--tensorboard").exit_code == 0
    assert curve(read(folder, "secure"), "accuracy/test").keys() == {1, 2, 3, 4, 5}
    assert_all_rounds(folder)
    times = [event.wall_time for event in read(folder, "secure").Scalars("accuracy/test")]
    assert times == sorted(times)


def test_a_report_writes_events_of_a_finished_run(folder: Path) -> None:
    save_series(folder, [Series("../all data", (Point(0, 0.25, 2.5), Point(1, 0.5, 2.0), Point(3, 0.75, None)))])
    for _ in range(2):
        result = invoke("report", folder, "--tensorboard", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["tensorboard"] == str(folder / "tensorboard")
    assert_all_rounds(folder)
    assert sorted(path.name for path in (folder / "tensorboard").iterdir()) == ["all-data", "plain", "secure"]
    other = read(folder, "all-data")
    assert curve(other, "accuracy/test") == {0: 0.25, 1: 0.5, 3: 0.75}
    assert curve(other, "loss/test") == {0: 2.5, 1: 2.0}

    events = read(folder, "secure")
    seconds = expected(folder, "secure", "seconds")
    plain_seconds = expected(folder, "plain", "seconds")
    times = {event.step: event.wall_time for event in events.Scalars("accuracy/test")}
    assert times[3] == pytest.approx(load_run(folder).changed)
    assert times[3] - times[2] == pytest.approx(seconds[3] + plain_seconds[3], abs=1e-3)
    for tag in ("model/confusion", "model/samples"):
        (image,) = events.Images(tag)
        assert image.step == 3
        assert matplotlib.image.imread(io.BytesIO(image.encoded_image_string), format="png").std() > 0.05


def test_settings_and_reasons_are_text_that_stays_text(folder: Path) -> None:
    assert invoke("report", folder, "--tensorboard").exit_code == 0
    events = read(folder, "secure")
    (settings,) = events.Tensors("parameters/text_summary")
    text = settings.tensor_proto.string_val[0].decode()
    assert "| dataset | digits |" in text
    assert "| partition | iid |" in text
    (reasons,) = events.Tensors("the planner's reasons/text_summary")
    assert "threshold 5: floor\\(n/2\\) \\+ 1, the server alone" in reasons.tensor_proto.string_val[0].decode()
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_without_the_package_nothing_is_begun(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said = "pip install '.[tensorboard]'"
    assert_refused(invoke("report", folder, "--tensorboard"), said)
    assert_refused(invoke("train", *TRAINED, "--out", tmp_path / "new", "--tensorboard"), said)
    assert_refused(invoke("train", "--resume", folder, "--rounds", 9, "--tensorboard"), said)
    assert not (tmp_path / "new").exists()
    assert not (folder / "report.html").exists()
    assert load_run(folder).config.rounds == 3


def test_events_need_a_folder_that_can_be_written_to(folder: Path) -> None:
    assert_refused(invoke("train", *TRAINED, "--tensorboard"), "--tensorboard writes into the run's folder: give --out")
    (folder / "tensorboard").write_text("in the way")
    assert_refused(invoke("report", folder, "--tensorboard"), "cannot write TensorBoard's files", "tensorboard")
    assert not (folder / "report.html").exists()
