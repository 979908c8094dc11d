"""Repeat the paper's figure 8: a server and its clients, round by round, compared with the published milliseconds.

One cohort of real clients serves three servers, which lose 0%, 10% and 30% of it.  All bytes are real, and each server
decodes its own.  All times are on one core: one client alone, and the server's recovery without threads.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest

from benchmarks import cases, published
from benchmarks.interleave import MIN_ROUNDS, Comparison, by_turns, spread
from benchmarks.lockstep import DROPOUTS, LENGTH, CohortTimes, run_cohort
from benchmarks.results import Entry
from secagg import Round

pytestmark = pytest.mark.benchmark(group="figure8")

Record = Callable[[Entry], None]

# The goals: speed-up over the published times, by role and dropout.
_GOALS = {("client", 0.0): 8.0, ("server", 0.3): 20.0}

_RING_NOTE = (
    "'Entries of 24 bits' is read as a ring of 24 bits (u32 words); the row of 33 bits is for 24-bit values, whose sum "
    "over 500 clients needs them (u64 words)."
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "num_clients" in metafunc.fixturenames:
        metafunc.parametrize("num_clients", [100] if metafunc.config.getoption("--quick") else [500, 1000])


def bench_figure8(benchmark: Any, record: Record, num_clients: int) -> None:
    """Run clients and servers of one size; pytest-benchmark's own figure is the whole run with all clients."""
    times = benchmark.pedantic(run_cohort, args=(num_clients,))
    benchmark.extra_info.update(
        name="whole_run", params={"clients": num_clients}, elements=LENGTH, ring_bits=24, note=_RING_NOTE
    )
    if num_clients not in {row["clients"] for row in published.figure8()}:
        benchmark.extra_info["note"] = f"The paper has no cohort of {num_clients}: there is nothing to compare with."
    record(_row("client", num_clients, 0.0, times.client))
    for dropout in DROPOUTS:
        record(_row("server", num_clients, dropout, times.servers[dropout]))
    for dropout in DROPOUTS[1:]:
        record(_expansion(num_clients, dropout, times))


def bench_expansion_by_ring(benchmark: Any, record: Record, quick: bool) -> None:
    """Time one expansion at n = 500, 30% dropped out, in both readings of "24 bits", in turn."""
    num_dropped = 5 if quick else 20
    jobs = {
        ring_bits: cases.recovery_job(num_survivors=350, num_dropped=num_dropped, ring_bits=ring_bits, self_masks=False)
        for ring_bits in (24, 33)
    }
    narrow, wide = by_turns([jobs[24].run, jobs[33].run], rounds=MIN_ROUNDS)
    for ring_bits, seconds in ((24, narrow), (33, wide)):
        each = tuple(value / jobs[ring_bits].num_masks for value in seconds)
        entry: Entry = {
            "group": "figure8",
            "name": "expansion_by_ring",
            "params": {"elements": LENGTH, "ring_bits": ring_bits},
            "seconds": spread(each),
            "value_bits": 15 if ring_bits == 24 else 24,
            "published_milliseconds": published.EXPANSION_MILLISECONDS,
            "ratio": _speed_up(published.EXPANSION_MILLISECONDS[0], 1000 * median(each), None),
        }
        if ring_bits == 24:
            benchmark.extra_info.update(entry)
            benchmark.pedantic(jobs[24].run)
        else:
            entry["over_24_bit_ring"] = Comparison(wide, narrow).cost
            record(entry)


def _row(role: str, num_clients: int, dropout: float, seconds: dict[Round, float]) -> Entry:
    total = sum(seconds.values())
    entry: Entry = {
        "group": "figure8",
        "name": role,
        "params": {"clients": num_clients, "dropout": dropout},
        "seconds": spread((total,)),
        "milliseconds": {round_.value: 1000 * value for round_, value in seconds.items()} | {"total": 1000 * total},
        "ring_bits": 24,
    }
    found = [
        row
        for row in published.figure8()
        if (row["role"], row["clients"], row["dropout"]) == (role, num_clients, dropout)
    ]
    if found:
        (row,) = found
        entry["published_milliseconds"] = {name: row[name] for name in entry["milliseconds"]}
        entry["ratio"] = _speed_up(row["total"], 1000 * total, _GOALS.get((role, dropout)))
    return entry


def _expansion(num_clients: int, dropout: float, times: CohortTimes) -> Entry:
    """Divide the server's Unmasking round by its d(n - d) expansions."""
    num_dropped = round(dropout * num_clients)
    expansions = num_dropped * (num_clients - num_dropped)
    each = times.servers[dropout][Round.UNMASKING] / expansions
    entry: Entry = {
        "group": "figure8",
        "name": "expansion",
        "params": {"clients": num_clients, "dropout": dropout},
        "seconds": spread((each,)),
        "expansions": expansions,
    }
    for row in published.figure8():
        if (row["role"], row["clients"], row["dropout"]) == ("server", num_clients, dropout):
            entry["published_milliseconds"] = row["Unmasking"] / expansions
            entry["ratio"] = _speed_up(row["Unmasking"] / expansions, 1000 * each, None)
    return entry


def _speed_up(published_milliseconds: float, milliseconds: float, goal: float | None) -> dict[str, Any]:
    return {
        "value": float(np.round(published_milliseconds / milliseconds, 3)),
        "of": "times faster than published, on another machine",
        "goal": goal,
        "higher_is_better": True,
    }
