"""Measure the cost of safety from a lying server: a malicious and an honest-but-curious session at the same time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.results import Entry
from benchmarks.simulated import simulate
from secagg import Adversary

pytestmark = pytest.mark.benchmark(group="malicious")

_CLIENTS, _QUICK_CLIENTS = 500, 60
_LENGTH = 100_000
_CORRUPT = _DROPOUT = 0.05


def bench_malicious(benchmark: BenchmarkFixture, quick: bool, record: Callable[[Entry], None]) -> None:
    """Run the sessions in separate processes, one on each core, so that changes in the machine's speed affect both."""
    clients = _QUICK_CLIENTS if quick else _CLIENTS

    def session(adversary: Adversary) -> dict[str, Any]:
        return simulate(clients, _LENGTH, dropout=_DROPOUT, corrupt=_CORRUPT, adversary=adversary, workers=1)

    def both() -> list[dict[str, Any]]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(session, (Adversary.HONEST_BUT_CURIOUS, Adversary.MALICIOUS)))

    honest, malicious = benchmark.pedantic(both, rounds=1, iterations=1)
    assert honest["exact"] is True, honest["aborted"]
    assert malicious["exact"] is True, malicious["aborted"]
    threshold, included = malicious["plan"]["threshold"], malicious["included"]
    signatures = {
        # Signatures on all keys but its own, then on the views of a quorum that includes its own.
        "client": {"signatures_made": 2, "signatures_checked": clients - 1 + threshold - 1},
        "server": {"signatures_made": 0, "signatures_checked": clients + included},
    }
    for role in ("client", "server"):
        record(_entry(role, honest, malicious) | signatures[role])
    benchmark.extra_info.update({"name": "sessions", "params": {"clients": clients, "values": _LENGTH}})


def _entry(role: str, honest: dict[str, Any], malicious: dict[str, Any]) -> Entry:
    """Return one role's time and bytes; a client's are medians, the server's bytes are those of all clients."""
    before, after = (_seconds(role, session) for session in (honest, malicious))
    entry = {
        "group": "malicious",
        "name": role,
        "params": {"clients": honest["plan"]["num_clients"], "values": honest["plan"]["vector_length"]},
        "seconds": {"median": after, "min": after, "max": after, "rounds": 1},
        "honest_seconds": before,
        "ratio": {
            "value": after / before,
            "of": "time in malicious mode over honest-but-curious, in the same run",
            "goal": None,
            "higher_is_better": False,
        },
    }
    for way in ("up", "down"):
        bytes_before, bytes_after = (_bytes(role, way, session) for session in (honest, malicious))
        entry |= {f"bytes_{way}": bytes_after, f"{way}_over_honest": bytes_after / bytes_before}
    return entry


def _seconds(role: str, session: dict[str, Any]) -> float:
    return float(sum(cost[f"{role}_seconds"] for cost in session["rounds"].values()))


def _bytes(role: str, way: str, session: dict[str, Any]) -> int:
    if role == "server":
        return int(session[f"bytes_{way}"])
    return int(sum(cost[f"client_bytes_{way}"] for cost in session["rounds"].values()))
