"""From threat models to parameters: the numbers that the design asks for, or every reason against them."""

from dataclasses import replace
from fractions import Fraction
from math import ceil, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import Adversary, GraphKind, Parameters, PlanError, max_message_bytes, plan
from secagg.params import MAX_CLIENTS, required_ring_bits
from tests.support.sessions import make_params

# --- Parameters ------------------------------------------------------------------------------------------------------

FINE = {
    "num_clients": 10,
    "threshold": 6,
    "degree": 9,
    "vector_length": 100,
    "value_bits": 8,
    "ring_bits": 12,
}


def parameters_with(**changes) -> Parameters:
    return Parameters(**{**FINE, **changes})


def reasons_against(**changes) -> tuple[str, ...]:
    with pytest.raises(PlanError) as refusal:
        parameters_with(**changes)
    assert str(refusal.value) == "; ".join(refusal.value.reasons)
    return refusal.value.reasons


@pytest.mark.parametrize(
    ("name", "low", "high", "more"),
    [
        ("num_clients", 2, MAX_CLIENTS, {"degree": 2, "threshold": 2, "modular": True}),
        ("threshold", 2, 10, {}),
        ("degree", 1, 9, {"threshold": 2}),
        ("vector_length", 1, None, {}),
        ("value_bits", 1, 64, {"ring_bits": 64, "modular": True}),
        ("ring_bits", 1, 64, {"value_bits": 1, "modular": True}),
    ],
)
def test_every_number_has_its_range(name, low, high, more):
    if name == "num_clients":
        parameters_with(**{**more, name: low, "degree": 1})
    else:
        parameters_with(**{**more, name: low if name != "degree" else 2})
    assert any(f"{name} is {low - 1}" in reason for reason in reasons_against(**{**more, name: low - 1}))
    if high is not None:
        parameters_with(**{**more, name: high})
        assert any(f"{name} is {high + 1}" in reason for reason in reasons_against(**{**more, name: high + 1}))


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("value", [None, 3.0, "3", True, [3]], ids=repr)
def test_every_number_must_be_an_int(name, value):
    (reason,) = reasons_against(**{name: value})
    assert reason.startswith(f"{name} must be an int, not {type(value).__name__}")


@pytest.mark.parametrize(("name", "value"), [("modular", 1), ("modular", None), ("adversary", "honest-but-curious")])
def test_the_other_fields_have_their_types_too(name, value):
    (reason,) = reasons_against(**{name: value})
    assert name in reason


def test_several_broken_ranges_are_all_named():
    reasons = reasons_against(num_clients=1, threshold=1, vector_length=0, value_bits=65, ring_bits=0)
    for name in ("num_clients is 1", "threshold is 1", "vector_length is 0", "value_bits is 65", "ring_bits is 0"):
        assert any(name in reason for reason in reasons), name


def test_a_masked_input_must_fit_a_message():
    """The length of a message, with all that surrounds the vector, has 32 bits."""
    largest = parameters_with(vector_length=2**32 - 2**12, ring_bits=8, value_bits=1)
    assert max_message_bytes(largest) < 2**32
    (reason,) = reasons_against(vector_length=2**32 - 2**12 + 1, ring_bits=8, value_bits=1)
    assert str(2**32 - 2**12 + 1) in reason


def test_a_secret_has_no_more_shares_than_the_field_has_points():
    large = {"num_clients": 65520, "degree": 65519, "threshold": 40000, "modular": True}
    parameters_with(**large)
    parameters_with(**{**large, "num_clients": 10**6, "degree": 65518})
    reasons = reasons_against(**{**large, "num_clients": 65521, "degree": 65520})
    assert any("65520" in reason for reason in reasons)


@given(st.integers(2, 1000), st.integers(1, 50))
def test_the_ring_must_hold_the_largest_sum_and_not_a_bit_more(num_clients, value_bits):
    largest_sum = num_clients * (2**value_bits - 1)
    needed = required_ring_bits(num_clients, value_bits)
    assert 2 ** (needed - 1) <= largest_sum < 2**needed
    make_params(num_clients, 2, value_bits=value_bits, ring_bits=needed)
    if needed > value_bits:
        with pytest.raises(PlanError, match=f"needs {needed}"):
            make_params(num_clients, 2, value_bits=value_bits, ring_bits=needed - 1)
        assert make_params(num_clients, 2, value_bits=value_bits, ring_bits=needed - 1, modular=True).modular


