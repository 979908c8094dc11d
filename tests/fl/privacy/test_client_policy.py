"""A client computes the epsilon of a round itself, counts only noise that is certain, and charges before it sends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl.errors import ConfigError
from fl.privacy import ledger as ledger_module
from fl.privacy.accounting import Release, epsilon_of
from fl.privacy.ledger import EpsilonSpentError
from fl.privacy.policy import PrivacyAccount, PrivacyPolicy, honest_clients
from fl.privacy.terms import PrivateTerms
from secagg import Adversary, Parameters, PolicyError, SessionPolicy
from tests.fl.privacy.test_terms import PLAN, TERMS, planned, terms_of

PARAMS = PLAN.session.parameters
LIMITS = PrivacyPolicy(max_epsilon=3.0, delta=1e-5)
CAREFUL = SessionPolicy()
TRUSTING = SessionPolicy(adversary=Adversary.HONEST_BUT_CURIOUS)


def account(limits: PrivacyPolicy = LIMITS, policy: SessionPolicy = CAREFUL, folder: Path | None = None) -> Any:
    return PrivacyAccount(limits, policy, folder)


def charge(one: Any, name: bytes, terms: PrivateTerms = TERMS, params: Parameters = PARAMS, number: int = 1) -> float:
    one.check(terms, params, session=name)
    return float(one.charge(terms, params, number, session=name))


def test_the_epsilon_of_a_round_is_the_servers_without_its_gain_by_sampling() -> None:
    sampled = account()
    spent = [charge(sampled, bytes([number]), number=number) for number in range(1, 11)]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(PLAN.known_epsilon, rel=1e-12)
    with pytest.raises(PolicyError, match=r"above its limit of 3: 3 are spent"):
        sampled.check(TERMS, PARAMS)
    with pytest.raises(EpsilonSpentError):
        sampled.charge(TERMS, PARAMS, 11, session=b"11")


def test_a_session_without_noise_is_refused() -> None:
    with pytest.raises(PolicyError, match="no noise"):
        account().check(None, PARAMS)


@pytest.mark.parametrize(
    ("params", "policy", "terms", "honest"),
    [
        (PARAMS, CAREFUL, TERMS, 16),
        (PARAMS, TRUSTING, TERMS, 16),
        (replace(PARAMS, adversary=Adversary.HONEST_BUT_CURIOUS), TRUSTING, TERMS, 16),
        # A server that may lie could get the vector alone.
        (replace(PARAMS, adversary=Adversary.HONEST_BUT_CURIOUS), CAREFUL, TERMS, 1),
        (replace(PARAMS, degree=12, threshold=10), TRUSTING, TERMS, 1),
        # The client's own assumption, and the server's if that is worse.
        (PARAMS, SessionPolicy(corrupt=0.25), TERMS, 11),
        (PARAMS, SessionPolicy(corrupt=0.25), replace(TERMS, honest=2, corrupt=14), 2),
        (PARAMS, SessionPolicy(corrupt=0.95), TERMS, 1),
        (replace(PARAMS, threshold=11), CAREFUL, TERMS, 11),
    ],
)
def test_only_noise_that_is_certain_counts(
    params: Parameters, policy: SessionPolicy, terms: PrivateTerms, honest: int
) -> None:
    assert honest_clients(terms, params, policy) == honest
    one = account(policy=policy)
    assert one.release(terms, params) == replace(PLAN.release, honest=honest, sampling_rate=1.0)
    assert one.epsilon(terms, params) == epsilon_of(one.release(terms, params).divergences(), 1e-5)


def test_noise_for_more_clients_than_a_sum_may_have_shows_in_the_epsilon() -> None:
    fewer = replace(PARAMS, threshold=11)
    assert account().epsilon(TERMS, fewer) > account().epsilon(TERMS, PARAMS)
    with pytest.raises(PolicyError, match="a sum may have only 11"):
        account().check(TERMS, fewer)


def test_terms_that_understate_noise_are_counted_as_what_they_are() -> None:
    weak = replace(TERMS, mechanism=replace(TERMS.mechanism, variance=TERMS.mechanism.variance / 100))
    with pytest.raises(PolicyError, match=r"of epsilon \d.*would bring this client above its limit"):
        account().check(weak, PARAMS)
    # One that believes in less noise from others than there is only counts more.
    assert account().epsilon(weak, PARAMS) > 5 * account().epsilon(TERMS, PARAMS)


def test_a_round_above_its_own_limit_is_refused_although_the_sum_would_allow_it() -> None:
    limits = PrivacyPolicy(max_epsilon=3.0, delta=1e-5, max_epsilon_per_round=0.5)
    assert account().epsilon(TERMS, PARAMS) > 0.5
    with pytest.raises(PolicyError, match=r"but at most 0\.5 is allowed"):
        account(limits).check(TERMS, PARAMS)


def test_a_mode_in_which_a_lying_server_sees_the_vector_alone_is_refused_with_that_reason() -> None:
    curious = replace(PARAMS, adversary=Adversary.HONEST_BUT_CURIOUS)
    with pytest.raises(PolicyError, match="with its own noise alone, since in this mode"):
        account().check(TERMS, curious)
    account(policy=TRUSTING).check(TERMS, curious)
    assert account().alone(TERMS, PARAMS) > 3 * account().epsilon(TERMS, PARAMS)


def test_too_few_honest_clients_are_refused_whatever_the_noise() -> None:
    limits = PrivacyPolicy(max_epsilon=100, delta=1e-5, min_honest=17)
    with pytest.raises(PolicyError, match="counts on 16 honest clients in a sum, but asks for 17"):
        account(limits).check(TERMS, PARAMS)


def test_terms_may_change_and_the_ledger_adds_up_what_each_round_was(tmp_path: Path) -> None:
    one = account(PrivacyPolicy(max_epsilon=30, delta=1e-5), folder=tmp_path)
    releases: list[Release] = []
    for number, share in enumerate((1.0, 0.5, 0.25, 1.0), 1):
        terms = replace(TERMS, mechanism=replace(TERMS.mechanism, variance=share * TERMS.mechanism.variance))
        charge(one, bytes([number]), terms, number=number)
        releases.append(one.release(terms, PARAMS))
    total = epsilon_of(sum(release.divergences() for release in releases), 1e-5)
    assert one.spent == pytest.approx(total, rel=1e-12)


def test_the_same_session_is_charged_once_also_after_a_restart(tmp_path: Path) -> None:
    first = account(folder=tmp_path)
    spent = charge(first, b"session")
    assert charge(first, b"session") == spent
    again = account(folder=tmp_path)
    assert charge(again, b"session") == spent
    assert len(again.ledger.charges) == 1
    # Another session is another look, and so is the first one once another was charged.
    assert charge(again, b"another") > spent
    assert charge(again, b"session") > charge(account(folder=tmp_path), b"session") - 1e-9
    assert len(account(folder=tmp_path).ledger.charges) == 3


def test_a_session_that_goes_on_under_a_worse_assumption_is_charged_for_it_too(tmp_path: Path) -> None:
    spent = charge(account(folder=tmp_path), b"session")
    wary = account(policy=SessionPolicy(corrupt=0.25), folder=tmp_path)
    assert charge(wary, b"session") > spent
    assert [one.release.honest for one in wary.ledger.charges] == [16, 11]
    charge(wary, b"session")
    assert len(wary.ledger.charges) == 2


def test_an_account_that_is_closed_writes_nothing_over_the_ledger_of_the_next_process(tmp_path: Path) -> None:
    """The thread of a session that was cancelled may still train when its folder is free again."""
    cancelled = account(folder=tmp_path)
    cancelled.close()
    charge(account(folder=tmp_path), b"another")
    with pytest.raises(ConfigError, match="is closed"):
        charge(cancelled, b"session")
    assert len(account(folder=tmp_path).ledger.charges) == 1


def test_a_session_that_is_charged_may_go_on_when_the_limit_is_reached(tmp_path: Path) -> None:
    one = account(PrivacyPolicy(max_epsilon=account().epsilon(TERMS, PARAMS), delta=1e-5), folder=tmp_path)
    charge(one, b"session")
    one.check(TERMS, PARAMS, session=b"session")
    with pytest.raises(PolicyError, match="above its limit"):
        one.check(TERMS, PARAMS, session=b"another")


def test_the_ledger_holds_with_other_limits_after_a_restart(tmp_path: Path) -> None:
    charge(account(folder=tmp_path), b"session")
    later = account(PrivacyPolicy(max_epsilon=0.8, delta=1e-3), folder=tmp_path)
    assert later.spent == pytest.approx(later.epsilon(TERMS, PARAMS), rel=1e-12)
    assert later.ledger.epsilon == 0.8
    with pytest.raises(PolicyError, match=r"above its limit of 0\.8"):
        later.check(TERMS, PARAMS)


def test_nothing_is_charged_in_memory_if_the_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = account(folder=tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "replace_file", fail)
        with pytest.raises(ConfigError, match="cannot write the privacy ledger"):
            charge(one, b"session")
    assert one.spent == 0
    assert charge(one, b"session") > 0


@pytest.mark.parametrize("damage", ["", "{}", "[]", "null", '{"format": 1}', "\x00" * 100])
def test_a_damaged_ledger_stops_the_client(tmp_path: Path, damage: str) -> None:
    charge(account(folder=tmp_path), b"session")
    (tmp_path / "privacy.json").write_text(damage)
    with pytest.raises(ConfigError, match=r"restore the file|format"):
        account(folder=tmp_path)


def test_a_ledger_with_a_negative_charge_is_damaged(tmp_path: Path) -> None:
    charge(account(folder=tmp_path), b"session")
    path = tmp_path / "privacy.json"
    stored = json.loads(path.read_text())
    stored["releases"][0]["variance"] = -1.0
    path.write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match="restore the file"):
        account(folder=tmp_path)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_epsilon": 0}, "max-epsilon is 0"),
        ({"max_epsilon": float("nan")}, "max-epsilon is nan"),
        ({"max_epsilon": 0.001}, "max-epsilon 0.001 is out of reach"),
        ({"max_epsilon_per_round": 0.001}, "max-epsilon-per-round 0.001 is out of reach"),
        ({"max_epsilon_per_round": -1}, "max-epsilon-per-round is -1"),
        ({"delta": 0}, "delta is 0"),
        ({"delta": 1}, "delta is 1"),
        ({"min_honest": 0}, "min-honest is 0"),
    ],
)
def test_impossible_limits_are_named(limits: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PrivacyPolicy(**{"max_epsilon": 3.0, "delta": 1e-5, **limits})


def test_a_plan_that_assumes_corrupt_clients_gives_its_known_epsilon() -> None:
    plan = planned(num_clients=40, corrupt=0.1)
    terms = terms_of(plan, 0.5)
    one = account(PrivacyPolicy(max_epsilon=100, delta=1e-5))
    for number in range(1, 11):
        charge(one, bytes([number]), terms, plan.session.parameters, number)
    assert one.spent == pytest.approx(plan.known_epsilon, rel=1e-12)
