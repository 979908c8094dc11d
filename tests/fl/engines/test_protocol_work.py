"""The engines also run the clients' part of the protocol: the same records and model for any number of cores."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import transport.workers
from fl.aggregation.encoding import ClientUpdate, UpdateEncoding
from fl.aggregation.private_session import PrivateEncoding
from fl.engines import Resources, open_engine
from fl.engines.local_worker import LocalWorker
from fl.errors import EngineError
from fl.learning.training import DivergedError
from fl.runs.rounds import FederatedRun
from secagg import Round
from tests.fl.engines.workers import DATASET, make_worker
from tests.fl.runs import state_bytes, tiny_config, untimed
from transport import WorkerPool

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions of any size go to workers, if there are several."""
    monkeypatch.setattr(transport.workers, "_WORTH_STARTING", 0.0)
    monkeypatch.setattr(transport.workers, "_WORTH_SENDING", 0.0)


@pytest.mark.parametrize(
    ("engine", "adversary"),
    [
        ("serial", "malicious"),
        ("batched", "honest-but-curious"),
        pytest.param("processes", "semi-malicious", marks=pytest.mark.slow),
    ],
)
def test_a_run_is_the_same_on_one_core_and_on_two(engine: str, adversary: str) -> None:
    """With bounds that follow the updates (a session that measures), held-out examples, and a comparison."""

    def run(cores: int) -> tuple[Any, Any, int]:
        config = tiny_config(
            model="small-cnn",
            clients=12,
            dropout=0.25,
            engine=engine,
            holdout=0.2,
            compare=True,
            adversary=adversary,
        )
        with FederatedRun(config, DATASET, "secure", Resources(workers=cores)) as run:
            records = [untimed(run.run_round()) for _ in range(2)]
            assert run._engine is not None
            assert isinstance(run._engine.workers, WorkerPool)
            return records, state_bytes(run.model), len(run._engine.workers.process_ids)

    (alone, model, none), (shared, same_model, two) = run(1), run(2)
    assert (none, two) == (0, 2)
    assert shared == alone
    assert same_model == model
    assert alone[0]["ring_difference"] == 0


@pytest.mark.parametrize(
    ("encoding", "settings"),
    [
        (UpdateEncoding, {"clients": 8}),
        (PrivateEncoding, {"clients": 8, "sample": 8, "epsilon": 100.0, "delta": 1e-2, "dropout": 0.0, "rounds": 2}),
    ],
)
def test_updates_are_encoded_in_the_workers(
    encoding: type, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process's encoding is broken, the workers' is not. The noise's key is then the workers' own."""

    def encode(self: Any, update: ClientUpdate, rng: Any, **options: Any) -> Any:
        raise AssertionError("encoded here")

    monkeypatch.setattr(encoding, "encode", encode)
    for cores, failure in ((2, None), (1, "encoded here")):
        with FederatedRun(tiny_config(**settings), DATASET, "secure", Resources(workers=cores)) as run:
            if failure is None:
                assert run.run_round().aborted is None
            else:
                with pytest.raises(AssertionError, match=failure):
                    run.run_round()


@pytest.mark.parametrize("cores", [1, 2])
def test_an_update_that_cannot_be_encoded_is_refused(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the session that measures already; the round is an error once no client has an update."""
    spoiled = {0, 1}
    trained = LocalWorker.update

    def update(self: LocalWorker, client_id: int, number: int, message: bytes) -> ClientUpdate:
        made = trained(self, client_id, number, message)
        return replace(made, delta=made.delta * np.float32(np.nan)) if client_id in spoiled else made

    monkeypatch.setattr(LocalWorker, "update", update)
    with FederatedRun(tiny_config(clients=8, dropout=0.0), DATASET, "secure", Resources(workers=cores)) as run:
        record = run.run_round()
        assert record.refused.keys() == {"0", "1"}
        assert "not finite" in record.refused["0"]
        assert record.included
        assert not spoiled & set(record.included)
        spoiled |= set(range(8))
        with pytest.raises(DivergedError, match="not finite"):
            run.run_round()


def test_a_killed_worker_ends_the_round_and_the_next_round_starts_it_again() -> None:
    def kill(name: str, round_: Round, received: int, awaited: int) -> None:
        if round_ is Round.MASKED_INPUT_COLLECTION:
            for process_id in run._engine.workers.process_ids:  # type: ignore[union-attr]
                os.kill(process_id, signal.SIGKILL)

    with FederatedRun(tiny_config(clients=8), DATASET, "secure", Resources(workers=2)) as run:
        with pytest.raises(EngineError, match=r"a worker process ended \(signal 9"):
            run.run_round(kill)
        assert run.run_round().aborted is None


@pytest.mark.parametrize("engine", ["serial", "batched", "processes"])
def test_an_engine_ends_its_processes(engine: str) -> None:
    opened = open_engine(engine, make_worker(), Resources(workers=2))
    opened.workers.start()
    assert isinstance(opened.workers, WorkerPool)
    assert len(opened.workers.process_ids) == opened.workers.count == 2
    opened.close()
    assert opened.workers.process_ids == ()
