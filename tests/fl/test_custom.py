"""Models and data of the user's own: they train like the built-in ones, and each fault is reported in one line."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.aggregation.session_policy import PolicyError
from fl.config.run_config import RunConfig
from fl.engines.local_worker import local_update
from fl.errors import ConfigError, FLError
from fl.learning.own_code import load_reference, make_dataset, make_model
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.serialization import model_to_bytes
from fl.learning.settings import Local
from fl.network.announcement import RoundAnnouncement
from fl.network.local_data import LocalData
from fl.network.policy import Policy
from secagg import plan
from tests.fl.runs import assert_refused, invoke, own_module, run_process, state_bytes

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

PROJECT = """
import torch
from torch import nn
from fl.data import Dataset

def model(example_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(*example_shape, 8), nn.Tanh(), nn.Linear(8, num_classes))

def table(data_dir):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 5, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long()
    owners = torch.arange(150) % 3
    return Dataset("table", x[:150], y[:150], x[150:], y[150:], 2, train_writers=owners.numpy())

def normalized(example_shape, num_classes):
    return nn.Sequential(nn.Linear(*example_shape, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, num_classes))

def without_statistics(example_shape, num_classes):
    norm = nn.BatchNorm1d(*example_shape, track_running_stats=False)
    return nn.Sequential(norm, nn.Linear(*example_shape, num_classes))

class Failing(nn.Module):
    def __init__(self, layer, fails):
        super().__init__()
        self.layer, self.fails = layer, fails

    def forward(self, examples):
        if self.fails == "training" and self.training or self.fails == "evaluation" and len(examples) == 50:
            raise ValueError("there is\\nno such layer")
        return self.layer(examples)

def fails_in_training(example_shape, num_classes):
    return Failing(nn.Linear(*example_shape, num_classes), "training")

def fails_in_evaluation(example_shape, num_classes):
    return Failing(nn.Linear(*example_shape, num_classes), "evaluation")

