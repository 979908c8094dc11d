"""Figures and held-out scores of private runs, through real sessions: noisy, charged, and the clip that follows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fl
from fl.aggregation.encoding import ClientUpdate
from fl.aggregation.private import PrivateAggregator
from fl.aggregation.private_scores import PrivateScores
from fl.aggregation.private_session import PrivateFigures
from fl.config.run_config import RunConfig
from fl.data import load_dataset
from fl.errors import ConfigError
from fl.federated_training import FederatedTraining
from fl.learning.training import Evaluation
from fl.privacy.budget import Budget
from fl.privacy.clipping import Clipping
from fl.privacy.ledger import Ledger
from fl.privacy.planner import plan_private
from secagg import ClientId
from tests.fl.privacy.test_private_training import LENGTH, MODEL, request, update_of
from tests.fl.runs import invoke
from transport import FaultSchedule

pytestmark = pytest.mark.slow

FIGURES = PrivateFigures(("loss", "accuracy", "mae"), {"loss": (0.0, 4.0), "accuracy": (0.0, 1.0)})
BUDGET = Budget(epsilon=60, delta=1e-3, rounds=3, clip=1.0, sampling_rate=0.5, figures=3, scores=3)
PLAN = plan_private(BUDGET, num_clients=20, length=LENGTH, **MODEL)


def aggregator(path: Path | None = None, clipping: Clipping | None = None) -> PrivateAggregator:
    ledger = Ledger(None, 60, 1e-3) if path is None else Ledger.create(path, epsilon=60, delta=1e-3)
    return PrivateAggregator(PLAN, ledger, model=MODEL, figures=FIGURES, clipping=clipping)


def train(client_id: ClientId) -> ClientUpdate:
    # 100 examples, of which 90 are right; the metric without a range stays at the client.
    return replace(update_of(client_id), num_examples=100, loss_sum=100.0, metrics=((90, 100), (7e9, 1)))


def test_clients_figures_arrive_with_the_noise_that_is_said() -> None:
    errors = []
    private = aggregator()
    for number in (1, 2, 3):
        found = private.aggregate(request(20, number, train)).aggregate
        assert found is not None
        assert found.metrics.keys() == {"accuracy"}
        assert found.stddevs.keys() == {"loss", "accuracy", "within_clip"}
        within = np.mean([np.linalg.norm(train(i).delta) <= 1.0 for i in range(20)])
        for value, right, name in ((found.loss, 1.0, "loss"), (found.metrics["accuracy"], 0.9, "accuracy")):
            errors.append((value - right) / found.stddevs[name])
        assert abs((found.within_clip or 0) - within) < 6.2 * found.stddevs["within_clip"]
        # Half the width of the range, times 7.1 z sqrt(k)/n for n = k = 20 clients.
        assert found.stddevs["loss"] == pytest.approx(4 * found.stddevs["accuracy"])
    assert max(map(abs, errors)) < 6.2
    assert len({round(one, 9) for one in errors}) > 3


def test_the_clip_follows_and_the_ledger_does_not_see_it() -> None:
    clipping = Clipping(0.01, 0.5, rate=2.0)
    private = aggregator(clipping=clipping)
    clips = [private.aggregate(request(20, number, train)).l2_clip for number in (1, 2, 3)]
    assert clips[0] == 0.01
    # No update is that short: the clip grows by up to e^(2 * 0.5).
    assert clips[0] < clips[1] < clips[2] < clipping.clip < 0.01 * math.exp(3) * 1.01
    fixed = aggregator()
    for number in (1, 2, 3):
        fixed.aggregate(request(20, number, train))
    assert [charge.release for charge in private.ledger.charges] == [charge.release for charge in fixed.ledger.charges]


def evaluation(client_id: ClientId) -> Evaluation | None:
    if client_id % 2:
        return None
    return Evaluation(math.nan if client_id == 4 else 1.0, {"accuracy": (3, 4), "mae": (1e9, 1)}, 4)


def run_scores(private: PrivateAggregator, clients: int = 20, number: int = 1):
    return PrivateScores(private).run(
        tuple(range(clients)),
        evaluation,
        number=number,
        context=b"model",
        received_context=lambda _: b"model",
        faults=FaultSchedule(),
        seed=1,
    )


def test_scores_are_means_over_the_clients_that_have_examples(tmp_path: Path) -> None:
    private = aggregator(tmp_path / "privacy.json")
    result = run_scores(private)
    assert result.evaluation is not None
    # Nine losses of 1; one that is not a number counts as 4.
    assert abs(result.evaluation.loss - 1.3) < 6.2 * result.stddevs["loss"]
    assert abs(result.evaluation.accuracy - 0.75) < 6.2 * result.stddevs["accuracy"]
    # Ten of twenty clients have examples: the noise of the mean is for ten, or about.
    expected = PLAN.scores.mechanism.stddev(20) / 10 / 2  # type: ignore[union-attr]
    assert result.stddevs["accuracy"] == pytest.approx(expected, rel=0.5)
    (charge,) = Ledger.load(tmp_path / "privacy.json").charges
    assert charge.release == PLAN.scores.release  # type: ignore[union-attr]


def test_scores_that_the_budget_does_not_allow_are_not_asked_for() -> None:
    private = aggregator()
    asked: list[ClientId] = []
    for number in (1, 2, 3):
        private.aggregate(request(20, number, train))
        run_scores(private, number=number)
    result = PrivateScores(private).run(
        tuple(range(20)),
        lambda client_id: asked.append(client_id),  # type: ignore[func-returns-value]
        number=4,
        context=b"model",
        received_context=lambda _: b"model",
        faults=FaultSchedule(),
        seed=1,
    )
    assert result.evaluation is None
    assert "above the budget" in str(result.aborted)
    assert asked == []
    assert private.ledger.spent == pytest.approx(60)


def test_too_few_clients_give_no_scores_and_cost_nothing() -> None:
    private = aggregator()
    result = run_scores(private, clients=1)
    assert "too few clients" in str(result.aborted)
    assert private.ledger.charges == ()


def test_a_plan_without_scores_has_none() -> None:
    plan = plan_private(replace(BUDGET, scores=0), num_clients=20, length=LENGTH, **MODEL)
    with pytest.raises(ConfigError, match="planned without scores"):
        PrivateScores(PrivateAggregator(plan, Ledger(None, 60, 1e-3), model=MODEL, figures=FIGURES))


CONFIG = RunConfig.of(
    dataset="digits", model="logistic", clients=30, sample=15, rounds=4, epsilon=80.0, delta=1e-3, epochs=1,
    holdout=0.3, clip_quantile=0.5, l2_clip=0.05, seed=3,
)  # fmt: skip


def test_a_private_run_reports_noisy_figures_and_its_clip_survives_a_resume(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    path = tmp_path / "run"
    training = FederatedTraining(CONFIG, digits)
    training.keep_in(path)
    with training:
        rounds = iter(training)
        first, second = next(rounds), next(rounds)
    assert first.l2_clip == 0.05
    follows = Clipping(0.05, 0.5)
    for record in (first, second):
        assert record.stddevs.keys() == {
            "train_loss", "train_accuracy", "within_clip", "held_out_loss", "held_out_accuracy",
        }  # fmt: skip
        assert record.num_examples == record.held_out_examples == 0
        assert record.l2_clip == follows.clip
        follows.follow(record.within_clip or 0.0)
    going_on = FederatedTraining(CONFIG, digits)
    going_on.resume_in(path)
    with going_on:
        history = going_on.train(progress=False)
    assert history[2].l2_clip == follows.clip
    ledger = Ledger.load(path / "privacy.json")
    # An update and scores, in each round; the records say what both have cost.
    assert [charge.round for charge in ledger.charges] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [record.epsilon for record in history] == pytest.approx(ledger.spent_by_charge()[1::2])
    assert ledger.spent <= 80 * (1 + 1e-12)
    row = history.to_frame().iloc[-1]
    assert row["stddevs.train_accuracy"] > 0
    assert 0 <= row["within_clip"] <= 1


def test_only_figures_with_a_range_leave_the_clients() -> None:
    clients = [(torch.randn(8, 5), torch.randn(8, 1)) for _ in range(12)]
    net = torch.nn.Linear(5, 1)
    privacy = fl.Privacy(epsilon=60.0, delta=1e-3)
    with pytest.raises(ConfigError, match="need a figure with a range"):
        fl.federated(net, clients, loss="mse", metrics=["mae"], rounds=1, privacy=privacy, holdout=0.3)
    with fl.federated(net, clients, loss="mse", metrics=["mae"], rounds=1, privacy=privacy) as run:
        (record,) = run.train(progress=False)
    assert (record.train_loss is None or math.isnan(record.train_loss), record.train_metrics) == (True, {})
    assert record.stddevs.keys() == {"within_clip"}
    privacy = replace(privacy, figure_ranges={"mae": (0, 3)})  # type: ignore[arg-type]
    with fl.federated(net, clients, loss="mse", metrics=["mae"], rounds=1, privacy=privacy, holdout=0.3) as run:
        (record,) = run.train(progress=False)
    assert record.stddevs.keys() == {"train_mae", "within_clip", "held_out_mae"}
    assert 0 <= (record.held_out_metrics["mae"] or 0) <= 3
    with pytest.raises(ConfigError, match="names accuracy, but this task has loss, mae"):
        fl.federated(
            net, clients, loss="mse", metrics=["mae"], rounds=1,
            privacy=replace(privacy, figure_ranges=("accuracy=0:1",)),
        )  # fmt: skip


def test_the_command_says_how_noisy_its_figures_are(tmp_path: Path) -> None:
    options = (
        "--clients", 30, "--sample", 15, "--rounds", 2, "--epsilon", 60, "--delta", 1e-3, "--holdout", 0.3,
        "--clip-quantile", 0.5,
    )  # fmt: skip
    result = invoke("train", "--json", "--model", "logistic", "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.stderr
    assert "within the clip of 1" in result.stderr
    assert "held-out examples: accuracy" in result.stderr
    assert "±" in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["held_out_accuracy"] <= 1 for line in lines)
    assert "3 figures travel with each update, which adds 1.00% to its noise" in result.stderr
    assert invoke("report", tmp_path / "run").exit_code == 0
    assert "--clip-quantile 0.5" in (tmp_path / "run" / "report.html").read_text()