def test_inputs_must_fit_the_ring_even_if_it_wraps():
    with pytest.raises(PlanError, match="value_bits is 9, above ring_bits 8"):
        make_params(3, 2, value_bits=9, ring_bits=8, modular=True)


def test_derived_numbers():
    params = parameters_with()
    assert params.modulus == 4096
    assert params.is_complete
    assert not parameters_with(degree=8).is_complete


# --- The planner: what it plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_clients", "corrupt", "threshold"),
    [
        (2, 0, 2),
        (3, 0, 2),
        (4, 0, 3),
        (5, 0, 3),
        (100, 0, 51),
        (101, 0, 51),
        (1000, 0, 501),
        (4, 0.25, 3),
        (5, 0.2, 4),
        (6, 0.2, 5),
        (7, 0.28, 5),
        (9, 0.2, 7),
        (100, 0.01, 67),
        (100, 0.33, 67),
        (1000, 0.3, 667),
        # This is less than one whole client, but a user who names a fraction wants safety from collusion.
        (100, 0.009, 67),
    ],
)
def test_thresholds_of_the_papers_figure_5(num_clients, corrupt, threshold):
    made = plan(num_clients=num_clients, vector_length=10, value_bits=8, corrupt=corrupt)
    assert made.parameters.threshold == threshold
    assert made.parameters.degree == num_clients - 1
    assert made.parameters.adversary is Adversary.HONEST_BUT_CURIOUS
    assert not made.parameters.modular


@settings(max_examples=200)
@given(st.integers(2, 500), st.integers(1, 40), st.integers(1, 1000))
def test_ring_bits_are_those_of_the_formula(num_clients, value_bits, max_weight):
    made = plan(num_clients=num_clients, vector_length=3, value_bits=value_bits, max_weight=max_weight)
    weighted_bits = ((2**value_bits - 1) * max_weight).bit_length()
    assert made.parameters.value_bits == weighted_bits
    largest_sum = num_clients * (2**weighted_bits - 1)
    assert 2 ** (made.parameters.ring_bits - 1) <= largest_sum < 2**made.parameters.ring_bits
    if largest_sum < 2**40:  # log2 is exact enough there.
        assert made.parameters.ring_bits == ceil(log2(largest_sum + 1))


@settings(max_examples=100)
@given(st.integers(2, 300), st.integers(1, 2**40), st.integers(1, 1000))
def test_no_weighted_values_within_the_plan_overflow(num_clients, max_value, max_weight):
    made = plan(num_clients=num_clients, vector_length=3, max_value=max_value, max_weight=max_weight)
    assert max_value * max_weight < 2**made.parameters.value_bits
    assert num_clients * max_value * max_weight < made.parameters.modulus


@pytest.mark.parametrize("graph", GraphKind, ids=lambda graph: graph.value)
@pytest.mark.parametrize("num_clients", [10, 100, 300, 1000])
@pytest.mark.parametrize("corrupt", [0, 0.05, 0.2])
def test_a_malicious_plan_has_the_numbers_of_a_semi_malicious_one(num_clients, corrupt, graph):
    """In both modes the threshold limits a lying server to one secret of each client, with identities or without."""
    semi, full = (
        plan(
            num_clients=num_clients,
            vector_length=10,
            value_bits=8,
            corrupt=corrupt,
            dropout=0.05,
            graph=graph,
            adversary=adversary,
        )
        for adversary in (Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS)
    )
    assert full.parameters == replace(semi.parameters, adversary=Adversary.MALICIOUS)
    assert set(semi.reasons) <= set(full.reasons)
    holders = num_clients if full.parameters.is_complete else full.parameters.degree
    assert 2 * full.parameters.threshold > holders


@pytest.mark.parametrize("adversary", [Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS], ids=lambda a: a.value)
@pytest.mark.parametrize(
    ("num_clients", "degree", "lowest"), [(2, 1, 2), (5, 4, 3), (6, 5, 4), (101, 100, 51), (20, 6, 4), (21, 12, 7)]
)
def test_a_server_that_lies_needs_more_than_half_of_the_holders(adversary, num_clients, degree, lowest):
    """With two halves it could get one secret of a client from each."""
    fine = {**FINE, "num_clients": num_clients, "degree": degree, "ring_bits": 64, "value_bits": 8}
    Parameters(**fine | {"threshold": lowest}, adversary=adversary)
    if lowest > 2:
        Parameters(**fine | {"threshold": lowest - 1})
        with pytest.raises(PlanError) as refusal:
            Parameters(**fine | {"threshold": lowest - 1}, adversary=adversary)
        (reason,) = refusal.value.reasons
        assert f"threshold is {lowest - 1}" in reason
        assert "more than half" in reason


