"""Measure the growth of cost with the clients (sparse graph, about log n neighbours) and with the vector length."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.results import Entry
from benchmarks.simulated import VALUE_BITS, simulate, to_entry
from secagg import GraphKind, Plan, plan

pytestmark = pytest.mark.benchmark(group="scaling")

# 5% of the clients may work with an honest-but-curious server; 5% drop out between their shares and their masked input.
_CORRUPT = _DROPOUT = 0.05

_CURVE_LENGTH = 100_000
_CURVE_CLIENTS = (100, 300, 1000, 10_000)
_QUICK_CLIENTS = 1000

_FEW_CLIENTS = 20
_LENGTHS = (10_000, 100_000, 1_000_000, 10_000_000)
_QUICK_LENGTH = 1_000_000

# The largest session takes four minutes and 2 GB.
_LIMITS = {"seconds": 240.0, "peak_rss_bytes": 2e9}


@pytest.mark.parametrize("clients", _CURVE_CLIENTS)
def bench_clients(benchmark: BenchmarkFixture, quick: bool, clients: int) -> None:
    """Run sessions with more and more clients on the sparse graph."""
    if quick and clients > _QUICK_CLIENTS:
        pytest.skip("not with --quick: a minute")
    entry = _session(benchmark, "clients", clients, _CURVE_LENGTH, sparse=True)
    if clients == max(_CURVE_CLIENTS):
        measured = {"seconds": entry["seconds"]["median"], "peak_rss_bytes": entry["peak_rss_bytes"]}
        limits = {name: {"value": measured[name], "most": most} for name, most in _LIMITS.items()}
        benchmark.extra_info["limits"] = limits


@pytest.mark.parametrize("length", _LENGTHS)
def bench_length(benchmark: BenchmarkFixture, quick: bool, length: int) -> None:
    """Run sessions with longer and longer vectors of a few clients on the complete graph."""
    if quick and length > _QUICK_LENGTH:
        pytest.skip(f"not with --quick: that is of {_QUICK_LENGTH:,} values at most")
    _session(benchmark, "length", _FEW_CLIENTS, length, sparse=False)


def bench_degree(benchmark: BenchmarkFixture) -> None:
    """Plan the number of neighbours of a client, for up to a million clients; this runs no session."""
    counts = [round(10 ** (exponent / 4)) for exponent in range(8, 25)]
    plans = benchmark.pedantic(lambda: [_sparse_plan(count).parameters for count in counts], rounds=1, iterations=1)
    benchmark.extra_info["params"] = {"plans": len(plans)}
    benchmark.extra_info["curve"] = [
        {"clients": params.num_clients, "degree": params.degree, "threshold": params.threshold} for params in plans
    ]


def _sparse_plan(clients: int) -> Plan:
    return plan(
        num_clients=clients,
        vector_length=1,
        value_bits=VALUE_BITS,
        dropout=_DROPOUT,
        corrupt=_CORRUPT,
        graph=GraphKind.SPARSE,
    )


def _session(benchmark: BenchmarkFixture, name: str, clients: int, length: int, *, sparse: bool) -> Entry:
    """Run one session and add its figures to the results; its sum must be exact."""
    result = benchmark.pedantic(
        lambda: simulate(clients, length, dropout=_DROPOUT, corrupt=_CORRUPT if sparse else 0.0, sparse=sparse),
        rounds=1,
        iterations=1,
    )
    assert result["exact"] is True, result["aborted"] or "the sum is wrong"
    entry = {"group": "scaling", "name": name, **to_entry(result)}
    benchmark.extra_info.update(entry)
    return entry
