"""`secagg plan --epsilon`: the private plan for people and programs, and its refusals."""

from __future__ import annotations

import json

import pytest

from tests.fl.runs import assert_refused, invoke

OPTIONS = ("--clients", 100, "--epsilon", 8, "--delta", 1e-5, "--rounds", 100, "--length", 1000)


def test_a_private_plan_in_json() -> None:
    result = invoke("plan", "--json", *OPTIONS, "--dropout", 0.1, "--corrupt", 0.05, "--ring-bits", 20)
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert (values["threshold"], values["ring_bits"], values["vector_length"]) == (90, 20, 1024)
    private = values["privacy"]
    assert 7.9999 < private["epsilon"] <= 8
    assert private["honest_clients"] == 85
    assert (private["noise"], private["clip"], private["length"], private["sampling_rate"]) == ("skellam", 1, 1000, 1)


def test_a_private_plan_for_people_has_the_reasons() -> None:
    result = invoke("plan", *OPTIONS, "--sampling-rate", 0.05, "--noise", "gaussian", "--clip", 0.5)
    assert result.exit_code == 0, result.stderr
    for words in (
        "private plan for 100 clients",
        "- threshold 100: all that the expected dropouts leave",
        "- noise: gaussian",
        "beside updates of at most 0.5",
        "- epsilon 8 at delta 1e-05 after 100 rounds, each with every client at probability 0.05",
        "- the server learns who took part",
    ):
        assert words in result.stdout


def test_a_refusal_names_every_reason() -> None:
    result = invoke("plan", "--json", "--clients", 1, "--epsilon", 0.001, "--graph", "ring", "--noise", "laplace")
    assert result.exit_code == 1
    reasons = json.loads(result.stdout)["reasons"]
    text = "; ".join(reasons)
    for words in ("needs --delta", "needs --rounds", "unknown graph 'ring'", "unknown noise 'laplace'", "num_clients"):
        assert words in text


def test_too_narrow_a_ring_is_refused() -> None:
    result = invoke("plan", *OPTIONS, "--ring-bits", 8)
    assert result.exit_code == 1
    assert "a ring of 8 bits is too narrow" in result.stderr


def test_options_of_a_budget_without_epsilon_are_refused() -> None:
    assert_refused(
        invoke("plan", "--clients", 100, "--delta", 1e-5, "--ring-bits", 16),
        "--delta, --ring-bits: only with --epsilon",
    )
    assert_refused(invoke("plan", "--clients", 100, "--exact-noise"), "--exact-noise: only with --epsilon")


def test_the_plan_says_how_noisy_figures_and_scores_are() -> None:
    options = ("--clients", 100, "--epsilon", 8, "--delta", 1e-5, "--rounds", 50, "--length", 5000)
    without, with_both = (
        json.loads(invoke("plan", "--json", *options, *more).stdout)["privacy"]
        for more in ((), ("--figures", 3, "--scores", 3))
    )
    assert (without["figures"], without["figure_stddev"], without["scores"], without["score_stddev"]) == (
        0,
        None,
        0,
        None,
    )
    assert (with_both["figures"], with_both["scores"]) == (3, 3)
    assert 0 < with_both["figure_stddev"] == pytest.approx(with_both["score_stddev"], rel=0.05)
    dear = json.loads(invoke("plan", "--json", *options, "--figures", 3, "--figures-cost", 0.1).stdout)["privacy"]
    assert dear["figure_stddev"] < with_both["figure_stddev"] / 2.5
