"""Common kinds of models and data: lazy layers, NumPy arrays, lists of owners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.data import Dataset
from fl.engines.local_worker import local_update
from fl.errors import ConfigError, DataError
from fl.learning.own_code import make_model
from fl.learning.parameter_layout import LayoutError, ParameterLayout
from fl.learning.serialization import model_to_bytes
from fl.learning.settings import Local
from fl.network.announcement import RoundAnnouncement
from fl.network.local_data import LocalData
from fl.network.policy import Policy
from secagg import plan
from tests.fl.runs import assert_refused, invoke, own_module, state_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

LAZY = """
import torch
from torch import nn
from fl.data import Dataset

def model(shape, classes):
    return nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))

class Unused(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.used, self.unused = nn.LazyLinear(classes), nn.LazyLinear(classes)

    def forward(self, x):
        return self.used(x.flatten(1))

def unused(shape, classes):
    return Unused(classes)

def wrong(shape, classes):
    return nn.Sequential(nn.LazyLinear(8), nn.Linear(9, classes))

def data(data_dir):
    x = torch.randn(120, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0, 2, 2] > 0).long()
    return Dataset("lazy", x[:90], y[:90], x[90:], y[90:], 2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_lazy_layers_train_and_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    name = own_module(tmp_path, LAZY, monkeypatch)
    given = ("--model", f"{name}:model", "--dataset", f"{name}:data", "--engine", engine)
    options = ("--clients", 3, "--rounds", 6, "--epochs", 3, "--compare", "--json", "--out", "run")
    trained = invoke("train", *given, *options)
    assert trained.exit_code == 0, trained.output
    summary = json.loads(trained.stdout)
    assert summary["accuracy"] == summary["plain_accuracy"] > 0.7
    assert summary["ring_difference"] == 0
    evaluated = invoke("evaluate", "run", "--own-code", "--json")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout)["accuracy"] == summary["accuracy"]


def test_a_client_elsewhere_takes_lazy_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{own_module(tmp_path, LAZY, monkeypatch)}:model"
    model = make_model(name, image_shape=(1, 6, 6), num_classes=2, seed=5)
    assert state_bytes(make_model(name, image_shape=(1, 6, 6), num_classes=2, seed=5)) == state_bytes(model)
    layout = ParameterLayout.of(model)
    scales = Scales((1.0,) * len(layout.entries), 40)
    encoding = UpdateEncoding(sizes=layout.sizes, num_clients=3, value_bits=16, scales=scales)
    params = plan(num_clients=3, vector_length=encoding.vector_length, value_bits=encoding.value_bits).parameters
    announced = RoundAnnouncement(
        round=1, rounds=1, model=name, image_shape=(1, 6, 6), num_classes=2, value_bits=16, scales=scales,
        training=Local(epochs=1, batch_size=4, learning_rate=0.1), model_bytes=model_to_bytes(model),
    )  # fmt: skip
    data = LocalData(torch.randn(40, 1, 6, 6), torch.arange(40) % 2)
    taken, _ = Policy(own_model=name).check_training(announced, params, data)
    assert state_bytes(taken) == state_bytes(model)
    update = local_update(taken, data.images, data.labels, announced.training, seed=1, threads=1)
    assert update.delta.shape == (layout.size,)


@pytest.mark.parametrize(
    ("model", "said"), [("unused", "unused.weight has no shape yet"), ("wrong", "RuntimeError: mat1 and mat2")]
)
def test_a_lazy_layer_that_gets_no_shape_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, said: str
) -> None:
    name = own_module(tmp_path, LAZY, monkeypatch)
    result = invoke("train", "--model", f"{name}:{model}", "--dataset", f"{name}:data", "--clients", 3)
    assert_refused(result, f"{name}:{model}", said)


def test_the_layout_of_a_lazy_model_is_a_typed_error() -> None:
    with pytest.raises(LayoutError, match="call the model with an example first"):
        ParameterLayout.of(nn.LazyLinear(3))