class Shapeless(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(99, 2)

    def forward(self, examples):
        return self.layer(examples)  # the shape is wrong here

def wrong_shape(example_shape, num_classes):
    return Shapeless()

class Nested:
    model = staticmethod(model)

not_callable = 3

def raises(*_):
    raise ValueError("the weather\\nis bad")

def no_module(*_):
    return "a model"

def no_logits(example_shape, num_classes):
    return nn.Linear(*example_shape, num_classes + 1)

def two_outputs(example_shape, num_classes):
    return nn.LSTM(*example_shape, num_classes)

def cannot_run(example_shape, num_classes):
    return nn.Linear(99, num_classes)

def nothing_to_train(example_shape, num_classes):
    return nn.Flatten()

def not_finite(example_shape, num_classes):
    layer = nn.Linear(*example_shape, num_classes)
    with torch.no_grad():
        layer.bias.fill_(float("nan"))
    return layer

def complex_values(example_shape, num_classes):
    return nn.Linear(*example_shape, num_classes, dtype=torch.complex64)

def missing_file(data_dir):
    return open("no-such-table.csv")

def nan_in_a_row(data_dir):
    data = table(data_dir)
    data.train_images[7, 2] = float("nan")
    return Dataset("nan", data.train_images, data.train_labels, data.test_images, data.test_labels, 2)

def empty(data_dir):
    data = table(data_dir)
    return Dataset("empty", data.train_images[:0], data.train_labels[:0], data.test_images, data.test_labels, 2)

def one_class(data_dir):
    data = table(data_dir)
    data.train_labels[:] = 1
    return Dataset("one", data.train_images, data.train_labels, data.test_images, data.test_labels, 2)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a module in the working directory; return its name."""
    return own_module(tmp_path, PROJECT, monkeypatch)


def make(reference: str) -> torch.nn.Module:
    return make_model(reference, image_shape=(5,), num_classes=2, seed=4)


def test_a_custom_model_depends_on_the_seed_alone(project: str) -> None:
    torch.manual_seed(1)
    first = make(f"{project}:model")
    state = torch.get_rng_state()
    again = make(f"{project}:Nested.model")
    assert state_bytes(first) == state_bytes(again)
    assert torch.equal(state, torch.get_rng_state())
    other = make_model(f"{project}:model", image_shape=(5,), num_classes=2, seed=5)
    assert state_bytes(first) != state_bytes(other)


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("missing", "has no missing"),
        ("model.missing", "has no model.missing"),
        ("not_callable", "must be callable, not of type int"),
        ("raises", "ValueError: the weather is bad (own_"),
        ("no_module", "must return a torch.nn.Module, not str"),
        ("no_logits", "must return logits (2, 2), not (2, 3)"),
        ("two_outputs", "must return logits (2, 2), not tuple"),
        ("cannot_run", "RuntimeError"),
        ("nothing_to_train", "nothing to train"),
        ("not_finite", "its initial values are not all finite"),
        ("complex_values", "is complex"),
    ],
)
def test_a_model_that_cannot_work_is_refused_before_it_is_trained(project: str, attribute: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make(f"{project}:{attribute}")
    assert said in str(refused.value)
    assert f"{project}:{attribute}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("missing_file", "FileNotFoundError"),
        ("nan_in_a_row", "training example 7 has a value that is not finite"),
        ("empty", "there are no training examples"),
        ("one_class", "all training labels are 1"),
        ("no_module", "must return a fl.data.Dataset, not str"),
        ("raises", "the weather is bad"),
    ],
)
def test_a_data_set_that_cannot_work_is_refused(project: str, attribute: str, said: str) -> None:
    with pytest.raises(FLError) as refused:
        make_dataset(f"{project}:{attribute}")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("reference", ["a:", ":b", "a b:c", "a:b c", "../a:b", "a:b:c", "1:2", ".:x"])
def test_an_invalid_reference_is_refused_with_the_right_form(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"write package\.module:name"):
        load_reference(reference, "model")


def test_a_missing_module_and_a_missing_dependency_have_different_errors(project: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no module nowhere_at_all is here or installed"):
        load_reference("nowhere_at_all.models:make", "model")
    (tmp_path / "needs_more.py").write_text("import nowhere_at_all\n")
    with pytest.raises(ConfigError, match="needs_more needs nowhere_at_all, which is not installed"):
        load_reference("needs_more:make", "model")
    (tmp_path / "broken_module.py").write_text("def make(:\n")
    with pytest.raises(ConfigError, match="SyntaxError"):
        load_reference("broken_module:make", "model")


def test_own_model_and_data_train_from_the_command_line_and_resume(project: str, tmp_path: Path) -> None:
    options = ["--model", f"{project}:model", "--dataset", f"{project}:table", "--partition", "by-owner"]
    result = invoke("train", *options, "--clients", 3, "--rounds", 3, "--compare", "--json", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["accuracy"] > 0.8
    assert summary["ring_difference"] == 0
    resumed = invoke("train", "--resume", tmp_path / "run", "--rounds", 4, "--json")
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["rounds"] == 4


@pytest.mark.parametrize(
    ("partition", "is_said"),
    [([], True), (["--partition", "shards"], True), (["--partition", "by-owner"], False)],
)
def test_a_partition_that_ignores_owners_gives_a_warning(project: str, partition: list[str], is_said: bool) -> None:
    options = ["--model", "logistic", "--dataset", f"{project}:table", *partition]
    result = invoke("train", *options, "--clients", 3, "--rounds", 1, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert ("--partition by-owner makes each owner a client" in result.stdout) == is_said


@pytest.mark.parametrize("model", ["normalized", "without_statistics"])
def test_a_model_that_normalizes_over_batches_trains_on_a_last_batch_of_one(project: str, model: str) -> None:
    options = ["--model", f"{project}:{model}", "--dataset", f"{project}:table", "--partition", "by-owner"]
    result = invoke("train", *options, "--clients", 3, "--rounds", 2, "--batch-size", 7, "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["included"]) == 2
    assert "sent nothing" not in result.stderr


def line_of(text: str) -> int:
    """Return the place in the project's module."""
    return 1 + next(number for number, line in enumerate(PROJECT.splitlines()) if text in line)


@pytest.mark.live
@pytest.mark.parametrize(
    ("attribute", "engine"),
    [
        ("fails_in_training", "serial"),
        ("fails_in_training", "processes"),
        ("fails_in_training", "batched"),
        ("fails_in_evaluation", "serial"),
    ],
)
def test_an_error_of_a_custom_model_in_a_round_is_one_line(project: str, attribute: str, engine: str) -> None:
    options = ["--model", f"{project}:{attribute}", "--dataset", f"{project}:table", "--partition", "by-owner"]
    result = invoke("train", *options, "--clients", 3, "--rounds", 1, "--batch-size", 10, "--engine", engine)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    line = line_of('raise ValueError("there is')
    assert f"model {project}:{attribute}: ValueError: there is no such layer ({project}.py, line {line})" in said


def test_a_client_elsewhere_gets_the_same_line(project: str) -> None:
    """`fl.network.client` makes the model of its policy and trains it by these two."""
    model = copy.deepcopy(make(f"{project}:fails_in_training"))
    training = Local(epochs=1, batch_size=5, learning_rate=0.1)
    with pytest.raises(ConfigError, match=f"model {project}:fails_in_training: ValueError: there is no such layer"):
        local_update(model, torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64), training, seed=0, threads=1)


