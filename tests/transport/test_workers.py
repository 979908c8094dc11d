"""Clients in worker processes: the same session as in one process, for every fault; no hang when one dies."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transport.clients
from secagg import Aborted, Adversary, Completed, LocalProtocolError, Round, rounds_of
from tests.support.sessions import SeededEntropy, exact_sum, make_params, random_inputs
from transport import (
    Direction,
    Fault,
    FaultSchedule,
    InputWithheldError,
    PortableInputs,
    SessionReport,
    WorkerLostError,
    WorkerPool,
    run_session,
)
from transport.workers import WorkerObjects

pytestmark = pytest.mark.live

UP, DOWN = Direction.UP, Direction.DOWN


class Eager(WorkerPool):
    """A pool that takes sessions of any size."""

    def is_worth(self, seconds: float) -> bool:
        return True


def copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, protocol=5))  # noqa: S301 - our own


class Inline:
    """Workers in this process, which work as soon as they are called; they keep all that was sent to them."""

    count = 3

    def __init__(self) -> None:
        self.objects = [WorkerObjects() for _ in range(self.count)]
        self.sent: list[bytes] = []

    def is_worth(self, seconds: float) -> bool:
        return True

    def start(self) -> None:
        """Do nothing."""

    def call(self, place: int, target: str, argument: object) -> Future[Any]:
        self.sent.append(pickle.dumps((target, argument), protocol=5))
        result, error = copied(self.objects[place].outcome(*pickle.loads(self.sent[-1])))  # noqa: S301 - our own
        future: Future[Any] = Future()
        future.set_exception(error) if error is not None else future.set_result(result)
        return future

    def run(self, job: Any) -> Any:
        return job.run()


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with Eager(2) as pool:
        yield pool


def facts(report: SessionReport) -> dict[str, Any]:
    """Return all of a report except times, which differ, and keys, which are random."""
    outcome = report.outcome
    return {
        "outcome": (outcome.sum.tolist(), outcome.included) if isinstance(outcome, Completed) else str(outcome),
        "dropped": report.dropped,
        "virtual": report.virtual_seconds,
        "bytes": [(client.bytes_up, client.bytes_down) for client in report.clients.values()],
        "errors": [(type(client.error), str(client.error)) for client in report.clients.values()],
        "timed": [set(client.seconds) for client in report.clients.values()],
        "server": set(report.server_seconds),
    }


EVERY_FAULT = [
    (fault, round_, way)
    for fault in Fault
    for round_ in Round
    for way in Direction
    if way is UP or (fault is not Fault.VANISH and round_ is not Round.ADVERTISE_KEYS)
]


@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.MALICIOUS])
def test_each_fault_ends_a_session_as_it_does_without_workers(adversary: Adversary) -> None:
    params = make_params(6, 4, adversary=adversary)
    inputs = random_inputs(params, 0)
    for fault, round_, way in EVERY_FAULT:
        faults = FaultSchedule({(2, round_, way): fault})
        alone = run_session(params, inputs, faults=faults, seed=3)
        hosted = run_session(params, inputs, faults=faults, seed=3, pool=Inline())
        assert facts(hosted) == facts(alone), (fault, round_, way)
        assert (alone.workers, hosted.workers) == (1, 3)


@pytest.mark.parametrize("seed", range(25))
def test_sessions_with_many_faults_are_the_same(seed: int) -> None:
    """With a seeded source even keys and masks are the same, since it is asked in the same order."""
    params = make_params(9, 5, vector_length=40, value_bits=5, adversary=list(Adversary)[seed % 3])
    faults = FaultSchedule.random(range(9), (0.05, 0.2)[seed % 2], seed=seed, rounds=rounds_of(params))

    def run(**options: Any) -> tuple[SessionReport, list[bytes]]:
        entropy = SeededEntropy(str(seed))
        inputs = random_inputs(params, seed)
        return run_session(params, inputs, faults=faults, seed=seed, entropy=entropy, **options), entropy.draws

    (alone, drawn), (hosted, drawn_hosted) = run(), run(pool=Inline())
    assert facts(hosted) == facts(alone)
    assert drawn_hosted == drawn
    if isinstance(hosted.outcome, Completed):
        assert hosted.outcome.sum.tolist() == exact_sum(
            params, [random_inputs(params, seed)[i] for i in hosted.outcome.included]
        )
    else:
        assert isinstance(hosted.outcome, Aborted)


@pytest.mark.parametrize("adversary", Adversary)
def test_processes_give_the_same_session_one_after_the_other(pool: WorkerPool, adversary: Adversary) -> None:
    for graph in (None, 8):
        params = make_params(20, 14 if graph is None else 8, vector_length=5000, degree=graph, adversary=adversary)
        inputs = random_inputs(params, 1)
        faults = FaultSchedule.random(range(20), 0.03, seed=4, rounds=rounds_of(params))
        alone = run_session(params, inputs, faults=faults, seed=5)
        before = pool.process_ids
        hosted = run_session(params, inputs, faults=faults, seed=5, pool=pool)
        assert facts(hosted) == facts(alone)
        assert hosted.workers == 2
        assert not before or pool.process_ids == before


class Made(PortableInputs):
    """Inputs that also record the process in which they are made."""

    def __init__(self, length: int, withheld: int | None = None) -> None:
        self.length = length
        self.withheld = withheld
        self.home = os.getpid()

    def __call__(self, client_id: int) -> np.ndarray:
        if client_id == self.withheld:
            raise InputWithheldError("nothing to send")
        return np.full(self.length, client_id + (100 if os.getpid() == self.home else 0))


def test_portable_inputs_are_made_in_the_workers(pool: WorkerPool) -> None:
    params = make_params(6, 4)
    report = run_session(params, Made(10, withheld=3), pool=pool)
    assert report.outcome.included == (0, 1, 2, 4, 5)
    assert report.outcome.sum.tolist() == [12] * 10
    assert isinstance(report.clients[3].error, InputWithheldError)
    assert str(report.clients[3].error) == "nothing to send"


def test_large_sessions_start_workers_and_small_ones_none(monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_params(6, 4)
    assert run_session(params, Made(10), workers=2).workers == 1
    monkeypatch.setattr(transport.clients, "_SECONDS_PER_STEP", 1.0)
    assert run_session(params, Made(10), workers=1).workers == 1
    report = run_session(params, Made(10), workers=2)
    assert report.workers == 2
    assert report.outcome.sum.tolist() == [15] * 10


def test_no_more_inputs_are_made_ahead_than_the_window_has_room_for(
    monkeypatch: pytest.MonkeyPatch, pool: WorkerPool
) -> None:
    params = make_params(40, 21)
    inputs = random_inputs(params, 0)

    def most_ahead() -> int:
        made: list[int] = []
        ahead = [0]

        def make(client_id: int) -> np.ndarray:
            made.append(client_id)
            return inputs[client_id]

        def observe(round_: Round, received: int, awaited: int) -> None:
            if round_ is Round.MASKED_INPUT_COLLECTION:
                ahead.append(len(made) - received)

        assert isinstance(run_session(params, make, pool=pool, observer=observe).outcome, Completed)
        assert sorted(made) == list(range(40))
        return max(ahead)

    monkeypatch.setattr(transport.clients, "_KEPT_BYTES", 0)
    assert 1 < most_ahead() <= 2 * pool.count
    monkeypatch.setattr(transport.clients, "_KEPT_BYTES", 1 << 20)
    assert most_ahead() > 2 * pool.count


def test_inputs_are_made_only_for_clients_that_reach_the_round() -> None:
    params = make_params(5, 3)
    made: list[int] = []

    def make(client_id: int) -> np.ndarray:
        made.append(client_id)
        return np.zeros(10, np.uint8)

    faults = FaultSchedule(
        {
            (1, Round.SHARE_KEYS, UP): Fault.VANISH,
            (3, Round.MASKED_INPUT_COLLECTION, UP): Fault.DELAY,
            (4, Round.MASKED_INPUT_COLLECTION, UP): Fault.VANISH,
        }
    )
    run_session(params, make, faults=faults, pool=Inline())
    assert sorted(made) == [0, 2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros(10), "integer dtype"),
        (np.full(10, 256), "outside"),
        (np.full(10, -1), "outside"),
        (np.zeros(9, int), "shape"),
        ([0] * 10, "numpy array"),
        (None, "numpy array"),
    ],
)
def test_a_callers_bad_input_is_the_callers_error(pool: WorkerPool, wrong: Any, said: str) -> None:
    with pytest.raises(LocalProtocolError, match=said):
        run_session(make_params(3, 2), lambda client_id: wrong, pool=pool)
    assert isinstance(run_session(make_params(3, 2), Made(10), pool=pool).outcome, Completed)


def test_an_inputs_error_is_raised_where_its_answer_is_due(pool: WorkerPool) -> None:
    made: list[int] = []

    def make(client_id: int) -> np.ndarray:
        made.append(client_id)
        raise KeyError(client_id)

    with pytest.raises(KeyError):
        run_session(make_params(5, 3), make, pool=pool)
    assert len(made) == 1


class Broken(Made):
    def __call__(self, client_id: int) -> np.ndarray:
        raise KeyError("no such file")


def test_a_fault_of_portable_inputs_comes_with_the_workers_traceback(pool: WorkerPool) -> None:
    with pytest.raises(RuntimeError, match="KeyError in a worker process: 'no such file'") as caught:
        run_session(make_params(5, 3), Broken(10), pool=pool)
    assert "in __call__" in caught.value.__notes__[0]


@pytest.mark.parametrize("round_", [Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION, Round.UNMASKING])
def test_a_session_ends_at_once_when_a_worker_is_killed_and_the_next_one_starts_it_again(round_: Round) -> None:
    params = make_params(12, 7)
    inputs = random_inputs(params, 0)
    with Eager(2) as pool:
        killed: list[int] = []

        def kill(at: Round, received: int, awaited: int) -> None:
            if at is round_ and not killed:
                killed.append(pool.process_ids[1])
                os.kill(killed[0], signal.SIGKILL)
                # Wait for its end: answers that it gave before are valid.
                while killed[0] in pool.process_ids:
                    time.sleep(0.01)

        with pytest.raises(WorkerLostError, match=r"a worker process ended \(signal 9.*use fewer workers"):
            run_session(params, inputs, pool=pool, observer=kill)
        assert killed
        report = run_session(params, inputs, pool=pool)
        assert report.outcome.sum.tolist() == exact_sum(params, inputs.values())
        assert len(pool.process_ids) == 2


def test_after_the_end_of_one_worker_the_next_session_starts_all_again() -> None:
    """The others may be ending as well, as when the system runs out of memory: here the other one hangs."""
    params = make_params(12, 7)
    inputs = random_inputs(params, 0)
    with Eager(2) as pool:
        pool.start()
        ids = pool.process_ids
        os.kill(ids[0], signal.SIGSTOP)
        os.kill(ids[1], signal.SIGKILL)
        with pytest.raises(WorkerLostError, match="a worker process ended"):
            pool.call(1, "transport.clients:Share.compute", []).result(timeout=30)
        pool.start()
        assert len(pool.process_ids) == 2
        assert not set(ids) & set(pool.process_ids)
        assert run_session(params, inputs, pool=pool).outcome.sum.tolist() == exact_sum(params, inputs.values())


def test_workers_end_with_the_pool_and_keep_no_clients_between_sessions(pool: WorkerPool) -> None:
    inline = Inline()
    run_session(make_params(4, 3), Made(10), pool=inline)
    shares = [share for objects in inline.objects for share in objects._objects.values()]
    assert len(shares) == 3
    assert all(share._drivers == {} for share in shares)
    with Eager(2) as own:
        run_session(make_params(4, 3), Made(10), pool=own)
        ids = own.process_ids
        assert len(ids) == 2
    assert own.process_ids == ()
    assert not any(map(exists, ids))


def test_a_pool_that_is_not_closed_ends_with_its_last_reference() -> None:
    pool = Eager(2)
    run_session(make_params(4, 3), Made(10), pool=pool)
    ids = pool.process_ids
    assert all(map(exists, ids))
    del pool
    gc.collect()
    assert not any(map(exists, ids))


def exists(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="threads are counted in /proc")
def test_a_worker_has_one_thread_for_any_number_of_cores(pool: WorkerPool) -> None:
    run_session(make_params(40, 30, vector_length=1), Made(1), pool=pool)
    for process_id in pool.process_ids:
        assert "Threads:\t1\n" in Path(f"/proc/{process_id}/status").read_text()


def test_a_client_is_moved_and_never_copied() -> None:
    """A suspended client travels once; afterwards only its worker can continue with it."""
    inline = Inline()
    run_session(make_params(5, 3, adversary=Adversary.MALICIOUS), Made(10), pool=inline)
    assert sum(sent.count(b"secagg client") for sent in inline.sent) == 5


UNGUARDED = """
import secagg, transport.clients, numpy as np
from transport import run_session
transport.clients._SECONDS_PER_STEP = 1.0
params = secagg.plan(num_clients=6, vector_length=4, value_bits=8).parameters
class Own(transport.PortableInputs):
    def __call__(self, client_id):
        return np.full(4, client_id)
class Later(transport.DeferredInput):
    def __init__(self, client_id):
        self.client_id = client_id
    def __call__(self):
        return np.full(4, self.client_id)
for inputs in (Own(), Later, lambda client_id: np.full(4, client_id)):
    report = run_session(params, inputs, workers=2)
    print(report.workers, report.outcome.sum.tolist())
"""


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_a_script_needs_no_main_guard(tmp_path: Any, how: str) -> None:
    path = tmp_path / "script.py"
    path.write_text(UNGUARDED)
    command = [sys.executable, str(path)] if how == "file" else [sys.executable, "-"]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        command, input=UNGUARDED if how == "stdin" else None, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == (3 * "2 [15, 15, 15, 15]\n", "")
