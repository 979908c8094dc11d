"""Scales, ticks and figures: numbers become places, and text stays text."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.report.bars import Layer, bars_figure
from fl.report.curves import Curve, curves_figure
from fl.report.rounds_view import seconds
from fl.report.svg import Scale, element, picture, round_marks, ticks

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


@given(NUMBERS, NUMBERS, st.integers(1, 10))
def test_ticks_are_round_few_and_around_everything(first: float, second: float, count: int) -> None:
    low, high = sorted((first, second))
    marks = ticks(low, high, count)
    slack = 1e-8 * max(abs(low), abs(high), 1e-200)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert 2 <= len(marks) <= count + 3
    steps = [after - before for before, after in pairwise(marks)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)
    digits = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(digits - wanted) for wanted in (1, 2, 5, 10)) < 1e-3


@given(st.integers(1, 5000), st.integers(0, 5000))
def test_the_named_rounds_are_rounds_and_few(first: int, more: int) -> None:
    marks = round_marks(first, first + more)
    assert all(mark == int(mark) and first <= mark <= first + more for mark in marks)
    assert sorted(set(marks)) == marks
    assert 1 <= len(marks) <= 9


def test_a_scale_is_linear_and_knows_a_single_value() -> None:
    scale = Scale(10, 20, 100, 0)
    assert [scale(10), scale(15), scale(20)] == [100, 50, 0]
    assert Scale(5, 5, 0, 80)(5) == 40


def test_markup_is_escaped_where_it_is_made() -> None:
    made = element("text", {"x": '"><script>', "y": None}, "<b> & 'x'", element("tspan", {}, ">"))
    assert str(made) == '<text x="&#34;&gt;&lt;script&gt;">&lt;b&gt; &amp; &#39;x&#39;<tspan>&gt;</tspan></text>'
    assert 'aria-label="a &#34;b&#34;. c"' in picture(100, 'a "b"', "c")


def curve_figure(*curves: Curve) -> str:
    figure = curves_figure("T", list(curves), y_label="y", show=lambda v: f"{v:g}", tick=lambda v: f"{v:g}")
    assert figure is not None
    return str(figure.svg)


def test_a_curve_goes_through_its_points() -> None:
    svg = curve_figure(Curve("a", ((1, 0.0), (2, 5.0), (3, 10.0))))
    (path,) = re.findall(r'd="M([^"]*)"', svg)
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    # Up is less in SVG.
    assert y1 > y2 > y3
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert svg.count("<circle") == 3
    assert "<title>a, round 2: 5</title>" in svg


def test_what_is_not_finite_is_a_gap() -> None:
    svg = curve_figure(Curve("a", ((1, 1.0), (2, None), (3, 2.0), (4, float("nan")), (5, 3.0), (6, 4.0))))
    assert len(re.findall(r'class="curve s0"', svg)) == 3
    assert svg.count("<circle") == 4
    assert "nan" not in svg.lower()
    assert curves_figure("T", [Curve("a", ((1, None),))], y_label="y", show=str, tick=str) is None


def test_a_long_run_is_a_line_and_no_megabytes() -> None:
    svg = curve_figure(Curve("a", tuple((number, math.sin(number)) for number in range(1, 2001))))
    assert "<circle" not in svg
    assert len(svg) < 60_000
    bars = bars_figure(
        "T", list(range(1, 2001)), [Layer("stayed", "x", (3.0,) * 2000)], y_label="y", show=str, tick=str
    )
    assert "<title>" not in bars.svg
    assert len(bars.svg) < 300_000


def test_bars_stand_on_each_other_and_zeros_are_left_out() -> None:
    layers = [Layer("a", "first", (1.0, 2.0)), Layer("b", "none", (0.0, 0.0)), Layer("c", "last", (3.0, 0.0))]
    figure = bars_figure("T", [1, 2], layers, y_label="y", show=lambda v: f"{v:g}", tick=lambda v: f"{v:g}")
    bars = [
        {name: float(value) for name, value in re.findall(r'(x|y|width|height)="([\d.]+)"', bar)}
        for bar in re.findall(r'<rect class="bar [^>]*>', str(figure.svg))
    ]
    assert [entry.name for entry in figure.legend] == ["first", "last"]
    assert len(bars) == 3
    first, second, top = bars
    assert second["height"] == pytest.approx(2 * first["height"], abs=0.1)
    assert top["height"] == pytest.approx(3 * first["height"], abs=0.1)
    assert top["x"] == first["x"]
    assert top["y"] + top["height"] == pytest.approx(first["y"], abs=0.1)
    assert first["x"] + first["width"] < second["x"]


def test_seconds_are_in_the_unit_that_suits() -> None:
    shown = [seconds(value) for value in (2e-6, 0.0005, 0.000999, 0.001, 0.9994, 0.9996, 12.345, 599, 3600)]
    assert shown == ["2 µs", "500 µs", "999 µs", "1 ms", "999 ms", "1 s", "12.3 s", "599 s", "60.0 min"]
