"""`fl.federated`: a training from Python, as in a notebook or a script."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import fl
from fl.engines.local_worker import LocalWorker
from fl.runs.rounds import FederatedRun
from tests.fl.runs import environment, invoke, state_bytes, tiny_dataset, untimed

pytestmark = pytest.mark.slow

DATASET = tiny_dataset()
CLIENTS = [TensorDataset(DATASET.train_images[at::6], DATASET.train_labels[at::6]) for at in range(6)]
TEST = (DATASET.test_images, DATASET.test_labels)
LOCAL = fl.Local(epochs=1)


class Net(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(16, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(images.flatten(1))
        return logits


def factory(example_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(example_shape).numel(), num_classes))


def make(model: Any = Net, clients: Any = CLIENTS, test: Any = TEST, **options: Any) -> fl.FederatedTraining:
    return fl.federated(model, clients, test, **{"rounds": 3, "local": LOCAL, **options})


def train(run: fl.FederatedTraining, **options: Any) -> fl.History:
    return run.train(progress=False, **options)


def untimed_records(run: fl.FederatedTraining) -> list[dict[str, Any]]:
    return [untimed(record) for record in run.records]


@pytest.mark.parametrize("model", [Net, partial(Net, 4), factory, nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), "2nn"])
def test_a_model_in_any_form_learns(model: Any) -> None:
    before = state_bytes(model) if isinstance(model, nn.Module) else None
    run = make(model, protocol=fl.Protocol(dropout=0.2))
    history = train(run)
    assert len(history) == 3
    assert history[-1].accuracy > 0.9
    assert history[-1].aggregator == "secure"
    assert history[-1].sampled == 6
    assert isinstance(run.model, nn.Module)
    if before is not None:
        assert run.model is not model
        assert state_bytes(model) == before


def test_training_begins_at_the_given_instance() -> None:
    model = Net()
    assert state_bytes(make(model).model) == state_bytes(model)


@pytest.mark.parametrize("model", [lambda: 3, lambda: Net(2), lambda: nn.Flatten()])
def test_a_model_that_does_not_fit_is_refused_before_the_training(model: Any) -> None:
    with pytest.raises(fl.ConfigError, match="model <lambda>"):
        make(model)


def test_own_clients_train_as_a_data_set_split_in_the_same_way() -> None:
    """The figures and bits are the same if a data set is split, or if each client brings its own."""
    parts = [torch.arange(at, 240, 6).numpy() for at in range(6)]
    own = make(protocol=fl.Protocol(dropout=0.2), holdout=0.2)
    split = make(clients=DATASET, test=None, partition=parts, protocol=fl.Protocol(dropout=0.2), holdout=0.2)
    assert list(train(own)[-1].included) == list(train(split)[-1].included)
    assert untimed_records(own) == untimed_records(split)
    assert state_bytes(own.model) == state_bytes(split.model)
    assert own.history[-1].held_out_accuracy is not None


def test_any_loss_and_metrics_without_a_test_set() -> None:
    """NumPy's float64 and negative whole numbers, a metric of the user's own; secure figures equal the plain ones."""
    rng = np.random.default_rng(0)
    clients = [(rng.normal(size=(30, 3)), rng.integers(-9, 9, 30)) for _ in range(5)]

    def mae(output: torch.Tensor, target: torch.Tensor) -> tuple[float, int]:
        return float((output.squeeze(1) - target).abs().sum()), len(target)

    run = make(nn.Linear(3, 1), clients, None, loss=nn.functional.mse_loss, metrics={"mae": mae}, compare=True)
    history = train(run)
    record, plain = history[-1], history.plain[-1]
    assert record.loss is record.accuracy is None
    assert record.train_metrics["mae"] == pytest.approx(plain.train_metrics["mae"], rel=1e-4)
    assert record.train_loss == pytest.approx(plain.train_loss, rel=1e-4)
    assert (run.config.loss, run.config.metrics) == ("mse", ("python:mae",))


def test_tokens_are_whole_numbers_and_labels_may_have_more_classes() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.layer = nn.Embedding(50, 8), nn.Linear(8, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(self.embedding(tokens).mean(dim=1))
            return logits

    rng = np.random.default_rng(0)
    clients = [(tokens, tokens.min(axis=1) % 2) for tokens in rng.integers(0, 50, (4, 30, 6))]
    assert train(make(Text, clients, clients[0]))[-1].accuracy is not None
    with pytest.raises(fl.ConfigError, match="Linear: RuntimeError: mat1 and mat2"):
        make(nn.Linear(6, 4), clients, clients[0])


def test_a_data_set_is_split_by_a_scheme() -> None:
    run = make(clients=DATASET, test=None, partition="dirichlet", num_clients=5, sample=3)
    assert train(run)[-1].sampled == 3
    assert run.runs[0].worker.data.num_clients == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_clients": 3}, "a list of clients is split already"),
        ({"clients": DATASET, "test": None}, "give num_clients"),
        ({"clients": DATASET, "num_clients": 5}, "leave out test"),
        ({"resume": True}, "give out"),
        ({"sample": 7}, "sample must be between 1 and the 6 clients"),
        ({"rounds": "3"}, "rounds must be a whole number, not '3'"),
        ({"holdout": "0.2"}, "holdout must be a number, not '0.2'"),
        ({"protocol": fl.Protocol(dropout="0.2")}, "dropout must be a number, not '0.2'"),  # type: ignore[arg-type]
        ({"threads": 1.5}, "threads must be a whole number, not 1.5"),
        ({"local": {"epochs": 1}}, "local must be a fl.Local, not {'epochs': 1}"),
        ({"protocol": {"dropout": 0.2}}, "protocol must be a fl.Protocol, not {'dropout': 0.2}"),
        ({"server": "fedadam"}, "server must be a fl.ServerOptimization, not 'fedadam'"),
        ({"model": 5}, "a model is a name, a class, a factory or a torch.nn.Module, not 5"),
        ({"local": fl.Local(optimizer=torch.optim.Adam, learning_rate_decay=1)}, None),
    ],
)
def test_impossible_settings_are_one_sentence(options: dict[str, Any], said: str | None) -> None:
    if said is None:
        make(**options)
        return
    with pytest.raises(fl.ConfigError, match=said):
        make(**options)


@pytest.mark.parametrize("make_settings", [fl.Local, fl.ServerOptimization, fl.Personal])
def test_a_text_for_a_number_is_refused_at_once(make_settings: Any) -> None:
    name = "strength" if make_settings is fl.Personal else "momentum"
    with pytest.raises(fl.ConfigError, match=f"{name} must be a number, not '0.1'"):
        make_settings(**{name: "0.1"})


def test_whole_numbers_of_numpy_are_stored(tmp_path: Path) -> None:
    run = make(rounds=np.int64(1), seed=np.int32(5), out=tmp_path / "run")
    assert len(train(run)) == 1
    with pytest.raises(fl.ConfigError, match="in Python with resume=True"):
        make(rounds=1, seed=5, out=tmp_path / "run")
    assert make(rounds=1, seed=5, out=tmp_path / "run", resume=True).rounds_done == 1


def test_rounds_are_trained_one_by_one_and_train_continues() -> None:
    whole = make()
    train(whole)
    run = make()
    for record in run:
        assert record.round == run.rounds_done == len(run.history)
        if record.round == 2:
            break
    assert [record.round for record in run] == [3]
    assert state_bytes(run.model) == state_bytes(whole.model)
    assert untimed_records(run) == untimed_records(whole)
    assert len(train(run, rounds=4)) == 4
    with pytest.raises(fl.ConfigError, match="4 rounds are done already"):
        train(run, rounds=3)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
@pytest.mark.parametrize("when", ["training", "after the step"])
def test_a_round_that_is_broken_off_leaves_everything_unchanged(
    error: BaseException, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"server": fl.ServerOptimization(optimizer="fedadam"), "compare": True}
    whole = make(**options)
    train(whole)
    run = make(**options)
    for _ in zip(range(2), run, strict=False):
        pass
    before = state_bytes(run.model)
    kind, name = (LocalWorker, "update") if when == "training" else (FederatedRun, "measure")

    def broken(self: Any, *arguments: Any, **others: Any) -> Any:
        if when == "after the step" and self.name == "secure":
            return original(self, *arguments, **others)
        raise error

    original = getattr(kind, name)
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, broken)
        if isinstance(error, KeyboardInterrupt):
            assert len(train(run)) == 2
        else:
            with pytest.raises(RuntimeError, match="a bug"):
                train(run)
    assert len(run.history) == len(run.history.plain) == 2
    assert state_bytes(run.model) == before
    train(run)
    assert untimed_records(run) == untimed_records(whole)
    assert state_bytes(run.model) == state_bytes(whole.model)


def test_clients_of_one_class_are_named_and_may_train_together_in_one_batch(
    capfd: pytest.CaptureFixture[str],
) -> None:
    clients = [(DATASET.train_images[:9:3], DATASET.train_labels[:9:3]), *(DATASET.train_images.split(60))]
    clients[1:] = zip(clients[1:], DATASET.train_labels.split(60), strict=True)
    run = make(clients=clients, engine="batched")
    assert run.train()[-1].accuracy > 0.9
    assert "1 of 5 clients have examples of one class only (0)" in capfd.readouterr().err


def test_compare_trains_in_the_clear_beside_it() -> None:
    run = make(compare=True)
    history = train(run)
    assert [record.ring_difference for record in history] == [0, 0, 0]
    assert [record.aggregator for record in history.plain] == ["plain"] * 3
    assert history.plain[-1].accuracy == history[-1].accuracy


def test_an_optimizer_of_the_users_own_trains() -> None:
    own = make(local=fl.Local(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.5)))
    named = make(local=fl.Local(epochs=1, learning_rate=0.1, momentum=0.5))
    assert train(own)[-1].accuracy == train(named)[-1].accuracy > 0.9
    with pytest.raises(fl.ConfigError, match="learning_rate_decay is for the optimizers sgd and adam"):
        fl.Local(optimizer=torch.optim.Adam, learning_rate_decay=0.9)
    with pytest.raises(fl.FLError, match=r"optimizer list: it must return a torch.optim.Optimizer"):
        train(make(local=fl.Local(optimizer=list)))


def test_a_run_is_kept_and_continues_in_another_program(tmp_path: Path) -> None:
    options = {"out": tmp_path / "run", "local": fl.Local(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1))}
    whole = make(local=options["local"])
    train(whole)
    first = make(**options)
    next(iter(first))
    again = make(**options, resume=True)
    assert again.rounds_done == 1
    train(again)
    assert untimed_records(again) == untimed_records(whole)
    assert state_bytes(again.model) == state_bytes(whole.model)
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoint.safetensors", "metrics.jsonl", "config.json", "model.safetensors", "accuracy.png"} <= files
    with pytest.raises(fl.ConfigError, match="already holds a run"):
        make(**options)
    with pytest.raises(fl.ConfigError, match="has another seed"):
        make(**options, resume=True, seed=1)
    report = invoke("report", tmp_path / "run", "--own-code")
    assert report.exit_code == 0
    assert "an object of a Python program, which alone can test it" in " ".join(report.stdout.split())
    # The command line knows neither the clients nor the optimizer.
    result = invoke("train", "--resume", tmp_path / "run", "--rounds", 4)
    assert result.exit_code == 1
    assert "was an object of a Python program" in " ".join(result.stderr.split())


def test_progress_is_shown_on_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
    make().train()
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert "clients, tests.fl.test_federated:Net with 51 parameters; 6 clients (by-owner), 6 a round" in stderr
    assert "round 3/3  accuracy" in stderr
    make().train(progress=False)
    assert capfd.readouterr() == ("", "")


def test_it_trains_inside_a_running_event_loop() -> None:
    async def notebook() -> float | None:
        return train(make())[-1].accuracy

    assert asyncio.run(notebook()) > 0.9


def test_the_serial_engine_pickles_nothing() -> None:
    class Unpicklable(Net):
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("not to be pickled")

        def __deepcopy__(self, memo: Any) -> Unpicklable:
            copied = Unpicklable()
            copied.load_state_dict(self.state_dict())
            return copied

    assert train(make(Unpicklable()))[-1].accuracy > 0.9
    with pytest.raises(fl.ConfigError, match=r"cannot be sent to other processes .* use the engine serial"):
        train(make(Unpicklable(), engine="processes", workers=1))


SCRIPT = """
    import torch, fl

    scale = 2.0

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)
            self.scaled = lambda values: scale * values

        def forward(self, rows):
            return self.scaled(self.layer(rows))

    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            row = torch.arange(4.0) - index % 5 + 0.1 * torch.randn(4)
            return row, int(index % 5 > 1)

    print("once")
    models = []
    for engine, workers in ("serial", None), ("processes", 2):
        run = fl.federated(Net, [Noisy() for _ in range(4)], Noisy(), rounds=2, engine=engine, workers=workers)
        run.train(progress=False)
        models.append(run.model.state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
"""


@pytest.mark.live
def test_processes_train_what_a_script_without_a_main_guard_defines(tmp_path: Path) -> None:
    """This includes random transforms: the same bits as in one process."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, script], capture_output=True, text=True, timeout=300, env=environment(), check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")
