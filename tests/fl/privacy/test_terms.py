"""The terms of a private session: what is announced is bounded, and nothing in it is ignored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from fl.errors import ConfigError
from fl.privacy.accounting import epsilon_of
from fl.privacy.budget import Budget
from fl.privacy.mechanism import Mechanism, Noise
from fl.privacy.planner import PrivacyPlan, plan_private
from fl.privacy.terms import PrivateTerms
from secagg import Adversary

BUDGET = Budget(epsilon=3, delta=1e-5, rounds=10, clip=0.5)


def planned(**numbers: Any) -> PrivacyPlan:
    return plan_private(
        BUDGET, **{"num_clients": 20, "length": 100, "dropout": 0.2, "adversary": Adversary.MALICIOUS, **numbers}
    )


def terms_of(plan: PrivacyPlan, sampling_rate: float = 1.0) -> PrivateTerms:
    return PrivateTerms(
        mechanism=plan.mechanism,
        honest=plan.release.honest,
        corrupt=plan.session.corrupt_clients,
        sampling_rate=sampling_rate,
    )


PLAN = planned()
TERMS = terms_of(PLAN)


@pytest.mark.parametrize("noise", list(Noise))
def test_terms_come_back_from_their_map(noise: Noise) -> None:
    ranges = (("loss", 0.0, 4.0), ("mae", -1.5, 3.0))
    terms = replace(TERMS, mechanism=replace(TERMS.mechanism, noise=noise), sampling_rate=0.25, figure_ranges=ranges)
    there = msgpack.unpackb(msgpack.packb(terms.to_map()))
    assert PrivateTerms.from_map(there) == terms
    assert msgpack.packb(PrivateTerms.from_map(there).to_map()) == msgpack.packb(terms.to_map())


def test_whole_numbers_travel_as_the_floats_that_they_stand_for() -> None:
    terms = replace(TERMS, mechanism=replace(TERMS.mechanism, clip=1, granularity=TERMS.mechanism.granularity))
    assert PrivateTerms.from_map(msgpack.unpackb(msgpack.packb(terms.to_map()))) == terms


@pytest.mark.parametrize("name", [*TERMS.to_map(), *TERMS.to_map()["mechanism"]])
def test_no_name_may_lack_and_none_may_be_added(name: str) -> None:
    values = TERMS.to_map()
    inner = values["mechanism"] if name in values["mechanism"] else values
    del inner[name]
    with pytest.raises(ConfigError, match="other names"):
        PrivateTerms.from_map(values)
    values = TERMS.to_map()
    (values["mechanism"] if name in values["mechanism"] else values)[f"{name}_2"] = 1
    with pytest.raises(ConfigError, match="other names"):
        PrivateTerms.from_map(values)


def forged(**changes: Any) -> dict[str, Any]:
    values = TERMS.to_map()
    for name, value in changes.items():
        (values["mechanism"] if name in values["mechanism"] else values)[name] = value
    return values


@pytest.mark.parametrize(
    "change",
    [
        {"clip": math.nan},
        {"clip": math.inf},
        {"clip": 1e300},
        {"clip": -1.0},
        {"clip": 0.0},
        {"clip": 1},
        {"granularity": 5e-324},
        {"granularity": 1e-29},
        {"granularity": math.nan},
        {"granularity": -1e-3},
        {"variance": 0.0},
        {"variance": 5e-324},
        {"variance": math.inf},
        {"variance": -5.0},
        {"variance": 2.0**33},
        {"length": 0},
        {"length": -(2**63)},
        {"length": 2**63},
        {"length": 3.0},
        {"length": True},
        {"ring_bits": 0},
        {"ring_bits": 65},
        {"ring_bits": -1},
        {"noise": "none"},
        {"noise": b"skellam"},
        {"noise": ["skellam"]},
        {"figures": -1},
        {"figures": 2**40},
        {"figures": 3},
        {"figure_weight": math.nan},
        {"figure_weight": 1e200},
        {"figure_weight": 0.5},
        {"honest": 0},
        {"honest": -3},
        {"honest": 2**40},
        {"corrupt": -1},
        {"corrupt": 2**62},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"sampling_rate": math.nan},
        {"sampling_rate": 1},
        {"figure_ranges": None},
        {"figure_ranges": [["loss", 0.0, math.nan]]},
        {"figure_ranges": [["loss", 0.0, -1.0]]},
        {"figure_ranges": [["loss", -1e308, 1e308]]},
        {"figure_ranges": [["loss", 0.0]]},
        {"figure_ranges": [["loss", 0, 1]]},
        {"figure_ranges": [[b"loss", 0.0, 1.0]]},
        {"figure_ranges": ["loss"]},
        {"figure_ranges": [["loss", 0.0, 1.0]] * 33},
        {"mechanism": None},
        {"mechanism": []},
    ],
    ids=repr,
)
def test_impossible_numbers_are_refused_before_anything_is_computed(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PrivateTerms.from_map(forged(**change))


@pytest.mark.parametrize("values", [None, [], 3, "terms", {"mechanism": {}}, {}], ids=repr)
def test_other_values_are_no_terms(values: Any) -> None:
    with pytest.raises(ConfigError):
        PrivateTerms.from_map(values)


def test_a_plans_terms_fit_its_session() -> None:
    assert TERMS.contradictions(PLAN.session.parameters) == []
    assert TERMS.release(PLAN.release.honest) == replace(PLAN.release, sampling_rate=1.0)


def test_a_claim_of_sampling_gains_nothing() -> None:
    honest = PLAN.release.honest
    claimed = replace(TERMS, sampling_rate=1e-6)
    assert claimed.release(honest) == TERMS.release(honest)
    assert epsilon_of(claimed.release(honest).divergences(), 1e-5) == epsilon_of(
        TERMS.release(honest).divergences(), 1e-5
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"degree": 12, "threshold": 8}, "sparse graph"),
        ({"modular": False, "value_bits": 4, "ring_bits": 32}, "noise in a ring"),
        ({"vector_length": 256}, "128 elements"),
        ({"threshold": PLAN.session.parameters.threshold - 1}, "noise planned for 16 honest and 0 corrupt"),
    ],
)
def test_terms_that_do_not_fit_the_session_are_named(change: dict[str, Any], reason: str) -> None:
    (found,) = [one for one in TERMS.contradictions(replace(PLAN.session.parameters, **change)) if reason in one]
    assert found


def test_a_ring_in_which_the_sum_wraps_around_is_named() -> None:
    narrow = replace(TERMS, mechanism=replace(TERMS.mechanism, ring_bits=3))
    params = replace(PLAN.session.parameters, ring_bits=3, value_bits=3)
    assert any("privacy be spent on nothing" in reason for reason in narrow.contradictions(params))


def test_terms_made_here_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="sampling_rate is 0"):
        replace(TERMS, sampling_rate=0)
    with pytest.raises(ConfigError, match=r"corrupt is -1.*; sampling_rate is 2"):
        replace(TERMS, corrupt=-1, sampling_rate=2)
    with pytest.raises(ConfigError, match="clip"):
        PrivateTerms(
            mechanism=Mechanism(length=3, clip=1e40, granularity=1e38, variance=1.0, ring_bits=8), honest=1, corrupt=0
        )
