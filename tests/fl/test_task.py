"""Any supervised task: its loss and metrics are the user's, and their secure sums equal those in the clear."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl.aggregation.encoding import ClientUpdate, QuantizationError
from fl.config.config_file import read_config_file
from fl.config.run_config import RunConfig
from fl.data import Dataset
from fl.encrypted.jobs import DataInput
from fl.encrypted.owners import DataOwner
from fl.errors import ConfigError, DataError
from fl.learning.settings import Local
from fl.learning.task import CLASSIFICATION, Task
from fl.learning.training import evaluate, train
from fl.report.source import load_run
from fl.report.verdict import judge_final_model
from fl.runs.records import main_figures
from fl.runs.rounds import FederatedRun
from tests.fl import own_tasks
from tests.fl.encodings import fixed_encoding
from tests.fl.runs import invoke, own_module, tiny_dataset

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

HERE = "tests.fl.own_tasks"
TASKS: dict[str, dict[str, Any]] = {
    "diabetes": {"loss": "mse", "metrics": ["mae", f"{HERE}:bias"], "model": "2nn"},
    "untested": {"loss": f"{HERE}:signed", "metrics": ["mae"], "model": "logistic"},
    "several_labels": {
        "loss": "bce-with-logits",
        "metrics": ["binary-accuracy", f"{HERE}:recall"],
        "model": "logistic",
    },
    "cancer": {"loss": "bce-with-logits", "metrics": ["binary-accuracy"], "model": "logistic"},
    "sequences": {"model": f"{HERE}:tagger"},
    "pixels": {"model": f"{HERE}:segmenter"},
}


def config_of(name: str, **changes: Any) -> RunConfig:
    usual = {"clients": 5, "rounds": 2, "epochs": 1, "batch_size": 16, "learning_rate": 0.02, "holdout": 0.2}
    return RunConfig.of(**{**usual, **TASKS[name], "dataset": f"{HERE}:{name}", **changes})


def run_of(name: str, aggregator: Any, **changes: Any) -> FederatedRun:
    return FederatedRun(config_of(name, **changes), getattr(own_tasks, name)(None), aggregator)


@pytest.mark.parametrize("name", TASKS)
def test_a_secure_round_has_the_figures_of_a_plain_one(name: str) -> None:
    """The clients of the first round begin with the same model, so their figures are the same sums."""
    secure, plain = run_of(name, "secure", dropout=0.2), run_of(name, "plain", dropout=0.2)
    one, other = secure.run_round(), plain.run_round()
    assert one.included == other.included
    assert len(one.included) == 4
    assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
    assert one.train_metrics.keys() == other.train_metrics.keys() == secure.task.metrics.keys()
    assert one.train_metrics == pytest.approx(other.train_metrics, rel=1e-9, abs=1e-11)
    assert one.metrics == pytest.approx(other.metrics, rel=1e-3, abs=1e-3)
    assert one.held_out_metrics == pytest.approx(other.held_out_metrics, rel=1e-3, abs=1e-3)
    first, last = one, secure.run_round()
    assert last.train_loss < first.train_loss
    assert (last.loss is None) == (name == "untested")
    assert (last.accuracy is None) == ("accuracy" not in secure.task.metrics)
    assert json.loads(json.dumps(main_figures(last)))


def test_figures_are_sums_of_all_batches_also_of_a_smaller_last_one() -> None:
    inputs, targets = torch.randn(10, 3), torch.randn(10, 1)
    model, task = nn.Linear(3, 1), Task("mse", ["mae", "mse"])
    error = (model(inputs) - targets).detach().double()
    settings = Local(epochs=1, batch_size=4, learning_rate=1e-30)
    trained = train(model, inputs, targets, settings, seed=0, task=task)
    assert trained.loss_sum == pytest.approx(float(error.square().sum()), rel=1e-5)
    measured = evaluate(model, inputs, targets, batch_size=4, task=task)
    assert measured.loss == pytest.approx(float(error.square().mean()), rel=1e-5)
    for metrics in (dict(zip(task.metrics, trained.metrics, strict=True)), measured.totals):
        assert metrics["mae"] == (pytest.approx(float(error.abs().sum()), rel=1e-5), 10)
        assert metrics["mse"] == (pytest.approx(float(error.square().sum()), rel=1e-5), 10)


def test_the_default_is_classification_to_the_last_bit() -> None:
    dataset, model = tiny_dataset(), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    measured = evaluate(model, dataset.test_images, dataset.test_labels)
    logits = model(dataset.test_images).detach()
    assert measured.loss == functional.cross_entropy(logits, dataset.test_labels, reduction="sum").item() / 60
    assert measured.totals == {"accuracy": (int((logits.argmax(1) == dataset.test_labels).sum()), 60)}
    assert Task(functional.cross_entropy) == Task(nn.CrossEntropyLoss) == Task() == CLASSIFICATION
    assert Task(nn.CrossEntropyLoss()) == CLASSIFICATION
    assert Task(nn.CrossEntropyLoss(label_smoothing=0.1)) != CLASSIFICATION


class Summed(nn.Module):
    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().mean()


@pytest.mark.parametrize(
    "loss", ["mse", functional.mse_loss, nn.MSELoss, nn.MSELoss(), Summed, Summed(), lambda: Summed(), f"{HERE}:bias"]
)
def test_a_loss_is_a_name_a_function_a_module_a_class_or_a_factory(loss: Any) -> None:
    output = torch.ones(4, 1, requires_grad=True)
    assert Task(loss).mean_loss(output, torch.zeros(4, 1)).item() == 1


@pytest.mark.parametrize("loss", [nn.MSELoss, nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.BCEWithLogitsLoss()])
def test_a_loss_of_torch_pairs_each_target_with_one_output(loss: Any) -> None:
    Task(loss).check(torch.ones(2, 1), torch.zeros(4))
    with pytest.raises(ConfigError):
        Task(nn.HuberLoss(delta=2.0)).check(torch.ones(2, 1), torch.zeros(4))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Task("foo"), "unknown loss 'foo'; known are cross-entropy, mse, mae"),
        (lambda: Task("mse", ["foo"]), "unknown metric 'foo'; known are accuracy"),
        (lambda: Task(f"{HERE}:foo"), f"loss {HERE}:foo: {HERE} has no foo"),
        (lambda: Task(3), "loss int: it must be a function of output and target, not an object of type int"),
        (lambda: Task(nn.MSELoss(reduction="sum")), "must be the mean over the batch, not reduction='sum'"),
        (lambda: Task("mse", ["mae", "mae"]), "two metrics are named mae"),
        (lambda: Task("mse", {"loss": "mae"}), "a metric's name must be a short text other than loss"),
        (lambda: Task("mse", {"a\nb": "mae"}), "a metric's name must be a short text other than loss"),
    ],
)
def test_an_invalid_task_is_one_line(make: Callable[[], Task], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make()
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("task", "target", "said"),
    [
        (Task(lambda o, t: (o - t) ** 2), torch.ones(2, 1), "the loss must return one number, the mean over the batch"),
        (Task("mse", {"a": lambda o, t: o - t}), torch.ones(2, 1), "metric a must return one number, or a pair"),
        (Task("mse", {"a": lambda o, t: "1"}), torch.ones(2, 1), "not an object of type str"),
        (
            Task("mse", {"a": lambda o, t: (1, -2)}),
            torch.ones(2, 1),
            "must be finite and at least 0, not -2",
        ),
        (Task("mse", {"a": lambda o, t: 1 / 0}), torch.ones(2, 1), "metric a: ZeroDivisionError"),
        (Task("mse"), torch.ones(2, 3), "the model's output (2, 1) and the targets (2, 3) differ in shape"),
        (Task(partial(functional.mse_loss)), torch.ones(2), "Using a target size"),
        (Task(), torch.ones(2, 5, dtype=torch.int64), "cross-entropy takes outputs (N, classes, ...) for targets (N"),
    ],
)
def test_targets_that_do_not_fit_the_output_are_found_before_training(task: Task, target: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        task.check(torch.zeros(2, 1), target)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("diabetes", {"loss": "cross-entropy"}, "cross-entropy needs classes, whole numbers from 0"),
        ("diabetes", {"partition": "shards"}, "partition shards goes by classes, and diabetes has other targets"),
        ("diabetes", {"partition": "dirichlet"}, "choose iid or by-owner"),
        ("diabetes", {"engine": "batched"}, "the engine batched cannot do this: it knows classification only"),
        ("pixels", {"engine": "batched"}, "the engine batched knows classes as targets only"),
        ("sequences", {"model": "2nn"}, "2nn takes float inputs, not torch.int64: give floats, or your own model"),
        ("several_labels", {"loss": "mse", "model": f"{HERE}:segmenter"}, "segmenter: RuntimeError"),
    ],
)
def test_incompatible_settings_are_one_line(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        run_of(name, "secure", **changes)
    assert said in str(raised.value)


def test_a_metric_without_any_number_is_none() -> None:
    run = FederatedRun(
        config_of("diabetes"), own_tasks.diabetes(None), "secure", task=Task("mse", {"never": own_tasks.never})
    )
    record = run.run_round()
    assert record.metrics == record.train_metrics == record.held_out_metrics == {"never": None}
    assert record.aborted is None


@pytest.mark.parametrize("aggregator", ["secure", "plain"])
def test_a_figure_out_of_range_is_named_and_only_its_client_is_left_out(aggregator: Any) -> None:
    def huge(output: torch.Tensor, target: torch.Tensor) -> float:
        return 1e30 if bool((target > 500).any()) else 0.5

    task = Task("huber", {"huge": huge})
    run = FederatedRun(config_of("diabetes", holdout=0), own_tasks.diabetes(None), aggregator, task=task)
    run.dataset.train_labels[run.worker.examples[2].training[0]] = 1000
    record = run.run_round()
    assert list(record.refused) == ["2"]
    assert "huge is " in record.refused["2"]
    assert "but must be from -1.84467e+19 to 1.84467e+19: scale the targets" in record.refused["2"]
    assert record.included == (0, 1, 3, 4)
    assert record.train_metrics == {"huge": 0.5}


def test_metrics_that_were_not_planned_are_refused() -> None:
    encoding = fixed_encoding(2)
    for metrics in ((), ((1, 2), (1, 2))):
        with pytest.raises(QuantizationError, match=f"{len(metrics)} metrics were measured, but 1 were planned"):
            encoding.encode(ClientUpdate(np.zeros(2, np.float32), 2, 1.0, metrics), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["diabetes", pytest.param("untested", marks=pytest.mark.slow)])
def test_the_command_line_names_loss_and_metrics_as_it_names_models(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--clients", 4, "--rounds", 2, "--epochs", 1, "--lr", 0.02, "--model", "2nn", "--holdout", 0.2]
    named = ["--loss", "mse", "--metric", "mae", "--metric", f"{HERE}:bias"]
    result = invoke("train", "--dataset", f"{HERE}:{name}", *named, *options, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert ("test mae" if name == "diabetes" else "training mae") in result.stdout
    assert (out / "accuracy.png").is_file()
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["accuracy"] is line["train_accuracy"] is line["held_out_accuracy"] is None
    assert line["train_metrics"].keys() == line["held_out_metrics"].keys() == {"mae", "bias"}
    resumed = invoke("train", "--resume", out, "--rounds", 3)
    assert resumed.exit_code == 0, resumed.stderr
    assert json.loads((out / "config.json").read_text())["metrics"] == ["mae", f"{HERE}:bias"]
    report = invoke("report", out, "--own-code")
    assert report.exit_code == 0, report.stderr
    page = (out / "report.html").read_text()
    assert ("test mae" if name == "diabetes" else "training mae") in page
    measured = invoke("evaluate", out, "--own-code", "--json")
    if name == "untested":
        assert "has no test set to measure the model on" in measured.stdout
    else:
        assert json.loads(measured.stdout)["metrics"].keys() == {"mae", "bias"}
    refused = invoke("evaluate", out, "--own-code", "--encrypted")
    assert "an encrypted evaluation counts right classes only" in refused.stderr


def test_a_folders_own_loss_is_run_only_if_the_user_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = own_module(
        tmp_path, "def loss(output, target):\n    return ((output - target) ** 2).mean()\n", monkeypatch
    )
    out = tmp_path / "run"
    options = ["--clients", 4, "--rounds", 1, "--epochs", 1, "--model", "logistic", "--lr", 0.02]
    data = ["--dataset", f"{HERE}:several_labels"]
    assert invoke("train", *data, "--loss", f"{module}:loss", *options, "--out", out).exit_code == 0
    del sys.modules[module]
    seen = judge_final_model(load_run(out), None)
    assert f"{HERE}:several_labels, {module}:loss) is run with --own-code only" in seen.missing
    refused = invoke("evaluate", out, *data)
    assert f"names code of its own ({module}:loss): if you trust it, give --own-code" in refused.stderr
    assert module not in sys.modules
    assert invoke("evaluate", out, *data, "--loss", f"{module}:loss").exit_code == 0


X, Y = np.arange(12.0).reshape(6, 2), np.arange(6.0)


@pytest.mark.parametrize(
    ("x", "y", "types", "outputs"),
    [
        (X, Y, (torch.float32, torch.float32), 1),
        (X.astype(np.int16), Y.astype(np.int32), (torch.int64, torch.int64), 6),
        (X.astype(np.uint8), X > 3, (torch.uint8, torch.int64), 2),
        (torch.tensor(X).half(), torch.tensor(X), (torch.float32, torch.float32), 2),
        (X, np.zeros((6, 3, 4, 4)), (torch.float32, torch.float32), 3),
    ],
)
def test_inputs_and_targets_of_any_type_and_shape(x: Any, y: Any, types: Any, outputs: int) -> None:
    made = Dataset("any", x, y)
    assert (made.train_images.dtype, made.train_labels.dtype) == types
    assert (made.num_classes, made.has_test, len(made.test_images)) == (outputs, False, 0)
    assert made.test_images.shape[1:] == made.train_images.shape[1:]


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (X, np.where(Y == 3, np.nan, Y), "training example 3 has a target that is not finite"),
        (np.where(X == 6, np.inf, X), Y, "training example 3 has a value that is not finite"),
        (X, np.array(1.0), "training labels must be one int64 for each of the 6 images, or a target of real numbers"),
    ],
)
def test_targets_that_do_not_fit_are_named(x: Any, y: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Dataset("any", x, y)


@pytest.mark.parametrize("name", ["diabetes", "cancer", "untested", "pixels"])
def test_an_encrypted_evaluation_takes_classes_only(name: str) -> None:
    with pytest.raises(DataError, match="has no test set of classes, which an encrypted evaluation needs"):
        DataOwner(DataInput(dataset=f"{HERE}:{name}", data_dir=None, images=None, batch=10, opening="predictions"))


def test_a_loss_without_a_gradient_is_one_line() -> None:
    task = Task(lambda output, target: torch.tensor(output.detach().sum().item()))
    with pytest.raises(ConfigError, match="the loss has no gradient: compute it from the model's output"):
        train(nn.Linear(2, 1), torch.ones(3, 2), torch.ones(3, 1), Local(1, 2, 0.1), seed=0, task=task)


class Two(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> Any:
        return super().forward(inputs), inputs.sum()


def test_a_model_may_return_any_output_that_its_loss_takes() -> None:
    task = Task(lambda output, target: functional.mse_loss(output[0], target), {"second": lambda o, t: o[1].item()})
    result = train(Two(2, 1), torch.ones(4, 2), torch.ones(4, 1), Local(1, 2, 0.1), seed=0, task=task)
    assert result.metrics == ((16.0, 4),)


def test_a_settings_file_names_loss_and_metrics(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[data]\nloss = "mse"\nmetrics = ["mae"]\n')
    config = RunConfig.of(**read_config_file(path))
    assert (config.loss, config.metrics) == ("mse", ("mae",))
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))).settled() == config.settled()


def test_volumes_are_trained_on() -> None:
    inputs, targets = torch.randn(6, 1, 4, 4, 4), torch.randn(6, 1)
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(16, 1))
    before = evaluate(model, inputs, targets, task=Task("mse")).loss
    train(model, inputs, targets, Local(epochs=5, batch_size=4, learning_rate=0.05), seed=0, task=Task("mse"))
    assert evaluate(model, inputs, targets, task=Task("mse")).loss < before
