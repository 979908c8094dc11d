"""The graph that `auto` stands for: the cheapest that is as safe as was asked, with the reason."""

from __future__ import annotations

from itertools import product

import pytest

from secagg import Adversary, GraphChoice, GraphKind, PlanError, SessionPolicy, cheapest_graph, plan
from secagg.graph_choice import SPARSE_RESERVE

CURIOUS = Adversary.HONEST_BUT_CURIOUS


def planned(choice: GraphChoice, **threat: object) -> tuple[int, int]:
    threat = {**threat, "dropout": choice.dropout, "corrupt": choice.corrupt, "graph": choice.graph}
    made = choice.explained(plan(vector_length=1, value_bits=8, **threat))  # type: ignore[arg-type]
    assert made.why == made.reasons[0] == choice.why
    return made.parameters.degree, made.parameters.threshold


def test_many_clients_take_the_sparse_graph_with_a_line_on_its_savings_and_risks() -> None:
    choice = cheapest_graph(num_clients=300, dropout=0.2)
    assert choice.graph is GraphKind.SPARSE
    degree, _ = planned(choice, num_clients=300, dropout=0.2)
    for words in (f"{degree} neighbours for each client, not 299", f"to {degree / 299:.0%}", "60 clients vanish",
                  "15 are corrupt", "2^-40", "complete graph with 150"):  # fmt: skip
        assert words in choice.why, choice.why


def test_few_clients_take_the_complete_graph() -> None:
    choice = cheapest_graph(num_clients=40, dropout=0.1)
    assert (choice.graph, choice.dropout) == (GraphKind.COMPLETE, 0.1)
    assert choice.why.startswith("graph complete: for 40 clients it costs little more than a sparse one")
    assert "safe with 20 of them corrupt" in choice.why


def test_the_graph_is_complete_if_no_degree_fits() -> None:
    choice = cheapest_graph(num_clients=4, corrupt=0.3, dropout=0.3)
    assert choice.graph is GraphKind.COMPLETE
    assert "no sparse graph of 4 clients" in choice.why


def test_a_sparse_graph_is_planned_with_a_reserve() -> None:
    for dropout, expected in ((0.0, SPARSE_RESERVE), (0.01, SPARSE_RESERVE), (0.3, 0.3)):
        assert cheapest_graph(num_clients=500, dropout=dropout).dropout == expected
    for corrupt, expected in ((0.0, SPARSE_RESERVE), (0.01, SPARSE_RESERVE), (0.1, 0.1)):
        choice = cheapest_graph(num_clients=500, dropout=0.1, corrupt=corrupt)
        assert choice.corrupt == expected
        _, threshold = planned(choice, num_clients=500, dropout=0.1)
        assert threshold > 2, "two neighbours who share what they hold unmask nobody"


def test_without_a_plan_for_the_reserve_the_graph_is_as_safe_as_stated() -> None:
    choice = cheapest_graph(num_clients=40, dropout=0.9)
    assert (choice.graph, choice.corrupt) == (GraphKind.SPARSE, 0.0)


def test_half_of_few_clients_may_vanish_on_a_sparse_graph() -> None:
    """The complete graph refuses, and says so."""
    choice = cheapest_graph(num_clients=50, dropout=0.5)
    assert choice.graph is GraphKind.SPARSE
    assert "the complete graph has no plan (25 of 50 clients" in choice.why
    assert "1 fewer than the threshold 26), one of" in choice.why
    planned(choice, num_clients=50, dropout=0.5)
    with pytest.raises(PlanError, match="fewer than the threshold 26; a sparse graph allows it"):
        plan(num_clients=50, vector_length=1, value_bits=8, dropout=0.5)


@pytest.mark.parametrize("adversary", [Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS])
def test_against_a_server_that_lies_it_is_never_sparse(adversary: Adversary) -> None:
    """Clients' default policies decline it there, also if the complete graph has no plan."""
    for num_clients, dropout, corrupt in ((20, 0.1, 0.0), (1000, 0.05, 0.05), (1000, 0.4, 0.1)):
        choice = cheapest_graph(num_clients=num_clients, dropout=dropout, corrupt=corrupt, adversary=adversary)
        assert choice.graph is GraphKind.COMPLETE
    assert "decline a sparse one" in choice.why


def test_a_client_with_the_same_threat_model_accepts_each_choice() -> None:
    """Never weaker than stated: the policy for the same corrupt clients and inputs accepts each choice."""
    sparse = 0
    for num_clients, dropout, corrupt, adversary, min_inputs in product(
        (5, 30, 100, 400), (0.0, 0.2, 0.5), (0.0, 0.1, 0.3), Adversary, (2, 5)
    ):
        threat = {"num_clients": num_clients, "corrupt": corrupt, "adversary": adversary, "min_inputs": min_inputs}
        choice = cheapest_graph(dropout=dropout, **threat)  # type: ignore[arg-type]
        try:
            made = plan(vector_length=1, value_bits=8, dropout=choice.dropout, graph=choice.graph, **threat)  # type: ignore[arg-type]
        except PlanError:
            assert choice.graph is GraphKind.COMPLETE
            continue
        SessionPolicy(adversary=adversary, corrupt=corrupt, min_inputs=min_inputs).check(made.parameters)
        sparse += not made.parameters.is_complete
    assert sparse > 10


def test_a_threshold_chooses_the_graph_that_has_it() -> None:
    assert cheapest_graph(num_clients=300, threshold=200).graph is GraphKind.COMPLETE
    assert cheapest_graph(num_clients=300, dropout=0.2, threshold=3).graph is GraphKind.SPARSE


@pytest.mark.parametrize("wrong", [{"num_clients": 1}, {"dropout": -0.1}, {"dropout": 1.5}, {"dropout": float("nan")}])
def test_impossible_settings_are_left_to_the_planner(wrong: dict[str, float]) -> None:
    threat = {"num_clients": 300, **wrong}
    choice = cheapest_graph(**threat)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=next(iter(wrong))):
        planned(choice, **threat)
