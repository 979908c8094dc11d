"""Clients in worker processes: the same bits as in one process, although processes die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fl.engines import Resources, open_engine
from fl.engines.processes import ATTEMPTS, ProcessesEngine
from fl.engines.serial import SerialEngine
from fl.errors import ConfigError, EngineError
from fl.learning.training import DivergedError
from fl.runs.records import RoundRecord
from fl.runs.rounds import FederatedRun
from tests.fl.engines.workers import (
    DATASET,
    Buggy,
    DyingOnce,
    DyingSequential,
    Endless,
    assert_same_bits,
    make_worker,
    training_of,
    updates,
)
from tests.fl.runs import REPOSITORY, command, environment, state_bytes, tiny_config, untimed

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]

WAIT = 60.0


def alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(what: Any) -> None:
    deadline = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def engine() -> Iterator[ProcessesEngine]:
    opened = open_engine("processes", make_worker(), Resources(workers=2))
    assert isinstance(opened, ProcessesEngine)
    yield opened
    opened.close()


def test_updates_equal_the_serial_engines_to_the_bit(engine: ProcessesEngine) -> None:
    worker = make_worker()
    for number, order in ((1, range(8)), (2, [7, 0, 3, 1, 6, 2, 5, 4])):
        training = training_of(worker, number, expected=(0, 1, 2, 3, 4, 5))
        assert_same_bits(updates(engine, training, order), updates(SerialEngine(worker), training))
    assert len(engine.process_ids) == 2


def test_each_client_is_trained_from_the_model_that_it_was_sent(engine: ProcessesEngine) -> None:
    worker, other = make_worker(), make_worker(seed=5)
    training = training_of(worker)
    messages = {**training.model_messages, 3: training_of(other).model_messages[3]}
    training = type(training)(1, messages, tuple(range(8)))
    ours = updates(engine, training)
    assert_same_bits(ours, updates(SerialEngine(worker), training))


def test_a_client_is_trained_again_if_it_is_asked_again(engine: ProcessesEngine) -> None:
    with engine.round(training_of(make_worker())) as trainer:
        first, again = trainer(2), trainer(2)
    assert_same_bits({2: first}, {2: again})


def test_unrequested_updates_are_dropped(engine: ProcessesEngine) -> None:
    worker = make_worker()
    for number in (1, 2, 3):
        training = training_of(worker, number, expected=tuple(range(8)))
        with engine.round(training) as trainer:
            ours = trainer(number)
        assert_same_bits({number: ours}, updates(SerialEngine(worker), training, [number]))


def test_a_killed_process_is_replaced_and_its_client_trained_again(engine: ProcessesEngine) -> None:
    worker = make_worker()
    training = training_of(worker, 4)
    before = set(engine.process_ids)
    with engine.round(training) as trainer:
        ours = {0: trainer(0)}
        for process_id in engine.process_ids:
            os.kill(process_id, signal.SIGKILL)
        ours |= {i: trainer(i) for i in range(1, 8)}
    assert_same_bits(ours, updates(SerialEngine(worker), training))
    assert not before & set(engine.process_ids)


def run_rounds(engine: str, aggregator: Any, **changes: Any) -> tuple[list[Any], dict[str, bytes]]:
    config = tiny_config(model="small-cnn", clients=12, dropout=0.25, partition="dirichlet", engine=engine, **changes)
    resources = Resources(workers=1) if engine == "processes" else None
    with FederatedRun(config, DATASET, aggregator, resources) as run:
        records: list[RoundRecord] = [run.run_round() for _ in range(2)]
        return [untimed(record) for record in records], state_bytes(run.model)


@pytest.mark.parametrize("aggregator", ["secure", "plain"])
def test_a_run_is_the_serial_one_to_the_bit(aggregator: str) -> None:
    assert run_rounds("processes", aggregator) == run_rounds("serial", aggregator)


def engine_with(model: nn.Module, **changes: Any) -> tuple[ProcessesEngine, Any]:
    worker = make_worker(**changes)
    worker.model = model
    return ProcessesEngine(worker, 1), training_of(worker)


def test_a_diverging_client_says_the_same_as_in_this_process() -> None:
    worker = make_worker(learning_rate=1e20)
    engine = ProcessesEngine(worker, 1)
    try:
        for number in (0, 1):
            with pytest.raises(DivergedError) as ours:
                updates(engine, training_of(worker), [number])
            with pytest.raises(DivergedError) as theirs:
                updates(SerialEngine(worker), training_of(worker), [number])
            assert str(ours.value) == str(theirs.value)
    finally:
        engine.close()


def test_a_process_that_dies_once_costs_nothing_and_one_that_always_dies_ends_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ATTEMPTS > 2
    monkeypatch.setattr("fl.engines.processes.ATTEMPTS", 2)
    (tmp_path / "once").touch()
    engine, training = engine_with(DyingOnce(tmp_path))
    try:
        assert updates(engine, training, [0])[0].num_examples > 0
        assert not list(tmp_path.iterdir())
        for number in range(2):
            (tmp_path / str(number)).touch()
        with pytest.raises(EngineError, match="client 1 ended 2 times, the last with exit code 7"):
            updates(engine, training, [1])
        assert updates(engine, training, [1])[1].num_examples > 0, "the next round begins anew"
    finally:
        engine.close()


def test_a_failing_engine_ends_the_run_instead_of_leaving_clients_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl.engines.processes.ATTEMPTS", 1)
    config = tiny_config(engine="processes")
    with FederatedRun(config, DATASET, "secure", Resources(workers=1)) as run:
        assert isinstance(run.worker.model, nn.Sequential)
        run.worker.model = DyingSequential(*run.worker.model)
        with pytest.raises(EngineError, match="exit code 7"):
            run.run_round()
        assert run.rounds_done == 0


def test_a_bug_comes_with_its_traceback_and_prints_go_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    engine, training = engine_with(Buggy())
    try:
        with pytest.raises(RuntimeError, match=r"KeyError while client 3 was trained: .a bug of the user") as caught:
            updates(engine, training, [3])
        assert "in misbehave" in "".join(caught.value.__notes__)
    finally:
        engine.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert "loss: unknown" in err


def test_closing_ends_busy_processes(tmp_path: Path) -> None:
    engine, training = engine_with(Endless(tmp_path / "begun"))
    with engine.round(type(training)(1, training.model_messages, (0,))):
        wait_until(lambda: list(tmp_path.iterdir()))
    (process_id,) = engine.process_ids
    engine.close()
    engine.close()
    assert not alive(process_id)
    with pytest.raises(EngineError, match="closed"), engine.round(training):
        pass


def test_a_model_that_cannot_be_pickled_is_refused() -> None:
    worker = make_worker()
    worker.model.activation = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"cannot be sent to other processes .*: use the engine serial"):
        ProcessesEngine(worker, 1)


_ABANDONED = """
import os, sys, time
from pathlib import Path
from tests.fl.engines.workers import *
from fl.engines.processes import ProcessesEngine
worker = make_worker()
worker.model = Endless(Path(sys.argv[1])) if sys.argv[2] == "busy" else worker.model
engine = ProcessesEngine(worker, 2)
training = training_of(worker, expected=tuple(range(8)))
with engine.round(training) as trainer:
    if sys.argv[2] == "idle":
        for i in range(8):
            trainer(i)
    else:
        while len(list(Path(sys.argv[1]).parent.iterdir())) < 2:
            time.sleep(0.01)
    print(*engine.process_ids, flush=True)
    time.sleep(1000)
"""


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _ABANDONED, str(tmp_path / "begun"), "idle"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(),
    )
    with parent:
        assert parent.stdout is not None
        children = [int(number) for number in parent.stdout.readline().split()]
        assert len(children) == 2
        assert all(map(alive, children))
        parent.kill()
    wait_until(lambda: not any(map(alive, children)))


def test_an_interrupt_leaves_a_checkpoint_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--engine", "processes", "--workers", 1, "--clients", 6, "--rounds", 1000, "--out", out)
    process = subprocess.Popen(  # noqa: S603 - our own program
        command("train", *options), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    with process:
        metrics = out / "metrics.jsonl"
        wait_until(lambda: process.poll() is not None or (metrics.exists() and metrics.read_text().count("\n") >= 2))
        assert process.poll() is None
        # As a terminal does: to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=WAIT)
    assert process.returncode == 130, stderr
    assert "interrupted after round" in stdout + stderr
    assert "Traceback" not in stdout + stderr
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
