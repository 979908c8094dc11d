"""Every round that the grid's settings plan is one that a node takes part in, with a default `secagg_mod`."""

from itertools import product
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from fl.aggregation.planning import GRAPHS
from fl.errors import ConfigError
from fl.integrations.flower import secagg_mod
from fl.integrations.flower.settings import SecAggSettings
from secagg import Adversary, GraphKind, Identity, PlanError, SessionPolicy


def default_mod(adversary: Adversary, **asked: Any) -> Any:
    """Return a default mod; a node has an identity in malicious mode."""
    if adversary is not Adversary.MALICIOUS:
        return secagg_mod(**asked)
    identity = Identity.generate()
    return secagg_mod(identity=identity, enrolled=[identity.public_key], **asked)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("adversary", Adversary, ids=lambda mode: mode.value)
def test_every_plan_is_one_that_a_default_node_takes(adversary: Adversary, graph: str) -> None:
    told: dict[str, Any] = {}
    if (adversary, graph) == (Adversary.MALICIOUS, "sparse"):
        with pytest.raises(ConfigError, match=r"give each secagg_mod\(graph='sparse'\), and SecAggGrid\(policy="):
            SecAggSettings(adversary=adversary, graph=graph)
        told = {"graph": GraphKind(graph)}
    mod, made = default_mod(adversary, **told), 0
    for dropout, corrupt in product((0, 0.1, 0.3, 0.5, 0.6), (0, 0.05, 0.1, 0.33)):
        try:
            settings = SecAggSettings(
                adversary=adversary,
                graph=graph,
                dropout=dropout,
                corrupt=corrupt,
                policy=SessionPolicy(**told) if told else None,
            )
        except ConfigError:
            continue
        for num_nodes in (2, 3, 4, 5, 10, 30, 100, 1000):
            try:
                planned = settings.plan(num_nodes, vector_length=9, value_bits=20, threshold=None)
            except PlanError:
                continue
            mod._policy.check(planned.parameters)
            made += 1
    assert made > 40


def test_many_nodes_that_trust_the_server_take_the_sparse_graph_and_few_the_complete_one() -> None:
    """Each session has its own graph; nodes that decline a sparse one keep the complete one."""
    settings = SecAggSettings(dropout=0.2)
    few, many = (settings.plan(count, vector_length=9, value_bits=20, threshold=None) for count in (10, 300))
    assert few.parameters.is_complete
    assert not many.parameters.is_complete
    assert few.why is not None
    assert many.why is not None
    for other in (
        SecAggSettings(adversary="malicious"),
        SecAggSettings(policy=SessionPolicy(adversary=Adversary.HONEST_BUT_CURIOUS, graph=GraphKind.COMPLETE)),
    ):
        assert other.plan(300, vector_length=9, value_bits=20, threshold=None).parameters.is_complete
