"""The sparse neighbour graph: its shape, its bounds, and sessions on it."""

from dataclasses import replace
from math import comb, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg import Aborted, AbortReason, Adversary, Completed, DropReason, GraphKind, Parameters, PlanError, Round
from secagg.graph import CompleteGraph, HararyGraph, build_graph
from secagg.sparse_bounds import SparseBounds
from tests.support.sessions import (
    BEFORE_INPUT,
    BEFORE_SHARES,
    BEFORE_UNMASKING,
    Cohort,
    SeededEntropy,
    exact_sum,
    make_params,
)


def sparse_params(num_clients: int, degree: int, threshold: int, **changes) -> Parameters:
    return replace(make_params(num_clients, threshold, **changes), degree=degree)


def inputs_of(params: Parameters, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {i: rng.integers(0, 1 << params.value_bits, params.vector_length) for i in range(params.num_clients)}


@given(num_nodes=st.integers(4, 60), half=st.integers(1, 8), seed=st.integers(0, 1000))
def test_a_harary_graph_is_regular_symmetric_and_knows_its_places(num_nodes: int, half: int, seed: int) -> None:
    degree = min(2 * half, (num_nodes - 2) // 2 * 2)
    graph = HararyGraph(num_nodes, degree, SeededEntropy(f"graph {seed}"))
    neighborhoods = [graph.neighborhood(node).tolist() for node in range(num_nodes)]
    for node, members in enumerate(neighborhoods):
        assert len(set(members)) == degree + 1 == graph.neighborhood_size
        assert members == sorted(members)
        assert node in members
        for member, place in zip(members, graph.places_of(node).tolist(), strict=True):
            assert neighborhoods[member][place] == node
    flags = np.random.default_rng(seed).random(num_nodes) < 0.5
    assert graph.count(flags).tolist() == [sum(flags[members]) for members in neighborhoods]


def test_the_order_on_the_ring_is_the_entropys() -> None:
    draws = [HararyGraph(50, 4, SeededEntropy(seed)).neighborhood(0).tolist() for seed in ("a", "b", "a")]
    assert draws[0] == draws[2] != draws[1]


def test_a_random_relabelling_makes_all_pairs_equally_likely_neighbours() -> None:
    counts = np.zeros((8, 8))
    trials = 3000
    for trial in range(trials):
        graph = HararyGraph(8, 2, SeededEntropy(f"pairs {trial}"))
        for node in range(8):
            counts[node, graph.neighborhood(node)] += 1
    observed = counts[~np.eye(8, dtype=bool)]
    expected = trials * 2 / 7
    # Each pair is counted from both sides; allow six standard deviations of one of 56 counts.
    assert np.abs(observed - expected).max() < 6 * np.sqrt(expected)


def test_where_everyone_fits_one_neighbourhood_the_graph_is_complete() -> None:
    params = sparse_params(20, 6, 3)
    assert isinstance(build_graph(params, 7, SeededEntropy("x")), CompleteGraph)
    assert isinstance(build_graph(params, 8, SeededEntropy("x")), HararyGraph)


@pytest.mark.parametrize(
    ("num_clients", "corrupt", "dropout", "adversary", "degree", "threshold"),
    [
        (100, 0.05, 0.05, Adversary.HONEST_BUT_CURIOUS, 12, 6),
        (1_000, 0.05, 0.05, Adversary.HONEST_BUT_CURIOUS, 30, 17),
        (10_000, 0.05, 0.05, Adversary.HONEST_BUT_CURIOUS, 34, 20),
        (1_000, 0.33, 0.05, Adversary.HONEST_BUT_CURIOUS, 78, 60),
        (1_000, 0.05, 0.05, Adversary.SEMI_MALICIOUS, 52, 37),
        (10_000, 0.05, 0.05, Adversary.SEMI_MALICIOUS, 62, 44),
        (1_000, 0.05, 0.05, Adversary.MALICIOUS, 52, 37),
        (10_000, 0.05, 0.05, Adversary.MALICIOUS, 62, 44),
        (10_000, 0.3, 0.3, Adversary.SEMI_MALICIOUS, 4822, 3230),
        (100_000, 0.3, 0.3, Adversary.SEMI_MALICIOUS, 9388, 6286),
    ],
)
def test_the_planner_finds_the_smallest_degree(num_clients, corrupt, dropout, adversary, degree, threshold) -> None:
    params = secagg.plan(
        num_clients=num_clients,
        vector_length=10,
        value_bits=8,
        corrupt=corrupt,
        dropout=dropout,
        adversary=adversary,
        graph=GraphKind.SPARSE,
    ).parameters
    assert (params.degree, params.threshold) == (degree, threshold)


def hypergeometric(total: int, kind: int, drawn: int, x: int) -> float:
    return comb(kind, x) * comb(total - kind, drawn - x) / comb(total, drawn)


@pytest.mark.parametrize(("num_clients", "corrupt", "dropouts"), [(100, 5, 5), (400, 40, 20), (1000, 330, 50)])
def test_the_bounds_hold_by_exact_integers(num_clients: int, corrupt: int, dropouts: int) -> None:
    """The tails, recomputed from binomial coefficients, are below their bounds at the degree found."""
    remaining = num_clients - dropouts
    degree, threshold = SparseBounds(num_clients, corrupt, dropouts, remaining, semi_malicious=False).smallest()
    too_many_corrupt = sum(
        hypergeometric(num_clients, corrupt, degree, x) for x in range(threshold, min(degree, corrupt) + 1)
    )
    assert too_many_corrupt == 0 or log2(num_clients * too_many_corrupt) < -41
    too_few_left = sum(hypergeometric(num_clients, remaining, degree, x) for x in range(threshold))
    assert too_few_left == 0 or log2(num_clients * too_few_left) < -20


def test_a_plan_for_a_million_clients_and_one_that_no_degree_can_serve() -> None:
    million = {"num_clients": 1_000_000, "vector_length": 10, "value_bits": 8, "graph": GraphKind.SPARSE}
    assert secagg.plan(**million, corrupt=0.05, dropout=0.05).parameters.degree < 100
    with pytest.raises(PlanError) as refusal:
        secagg.plan(**million, corrupt=0.5, dropout=0.5)
    assert any("corrupt" in reason for reason in refusal.value.reasons)
    assert any("shares" in reason for reason in refusal.value.reasons)


def test_few_clients_get_the_complete_graph() -> None:
    plan = secagg.plan(
        num_clients=4, vector_length=10, value_bits=8, corrupt=0.25, dropout=0.25, graph=GraphKind.SPARSE
    )
    assert plan.parameters.is_complete
    assert plan.parameters.threshold == 3


@pytest.mark.slow
@settings(max_examples=40)
@given(data=st.data())
def test_any_dropouts_give_the_exact_sum_or_an_abort(data: st.DataObject) -> None:
    num_clients = data.draw(st.integers(5, 16))
    degree = data.draw(st.integers(1, (num_clients - 2) // 2)) * 2
    params = sparse_params(num_clients, degree, data.draw(st.integers(2, max(2, degree))), vector_length=5)
    missing = data.draw(st.dictionaries(st.integers(0, num_clients - 1), st.integers(0, 3), max_size=num_clients // 3))
    inputs = inputs_of(params)
    outcome = Cohort(params, inputs, missing_from=missing).run()
    if isinstance(outcome.end, Completed):
        assert outcome.end.sum.tolist() == exact_sum(params, [inputs[i] for i in outcome.end.included])
        assert not {i for i, stage in missing.items() if stage <= 2} & set(outcome.end.included)
    else:
        assert isinstance(outcome.end, Aborted)
    if not missing:
        assert isinstance(outcome.end, Completed)
        assert len(outcome.end.included) == num_clients
    # No client is left to refuse: the server first drops each one that would have to.
    assert outcome.refused == {}


def neighbours_on_the_ring(params: Parameters, seed: str, client_id: int) -> list[int]:
    """Return a client's neighbours on the graph that a server with this entropy draws when everyone advertises keys."""
    graph = HararyGraph(params.num_clients, params.degree, SeededEntropy(f"{seed}/server"))
    return [node for node in graph.neighborhood(client_id).tolist() if node != client_id]


@pytest.mark.parametrize(
    ("stage", "round_"), [(BEFORE_SHARES, Round.SHARE_KEYS), (BEFORE_INPUT, Round.MASKED_INPUT_COLLECTION)]
)
def test_a_client_whose_neighbours_vanish_is_dropped_before_it_is_stuck(stage: int, round_: Round) -> None:
    params = sparse_params(40, 6, 3)
    lonely = 7
    missing = dict.fromkeys(neighbours_on_the_ring(params, "lonely", lonely)[:4], stage)
    inputs = inputs_of(params)
    outcome = Cohort(params, inputs, missing_from=missing, entropy_seed="lonely").run()
    if stage == BEFORE_SHARES:
        assert outcome.dropped[lonely].reason is DropReason.TOO_FEW_NEIGHBORS
        assert outcome.dropped[lonely].round is round_
        assert isinstance(outcome.end, Completed)
        assert set(outcome.end.included) == set(inputs) - {lonely} - set(missing)
        assert outcome.end.sum.tolist() == exact_sum(params, [inputs[i] for i in outcome.end.included])
    else:
        # Its masks are already in the sum, and can no longer be removed.
        assert isinstance(outcome.end, Aborted)
        assert (outcome.end.reason, outcome.end.round) == (AbortReason.TOO_FEW_CLIENTS, round_)
        assert outcome.end.had < outcome.end.needed == 3


def test_shares_that_do_not_come_in_abort_and_name_the_owner() -> None:
    params = sparse_params(40, 4, 3)
    missing = dict.fromkeys(neighbours_on_the_ring(params, "late", 7)[:2], BEFORE_UNMASKING)
    outcome = Cohort(params, inputs_of(params), missing_from=missing, entropy_seed="late").run()
    assert isinstance(outcome.end, Aborted)
    assert outcome.end.reason is AbortReason.TOO_FEW_SHARES
    assert 7 in outcome.end.owners
    assert set(outcome.end.missing) == set(missing)


def test_a_client_holds_no_share_of_its_own_secrets() -> None:
    """Otherwise a lying server would need one neighbour less than the bounds for the sparse graph say."""
    params = sparse_params(12, 4, 2)
    seen: dict[int, secagg.messages.UnmaskingShares] = {}

    def keep(client_id: int, message: object) -> object:
        if isinstance(message, secagg.messages.UnmaskingShares):
            seen[client_id] = message
        return message

    outcome = Cohort(params, inputs_of(params), uplink=keep).run()
    assert isinstance(outcome.end, Completed)
    assert {sum(message.held) for message in seen.values()} == {4}


@pytest.mark.parametrize("degree", [0, 3, 12])
def test_degrees_that_no_graph_has_are_refused(degree: int) -> None:
    with pytest.raises(PlanError, match="degree"):
        sparse_params(12, degree, 2)
