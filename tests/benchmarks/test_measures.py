"""Counts and comparisons of the benchmarks: published figures, a client's bytes, alternating times."""

import pytest

from benchmarks import formatting, published
from benchmarks.bench_communication import parameters
from benchmarks.interleave import Comparison, by_turns, compare, spread
from benchmarks.lockstep import ROUNDS, made_up_input, run_cohort
from benchmarks.neighborhood import Peers, published_bytes, traffic
from secagg import Round


@pytest.mark.parametrize(("exponent", "length_exponent", "expansion"), [(10, 20, 1.73), (14, 20, 3.62), (14, 24, 1.98)])
def test_the_formula_gives_the_published_expansions(exponent, length_exponent, expansion):
    num_elements = 2**length_exponent
    assert round(published_bytes(2**exponent, num_elements) / (2 * num_elements), 2) == expansion


def test_the_tables_of_published_figures_add_up():
    for row in published.figure8():
        total = sum(row[round_.value] for round_ in ROUNDS)
        assert abs(total - row["total"]) <= 5  # each round is rounded in the paper
    for row in published.communication():
        if row["published"] is not None:
            formula = published_bytes(row["clients"], row["elements"]) / (2 * row["elements"])
            assert round(formula, 2) == row["published"]


def test_the_published_milliseconds_of_an_expansion():
    each = [
        row["Unmasking"] / (round(row["dropout"] * row["clients"]) * round((1 - row["dropout"]) * row["clients"]))
        for row in published.figure8()
        if row["role"] == "server" and row["dropout"]
    ]
    least, most = published.EXPANSION_MILLISECONDS
    assert (min(each), max(each)) == pytest.approx((least, most), abs=0.05)


def test_a_clients_bytes_do_not_depend_on_keys_and_all_but_the_vector_not_on_its_length():
    params = parameters(64, 1000, "complete")
    found = traffic(params, Peers(63))
    assert traffic(params, Peers(63)) == found
    assert found.total == sum(found.up.values()) + sum(found.down.values())
    longer = traffic(parameters(64, 2000, "complete"), Peers(63))
    del found.up[Round.MASKED_INPUT_COLLECTION.value], longer.up[Round.MASKED_INPUT_COLLECTION.value]
    assert longer == found


def test_the_stand_in_for_a_long_masked_input_has_its_bytes(monkeypatch):
    params = parameters(64, 1000, "complete")
    really = traffic(params, Peers(63))
    monkeypatch.setattr("benchmarks.neighborhood._MOST_WORDS", 0)
    assert traffic(params, Peers(63)) == really


def test_a_cohort_serves_three_servers_and_all_sums_are_right():
    # The sums are compared inside.
    times = run_cohort(10)
    assert set(times.servers) == {0.0, 0.1, 0.3}
    assert all(seconds > 0 for server in times.servers.values() for seconds in server.values())
    assert set(times.client) == set(ROUNDS)


def test_made_up_inputs_fit_and_repeat():
    params = parameters(8, 100, "complete")
    vector = made_up_input(params, 3)
    assert vector.max() < 2**16
    assert (vector == made_up_input(params, 3)).all()


def test_by_turns_goes_there_and_back():
    calls: list[str] = []
    works = [lambda: calls.append("a"), lambda: calls.append("b")]
    by_turns(works, rounds=4, sample_seconds=0)
    # Two calls each to warm up and to count, then the rounds.
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab" + "ba"


def test_a_comparison_takes_ratios_within_a_round():
    comparison = Comparison(candidate=(2.0, 20.0, 3.0), reference=(1.0, 10.0, 3.0))
    assert comparison.speed == 0.5
    assert comparison.cost == 2.0
    assert spread(comparison.candidate) == {"median": 3.0, "min": 2.0, "max": 20.0, "rounds": 3}


def test_at_least_seven_rounds_are_compared():
    assert len(compare(lambda: None, lambda: None, rounds=1, sample_seconds=0).candidate) == 7


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2.00 s"), (0.0123, "12.3 ms"), (0.5e-6, "500 ns"), (1234.0, "1,234 s")]
)
def test_durations_have_three_digits(seconds, text):
    assert formatting.duration(seconds) == text
