"""Secure sums of a task's figures: exact to the stated resolution, and a sum that no inputs can give is an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fl.aggregation.secure
from fl.aggregation.encoding import QuantizationError, UndecodableSumError
from fl.aggregation.totals import TotalsEncoding
from fl.learning.figures import FigureRange, ratio
from tests.fl.test_task import run_of
from tests.fl.test_undecodable_sums import poisoning

pytestmark = pytest.mark.usefixtures("one_thread")


FIGURES = (FigureRange("loss"), FigureRange("any"), FigureRange("share", 0.0, 1.0, 0))


ENCODING = TotalsEncoding(FIGURES, 1000, (("clipped elements", 7),), 16)


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("denominator", [1e308, 2.0**43, np.inf])
def test_a_denominator_beyond_all_examples_is_refused(denominator: float, clips: bool) -> None:
    """It may come from the user's own metric and the server's model: an error, with which the client waits."""
    with pytest.raises(QuantizationError, match="any has a denominator of"):
        ENCODING.encode(1, 0.5, [(1.0, denominator), (1.0, 1.0)], [0], clips=clips)
    total = ENCODING.encode(1, 0.5, [(1.0, 4.0), (1.0, 1.0)], [0], clips=clips)
    figures = ENCODING.decode(total, 1, fewest_examples=1, most_examples=1)[1]
    assert ratio(figures["any"]) == 0.25


@given(
    st.lists(
        st.tuples(
            st.integers(1, 1000), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1e4), st.integers(0, 50)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_sums_are_exact_to_the_stated_resolution(clients: Any) -> None:
    vectors = [
        ENCODING.encode(count, loss * count, ((value * below, below), (right, 50)), (1,))
        for count, loss, value, below, right in clients
    ]
    total = np.sum(vectors, axis=0).astype(np.uint64)
    most = sum(one[0] for one in clients)
    examples, figures, further = ENCODING.decode(total, len(clients), fewest_examples=1, most_examples=most)
    step = len(clients) * 2.0**-40
    assert (examples, further) == (most, (len(clients),))
    assert figures["loss"][0] == pytest.approx(sum(one[1] * one[0] for one in clients), rel=1e-12, abs=step)
    below = sum(one[3] for one in clients if round(one[3] * 2**40))
    assert figures["any"][1] == pytest.approx(below, rel=1e-12, abs=step)
    assert figures["any"][0] == pytest.approx(
        sum(one[2] * one[3] for one in clients if round(one[3] * 2**40)), rel=1e-12, abs=1e6 * step
    )
    assert figures["share"] == (sum(one[4] for one in clients), 50 * len(clients))


@given(st.lists(st.integers(0, 2**18), min_size=ENCODING.vector_length, max_size=ENCODING.vector_length))
def test_any_sum_of_figures_is_in_their_ranges_or_one_error(digits: list[int]) -> None:
    try:
        _, figures, _ = ENCODING.decode(np.array(digits, dtype=np.uint64), 3, fewest_examples=0, most_examples=3000)
    except UndecodableSumError:
        return
    assert np.isnan(ratio(figures["share"])) or 0 <= ratio(figures["share"]) <= 1
    assert all(np.isnan(ratio(total)) or abs(ratio(total)) <= 2.0**64 for total in figures.values())


def lie(place: int, digit: int = 0, value: int = 1) -> Any:
    """Return three honest clients' sum, with this added to a digit of one counter."""
    vector = 3 * ENCODING.encode(10, 5.0, ((2.0, 4.0), (3, 8)), (1,))
    starts = np.cumsum([0, *ENCODING._counters._digits()])
    vector[starts[place] + digit] += value
    return vector.astype(np.uint64)


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (lie(1, -1), None),
        (lie(3, 0, 20), "share 29 over 24"),
        (lie(4, 0, 2**16), None),
        (lie(4, 2, 2**10), "share 9 over 4.39805e\\+12"),
        (lie(5, 7, 1), "loss"),
        (lie(6, 0, 30), "33 clipped elements"),
    ],
)
def test_an_impossible_total_is_one_error(total: Any, said: str | None) -> None:
    if said is None:
        ENCODING.decode(total, 3, fewest_examples=1, most_examples=3000)
        return
    with pytest.raises(UndecodableSumError, match=f"3 clients' inputs cannot add up to {said}.*: a client sent an"):
        ENCODING.decode(total, 3, fewest_examples=1, most_examples=3000)


def test_a_round_with_a_liar_has_no_result_and_the_next_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("several_labels", "secure", holdout=0)
    assert run.run_round().aborted is None
    with monkeypatch.context() as patch:
        # The highest digit of the loss; the digit of the clipped elements follows.
        patch.setattr(fl.aggregation.secure, "run_session", poisoning(-2))
        spoilt = run.run_round()
    assert "inputs cannot add up to loss" in str(spoilt.aborted)
    assert (spoilt.train_loss, spoilt.train_metrics) == (None, {})
    good = run.run_round()
    assert (good.aborted, len(good.included)) == (None, 5)
