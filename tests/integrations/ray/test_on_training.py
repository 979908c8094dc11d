"""Clients as Ray tasks: the bits of one machine, also when processes are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from fl.engines import RoundTraining
from fl.engines.ray.cluster import RayCluster
from fl.engines.ray.engine import RayEngine
from fl.engines.serial import SerialEngine
from fl.errors import ConfigError, EngineError
from fl.learning.training import DivergedError
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
from tests.fl.runs import run_process, state_bytes, tiny_config, untimed


@pytest.fixture(scope="module")
def engine(cluster: RayCluster) -> Iterator[RayEngine]:
    opened = RayEngine(make_worker(), RayCluster.connect())
    yield opened
    opened.close()


def test_updates_equal_the_serial_engines_to_the_bit(engine: RayEngine) -> None:
    worker = make_worker()
    for number, order in ((1, range(8)), (2, [7, 0, 3, 1, 6, 2, 5, 4])):
        training = training_of(worker, number, expected=(0, 1, 2, 3, 4, 5))
        assert_same_bits(updates(engine, training, order), updates(SerialEngine(worker), training))


def test_each_client_is_trained_from_the_model_that_it_was_sent(engine: RayEngine) -> None:
    worker, other = make_worker(), make_worker(seed=5)
    training = training_of(worker)
    messages = {**training.model_messages, 3: training_of(other).model_messages[3]}
    training = RoundTraining(1, messages, tuple(range(8)))
    assert_same_bits(updates(engine, training), updates(SerialEngine(worker), training))


def test_the_update_is_the_hosts_own(engine: RayEngine) -> None:
    """It is not the object store's memory, which is read-only."""
    update = updates(engine, training_of(make_worker()), [1])[1]
    np.add(update.delta, 1, out=update.delta)


def test_unrequested_updates_are_dropped(engine: RayEngine) -> None:
    worker = make_worker()
    for number in (1, 2, 3):
        training = training_of(worker, number, expected=tuple(range(8)))
        with engine.round(training) as trainer:
            ours = trainer(number)
        assert_same_bits({number: ours}, updates(SerialEngine(worker), training, [number]))


@pytest.mark.parametrize("aggregator", ["secure", "plain"])
def test_a_run_is_the_serial_one_to_the_bit(cluster: RayCluster, aggregator: Any) -> None:
    def run(engine: str) -> Any:
        config = tiny_config(model="small-cnn", clients=12, dropout=0.25, partition="dirichlet", engine=engine)
        with FederatedRun(config, DATASET, aggregator) as run:
            return [untimed(run.run_round()) for _ in range(2)], state_bytes(run.model)

    assert run("ray") == run("serial")
    assert ray.is_initialized(), "the cluster was there before the run"


def engine_with(model: Any, **changes: Any) -> tuple[RayEngine, RoundTraining]:
    worker = make_worker(**changes)
    worker.model = model
    return RayEngine(worker, RayCluster.connect()), training_of(worker)


def test_a_process_killed_in_a_round_is_replaced_and_its_client_trained_again(
    cluster: RayCluster, tmp_path: Path
) -> None:
    """The process that trains client 0, found by its current task, gets a SIGKILL."""
    model = Endless(tmp_path / "begun")
    engine, training = engine_with(model)

    def begun() -> list[int]:
        return [int(file.name.rpartition("-")[2]) for file in tmp_path.glob("begun-*")]

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 120
        while len(begun()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    with engine.round(replace(training, expected=(0,))) as trainer:
        wait_for(1)
        os.kill(begun()[0], signal.SIGKILL)
        wait_for(2)
        (tmp_path / "stop").touch()
        ours = {0: trainer(0)}
    worker = make_worker()
    worker.model = model
    assert_same_bits(ours, updates(SerialEngine(worker), training, [0]))


def test_a_process_that_dies_over_a_client_costs_nothing_and_changes_no_bit(
    cluster: RayCluster, tmp_path: Path
) -> None:
    for number in range(2):
        (tmp_path / str(number)).touch()
    model = DyingOnce(tmp_path)
    engine, training = engine_with(model)
    ours = updates(engine, replace(training, expected=(0, 1, 2)), [0, 1, 2])
    assert not list(tmp_path.iterdir())
    worker = make_worker()
    worker.model = model
    assert_same_bits(ours, updates(SerialEngine(worker), training, [0, 1, 2]))


def test_a_process_that_always_dies_ends_the_run_instead_of_leaving_clients_out(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.engines.ray.engine.ATTEMPTS", 1)
    with FederatedRun(tiny_config(engine="ray", clients=2), DATASET, "secure") as run:
        run.worker.model = DyingSequential(*run.worker.model)  # type: ignore[arg-type]
        with pytest.raises(EngineError, match=r"client \d could not be trained on the Ray cluster"):
            run.run_round()
        assert run.rounds_done == 0


def test_a_diverging_client_says_the_same_as_in_this_process(cluster: RayCluster) -> None:
    worker = make_worker(learning_rate=1e20)
    with pytest.raises(DivergedError) as ours:
        updates(RayEngine(worker, RayCluster.connect()), training_of(worker), [1])
    with pytest.raises(DivergedError) as theirs:
        updates(SerialEngine(worker), training_of(worker), [1])
    assert str(ours.value) == str(theirs.value)


def test_a_bug_comes_with_its_traceback(cluster: RayCluster) -> None:
    engine, training = engine_with(Buggy())
    with pytest.raises(KeyError, match="in misbehave"):
        updates(engine, training, [3])


def test_a_model_that_cannot_be_pickled_is_refused(cluster: RayCluster) -> None:
    unpicklable = make_worker().model
    unpicklable.activation = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"cannot be sent to other processes .*: use the engine serial"):
        engine_with(unpicklable)


def test_another_cluster_than_the_hosts_is_refused(cluster: RayCluster) -> None:
    with pytest.raises(ConfigError, match=r"connected to another Ray cluster: leave out the address 127\.0\.0\.1:1"):
        RayCluster.connect("127.0.0.1:1")


def test_the_command_line_starts_ray_and_ends_it(tmp_path: Path) -> None:
    options = ("--clients", 6, "--rounds", 2, "--engine", "ray", "--workers", 1, "--compare", "--json")
    done = run_process("train", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert '"rounds":2' in done.stdout.replace(" ", "")


def test_the_command_line_says_in_one_line_that_no_cluster_answers() -> None:
    done = run_process("train", "--clients", 6, "--rounds", 1, "--engine", "ray", "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert "error: no Ray cluster at 127.0.0.1:1: " in done.stderr
    assert "Traceback" not in done.stderr