def test_value_bits_and_max_value_say_the_same():
    by_bits = plan(num_clients=30, vector_length=5, value_bits=12)
    assert plan(num_clients=30, vector_length=5, max_value=4095) == by_bits
    assert plan(num_clients=30, vector_length=5, max_value=4096).parameters.value_bits == 13


def test_the_numbers_behind_a_plan():
    made = plan(num_clients=100, vector_length=7, value_bits=16, dropout=0.2, corrupt=0.1)
    assert (made.corrupt_clients, made.expected_dropouts, made.spare_clients) == (10, 20, 80 - 67)
    assert made.parameters.vector_length == 7
    text = "; ".join(made.reasons)
    for number in ("threshold 67", "degree 99", "20 clients may vanish", "13 more", "ring of 23 bits"):
        assert number in text


def test_a_larger_threshold_may_be_asked_for():
    made = plan(num_clients=10, vector_length=1, value_bits=1, threshold=8)
    assert made.parameters.threshold == 8
    assert made.spare_clients == 2
    assert any("asked for" in reason for reason in made.reasons)


@pytest.mark.parametrize("name", ["dropout", "corrupt"])
@pytest.mark.parametrize(
    ("fraction", "num_clients"),
    [(0.29, 100), (0.07, 100), (0.1, 30), (0.3, 10), (0.3, 1000), (0.15, 700), (0.29, 1000), (0.28, 8675)],
)
def test_fractions_of_clients_are_meant_as_written(name, fraction, num_clients):
    """0.29 of 100 is 29, although 0.29 * 100 is 28.999... in binary."""
    made = plan(num_clients=num_clients, vector_length=1, value_bits=1, **{name: fraction})
    expected = int(Fraction(str(fraction)) * num_clients)
    assert (made.expected_dropouts if name == "dropout" else made.corrupt_clients) == expected


def test_fractions_in_hundredths_of_any_number_of_clients_are_meant_as_written():
    """One corrupt client too few is not the threat model that was asked for."""
    wrong = []
    for hundredths in range(34):
        for num_clients in (*range(100, 1001, 50), 5000, 10_000, 20_000):
            fraction = hundredths / 100
            if hundredths * 3 >= 100 or num_clients < 2:
                continue
            made = plan(num_clients=num_clients, vector_length=1, value_bits=1, corrupt=fraction)
            if made.corrupt_clients != hundredths * num_clients // 100:
                wrong.append((fraction, num_clients, made.corrupt_clients))
    assert wrong == []


# --- The planner: what it refuses ------------------------------------------------------------------------------------


def reasons_to_refuse(**arguments) -> tuple[str, ...]:
    with pytest.raises(PlanError) as refusal:
        plan(**{"num_clients": 10, "vector_length": 10, "value_bits": 8, **arguments})
    return refusal.value.reasons


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"threshold": 5}, ["threshold 5", "below the 6"]),
        ({"threshold": 6, "corrupt": 0.1}, ["threshold 6", "below the 7", "corrupt clients"]),
        ({"threshold": 11}, ["1 fewer than the threshold 11"]),
        ({"num_clients": 9, "corrupt": 0.34}, ["3 corrupt clients of 9", "at most 2"]),
        ({"dropout": 0.5}, ["5 of 10", "5 to remain", "1 fewer than the threshold 6"]),
        ({"dropout": 0.9}, ["9 of 10", "5 fewer than the threshold 6"]),
        ({"dropout": 0.4, "corrupt": 0.1}, ["4 of 10", "1 fewer than the threshold 7"]),
        ({"value_bits": 62}, ["needs 66 bits", "2 more than the largest ring"]),
        ({"value_bits": 60, "max_weight": 16}, ["inputs of 64 bits", "needs 68 bits", "4 more"]),
        ({"value_bits": None, "max_value": 2**61}, ["needs 66 bits", "2 more"]),
        ({"value_bits": None}, ["either value_bits or max_value"]),
        ({"max_value": 255}, ["either value_bits or max_value"]),
        ({"vector_length": 0}, ["vector_length is 0", "at least 1"]),
        ({"vector_length": 2.5}, ["vector_length must be an int", "float"]),
        ({"num_clients": 1}, ["num_clients is 1", "between 2"]),
        ({"num_clients": 0}, ["num_clients is 0"]),
        ({"num_clients": 65521}, ["degree is 65520"]),
        ({"num_clients": "10"}, ["num_clients must be an int", "str"]),
        ({"value_bits": 0}, ["value_bits is 0"]),
        ({"value_bits": True}, ["value_bits must be an int", "bool"]),
        ({"value_bits": None, "max_value": 0}, ["max_value is 0"]),
        ({"max_weight": 0}, ["max_weight is 0"]),
        ({"threshold": -1}, ["threshold is -1"]),
        ({"dropout": 1.0}, ["dropout is 1.0"]),
        ({"dropout": -0.1}, ["dropout is -0.1"]),
        ({"corrupt": 1.5}, ["corrupt is 1.5"]),
        ({"corrupt": float("nan")}, ["corrupt is nan"]),
        ({"adversary": "malicious"}, ["adversary"]),
    ],
)
def test_each_constraint_is_named_with_its_numbers(arguments, words):
    reasons = reasons_to_refuse(**arguments)
    assert any(all(word in reason for word in words) for reason in reasons), reasons


