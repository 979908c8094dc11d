"""What a report says of a private run: budget, epsilon by round, and how noisy the clients' figures are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fl.privacy.accounting import Release, epsilon_of
from fl.privacy.ledger import Charge, Ledger
from fl.privacy.mechanism import Noise
from fl.report.page import render_page
from fl.report.privacy_view import known_by_round, privacy_view
from fl.report.source import load_run
from fl.report.verdict import judge_final_model
from tests.fl.report.pages import parse
from tests.fl.runs import assert_refused, invoke

RELEASE = Release(
    squared_l2=10_000, l1=1000.0, dimension=1024, noise=Noise.SKELLAM, variance=10_000.0, honest=10, sampling_rate=0.3
)


def test_the_known_epsilon_is_of_the_expected_share_of_rounds_without_sampling() -> None:
    ledger = Ledger(None, 8.0, 1e-5, [Charge(number, RELEASE) for number in range(1, 11)])
    known = known_by_round(ledger)
    unsampled = RELEASE.known().divergences()
    assert RELEASE.known().sampling_rate == 1
    # Round to the next whole round: 0.3, 0.6, ... 3 of them.
    assert known == {n: pytest.approx(epsilon_of(math.ceil(0.3 * n - 1e-9) * unsampled, 1e-5)) for n in range(1, 11)}


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("private") / "run"
    result = invoke(
        "train", "--model", "logistic", "--clients", 30, "--sample", 15, "--rounds", 2, "--epochs", 1,
        "--epsilon", 60, "--delta", 1e-3, "--holdout", 0.3, "--clip-quantile", 0.5, "--out", path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return path


@pytest.mark.slow
def test_a_private_runs_page_has_its_budget_and_epsilon_by_round(private: Path) -> None:
    run = load_run(private)
    view = privacy_view(run)
    assert view is not None
    assert view.chart is not None
    assert (view.epsilon, view.delta, view.attempts) == (60, 1e-3, 4)
    assert view.spent == pytest.approx(60, rel=0.2)
    assert view.known is not None
    final = judge_final_model(run, None)
    page = parse(render_page(run, final))
    shown = page.one("section", **{"aria-labelledby": "privacy"})
    assert "Budget: epsilon 60 at delta 0.001 for all 2 rounds together" in shown.text
    assert "With or without everything that one client ever sends" in shown.text
    assert "4 sessions were charged" in shown.text
    assert "within clip" in shown.text
    assert "±" in shown.text
    (chart,) = shown.all("figure")
    assert [item.text.split()[0] for item in chart.all("li")] == ["spent", "known", "budget"]
    # The protocol is the private one, not that of a run without noise.
    assert final.plan is not None
    assert final.plan.parameters.modular
    assert "figures travel with each update" in page.text


@pytest.mark.slow
def test_a_page_without_the_ledger_says_what_the_records_know(private: Path, tmp_path: Path) -> None:
    ledger = private / "privacy.json"
    content = ledger.read_bytes()
    ledger.unlink()
    try:
        view = privacy_view(load_run(private))
        assert view is not None
        assert (view.known, view.attempts) == (None, None)
        assert view.spent > 0
        ledger.write_text("{}")
        assert_refused(invoke("report", private), "cannot read the privacy ledger")
    finally:
        ledger.write_bytes(content)


@pytest.mark.slow
def test_a_run_without_noise_has_no_such_part(folder: Path) -> None:
    run = load_run(folder)
    assert privacy_view(run) is None
    page = parse(render_page(run, judge_final_model(run, None)))
    assert not page.all("section", **{"aria-labelledby": "privacy"})


@pytest.mark.slow
def test_tensorboard_gets_epsilon_and_noise(private: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install '.[tensorboard]'")
    from tests.fl.report.test_tensorboard import curve, expected, read

    assert invoke("report", private, "--tensorboard").exit_code == 0
    events = read(private, "secure")
    assert curve(events, "privacy/epsilon") == pytest.approx(expected(private, "secure", "epsilon"), rel=1e-6)
    assert curve(events, "privacy/L2 clip") == pytest.approx(expected(private, "secure", "l2_clip"), rel=1e-6)
    noise = {number: one["train_accuracy"] for number, one in expected(private, "secure", "stddevs").items()}
    assert curve(events, "privacy/noise in train_accuracy") == pytest.approx(noise, rel=1e-6)
