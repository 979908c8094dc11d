"""Simulated sessions of the protocol on made-up inputs, with their costs per round and a check of the sum."""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from secagg import ClientId, Completed, Plan, Round, rounds_of
from transport import FaultSchedule, Observer, PortableInputs, SessionReport, run_session


@dataclass(frozen=True, slots=True)
class RoundCost:
    """The cost of one round in seconds and bytes; a client's figures are medians over the clients in the round."""

    server_seconds: float
    client_seconds: float
    client_bytes_up: int
    client_bytes_down: int


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The result of a simulated session.

    Attributes:
        report: the session's report.
        exact: whether the sum equals the sum of the included clients' inputs in every element; None if aborted.
        seconds: the duration of the session for all clients and the server, without making the inputs.
        rounds: the cost of each round.
        peak_rss_bytes: the peak memory of this process, without the child processes of a long recovery.
    """

    report: SessionReport
    exact: bool | None
    seconds: float
    rounds: dict[Round, RoundCost]
    peak_rss_bytes: int


class MadeUpInputs(PortableInputs):
    """Uniform random inputs, generated on demand and the same each time, so that none is kept."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._params = plan.parameters
        self._seed = seed

    def __call__(self, client_id: ClientId) -> npt.NDArray[np.uint64]:
        rng = np.random.default_rng((self._seed, client_id))
        largest = (1 << self._params.value_bits) - 1
        return rng.integers(0, largest, self._params.vector_length, dtype=np.uint64, endpoint=True)

    def sum_of(self, client_ids: tuple[ClientId, ...]) -> npt.NDArray[np.uint64]:
        """Return the sum in the ring; only one vector is in memory at a time."""
        total = np.zeros(self._params.vector_length, dtype=np.uint64)
        for client_id in client_ids:
            total += self(client_id)
        return total & np.uint64(self._params.modulus - 1)


def simulate(
    plan: Plan, faults: FaultSchedule, *, seed: int, workers: int, observer: Observer | None = None
) -> SimulationResult:
    """Run one session with real keys, masks and messages on made-up inputs, and check its sum."""
    inputs = MadeUpInputs(plan, seed)
    started = time.perf_counter()
    report = run_session(plan.parameters, inputs, faults=faults, seed=seed, workers=workers, observer=observer)
    seconds = time.perf_counter() - started - report.input_seconds / report.workers
    outcome = report.outcome
    exact = None
    if isinstance(outcome, Completed):
        exact = bool(np.array_equal(outcome.sum, inputs.sum_of(outcome.included)))
    rounds = {round_: _cost(report, round_) for round_ in rounds_of(plan.parameters)}
    return SimulationResult(report, exact, seconds, rounds, _peak_rss_bytes())


def to_json(plan_json: dict[str, Any], result: SimulationResult) -> dict[str, Any]:
    """Return plain values for JSON."""
    outcome = result.report.outcome
    return {
        "exact": result.exact,
        "included": len(outcome.included) if isinstance(outcome, Completed) else 0,
        "aborted": None if isinstance(outcome, Completed) else str(outcome),
        "dropped": len(result.report.dropped),
        "seconds": result.seconds,
        "rounds": {
            round_.value: {name: getattr(cost, name) for name in RoundCost.__dataclass_fields__}
            for round_, cost in result.rounds.items()
        },
        "bytes_up": result.report.bytes_up,
        "bytes_down": result.report.bytes_down,
        "peak_rss_bytes": result.peak_rss_bytes,
        "plan": plan_json,
    }


def _cost(report: SessionReport, round_: Round) -> RoundCost:
    clients = report.clients.values()
    return RoundCost(
        server_seconds=report.server_seconds.get(round_, 0.0),
        client_seconds=_median([client.seconds[round_] for client in clients if round_ in client.seconds]),
        client_bytes_up=int(_median([client.bytes_up[round_] for client in clients if round_ in client.bytes_up])),
        client_bytes_down=int(
            _median([client.bytes_down[round_] for client in clients if round_ in client.bytes_down])
        ),
    )


def _median(values: list[float] | list[int]) -> float:
    return float(median(values)) if values else 0.0


def _peak_rss_bytes() -> int:
    """Return the peak memory of this process.

    On Linux, read it from /proc: the figure of getrusage is inherited from the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, others in KiB.
    return peak if sys.platform == "darwin" else peak * 1024
