"""Planner and clients share one rule: a client accepts each plan for its own threat model."""

from dataclasses import replace
from itertools import product

import pytest

from secagg import Adversary, GraphKind, Plan, PlanError, PolicyError, SessionPolicy, plan
from secagg.planner import impossible_for_any

NUMBERS = (2, 3, 4, 5, 7, 10, 12, 17, 30, 60, 100, 250, 1000, 3000)
DROPOUT = (0, 0.05, 0.1, 0.29, 0.3, 1 / 3, 0.5, 0.6, 0.9)
CORRUPT = (0, 0.05, 0.1, 0.29, 0.33, 0.45)
CURIOUS = Adversary.HONEST_BUT_CURIOUS


def planned(num_clients: int, dropout: float, corrupt: float, **model) -> Plan | None:
    try:
        return plan(num_clients=num_clients, vector_length=1, value_bits=8, dropout=dropout, corrupt=corrupt, **model)
    except PlanError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("min_inputs", [2, 3, 9])
@pytest.mark.parametrize("graph", GraphKind, ids=lambda kind: kind.value)
@pytest.mark.parametrize("adversary", Adversary, ids=lambda mode: mode.value)
def test_every_plan_is_one_that_such_a_client_takes(adversary: Adversary, graph: GraphKind, min_inputs: int) -> None:
    made = sparse = 0
    for num_clients, dropout, corrupt in product(NUMBERS, DROPOUT, CORRUPT):
        found = planned(num_clients, dropout, corrupt, adversary=adversary, graph=graph, min_inputs=min_inputs)
        if found is None:
            continue
        made += 1
        params = found.parameters
        asked = SessionPolicy(adversary=adversary, min_inputs=min_inputs, graph=graph, corrupt=corrupt)
        asked.check(params)
        # A client that fears no other client accepts more than it needs.
        replace(asked, corrupt=0.0).check(params)
        usual = replace(asked, graph=None)
        if params.is_complete or adversary is CURIOUS:
            usual.check(params)
            continue
        sparse += 1
        with pytest.raises(PolicyError, match=r"^a sparse graph, of .* its policy must allow sparse graphs$"):
            usual.check(params)
    assert made > 100
    assert bool(sparse) == (graph is GraphKind.SPARSE and adversary is not CURIOUS)


@pytest.mark.parametrize("graph", GraphKind, ids=lambda kind: kind.value)
@pytest.mark.parametrize("adversary", Adversary, ids=lambda mode: mode.value)
def test_a_smaller_threshold_is_planned_by_nobody_and_taken_by_nobody(adversary: Adversary, graph: GraphKind) -> None:
    refused = 0
    for num_clients, dropout, corrupt in product((10, 60, 1000), (0, 0.1), (0, 0.1)):
        found = planned(num_clients, dropout, corrupt, adversary=adversary, graph=graph)
        assert found is not None
        params = found.parameters
        policy = SessionPolicy(adversary=adversary, min_inputs=2, graph=graph, corrupt=corrupt)
        try:
            lower = replace(params, threshold=params.threshold - 1)
        except PlanError:
            refused += 1
            continue
        with pytest.raises(PolicyError, match="threshold"):
            policy.check(lower)
        assert planned(
            num_clients, dropout, corrupt, adversary=adversary, graph=graph, threshold=lower.threshold
        ) is None  # fmt: skip
        refused += 1
    assert refused == 12


def test_corrupt_clients_count_on_the_complete_graph_too() -> None:
    """A client that assumes corrupt clients accepts no threshold that is safe from the server alone."""
    alone = plan(num_clients=9, vector_length=1, value_bits=8, adversary=Adversary.MALICIOUS).parameters
    SessionPolicy().check(alone)
    with pytest.raises(PolicyError, match="threshold 5 is below the 7 that is safe here"):
        SessionPolicy(corrupt=0.2).check(alone)
    with pytest.raises(PolicyError, match="8 corrupt clients of 9, but at most 2"):
        SessionPolicy(corrupt=0.9).check(replace(alone, threshold=9))


def test_a_curious_server_gives_sums_of_one_more_than_the_threshold_on_a_sparse_graph() -> None:
    params = plan(
        num_clients=100, vector_length=1, value_bits=8, dropout=0.3, graph=GraphKind.SPARSE
    ).parameters  # fmt: skip
    assert params.threshold == 2
    SessionPolicy(adversary=CURIOUS, min_inputs=3).check(params)
    with pytest.raises(PolicyError, match="the sum could contain only 3 inputs, but this client asks for 4"):
        SessionPolicy(adversary=CURIOUS, min_inputs=4).check(params)


@pytest.mark.parametrize("graph", GraphKind, ids=lambda kind: kind.value)
@pytest.mark.parametrize("adversary", Adversary, ids=lambda mode: mode.value)
def test_exactly_the_settings_without_any_plan_are_refused_early(adversary, graph) -> None:
    """Before the number of clients is known, exactly what has no plan is refused.

    (Among a sparse graph's margins, the thinnest need more neighbours than a secret can have holders.)
    """
    possible = set()
    for dropout, corrupt in product((*DROPOUT, 0.66, 2 / 3, 0.75), (*CORRUPT, 0.5, 0.6)):
        numbers = (*range(2, 8), 1000) if graph is GraphKind.COMPLETE else (*range(2, 8), 100_000)
        needed = corrupt if adversary is CURIOUS else (1 + corrupt) / 2
        if 0 < 1 - dropout - needed < 0.02:
            continue
        works = any(planned(n, dropout, corrupt, adversary=adversary, graph=graph) for n in numbers)
        assert works == (not impossible_for_any(dropout, corrupt, adversary, graph)), (dropout, corrupt)
        possible.add(works)
    assert possible == {True, False}


@pytest.mark.parametrize("graph", GraphKind, ids=lambda kind: kind.value)
def test_one_client_is_refused_for_that_alone(graph: GraphKind) -> None:
    with pytest.raises(PlanError) as refusal:
        plan(num_clients=1, vector_length=1, value_bits=8, graph=graph, dropout=0.9, corrupt=0.9, threshold=5)
    (reason,) = refusal.value.reasons
    assert reason.startswith("num_clients is 1, but must be between 2 and")
    # All other faults are named at once, not at the second try.
    with pytest.raises(PlanError) as refusal:
        plan(num_clients=1, vector_length=0, value_bits=8, graph=graph)
    assert refusal.value.reasons == (reason, "vector_length is 0, but must be at least 1")


@pytest.mark.parametrize(
    ("model", "allowed"),
    [
        ({"dropout": 0.6}, True),
        ({"corrupt": 0.4}, True),
        ({"dropout": 0.6, "adversary": Adversary.MALICIOUS}, False),
        ({"dropout": 0.6, "corrupt": 0.5}, False),
        ({"dropout": 0.6, "graph": GraphKind.SPARSE, "corrupt": 0.5}, False),
    ],
)
def test_the_sparse_graph_is_named_where_it_is_the_remedy(model, allowed) -> None:
    numbers = {"num_clients": 1000, "vector_length": 1, "value_bits": 8}
    with pytest.raises(PlanError) as refusal:
        plan(**numbers, **model)
    assert refusal.value.reasons[-1].endswith("; a sparse graph allows it") == allowed
    if allowed:
        assert plan(**numbers, **model, graph=GraphKind.SPARSE).parameters.degree < 999


def test_no_plan_has_more_clients_than_a_client_accepts() -> None:
    with pytest.raises(PlanError, match="but clients accept at most 1048576"):
        plan(num_clients=(1 << 20) + 1, vector_length=1, value_bits=8, graph=GraphKind.SPARSE)
