"""Scores of personal models: the secure sums equal those in the clear."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fl
from fl.aggregation.totals_session import SummedTotals
from fl.errors import ConfigError
from fl.learning.figures import CLASSIFICATION_FIGURES, FigureRange
from fl.learning.training import Evaluation
from fl.personalization import measure_gain, summarize_gains
from fl.personalization.scores import GainEncoding, Personalizer
from fl.runs.checkpoint import RunFolder
from fl.runs.personal_scores import PersonalScores, load_scores, save_scores
from fl.runs.rounds import FederatedRun
from tests.fl.runs import assert_refused, invoke, tiny_config, tiny_dataset, use_tiny_data

pytestmark = pytest.mark.slow

METHODS = ("head", "full", "proximal", "ditto")


def trained(method: str, **changes: Any) -> FederatedRun:
    config = tiny_config(holdout=0.25, personalize=method, personal_epochs=2, partition="dirichlet", **changes)
    run = FederatedRun(config, tiny_dataset(), "secure")
    with run:
        for _ in range(config.rounds):
            run.run_round()
    return run


@pytest.mark.parametrize("method", METHODS)
def test_the_sums_equal_those_in_the_clear(method: str) -> None:
    run = trained(method, rounds=2)
    personalizer = Personalizer(run)
    scores = personalizer.score()
    measured = [client for client in range(6) if len(run.worker.examples[client].held_out)]
    gains = [measure_gain(run.worker, client, run.model, personalizer.model_of(client)) for client in measured]
    expected = summarize_gains(gains)
    assert (scores.method, scores.clients, scores.held_out) == (method, expected.clients, expected.held_out)
    assert scores.metrics["accuracy"] == pytest.approx(expected.global_accuracy, abs=1e-12)
    assert scores.personal_metrics["accuracy"] == pytest.approx(expected.personal_accuracy, abs=1e-12)
    count = sum(gain.held_out for gain in gains)
    assert scores.personal_loss == pytest.approx(
        sum(gain.personal_loss * gain.held_out for gain in gains) / count, abs=1e-3
    )
    assert scores.personal_loss != scores.loss
    assert (scores.better, scores.worse, scores.lower_loss) == (expected.better, expected.worse, expected.lower_loss)
    parts = np.bincount([40 + round(40 * gain.accuracy_gain) for gain in gains], minlength=81)
    assert list(scores.histogram) == parts.tolist()


def test_ditto_trains_beside_the_rounds_that_included_the_client() -> None:
    """Algorithm 1 of the paper, step by step."""
    config = tiny_config(holdout=0.25, personalize="ditto", personal_strength=0.5, sample=3, rounds=3)
    run = FederatedRun(config, tiny_dataset(), "secure")
    personalizer = Personalizer(run)
    own: dict[int, nn.Module] = {}
    steps = dict.fromkeys(range(6), 0)
    with run:
        for _ in range(3):
            received = copy.deepcopy(run.model)
            for client in run.run_round().included:
                model = own.setdefault(client, copy.deepcopy(received))
                seed = personalizer._seed(client, steps[client])
                personalizer.method.improve(model, received, *run.worker.training_examples(client), seed=seed)  # type: ignore[union-attr]
                steps[client] += 1
    assert 0 in steps.values() or len(set(steps.values())) > 1
    for client in range(6):
        model = own.setdefault(client, copy.deepcopy(run.model))
        seed = personalizer._seed(client, steps[client])
        personalizer.method.improve(model, run.model, *run.worker.training_examples(client), seed=seed)  # type: ignore[union-attr]
        for mine, theirs in zip(personalizer.model_of(client).parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_clients_may_vanish_while_they_are_scored() -> None:
    run = trained("full", rounds=1, dropout=0.34, dropout_at=["masked-input-collection"])
    assert Personalizer(run).score().clients <= 4


@pytest.mark.usefixtures("tiny_data")
def test_ditto_is_the_same_for_a_run_that_was_resumed(tmp_path: Path) -> None:
    train = ("train", "--model", "logistic", "--clients", 5, "--epochs", 1, "--holdout", 0.2, "--personalize", "ditto")
    whole = invoke(*train, "--rounds", 3, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.stderr
    invoke(*train, "--rounds", 1, "--out", tmp_path / "part")
    assert len(list((tmp_path / "part" / "sent").iterdir())) == 1
    assert invoke("train", "--resume", tmp_path / "part", "--rounds", 3).exit_code == 0
    scores = load_scores(tmp_path / "whole")
    assert scores is not None
    assert load_scores(tmp_path / "part") == scores
    assert f"personal models (ditto): accuracy {100 * scores.metrics['accuracy']:.2f}%" in whole.stdout
    (tmp_path / "part" / "sent" / "00002.safetensors").unlink()
    refused = invoke("train", "--resume", tmp_path / "part", "--rounds", 4)
    assert refused.exit_code == 1
    assert "00002.safetensors" in refused.stderr


@pytest.fixture
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_data(monkeypatch)
    monkeypatch.setattr("fl.federated_training.save_plot", lambda path, *_: path.write_bytes(b""))


@pytest.mark.usefixtures("tiny_data")
def test_json_and_report_have_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke(
        "train", "--model", "logistic", "--clients", 5, "--epochs", 1, "--holdout", 0.2, "--personalize", "head",
        "--rounds", 1, "--json", "--out", tmp_path / "run",
    )  # fmt: skip
    told = json.loads(done.stdout)["personal"]
    assert told == json.loads((tmp_path / "run" / "personal.json").read_text())
    assert (told["method"], told["clients"], sum(told["histogram"])) == ("head", 5, 5)
    monkeypatch.setattr("fl.report.verdict.make_dataset", lambda *_: tiny_dataset())
    assert invoke("report", tmp_path / "run").exit_code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Personal models (head)" in page
    assert "accuracy" in page


def test_runs_that_cannot_be_personalized_are_refused_before_the_first_round(tmp_path: Path) -> None:
    assert_refused(
        invoke("train", "--personalize", "full", "--out", tmp_path / "a"), "on examples that clients hold out"
    )
    assert_refused(
        invoke("train", "--personalize", "most", "--holdout", 0.2), "one of head, full, proximal, ditto, not 'most'"
    )
    assert not (tmp_path / "a").exists()
    run = FederatedRun(tiny_config(holdout=0.2), tiny_dataset(), "secure")
    with pytest.raises(ConfigError, match="set personalize to ditto before the run begins"):
        Personalizer(run, fl.Personal(method="ditto"))
    with pytest.raises(ConfigError, match="name a method"):
        Personalizer(run)
    frozen = FederatedRun(tiny_config(holdout=0.2), tiny_dataset(), "secure")
    frozen.model[1].requires_grad_(False)  # type: ignore[operator,index]
    with pytest.raises(ConfigError, match="is frozen"):
        Personalizer(frozen, fl.Personal(method="head"))
    with pytest.raises(ConfigError, match="no client holds examples out"):
        Personalizer(FederatedRun(tiny_config(), tiny_dataset(), "secure"), fl.Personal(method="full"))


def test_a_program_personalizes_a_trained_run() -> None:
    data = tiny_dataset()
    clients = [(data.train_images[i::4], data.train_labels[i::4]) for i in range(4)]
    run = fl.federated("logistic", clients, (data.test_images, data.test_labels), rounds=1, holdout=0.25)
    run.train(progress=False)
    assert run.personal is None
    scores = fl.personalize(run, "full", epochs=3)
    assert (scores.clients, scores.held_out) == (4, 60)
    with_own = fl.federated(
        "logistic", clients, clients[0], rounds=1, holdout=0.25, personal=fl.Personal(method="ditto")
    )
    with_own.train(progress=False)
    assert with_own.personal is not None
    assert with_own.personal.method == "ditto"


def test_without_accuracy_a_gain_is_of_the_loss() -> None:
    gains = GainEncoding((FigureRange("loss"), FigureRange("mae")), 10)
    clients = [
        (Evaluation(2.0, {"mae": (8.0, 4)}, 4), Evaluation(1.0, {"mae": (4.0, 4)}, 4)),
        (Evaluation(1.0, {"mae": (6.0, 6)}, 6), Evaluation(1.5, {"mae": (9.0, 6)}, 6)),
        None,
    ]
    total = sum(gains.encode(client) for client in clients)
    examples, figures, further = gains.encoding.decode(total, 3, fewest_examples=0, most_examples=30)
    scores = gains.scores("full", SummedTotals(examples=examples, figures=figures, further=further, included=3))
    assert (scores.gain, scores.clients, scores.held_out) == ("loss", 2, 10)
    assert scores.loss == pytest.approx(1.4)
    assert scores.personal_metrics["mae"] == pytest.approx(1.3)
    assert (scores.better, scores.worse, scores.p10, scores.p90) == (0.5, 0.5, -0.5, 0.5)
    assert "gains in % of the loss: -50.0 p10" in str(scores)


def test_a_global_model_that_diverged_can_be_encoded() -> None:
    gains = GainEncoding(CLASSIFICATION_FIGURES, 4)
    lost = Evaluation(float("nan"), {"accuracy": (0, 4)}, 4)
    total = gains.encode((lost, Evaluation(0.5, {"accuracy": (3, 4)}, 4)))
    _, figures, further = gains.encoding.decode(total, 1, fewest_examples=0, most_examples=4)
    assert figures["personal accuracy"] == (3, 4)
    assert further[:3] == (1, 1, 0)


def test_a_damaged_file_of_scores_is_named(tmp_path: Path) -> None:
    run = trained("full", rounds=1)
    scores = Personalizer(run).score()
    save_scores(tmp_path, scores)
    assert load_scores(tmp_path) == scores
    assert isinstance(load_scores(tmp_path), PersonalScores)
    for text in ("", "{}", "[1]", '{"method": 1}'):
        (tmp_path / "personal.json").write_text(text)
        with pytest.raises(ConfigError, match=r"personal\.json is damaged"):
            load_scores(tmp_path)
    assert RunFolder(tmp_path).model_path.name == "model.safetensors"
