"""Compare a session over TLS between processes with the same session in memory, and measure the server's memory."""

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import networked
from benchmarks.interleave import spread
from benchmarks.results import Entry

pytestmark = pytest.mark.benchmark(group="network")

_CLIENTS, _QUICK_CLIENTS = 200, 40
_LENGTH = 100_000
_DROPOUT = 0.1
_GOAL = 1.5
_COUNTED = "wall time of the session over TLS over that of the same session in memory, in one process"


@pytest.mark.parametrize("cores", ["all", "one"])
def bench_network(benchmark: BenchmarkFixture, quick: bool, record: Callable[[Entry], None], cores: str) -> None:
    """Run the server and two processes of clients, then the in-memory network in one process.

    Run on all cores, as in real use, and on one core, where only the amount of work counts.
    """
    core = None if cores == "all" else 0
    clients = _QUICK_CLIENTS if quick else _CLIENTS

    def both() -> list[dict[str, Any]]:
        tls = networked.over_tls(clients, _LENGTH, _DROPOUT, core=core, journal=True)
        return [tls, networked.in_memory(clients, _LENGTH, _DROPOUT, core=core)]

    tls, memory = benchmark.pedantic(both, rounds=1, iterations=1)
    assert tls["exact"]
    assert memory["exact"]
    record(
        {
            "group": "network",
            "name": "session",
            "params": {"clients": clients, "values": _LENGTH, "journal": True, "cores": cores},
            "seconds": spread((tls["seconds"],)),
            "in_memory_seconds": memory["seconds"],
            "cpu_ratio": (tls["cpu_seconds"] + tls["client_cpu_seconds"]) / memory["cpu_seconds"],
            "server_cpu_seconds": tls["cpu_seconds"],
            "connections": tls["connections"],
            "frames": tls["frames"],
            "frames_per_second": tls["frames"] / tls["seconds"],
            "commits": tls["commits"],
            "ratio": {
                "value": tls["seconds"] / memory["seconds"],
                "of": _COUNTED,
                # In sessions of few clients, handshakes take half of the time.
                "goal": None if quick else _GOAL,
                "higher_is_better": False,
            },
        }
    )
    benchmark.extra_info.update({"name": "turns", "params": {"clients": clients, "journal": True, "cores": cores}})


def bench_memory_of_the_server(benchmark: BenchmarkFixture, quick: bool, record: Callable[[Entry], None]) -> None:
    """Measure with two numbers of clients: the memory of one more client must not depend on its vector's length."""
    most = _QUICK_CLIENTS if quick else _CLIENTS
    numbers = (most // 4, most)

    def run_both() -> dict[int, dict[str, Any]]:
        return {clients: networked.over_tls(clients, _LENGTH, _DROPOUT, core=None) for clients in numbers}

    results = benchmark.pedantic(run_both, rounds=1, iterations=1)
    assert all(result["exact"] for result in results.values())
    few, many = (results[clients] for clients in numbers)
    growth = (many["peak_bytes"] - few["peak_bytes"]) / (numbers[1] - numbers[0])
    # All bytes that clients send, mostly masked inputs, divided by their number.
    sent = many["bytes"] / numbers[1]
    for clients, result in results.items():
        record(
            {
                "group": "network",
                "name": "memory_of_the_server",
                "params": {"clients": clients, "values": _LENGTH},
                "seconds": spread((result["seconds"],)),
                "idle_bytes": result["idle_bytes"],
                "peak_bytes": result["peak_bytes"],
                "message_bytes": result["bytes"],
                **({"bytes_of_a_further_client": growth} if result is many else {}),
            }
            | ({"ratio": _growth_ratio(growth / sent)} if result is many else {})
        )
    benchmark.extra_info.update({"name": "both_sizes", "params": {"clients": most}})


def _growth_ratio(value: float) -> dict[str, Any]:
    of = "memory that a further client costs the server over the bytes of the messages that it exchanges with it"
    return {"value": value, "of": of, "goal": None, "higher_is_better": False}