X = np.arange(60, dtype=np.float32).reshape(12, 5)
Y = np.arange(12) % 2


def dataset(x: Any = X, y: Any = Y, writers: Any = None) -> Dataset:
    return Dataset("mine", x, y, torch.tensor(X[:4]), torch.tensor(Y[:4]), 2, writers)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y),
        (read_only(X), read_only(Y)),
        (np.asfortranarray(X), Y),
        (X[::-1][::-1], Y[::-1][::-1]),
        (X.astype(">f4"), Y.astype(">i8")),
        (torch.tensor(X), Y),
    ],
)
def test_arrays_are_taken_as_the_tensors_that_they_are(x: Any, y: Any) -> None:
    made = dataset(x, y)
    assert torch.equal(made.train_images, torch.tensor(X))
    assert torch.equal(made.train_labels, torch.tensor(Y))
    assert (made.train_images.dtype, made.train_labels.dtype) == (torch.float32, torch.int64)
    if isinstance(x, np.ndarray):
        assert not np.shares_memory(made.train_images.numpy(), x)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (X.astype(complex), Y, "train_images must be a torch tensor, or a NumPy array of numbers"),
        (torch.tensor(X).to(torch.complex64), Y, "training examples must be real numbers (N, ...), not complex64"),
        (
            X,
            Y[:-1],
            "training labels must be one int64 for each of the 12 images, or a target of real numbers",
        ),
        (X.tolist(), Y, "train_images must be a torch tensor, or a NumPy array of numbers, not a list"),
        (X, Y.tolist(), "train_labels must be a torch tensor, or a NumPy array of numbers, not a list"),
        (X, Y.astype(str), "train_labels must be a torch tensor, or a NumPy array of numbers, not an array of <U21"),
        (
            X.astype(object),
            Y,
            "train_images must be a torch tensor, or a NumPy array of numbers, not an array of object",
        ),
        (X.astype(np.longdouble), Y, "train_images must be a torch tensor"),
        (None, Y, "train_images must be a torch tensor, or a NumPy array of numbers, not a NoneType"),
        (np.float32(1), Y, "train_images must be a torch tensor"),
    ],
)
def test_other_kinds_are_named(x: Any, y: Any, said: str) -> None:
    with pytest.raises(DataError) as raised:
        dataset(x, y)
    assert said in str(raised.value)


OWNERS = [0, 1, 2] * 4


@pytest.mark.parametrize(
    "writers",
    [OWNERS, tuple(OWNERS), np.array(OWNERS, dtype=np.int32), np.array(OWNERS, dtype=np.uint8), torch.tensor(OWNERS)],
)
def test_owners_may_be_any_whole_numbers(writers: Any) -> None:
    found = dataset(writers=writers).train_writers
    assert found is not None
    assert (found.dtype, found.tolist()) == (np.int64, OWNERS)


@pytest.mark.parametrize(
    ("writers", "said"),
    [
        (list("abc") * 4, "must be whole numbers, one for each training example, not <U1; np.unique(names"),
        ([0.5] * 12, "must be whole numbers"),
        ([2**70] * 12, "must be whole numbers"),
        ([[0], [1, 2]], "must be whole numbers"),
        (np.full(12, 2**63, dtype=np.uint64), "must be whole numbers"),
        ([0] * 11, "one whole number for each of the 12 training examples, not (11,)"),
        (5, "one whole number for each of the 12 training examples, not ()"),
    ],
)
def test_other_owners_are_a_line(writers: Any, said: str) -> None:
    with pytest.raises(DataError) as raised:
        dataset(writers=writers)
    assert said in str(raised.value)


def test_an_invalid_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = own_module(tmp_path, "def model(shape, classes):\n    return 5\n", monkeypatch)
    with pytest.raises(ConfigError, match=r"must return a torch\.nn\.Module, not int"):
        make_model(f"{name}:model", image_shape=(5,), num_classes=2, seed=0)