def test_several_constraints_are_all_named():
    reasons = reasons_to_refuse(threshold=3, corrupt=0.5, dropout=0.8, value_bits=64, vector_length=0)
    text = "; ".join(reasons)
    for words in (
        "threshold 3 is below the 7",
        "5 corrupt clients of 10, but at most 3",
        "8 of 10 clients are expected to vanish and 2 to remain, 1 fewer",
        "needs 68 bits, 4 more",
        "vector_length is 0",
    ):
        assert words in text
    assert len(reasons) == 5


def test_no_constraint_is_named_twice():
    reasons = reasons_to_refuse(value_bits=64, corrupt=0.5)
    assert len(set(reasons)) == len(reasons)
    assert sum("bits" in reason for reason in reasons) == 1


@pytest.mark.parametrize("value", ["0.1", None, [0.1]], ids=repr)
@pytest.mark.parametrize("name", ["dropout", "corrupt"])
def test_fractions_of_a_wrong_type_are_a_reason_too(name, value):
    """Every wrong argument is a reason in a PlanError, as for the integers."""
    assert any(name in reason for reason in reasons_to_refuse(**{name: value}))


def test_absurdly_many_value_bits_are_refused_without_computing_the_values():
    """2^(2^62) does not fit any memory: the range is checked first."""
    assert any("bits" in reason for reason in reasons_to_refuse(value_bits=2**62))


@settings(max_examples=300)
@given(
    num_clients=st.integers(1, 200),
    value_bits=st.integers(1, 64),
    max_weight=st.integers(1, 300),
    dropout_percent=st.integers(0, 99),
    corrupt_percent=st.integers(0, 40),
    threshold=st.none() | st.integers(1, 210),
)
def test_every_plan_keeps_every_constraint(
    num_clients, value_bits, max_weight, dropout_percent, corrupt_percent, threshold
):
    """The constraints are written once more, from the paper: a plan is made exactly when all of them hold."""
    corrupt_clients = corrupt_percent * num_clients // 100
    dropouts = dropout_percent * num_clients // 100
    least = 2 * num_clients // 3 + 1 if corrupt_percent else num_clients // 2 + 1
    chosen = least if threshold is None else threshold
    weighted_bits = ((2**value_bits - 1) * max_weight).bit_length()
    possible = (
        num_clients >= 2
        and 2 <= chosen <= num_clients
        and chosen >= least
        and 3 * corrupt_clients < num_clients
        and num_clients - dropouts >= chosen
        and num_clients * (2**weighted_bits - 1) < 2**64
    )
    arguments = {
        "num_clients": num_clients,
        "vector_length": 5,
        "value_bits": value_bits,
        "max_weight": max_weight,
        "dropout": dropout_percent / 100,
        "corrupt": corrupt_percent / 100,
        "threshold": threshold,
    }
    if not possible:
        assert reasons_to_refuse(**arguments)
        return
    made = plan(**arguments)
    assert made.parameters.threshold == chosen
    assert made.spare_clients == num_clients - dropouts - chosen >= 0
