"""Flower's nodes against a SuperLink that lies at random; `lying_grid` plays any number of sessions."""

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from fl.integrations.flower import mod
from fl.integrations.flower.node_record import NodeRecord
from secagg import Adversary
from tests.adversarial.lies.figures import Lie
from tests.adversarial.random_lies import THRIFTY, assert_held, campaign, played
from tests.integrations.flower.lying_grid import flower

# Another offer is another session here, in which no client has a second run.
WITHOUT = {Lie.OTHER_OFFER, Lie.OLD_KEYS}


def test_random_lies_get_nothing_from_nodes(tmp_path):
    assert_held(played(flower(tmp_path), sessions=60, seed=4, without=WITHOUT, graphs=THRIFTY), WITHOUT)


@pytest.mark.parametrize(
    ("place", "checks", "graph", "found", "seed"),
    [
        (NodeRecord, ("claim",), "sparse", "second answers", 0),
        (NodeRecord, ("enter", "check", "answer"), "complete", "second answers", 3),
        (mod, ("_check_run",), "complete", "sums over different models", 0),
    ],
    ids=["a state used twice", "nothing remembered", "other settings of the run"],
)
def test_the_campaign_finds_a_missing_check(place, checks, graph, found, seed, tmp_path, monkeypatch):
    for check in checks:
        monkeypatch.setattr(place, check, lambda *arguments, **more: None)
    figures = campaign(
        flower(tmp_path),
        sessions=400,
        seed=seed,
        modes=(Adversary.MALICIOUS,),
        graphs=(graph,),
        stop=lambda figures: bool(figures.broken[found]),
    )
    assert figures.broken[found], figures