def test_the_users_line_is_named_and_not_a_librarys(project: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        make(f"{project}:wrong_shape")
    line = line_of("the shape is wrong here")
    assert str(refused.value).endswith(f"({project}.py, line {line})")
    (tmp_path / "half_written.py").write_text("import torch\n\ndef make(:\n")
    with pytest.raises(ConfigError) as refused:
        load_reference("half_written:make", "model")
    assert str(refused.value) == "model half_written:make: SyntaxError: invalid syntax (half_written.py, line 3)"


@pytest.mark.parametrize("model", ["cnn", "small-cnn"])
def test_a_convolution_over_a_table_is_refused(project: str, model: str) -> None:
    result = invoke("train", "--dataset", f"{project}:table", "--model", model, "--clients", 3)
    assert_refused(result, f"{model} takes images", "not examples of shape (5,)")


def test_a_table_gets_a_model_that_takes_it_by_default() -> None:
    assert RunConfig.of(dataset="a.b:c").model == "2nn"


@pytest.mark.live
def test_the_installed_command_finds_modules_where_it_is_run(project: str, tmp_path: Path) -> None:
    """`secagg` is a script elsewhere: its own path does not contain the working directory."""
    code = "import sys; sys.path = [p for p in sys.path if p]; from fl.__main__ import main; main()"

    options = [
        "train",
        "--model",
        f"{project}:model",
        "--dataset",
        f"{project}:table",
        "--clients",
        "3",
        "--rounds",
        "1",
    ]
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code, *options], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_a_server_cannot_make_a_client_import_a_module(project: str) -> None:
    model = make(f"{project}:model")
    scales = Scales((1.0,) * len(ParameterLayout.of(model).entries), 10)
    encoding = UpdateEncoding(sizes=ParameterLayout.of(model).sizes, num_clients=3, value_bits=16, scales=scales)
    announced = RoundAnnouncement(
        round=1, rounds=1, model=f"{project}:model", image_shape=(5,), num_classes=2, value_bits=16, scales=scales,
        training=Local(epochs=1, batch_size=5, learning_rate=0.1), model_bytes=model_to_bytes(model),
    )  # fmt: skip
    params = plan(num_clients=3, vector_length=encoding.vector_length, value_bits=16).parameters
    data = LocalData(torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64))
    sys.modules.pop(project)
    for policy in (Policy(), Policy(own_model="another:model")):
        with pytest.raises(PolicyError, match="give it with --model"):
            policy.check_training(announced, params, data)
    assert project not in sys.modules
    taken, _ = Policy(own_model=f"{project}:model").check_training(announced, params, data)
    assert state_bytes(taken) == state_bytes(model)


def test_settings_from_a_file_give_way_to_options(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'rounds = 2\n[data]\nmodel = "logistic"\nclients = 4\n'
        '[local]\nlearning_rate = 1\n[protocol]\ndropout_at = ["unmasking"]\n'
    )
    result = invoke("train", "--config", path, "--rounds", 1, "--json", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["model"], stored["clients"], stored["rounds"], stored["learning_rate"]) == ("logistic", 4, 1, 1.0)
    assert stored["dropout_at"] == ["unmasking"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[data]\nclents = 4", "unknown clents in [data]: did you mean clients?"),
        ("[data]\nclients = 4.5", "clients must be a whole number, not 4.5"),
        ('rounds = "2"', "rounds must be a whole number, not '2'"),
        ("[protocol]\ndropout_at = 3", "dropout_at must be a list of texts, not 3"),
        ("[protocol]\ncompare = 1", "compare must be true or false, not 1"),
        ("clients = ", "is not a TOML file"),
        ("[data]\nclients = -1", "clients must be at least 1"),
    ],
)
def test_an_invalid_file_of_settings_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert_refused(invoke("train", "--config", path), said)


def test_a_missing_file_of_settings_is_named(tmp_path: Path) -> None:
    assert_refused(invoke("train", "--config", tmp_path / "none.toml"), "none.toml", "No such file")


@pytest.mark.live
def test_a_bad_reference_is_one_line() -> None:
    done = run_process("train", "--model", "nowhere_at_all:make")
    assert done.returncode == 1
    assert done.stderr == "error: model nowhere_at_all:make: no module nowhere_at_all is here or installed\n"
