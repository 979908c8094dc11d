"""The clients' part of the protocol in Ray actors: the same session as in one process; no hang when one dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from fl.engines.ray import workers
from fl.engines.ray.cluster import RayCluster
from fl.engines.ray.workers import RayWorkers
from fl.errors import EngineError
from fl.runs.rounds import FederatedRun
from secagg import Adversary, Completed, Round, rounds_of
from tests.fl.engines.workers import DATASET
from tests.fl.runs import state_bytes, tiny_config, untimed
from tests.support.sessions import make_params, random_inputs
from transport import FaultSchedule, SessionReport, WorkerLostError, run_session


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions of any size go to the cluster."""
    monkeypatch.setattr(workers, "_WORTH_STARTING", 0.0)
    monkeypatch.setattr(workers, "_WORTH_SENDING", 0.0)


@pytest.fixture
def actors(cluster: RayCluster) -> Iterator[RayWorkers]:
    opened = RayWorkers(cluster)
    yield opened
    opened.close()


def facts(report: SessionReport) -> Any:
    assert isinstance(report.outcome, Completed)
    errors = {i: str(client.error) for i, client in report.clients.items()}
    return report.outcome.sum.tolist(), report.outcome.included, report.dropped, report.bytes_up, errors


@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.MALICIOUS])
def test_a_session_is_the_same_as_without_ray(actors: RayWorkers, adversary: Adversary) -> None:
    params = make_params(12, 8, vector_length=50_000, value_bits=16, adversary=adversary)
    inputs = random_inputs(params, 1)
    for seed in range(2):
        faults = FaultSchedule.random(range(12), 0.05, seed=seed, rounds=rounds_of(params))
        alone = run_session(params, inputs, faults=faults, seed=seed)
        hosted = run_session(params, inputs, faults=faults, seed=seed, pool=actors)
        assert facts(hosted) == facts(alone)
        assert hosted.workers == actors.count


def test_a_session_ends_at_once_when_an_actor_is_killed_and_the_next_one_starts_it_again(actors: RayWorkers) -> None:
    params = make_params(8, 5)
    inputs = {i: np.full(10, i) for i in range(8)}

    def kill(round_: Round, received: int, awaited: int) -> None:
        if round_ is Round.MASKED_INPUT_COLLECTION and 1 in actors._actors:
            ray.kill(actors._actors[1])

    with pytest.raises(WorkerLostError, match="a Ray worker ended"):
        run_session(params, inputs, pool=actors, observer=kill)
    (other,) = actors._actors.values()
    report = run_session(params, inputs, pool=actors)
    # The other one may be ending too, as when a node is lost.
    assert other not in actors._actors.values()
    assert report.outcome.sum.tolist() == [28] * 10


def test_a_training_is_the_same_with_actors_and_ends_typed_without_them(cluster: RayCluster) -> None:
    def run(engine: str) -> Any:
        config = tiny_config(clients=8, dropout=0.25, engine=engine, holdout=0.25)
        with FederatedRun(config, DATASET, "secure") as run:
            return [untimed(run.run_round()) for _ in range(2)], state_bytes(run.model)

    assert run("ray") == run("serial")

    def kill(name: str, round_: Round, received: int, awaited: int) -> None:
        if round_ is Round.UNMASKING:
            for actor in tuple(broken._engine.workers._actors.values()):  # type: ignore[union-attr]
                ray.kill(actor)

    broken = FederatedRun(tiny_config(clients=8, engine="ray"), DATASET, "secure")
    with broken, pytest.raises(EngineError, match="a Ray worker ended"):
        broken.run_round(kill)
