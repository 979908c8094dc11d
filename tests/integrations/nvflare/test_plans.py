"""Every round that a controller plans is one that a site takes part in, with a default executor."""

from itertools import product
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from fl.aggregation.planning import GRAPHS
from fl.integrations.nvflare import NVFlareJobError, SecAggController, SecAggExecutor
from secagg import Adversary, PlanError


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("adversary", Adversary, ids=lambda mode: mode.value)
def test_every_plan_is_one_that_a_default_site_takes(adversary: Adversary, graph: str) -> None:
    """In malicious mode a site has to accept sparse graphs; it does if `add_secure_aggregation` made the job."""
    job: dict[str, Any] = {"identity_id": "ids" if adversary is Adversary.MALICIOUS else None}
    agreed = {"graph": graph} if (adversary, graph) == (Adversary.MALICIOUS, "sparse") else {}
    policy, made = SecAggExecutor(**job, **agreed)._policy, 0
    for dropout, corrupt in product((0, 0.1, 0.3, 0.5, 0.6), (0, 0.05, 0.1, 0.33)):
        try:
            controller = SecAggController(
                clip=1.0,
                max_steps=8,
                adversary=adversary.value,
                graph=graph,
                dropout=dropout,
                corrupt=corrupt,
                **job,
            )
        except NVFlareJobError:
            continue
        for num_sites in (2, 3, 4, 5, 10, 30, 100, 1000):
            try:
                params = controller._parameters(num_sites, 20, 20)
            except PlanError:
                continue
            policy.check(params)
            made += 1
    assert made > 40


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"dropout": 0.7, "graph": "complete"}, "a sparse graph of enough clients allows it"),
        ({"dropout": 0.7, "adversary": "semi-malicious"}, "too few honest clients remain"),
        ({"graph": "star"}, "unknown graph 'star'; known are auto, complete, sparse"),
        ({"corrupt": 0.7, "dropout": 0.6, "graph": "sparse"}, "too few honest clients remain"),
    ],
)
def test_threat_models_that_no_number_of_sites_can_have_are_refused_at_once(arguments: Any, text: str) -> None:
    with pytest.raises(NVFlareJobError, match=text):
        SecAggController(clip=1.0, max_steps=8, **arguments)
