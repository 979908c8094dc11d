"""Three real processes over loopback: right answers, clear errors, no process left behind."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl.data import load_dataset
from fl.encrypted import EncryptedEvaluationError, EncryptedTask, MpycEvaluator
from fl.encrypted.certificates import write_certificates
from fl.encrypted.evaluator import free_ports, make_jobs
from fl.encrypted.processes import Event, PartyProcesses
from fl.learning.models import build_model
from fl.learning.serialization import load_model, model_to_bytes
from fl.learning.settings import Local
from fl.learning.training import train
from tests.fl.runs import REPOSITORY, environment, invoke

if importlib.util.find_spec("mpyc") is None:
    pytest.skip("needs MPyC, which has its own environment: make test-mpc", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker of model files, trained on digits for an epoch or two."""
    folder = tmp_path_factory.mktemp("models")

    def make(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            data = load_dataset("digits")
            model = build_model(name, image_shape=(1, 8, 8), num_classes=10, seed=2)
            settings = Local(epochs=3, batch_size=32, learning_rate=0.002, optimizer="adam", bfloat16="off")
            train(model, data.train_images, data.train_labels, settings, seed=1)
            path.write_bytes(model_to_bytes(model))
        return path

    return make


def task_of(path: Path, **changes: Any) -> EncryptedTask:
    settings = {"model": path.stem, "dataset": "digits", "images": IMAGES, "batch": 25}
    return EncryptedTask(model_path=path, **{**settings, **changes})


def plain_logits(path: Path) -> torch.Tensor:
    model = build_model(path.stem, image_shape=(1, 8, 8), num_classes=10, seed=0)
    load_model(model, path.read_bytes())
    with torch.no_grad():
        return model.eval()(load_dataset("digits").test_images[:IMAGES])


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def watches(pid: int) -> bool:
    """Return whether a party has read its job and has a second thread, which waits for its starter's end."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def test_protocols_on_words_are_exact(tmp_path: Path) -> None:
    folders = [tmp_path / str(party) for party in range(3)]
    for folder in folders:
        folder.mkdir()
    write_certificates(folders)
    task = EncryptedTask(model_path=tmp_path, model="", dataset="")
    jobs = make_jobs(task, folders, free_ports(), tls=True, arithmetic="words")
    program = Path(__file__).with_name("protocol_party.py")
    parties = [
        subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, str(program), pickle.dumps(job).hex()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**environment(), "PYTHONPATH": str(REPOSITORY)},
        )
        for job in jobs
    ]
    try:
        said = [party.communicate(timeout=150) for party in parties]
    finally:
        for party in parties:
            party.kill()
    assert [party.returncode for party in parties] == [0, 0, 0], said
    results = [json.loads(out) for out, _ in said]
    assert results[0] == results[1] == results[2]
    # 4,000 fair coins fall like that except once in a hundred million times.
    assert abs(results[0]["ones"] - 2000) < 180


@pytest.mark.parametrize("name", ["mlp-500", "mlp-500-square", "small-cnn", "small-cnn-square"])
def test_predictions_equal_the_plain_models(trained: Callable[[str], Path], name: str) -> None:
    path = trained(name)
    seen: list[tuple[int, int]] = []
    result = MpycEvaluator(timeout=100).evaluate(task_of(path), lambda done, total: seen.append((done, total)))
    assert seen == [(25, 60), (50, 60), (60, 60)]
    logits = plain_logits(path)
    best = logits.topk(2, dim=1)
    assert result.predictions is not None
    agree = torch.tensor(result.predictions) == best.indices[:, 0]
    # Where two classes are almost equal, fixed-point numbers may choose the other.
    close = (best.values[:, 0] - best.values[:, 1]) < 0.05 * logits.abs().max()
    assert (agree | close).all()
    assert agree.double().mean() > 0.9
    labels = load_dataset("digits").test_labels[:IMAGES].numpy()
    assert result.accuracy == pytest.approx(float(np.mean(np.array(result.predictions) == labels)))
    assert result.accuracy > 0.6
    assert result.images == IMAGES
    assert all(sent > 0 for sent in result.bytes_sent)


def test_only_the_accuracy_is_opened_when_only_that_is_asked_for(trained: Callable[[str], Path]) -> None:
    path = trained("mlp-500")
    task = task_of(path, opening="accuracy", bounds="measured")
    result = MpycEvaluator(timeout=100).evaluate(task, lambda done, total: None)
    assert result.predictions is None
    labels = load_dataset("digits").test_labels[:IMAGES]
    expected = (plain_logits(path).argmax(dim=1) == labels).double().mean().item()
    assert result.accuracy == pytest.approx(expected, abs=1.5 / IMAGES)


def test_unmodified_mpyc_gives_the_same_predictions(trained: Callable[[str], Path]) -> None:
    task = task_of(trained("logistic"), images=8)
    on_words = MpycEvaluator(timeout=100).evaluate(task, lambda done, total: None)
    on_objects = MpycEvaluator(timeout=100, arithmetic="objects", tls=False).evaluate(task, lambda done, total: None)
    assert on_words.predictions == on_objects.predictions


def test_an_owners_fault_is_reported_in_its_words(trained: Callable[[str], Path], tmp_path: Path) -> None:
    evaluator = MpycEvaluator(timeout=60)
    with pytest.raises(EncryptedEvaluationError, match=r"party 0 \(model owner\): cannot read"):
        evaluator.evaluate(task_of(tmp_path / "logistic.safetensors"), lambda done, total: None)
    with pytest.raises(EncryptedEvaluationError, match=r"party 0 \(model owner\): .* is not a logistic"):
        evaluator.evaluate(task_of(trained("2nn"), model="logistic"), lambda done, total: None)
    with pytest.raises(EncryptedEvaluationError, match=r"party 1 \(data owner\): digits has 355 test images, not 5000"):
        evaluator.evaluate(task_of(trained("logistic"), images=5000), lambda done, total: None)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_party_that_is_killed_ends_the_evaluation_and_all_processes(
    trained: Callable[[str], Path], tmp_path: Path, victim: int
) -> None:
    folders = [tmp_path / str(party) for party in range(3)]
    for folder in folders:
        folder.mkdir()
    write_certificates(folders)
    task = task_of(trained("mlp-500"), images=355, batch=1)
    jobs = make_jobs(task, folders, free_ports(), tls=True, arithmetic="words")
    killed = False

    def kill(event: Event) -> None:
        nonlocal killed
        if event.name == "progress" and not killed:
            killed = True
            os.kill(parties.pids[victim], signal.SIGKILL)

    with PartyProcesses(jobs) as parties:
        pids = parties.pids
        with pytest.raises(EncryptedEvaluationError, match=rf"party {victim} \(.*\) ended early: signal 9"):
            parties.run(kill, 60)
    assert killed
    assert not any(alive(pid) for pid in pids)


def test_silence_is_an_error(trained: Callable[[str], Path], tmp_path: Path) -> None:
    folders = [tmp_path / str(party) for party in range(3)]
    for folder in folders:
        folder.mkdir()
    jobs = make_jobs(task_of(trained("logistic")), folders, free_ports(), tls=False, arithmetic="words")
    # The third party listens elsewhere, and calls nobody.
    jobs[2] = replace(jobs[2], ports=free_ports())
    with PartyProcesses(jobs) as parties, pytest.raises(EncryptedEvaluationError, match="sent nothing for"):
        parties.run(lambda event: None, 15)


def test_parties_end_when_their_starter_is_killed(trained: Callable[[str], Path], tmp_path: Path) -> None:
    path = trained("mlp-500")
    command = [*(sys.executable, "-m", "fl", "evaluate", str(path), "--model", "mlp-500", "--dataset", "digits")]
    parent = subprocess.Popen(  # noqa: S603 - our own program
        [*command, "--encrypted", "--batch", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env={**environment(), "TMPDIR": str(tmp_path)},
    )
    children_file = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    until = time.monotonic() + 60
    children: list[int] = []
    while not (len(children) == 3 and all(map(watches, children))) and time.monotonic() < until:
        children = [int(pid) for pid in children_file.read_text().split()]
        time.sleep(0.05)
    assert len(children) == 3
    assert len(list(tmp_path.rglob("*.key"))) == 3
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while any(alive(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)
    assert not list(tmp_path.iterdir())


def test_the_command_compares_with_plain_text(trained: Callable[[str], Path]) -> None:
    path = trained("mlp-500")
    given = ("evaluate", path, "--model", "mlp-500", "--dataset", "digits", "--encrypted", "--images", 30)
    result = invoke(*given, "--compare", "--json")
    assert result.exit_code == 0, result.stderr
    measured = json.loads(result.stdout)
    assert len(measured["predictions"]) == 30
    assert measured["agreement"] >= 0.9
    assert measured["opened"] == "predictions"
    assert "nothing else" in result.stderr
