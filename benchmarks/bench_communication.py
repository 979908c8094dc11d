"""Measure traffic: the bytes of one client's session over its vector in the clear, compared with the paper's formula.

This counts all bytes that one client sends and receives, in all rounds, with session ids, flags and frames.  The vector
in the clear has 16 bits per element and is sent once.  Neither includes the model that an application sends to the
clients.  Bytes do not vary from run to run.
"""

from typing import Any

import pytest

from benchmarks import published
from benchmarks.neighborhood import Peers, published_bytes, traffic
from benchmarks.results import Entry
from secagg import GraphKind, Parameters, plan

pytestmark = pytest.mark.benchmark(group="communication")

_ROWS = published.communication()
_QUICK_CLIENTS = 1024


def parameters(num_clients: int, num_elements: int, graph: str) -> Parameters:
    """Plan 16-bit values: on a sparse graph for 5% corrupt clients and 5% dropouts, on a complete one for none."""
    sparse = graph == "sparse"
    return plan(
        num_clients=num_clients,
        vector_length=num_elements,
        value_bits=16,
        corrupt=0.05 if sparse else 0.0,
        dropout=0.05,
        graph=GraphKind(graph),
    ).parameters


@pytest.fixture(scope="module")
def peers(quick: bool) -> Peers:
    largest = _QUICK_CLIENTS if quick else max(row["clients"] for row in _ROWS)
    return Peers(largest - 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        quick = metafunc.config.getoption("--quick")
        rows = [row for row in _ROWS if not quick or row["clients"] <= _QUICK_CLIENTS]
        metafunc.parametrize("row", rows, ids=lambda row: f"{row['clients']}-{row['elements']}-{row['graph']}")


def bench_communication(benchmark: Any, row: dict[str, Any], peers: Peers) -> None:
    """Run one client's session; the time includes its messages, but not the making of its peers' keys."""
    params = parameters(row["clients"], row["elements"], row["graph"])
    found = benchmark.pedantic(traffic, args=(params, peers))
    clear = 2 * params.vector_length
    formula = published_bytes(row["clients"], row["elements"])
    entry: Entry = {
        "name": "bytes_of_a_client",
        "params": {name: row[name] for name in ("clients", "elements", "graph")},
        "neighbors": params.degree,
        "threshold": params.threshold,
        "ring_bits": params.ring_bits,
        "bytes_up": found.up,
        "bytes_down": found.down,
        "bytes": found.total,
        "bytes_in_the_clear": clear,
        "published_formula": formula / clear,
        "published": row["published"],
        "ratio": {
            "value": found.total / clear,
            "of": "bytes sent and received over 16-bit values in the clear",
            "goal": row["goal"],
            "higher_is_better": False,
        },
    }
    benchmark.extra_info.update(entry)
