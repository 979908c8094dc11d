"""Charts: the marks stand where the figures say, text stays text, and a long run stays small."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fl.report.charts import Chart, Curve, Layer, bars_chart, curves_chart, gains_chart
from fl.report.extras import PersonalizedClient, PersonalizedMethod
from fl.report.rounds_view import seconds

pytestmark = pytest.mark.slow

HOSTILE = """</svg><script>alert("1")</script> ' & $\\frac{$ page:bar"""


def curves(*series: Curve) -> Chart:
    chart = curves_chart("T", list(series), y_label="y", show=lambda v: f"{v:g}", tick=lambda v: f"{v:g}")
    assert chart is not None
    return chart


def bars(rounds: list[int], *layers: Layer) -> Chart:
    return bars_chart("T", rounds, list(layers), y_label="y", show=lambda v: f"{v:g}", tick=lambda v: f"{v:g}")


def drawn(chart: Chart, tag: str, style: str) -> list[ElementTree.Element]:
    picture = ElementTree.fromstring(chart.svg)  # noqa: S314 - made here
    return [element for element in picture.iter(tag) if element.get("class") == style]


def corners(outline: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", outline.get("d", ""))]


def ticks(chart: Chart) -> dict[float, float]:
    """Return the numbers at the left, and the heights of their lines."""
    picture = ElementTree.fromstring(chart.svg)  # noqa: S314 - made here
    numbers = [float(str(text.text)) for text in picture.iter("text") if text.get("text-anchor") == "end"]
    return dict(zip(numbers, [corners(line)[0][1] for line in drawn(chart, "path", "grid")], strict=True))


def test_a_curve_goes_through_its_points() -> None:
    chart = curves(Curve("a", ((1, 0.0), (2, 5.0), (3, 10.0))))
    (line,) = drawn(chart, "path", "curve s0")
    points = corners(line)
    dots = drawn(chart, "circle", "dot s0")
    assert [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in dots] == points
    assert [dot.findtext("title") for dot in dots] == ["a, round 1: 0", "a, round 2: 5", "a, round 3: 10"]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert x2 > x1
    scale = ticks(chart)
    assert (y1, y3) == pytest.approx((scale[0], scale[10]), abs=0.2)
    assert y2 == pytest.approx((y1 + y3) / 2, abs=0.2)


def test_a_series_of_one_point_is_a_level_among_curves_and_a_dot_alone() -> None:
    chart = curves(Curve("a", ((1, 0.0), (3, 10.0))), Curve("b", ((3, 10.0),)))
    (level,) = drawn(chart, "path", "curve s1")
    assert [y for _, y in corners(level)] == pytest.approx([ticks(chart)[10]] * 2, abs=0.2)
    assert level.findtext("title") == "b: 10"
    assert not drawn(chart, "circle", "dot s1")
    alone = curves(Curve("a", ((1, 10.0),)))
    assert len(drawn(alone, "circle", "dot s0")) == 1


def test_values_that_are_not_finite_are_gaps() -> None:
    chart = curves(Curve("a", ((1, 1.0), (2, None), (3, 2.0), (4, float("nan")), (5, 3.0), (6, 4.0))))
    (line,) = drawn(chart, "path", "curve s0")
    assert line.get("d", "").count("M") == 3
    assert len(drawn(chart, "circle", "dot s0")) == 4
    assert "nan" not in chart.svg.lower()
    assert curves_chart("T", [Curve("a", ((1, None),))], y_label="y", show=str, tick=str) is None


def test_a_long_run_is_a_line_and_no_megabytes() -> None:
    chart = curves(Curve("a", tuple((number, math.sin(number)) for number in range(1, 2001))))
    assert not drawn(chart, "circle", "dot s0")
    # Points that no one could tell apart may be dropped; the extremes stay.
    heights = [y for _, y in corners(drawn(chart, "path", "curve s0")[0])]
    assert len(heights) > 1000
    assert (max(heights), min(heights)) == pytest.approx((ticks(chart)[-1], ticks(chart)[1]), abs=0.2)
    assert len(chart.svg) < 60_000
    layers = [Layer(f"s{index}", "x", tuple(float(number % 7) for number in range(2000))) for index in range(3)]
    chart = bars(list(range(1, 2001)), *layers)
    assert "<title>" not in chart.svg
    assert len(chart.svg) < 350_000
    # The second layer stands on the first: its highest corner is at 12.
    (second,) = drawn(chart, "path", "bar s1")
    scale = ticks(chart)
    assert min(y for _, y in corners(second)) == pytest.approx(scale[0] + (scale[10] - scale[0]) * 1.2, abs=0.2)


def test_bars_stand_on_each_other_and_zeros_are_left_out() -> None:
    layers = [Layer("a", "first", (1.0, 2.0)), Layer("b", "none", (0.0, 0.0)), Layer("c", "last", (3.0, 0.0))]
    chart = bars([1, 2], *layers)
    assert [entry.name for entry in chart.legend] == ["first", "last"]
    assert [entry.value for entry in chart.legend] == ["1.5 a round", "1.5 a round"]
    first, second = drawn(chart, "path", "bar a")
    (top,) = drawn(chart, "path", "bar c")
    assert [bar.findtext("title") for bar in (first, second, top)] == [
        "round 1, first: 1", "round 2, first: 2", "round 1, last: 3",
    ]  # fmt: skip
    unit = ticks(chart)[0] - ticks(chart)[1]

    def box(bar: ElementTree.Element) -> tuple[float, float, float, float]:
        xs, ys = zip(*corners(bar), strict=True)
        return min(xs), max(xs), ticks(chart)[0] - max(ys), ticks(chart)[0] - min(ys)

    assert box(first)[2:] == pytest.approx((0, unit), abs=0.2)
    assert box(second)[2:] == pytest.approx((0, 2 * unit), abs=0.2)
    assert box(top)[2:] == pytest.approx((unit, 4 * unit), abs=0.2)
    assert box(top)[:2] == box(first)[:2]
    assert box(first)[1] < box(second)[0]


def test_gains_are_a_step_per_client_from_the_smallest_to_the_largest() -> None:
    pairs = [(0.5, 0.5 + gain / 100) for gain in (30, -20, 0, 10)]
    clients = tuple(PersonalizedClient(index, 1, *pair) for index, pair in enumerate(pairs))
    chart = gains_chart((PersonalizedMethod("head", clients),), "writer")
    assert chart.legend[0].value == "median +5.0 points"
    (line,) = drawn(chart, "path", "curve s0")
    scale = ticks(chart)
    unit = (scale[0] - scale[10]) / 10
    heights = list(dict.fromkeys(round((scale[0] - y) / unit) for _, y in corners(line)))
    assert heights == [-20, 0, 10, 30]


def test_the_users_text_stays_text_and_moves_nothing() -> None:
    clients = (PersonalizedClient(0, 1, 0.5, 0.75),)
    for chart in (
        curves(Curve(HOSTILE, ((1, 0.5), (2, 0.75)), HOSTILE)),
        bars([1, 2], Layer("stayed", HOSTILE, (1.0, 2.0))),
        gains_chart((PersonalizedMethod(HOSTILE, clients),), HOSTILE),
    ):
        picture = ElementTree.fromstring(chart.svg)  # noqa: S314 - made here
        assert {element.tag for element in picture.iter()} <= {"svg", "path", "circle", "text", "title"}
        assert HOSTILE in picture.get("aria-label", "")
    assert any(f"{HOSTILE}s, from" in str(text.text) for text in picture.iter("text"))


def test_a_chart_brings_no_style_id_or_link_and_is_the_same_each_time() -> None:
    """Several charts are on one page: their ids must differ, and a style sheet must not apply to all elements."""
    first, second = (bars([1, 2], Layer("stayed", "x", (1.0, 2.0))) for _ in range(2))
    assert first == second
    names = {name for element in ElementTree.fromstring(first.svg).iter() for name in element.keys()}  # noqa: S314, SIM118
    assert names == {"viewBox", "role", "aria-label", "class", "d", "x", "y", "text-anchor"}


FIGURES = st.floats(-1e100, 1e100)


@settings(deadline=None, max_examples=15, phases=[Phase.generate])
@given(st.lists(FIGURES | st.integers(0, 2**64), min_size=1, max_size=4), st.integers(0, 10**9 - 4))
def test_every_figure_that_is_read_can_be_drawn(values: list[float], first: int) -> None:
    rounds = range(first, first + len(values))
    layers = [Layer(name, name, tuple(map(abs, values))) for name in ("a", "b")]
    for chart in (curves(Curve("a", tuple(zip(rounds, values, strict=True)))), bars([*range(len(values))], *layers)):
        assert "nan" not in chart.svg
        assert "inf" not in chart.svg
        assert 2 <= len(ticks(chart)) <= 8


def test_seconds_are_in_the_unit_that_suits() -> None:
    shown = [seconds(value) for value in (2e-6, 0.0005, 0.000999, 0.001, 0.9994, 0.9996, 12.345, 599, 3600)]
    assert shown == ["2 µs", "500 µs", "999 µs", "1 ms", "999 ms", "1 s", "12.3 s", "599 s", "60.0 min"]
