"""The ledger: what was charged stays charged, whatever happens, and the budget is never exceeded."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fl.errors import ConfigError
from fl.privacy import ledger as module
from fl.privacy.accounting import Release, epsilon_of
from fl.privacy.budget import Budget
from fl.privacy.ledger import EpsilonSpentError, Ledger
from fl.privacy.mechanism import Noise
from fl.privacy.planner import plan_private
from tests.fl.runs import REPOSITORY, environment

RELEASE = Release(
    squared_l2=10_000, l1=90_000.0, dimension=1024, noise=Noise.SKELLAM, variance=3000.0, honest=20, sampling_rate=0.1
)


def new(tmp_path: Path, epsilon: float = 1.0) -> Ledger:
    return Ledger.create(tmp_path / "privacy.json", epsilon=epsilon, delta=1e-5)


def test_a_plans_rounds_spend_its_budget_and_not_one_more(tmp_path: Path) -> None:
    budget = Budget(epsilon=3, delta=1e-5, rounds=25, clip=1.0, sampling_rate=0.2)
    plan = plan_private(budget, num_clients=50, length=500)
    ledger = new(tmp_path, 3)
    spent = [ledger.charge(number, plan.release) for number in range(1, 26)]
    assert spent == sorted(spent) == ledger.spent_by_charge()
    assert spent[-1] == pytest.approx(plan.epsilon, rel=1e-12)
    assert not ledger.allows(plan.release)
    with pytest.raises(EpsilonSpentError, match="round 26 would bring epsilon to 3"):
        ledger.charge(26, plan.release)
    assert ledger.spent == spent[-1]
    assert len(Ledger.load(ledger.path).charges) == 25


def test_what_was_spent_is_read_again(tmp_path: Path) -> None:
    ledger = new(tmp_path, 50)
    others = [RELEASE, RELEASE, replace(RELEASE, honest=21), RELEASE, replace(RELEASE, noise=Noise.GAUSSIAN), RELEASE]
    # The fourth round is tried twice.
    for number, release in zip((1, 2, 3, 4, 4, 5), others, strict=True):
        ledger.charge(number, release)
    loaded = Ledger.load(ledger.path)
    assert loaded.charges == ledger.charges
    assert [charge.round for charge in loaded.charges] == [1, 2, 3, 4, 4, 5]
    assert (loaded.epsilon, loaded.delta, loaded.spent) == (50, 1e-5, ledger.spent)
    total = sum(release.divergences() for release in others)
    assert loaded.spent == pytest.approx(epsilon_of(total, 1e-5), rel=1e-12)


def test_many_rounds_make_a_small_file(tmp_path: Path) -> None:
    ledger = new(tmp_path, 1000)
    for number in range(1, 41):
        ledger.charge(number, RELEASE)
    assert ledger.path.stat().st_size < 500
    assert len(Ledger.load(ledger.path).charges) == 40


def test_a_round_that_is_tried_again_costs_again(tmp_path: Path) -> None:
    ledger = new(tmp_path)
    first = ledger.charge(1, RELEASE)
    assert ledger.charge(1, RELEASE) > first


def test_nothing_is_charged_unless_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = new(tmp_path)
    before = ledger.path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replace_file", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        ledger.charge(1, RELEASE)
    assert ledger.charges == ()
    assert ledger.path.read_bytes() == before


@pytest.mark.live
def test_a_kill_after_a_charge_leaves_it_spent(tmp_path: Path) -> None:
    ledger = new(tmp_path)
    ledger.charge(1, RELEASE)
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from fl.privacy.ledger import Ledger\n"
        "ledger = Ledger.load(Path(sys.argv[1]))\n"
        "ledger.charge(len(ledger.charges) + 1, ledger.charges[0].release)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for charges in (2, 3):
        ended = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-c", program, str(ledger.path)],
            cwd=REPOSITORY,
            env=environment(),
            check=False,
            timeout=60,
        )
        assert ended.returncode == -signal.SIGKILL
        assert len(Ledger.load(ledger.path).charges) == charges


def test_a_new_run_does_not_forget_an_old_ledger(tmp_path: Path) -> None:
    new(tmp_path).charge(1, RELEASE)
    with pytest.raises(ConfigError, match="what it says was spent would be forgotten"):
        new(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored.pop("charges"),
        lambda stored: stored.update(format=2),
        lambda stored: stored.update(delta=0),
        lambda stored: stored.update(charges=[[1, 1, 7]]),
        lambda stored: stored.update(charges=[[1, 10**9, 0]]),
        lambda stored: stored["releases"][0].update(noise="laplace"),
        lambda stored: stored["releases"][0].update(variance=0),
        lambda stored: stored["releases"][0].update(more=1),
    ],
)
def test_a_ledger_that_cannot_be_read_ends_the_run(tmp_path: Path, change) -> None:
    ledger = new(tmp_path)
    ledger.charge(1, RELEASE)
    stored = json.loads(ledger.path.read_text())
    change(stored)
    ledger.path.write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match="ledger"):
        Ledger.load(ledger.path)


def test_a_lost_or_torn_ledger_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody knows what was spent"):
        Ledger.load(tmp_path / "privacy.json")
    ledger = new(tmp_path)
    ledger.path.write_bytes(ledger.path.read_bytes()[:40])
    with pytest.raises(ConfigError, match="nobody knows what was spent"):
        Ledger.load(ledger.path)


def test_a_start_that_was_cut_off_leaves_no_ledger_in_the_way(tmp_path: Path) -> None:
    new(tmp_path)
    # Nothing is forgotten: it has no charge.
    ledger = new(tmp_path)
    ledger.charge(1, RELEASE)
    with pytest.raises(ConfigError, match="exists: what it says was spent would be forgotten"):
        new(tmp_path)
