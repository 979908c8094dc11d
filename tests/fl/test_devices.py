"""Devices: the choice of one, and that a training on another device mixes no tensors of two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fl.engines import Resources, check_engine
from fl.engines.local_worker import local_update
from fl.errors import ConfigError
from fl.learning import devices
from fl.learning.devices import CPU, find_device
from fl.learning.settings import Local
from fl.learning.task import Task
from fl.learning.training import evaluate
from fl.runs.rounds import FederatedRun
from tests.fl.runs import tiny_config, tiny_dataset

CUDA = torch.device("cuda")


@pytest.mark.parametrize(("cuda", "mps", "found"), [(0, 0, "cpu"), (0, 1, "mps"), (2, 0, "cuda"), (2, 1, "cuda")])
def test_auto_is_an_accelerator_if_there_is_one(cuda: int, mps: int, found: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(devices, "_count", {"cpu": 1, "cuda": cuda, "mps": mps}.__getitem__)
    assert find_device("auto") == torch.device(found)
    if cuda:
        assert find_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", "torch finds no cuda device on this machine; give --device auto, or cpu"),
        ("mps", "torch finds no mps device"),
        ("tpu", "unknown device 'tpu'; known are cpu, cuda, mps, auto"),
        ("cuda:x", "unknown device"),
        ("cpu:1", "unknown device"),
        ("", "unknown device"),
    ],
)
def test_a_missing_device_is_one_line(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", {"cpu": 1, "cuda": 0, "mps": 0}.__getitem__)
    with pytest.raises(ConfigError) as raised:
        FederatedRun(tiny_config(), tiny_dataset(), "secure", Resources(device=name))
    assert said in str(raised.value)


def test_a_device_number_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", {"cuda": 2}.__getitem__)
    with pytest.raises(ConfigError, match="device cuda:2: there are 2 devices of CUDA"):
        find_device("cuda:2")


@pytest.mark.parametrize("engine", ["batched", "ray"])
def test_engines_that_train_on_the_cpu_refuse_others(engine: str) -> None:
    run = FederatedRun(tiny_config(), tiny_dataset(), "plain")
    with pytest.raises(ConfigError, match=f"the engine {engine} trains on the CPU, not on cuda: use serial or"):
        check_engine(engine, run.worker, Resources(device="cuda"))


class Pretended(TorchFunctionMode):
    """A pretence that tensors are on CUDA: marked tensors must not meet others, as on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: dict[int, torch.Tensor] = {}
        self.computed = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "to" and any(isinstance(one, torch.device) for one in args[1:]):
            target = next(one for one in args[1:] if isinstance(one, torch.device))
            rest = [CPU if one is target else one for one in args[1:]]
            moved = func(args[0], *rest, **kwargs).clone()
            return self.mark(moved) if target.type == "cuda" else moved
        given = [one for one in flat((args, kwargs)) if isinstance(one, torch.Tensor)]
        here = {id(one) in self.marked for one in given if one.ndim}
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            is_marked = id(args[1]) in self.marked
            self.marked.pop(id(args[0]), None)
            if is_marked:
                self.mark(args[0])
            return func(*args, **kwargs)
        if func is torch._has_compatible_shallow_copy_type:
            return True
        if func == torch.Tensor.device.__get__:
            return CUDA if id(args[0]) in self.marked else CPU
        assert here != {True, False}, f"{func} was given tensors of two devices"
        result = func(*args, **kwargs)
        if True in here:
            self.computed += 1
            for one in flat(result):
                if isinstance(one, torch.Tensor):
                    self.mark(one)
        return result

    def mark(self, tensor: torch.Tensor) -> torch.Tensor:
        # Kept, so that no other tensor gets its id.
        self.marked[id(tensor)] = tensor
        return tensor


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from flat(one)
    else:
        yield value


@contextmanager
def generators(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        yield


@pytest.mark.parametrize("proximal", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_elsewhere_mixes_no_tensors_of_two_devices(
    optimizer: Any, proximal: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pretended device computes on the CPU, so the update is the same, and the model is back for its encoding."""
    monkeypatch.setattr("fl.learning.training.seeded_generators", generators)
    training = Local(
        epochs=2, batch_size=4, learning_rate=0.1, momentum=0.5, optimizer=optimizer, proximal=proximal, bfloat16="off"
    )
    inputs, targets = torch.randn(10, 2, 6, 6), torch.rand(10, 3)
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    task = Task(loss, {"mae": nn.L1Loss(), "pair": lambda output, target: (output.sum() - target.sum(), 2)})

    def model() -> nn.Module:
        torch.manual_seed(1)
        layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)
        return nn.Sequential(*layers)

    expected = local_update(model(), inputs, targets, training, seed=3, threads=1, task=task)
    elsewhere, mode = model(), Pretended()
    with mode:
        update = local_update(elsewhere, inputs, targets, training, seed=3, threads=1, task=task, device=CUDA)
    assert mode.computed > 50
    assert not any(id(value) in mode.marked for value in elsewhere.state_dict(keep_vars=True).values())
    assert (update.delta == expected.delta).all()
    assert (update.loss_sum, update.metrics) == (expected.loss_sum, expected.metrics)
    measured = evaluate(elsewhere, inputs, targets, batch_size=4, task=task)
    with mode:
        assert evaluate(elsewhere, inputs, targets, batch_size=4, task=task, device=CUDA) == measured
    assert not any(id(value) in mode.marked for value in elsewhere.state_dict(keep_vars=True).values())


def test_a_model_is_back_after_an_error_elsewhere_and_memory_is_named() -> None:
    moves: list[str] = []

    class Moved(nn.Linear):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            moves.append(str(args[0]))
            return self

    said = "cuda has too little memory: give a smaller --batch-size"
    with pytest.raises(ConfigError, match=said), devices.on_device(Moved(1, 1), CUDA):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert moves == ["cuda", "cpu"]
