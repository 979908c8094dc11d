"""A client's agreement: it checks the session's parameters against its own policy."""

from dataclasses import replace

import pytest

from secagg import Adversary, GraphKind, Parameters, PolicyError, SessionPolicy, plan

MODES = list(Adversary)
SPARSE = GraphKind.SPARSE


def planned(num_clients: int, adversary: Adversary, *, corrupt: float = 0.0, dropout: float = 0.0) -> Parameters:
    return plan(
        num_clients=num_clients,
        vector_length=1,
        value_bits=8,
        adversary=adversary,
        corrupt=corrupt,
        dropout=dropout,
        graph=SPARSE,
    ).parameters


def test_the_default_is_safe_against_a_server_that_lies_and_takes_the_complete_graph_only() -> None:
    malicious = plan(num_clients=5, vector_length=1, value_bits=8, adversary=Adversary.MALICIOUS).parameters
    SessionPolicy().check(malicious)
    for weaker in (Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS):
        with pytest.raises(PolicyError, match="asks for malicious mode"):
            SessionPolicy().check(replace(malicious, adversary=weaker))
    with pytest.raises(PolicyError, match="the sum could contain only 2 inputs, but this client asks for 3"):
        SessionPolicy().check(plan(num_clients=3, vector_length=1, value_bits=8, threshold=2, adversary=Adversary.MALICIOUS).parameters)  # fmt: skip  # noqa: E501
    with pytest.raises(PolicyError, match="takes the complete graph only"):
        SessionPolicy().check(planned(1000, Adversary.MALICIOUS))


@pytest.mark.parametrize("adversary", MODES)
@pytest.mark.parametrize(("num_clients", "corrupt", "dropout"), [(100, 0.0, 0.1), (100, 0.05, 0.05), (1000, 0.05, 0.1)])
def test_the_planners_parameters_are_accepted_where_sparse_graphs_are(num_clients, corrupt, dropout, adversary) -> None:
    params = planned(num_clients, adversary, corrupt=corrupt, dropout=dropout)
    assert not params.is_complete
    SessionPolicy(adversary=adversary, min_inputs=2, graph=SPARSE, corrupt=corrupt).check(params)


@pytest.mark.parametrize("adversary", MODES)
def test_a_degree_or_a_threshold_below_the_planners_is_refused(adversary: Adversary) -> None:
    policy = SessionPolicy(adversary=adversary, min_inputs=2, graph=SPARSE, corrupt=0.05)
    least = planned(1000, adversary, corrupt=0.05)
    policy.check(least)
    fewer = replace(least, degree=least.degree - 2, threshold=least.degree - 2)
    with pytest.raises(PolicyError, match=f"{fewer.degree} neighbours, but 1000 clients need at least {least.degree}"):
        policy.check(fewer)
    # A dishonest server would like these parameters best.
    with pytest.raises(PolicyError, match="2 neighbours, but 1000 clients need at least"):
        policy.check(replace(least, degree=2, threshold=2))
    params = planned(1000, adversary, corrupt=0.05, dropout=0.05)
    policy.check(params)
    with pytest.raises(PolicyError, match=f"at least {params.threshold} is safe"):
        policy.check(replace(params, threshold=params.threshold - 1))


def test_a_client_that_assumes_more_corrupt_clients_asks_for_more_neighbours() -> None:
    params = planned(1000, Adversary.MALICIOUS, corrupt=0.05)
    with pytest.raises(PolicyError, match="neighbours, but 1000 clients need at least"):
        SessionPolicy(min_inputs=2, graph=SPARSE, corrupt=0.2).check(params)


def test_too_few_clients_for_any_safe_sparse_graph() -> None:
    params = Parameters(
        num_clients=17,
        threshold=3,
        degree=4,
        vector_length=6,
        value_bits=8,
        ring_bits=16,
        adversary=Adversary.MALICIOUS,
    )
    with pytest.raises(PolicyError, match="for so few only the complete graph is safe"):
        SessionPolicy(min_inputs=2, graph=SPARSE, corrupt=0.9).check(params)


@pytest.mark.parametrize("min_inputs", range(2, 9))
def test_min_inputs_counts_what_a_lying_server_can_bring_a_sum_down_to(min_inputs: int) -> None:
    """On a sparse graph that is 2t - k + 1 (docs/threat-model.md), and not the threshold."""
    params = planned(100, Adversary.MALICIOUS, dropout=0.1)
    fewest = 2 * params.threshold - params.degree + 1
    assert fewest < params.threshold
    policy = SessionPolicy(min_inputs=min_inputs, graph=SPARSE)
    if min_inputs <= fewest:
        policy.check(params)
    else:
        with pytest.raises(PolicyError, match=f"the sum could contain only {fewest} inputs, but this client asks for"):
            policy.check(params)


def test_every_reason_is_given_at_once() -> None:
    params = Parameters(num_clients=4, threshold=2, degree=3, vector_length=9, value_bits=8, ring_bits=8, modular=True)
    with pytest.raises(PolicyError) as refusal:
        SessionPolicy(max_elements=8).check(params)
    for part in ("more than half", "only 2 inputs", "honest-but-curious mode", "9 elements", "may wrap"):
        assert part in str(refusal.value)
