"""A session over TLS between processes beside the same one in memory, and what the server holds meanwhile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import networked
from benchmarks.results import Entry

_CLIENTS, _QUICK_CLIENTS = 200, 40
_LENGTH = 100_000
_DROPOUT = 0.1
_GOAL = 1.5
_COUNTED = "wall time of the session over TLS over that of the same session in memory, in one process"


@pytest.mark.parametrize(("cores", "journal"), [("all", True), ("one", True)])
def bench_network(
    benchmark: BenchmarkFixture,
    quick: bool,
    tmp_path: Path,
    record: Callable[[Entry], None],
    cores: str,
    journal: bool,
) -> None:
    """One after the other: the server and two processes of clients, then the in-memory network in one process.

    On all cores, as they would be used, and all on one core, where nothing but work counts.
    """
    core = None if cores == "all" else 0
    clients = _QUICK_CLIENTS if quick else _CLIENTS
    over_tls: list[dict[str, Any]] = []
    in_memory: list[dict[str, Any]] = []

    def by_turns() -> None:
        with networked.deployment(clients) as certs:
            path = tmp_path / "journal" if journal else None
            over_tls.append(networked.over_tls(certs, clients, _LENGTH, _DROPOUT, core=core, journal=path).result())
            in_memory.append(networked.in_memory(clients, _LENGTH, _DROPOUT, core=core).result())

    benchmark.pedantic(by_turns, rounds=1, iterations=1)
    assert all(result["exact"] for result in over_tls + in_memory)
    best, memory = (min(results, key=lambda result: result["seconds"]) for results in (over_tls, in_memory))
    cpu = min(result["cpu_seconds"] + result["client_cpu_seconds"] for result in over_tls)
    record(
        {
            "group": "network",
            "name": "session",
            "params": {"clients": clients, "values": _LENGTH, "journal": journal, "cores": cores},
            "seconds": _spread(over_tls),
            "in_memory_seconds": memory["seconds"],
            "cpu_ratio": cpu / min(result["cpu_seconds"] for result in in_memory),
            "server_cpu_seconds": best["cpu_seconds"],
            "connections": best["connections"],
            "frames": best["frames"],
            "frames_per_second": best["frames"] / best["seconds"],
            "commits": best["commits"],
            "ratio": {
                "value": best["seconds"] / memory["seconds"],
                "of": _COUNTED,
                # Of few clients' sessions the handshakes are the half.
                "goal": None if quick else _GOAL,
                "higher_is_better": False,
            },
        }
    )
    benchmark.group = "network"
    benchmark.extra_info.update({"name": "turns", "params": {"clients": clients, "journal": journal, "cores": cores}})


def bench_memory_of_the_server(benchmark: BenchmarkFixture, quick: bool, record: Callable[[Entry], None]) -> None:
    """Two numbers of clients: what a further one costs is to have nothing to do with the length of its vector."""
    most = _QUICK_CLIENTS if quick else _CLIENTS
    numbers = (most // 4, most)

    def run_both() -> dict[int, dict[str, Any]]:
        results = {}
        for clients in numbers:
            with networked.deployment(clients) as certs:
                results[clients] = networked.over_tls(certs, clients, _LENGTH, _DROPOUT, core=None).result()
        return results

    results = benchmark.pedantic(run_both, rounds=1, iterations=1)
    assert all(result["exact"] for result in results.values())
    few, many = (results[clients] for clients in numbers)
    growth = (many["peak_bytes"] - few["peak_bytes"]) / (numbers[1] - numbers[0])
    # All that clients send, masked inputs above all, over their number.
    sent = many["bytes"] / numbers[1]
    for clients, result in results.items():
        record(
            {
                "group": "network",
                "name": "memory_of_the_server",
                "params": {"clients": clients, "values": _LENGTH},
                "seconds": _spread([result]),
                "idle_bytes": result["idle_bytes"],
                "peak_bytes": result["peak_bytes"],
                "message_bytes": result["bytes"],
                **({"bytes_of_a_further_client": growth} if result is many else {}),
            }
            | ({"ratio": _growth_ratio(growth / sent)} if result is many else {})
        )
    benchmark.group = "network"
    benchmark.extra_info.update({"name": "both_sizes", "params": {"clients": most}})


def _growth_ratio(value: float) -> dict[str, Any]:
    of = "memory that a further client costs the server over the bytes of the messages that it exchanges with it"
    return {"value": value, "of": of, "goal": None, "higher_is_better": False}


def _spread(results: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sorted(result["seconds"] for result in results)
    middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
    return {"median": middle, "min": seconds[0], "max": seconds[-1], "rounds": len(seconds)}
