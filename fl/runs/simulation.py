"""The protocol by itself, on made-up inputs: what it costs, round by round, and that the sum is exact."""

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
from transport import FaultSchedule, Observer, SessionReport, run_session


@dataclass(frozen=True, slots=True)
class RoundCost:
    """What one round cost: seconds and bytes; a client's are the median over the clients that took part in it."""

    server_seconds: float
    client_seconds: float
    client_bytes_up: int
    client_bytes_down: int


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What a simulated session came to.

    Attributes:
        report: the session's report.
        exact: whether the sum is that of the included clients' inputs, element by element; None if it was aborted.
        seconds: the whole session, all clients and the server, the making of inputs not counted.
        rounds: by round, what it cost.
        peak_rss_bytes: the most memory that the process has held, the children of a long recovery not counted.
    """

    report: SessionReport
    exact: bool | None
    seconds: float
    rounds: dict[Round, RoundCost]
    peak_rss_bytes: int


class MadeUpInputs:
    """Uniform inputs that are made when they are asked for, and the same each time: nothing is kept."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._params = plan.parameters
        self._seed = seed
        self.seconds = 0.0

    def __call__(self, client_id: ClientId) -> npt.NDArray[np.uint64]:
        started = time.perf_counter()
        rng = np.random.default_rng((self._seed, client_id))
        largest = (1 << self._params.value_bits) - 1
        vector = rng.integers(0, largest, self._params.vector_length, dtype=np.uint64, endpoint=True)
        self.seconds += time.perf_counter() - started
        return vector

    def sum_of(self, client_ids: tuple[ClientId, ...]) -> npt.NDArray[np.uint64]:
        """The sum in the ring, one vector at a time."""
        total = np.zeros(self._params.vector_length, dtype=np.uint64)
        for client_id in client_ids:
            total += self(client_id)
        return total & np.uint64(self._params.modulus - 1)


def simulate(
    plan: Plan, faults: FaultSchedule, *, seed: int, workers: int, observer: Observer | None = None
) -> SimulationResult:
    """Run one session of real keys, masks and bytes on made-up inputs, and check its sum."""
    inputs = MadeUpInputs(plan, seed)
    started = time.perf_counter()
    report = run_session(plan.parameters, inputs, faults=faults, seed=seed, workers=workers, observer=observer)
    seconds = time.perf_counter() - started - inputs.seconds
    outcome = report.outcome
    exact = None
    if isinstance(outcome, Completed):
        exact = bool(np.array_equal(outcome.sum, inputs.sum_of(outcome.included)))
    rounds = {round_: _cost(report, round_) for round_ in rounds_of(plan.parameters)}
    return SimulationResult(report, exact, seconds, rounds, _peak_rss_bytes())


def to_json(plan_json: dict[str, Any], result: SimulationResult) -> dict[str, Any]:
    """Plain values for JSON."""
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
    """The high-water mark of this process.

    Linux's own, where there is one: getrusage's is inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, others in KiB.
    return peak if sys.platform == "darwin" else peak * 1024
