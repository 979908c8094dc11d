"""Compare secagg with other libraries' secure aggregation: the same work on the same machine, in one run.

secagg runs directly before and directly after each peer, and the slower run counts, so that changes in the machine's
speed cannot favour secagg.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.interleave import spread
from benchmarks.peers import environment, same_work
from benchmarks.results import Entry

pytestmark = pytest.mark.benchmark(group="peers")

LENGTH = 100_000
_THRESHOLD = 0.6

# Shortcomings of the peers, in the releases that the results name.
_FLOWER_NOTE = "Flower's masks, shares and dropouts differ: see [other systems](threat-model.md#other-systems)."
_DECLEARN_NOTE = (
    "declearn has neither self-masks nor shares, and survives no dropout; its masks come from PCG64, which is not a "
    "cryptographic generator. secagg's time includes a self-mask for each client."
)
_SIGNED_NOTE = (
    "declearn's handshakes are signed by long-lived identity keys; secagg's keys are not signed in this mode."
)

# Name, clients (few, where a mask takes long), and what its masking leaves out.
_MASKING_MODULES = {
    "openfl": (
        "OpenFL",
        20,
        "OpenFL adds the same two numbers, from a Mersenne Twister, to every element, so differences of elements are "
        "in the clear; and its clients give the aggregator all shares of all seeds before they train.",
    ),
    "appfl": (
        "APPFL",
        5,
        "APPFL derives all masks from one secret that every client knows, draws them as normal floats, whose deviation "
        "of 1 hides nothing larger, and survives no dropout.",
    ),
    "fedbiomed": (
        "Fed-BioMed LOM",
        10,
        "Fed-BioMed's LOM has neither self-masks nor shares, and survives no dropout. It takes and returns lists of "
        "Python's ints.",
    ),
}

Result = TypeVar("Result")


@pytest.mark.parametrize(("clients", "vanish"), [(10, 1), (100, 10)])
def bench_flower_round(benchmark: BenchmarkFixture, quick: bool, clients: int, vanish: int) -> None:
    """Run a whole SecAgg+ round in which all clients share with all; the goal is for the largest number of clients."""
    if quick and clients > 10:
        pytest.skip("not with --quick: minutes of Flower's time")
    environment.require("flwr")
    # Flower rounds its threshold in this way.
    threshold = round(_THRESHOLD * clients)
    own, flower = _bracketed(
        benchmark,
        lambda: same_work.run_round(clients, vanish, LENGTH, threshold),
        lambda: environment.run_script(
            "flower_round.py", clients=clients, vanish=vanish, length=LENGTH, threshold=_THRESHOLD
        ),
    )
    assert all(result.exact for result in own)
    # The quantization step is 2 * 8 / 2^22 = 3.8e-6: a wrong sum is off by far more.
    assert flower["max_abs_error"] < 1e-4
    entry = _entry("flower_round", "Flower", flower, flower["seconds"], [result.seconds for result in own])
    entry |= {
        "params": {"clients": clients, "vanish": vanish},
        "work": f"whole round, complete graph, {LENGTH:,} float32 in {same_work.FLOWER_BITS} bits",
        "peer_stages": flower["stages"],
        "peer_max_abs_error": flower["max_abs_error"],
        "max_abs_error": max(result.max_abs_error for result in own),
        "note": _FLOWER_NOTE,
    }
    entry["ratio"]["goal"] = 100.0 if clients == 100 else None
    benchmark.extra_info.update(entry)


@pytest.mark.parametrize("clients", [20, 100])
def bench_declearn_masking(
    benchmark: BenchmarkFixture, quick: bool, record: Callable[[Entry], None], clients: int
) -> None:
    """Mask a vector for each client, without and with the key agreement of all pairs, the same on both sides."""
    if quick and clients > 20:
        pytest.skip("not with --quick: that is of 20 clients at most")
    environment.require("declearn")
    # declearn keeps this many of the 32 bits free for the sum.
    value_bits = 32 - (clients - 1).bit_length()
    own, declearn = _bracketed(
        benchmark,
        lambda: same_work.run_masking(clients, LENGTH, value_bits),
        lambda: environment.run_script("declearn_masking.py", clients=clients, length=LENGTH, value_bits=value_bits),
    )
    assert all(result.exact for result in own)
    assert declearn["exact"]
    work = f"all clients, {LENGTH:,} values of {value_bits} bits modulo 2^32"
    masking = [result.masking_seconds for result in own]
    entry = _entry("declearn_masking", "declearn", declearn, declearn["masking_seconds"], masking)
    entry |= {
        "params": {"clients": clients},
        "work": f"masking, keys agreed beforehand, {work}",
        "note": _DECLEARN_NOTE,
    }
    benchmark.extra_info.update(entry)

    both = [result.masking_seconds + result.agreement_seconds for result in own]
    peer_both = declearn["masking_seconds"] + declearn["agreement_seconds"]
    entry = _entry("declearn_agreement_and_masking", "declearn", declearn, peer_both, both)
    entry |= {
        "params": {"clients": clients},
        "work": f"key agreement and masking, {work}",
        "note": _SIGNED_NOTE,
    }
    record(entry)


@pytest.mark.parametrize("peer", _MASKING_MODULES)
def bench_masking_module(benchmark: BenchmarkFixture, peer: str) -> None:
    """Mask a vector for each client with the released masking module of a peer, keys agreed beforehand."""
    environment.require(peer)
    name, clients, note = _MASKING_MODULES[peer]
    value_bits = 32 - (clients - 1).bit_length()
    own, theirs = _bracketed(
        benchmark,
        lambda: same_work.run_masking(clients, LENGTH, value_bits),
        lambda: environment.run_script(
            "masking_modules.py", peer=peer, clients=clients, length=LENGTH, value_bits=value_bits
        ),
    )
    assert all(result.exact for result in own)
    assert theirs["exact"]
    masking = [result.masking_seconds for result in own]
    entry = _entry("masking_module", name, theirs, theirs["masking_seconds"], masking)
    entry |= {
        "params": {"peer": peer, "clients": clients},
        "work": f"masking, keys agreed beforehand, all clients, {LENGTH:,} values",
        "note": f"{note} secagg's time includes a self-mask for each client.",
    }
    if peer == "openfl":
        # A client's mask is one number: this is no measure of speed.
        entry["ratio"]["goal"] = None
    benchmark.extra_info.update(entry)


def _bracketed(
    benchmark: BenchmarkFixture, own: Callable[[], Result], peer: Callable[[], dict[str, Any]]
) -> tuple[list[Result], dict[str, Any]]:
    """Run ``own``, ``peer``, ``own``; only the first and last are rounds of the benchmark."""
    own_results: list[Result] = []
    peer_results: list[dict[str, Any]] = []

    def between() -> None:
        if own_results:
            peer_results.append(peer())

    benchmark.pedantic(lambda: own_results.append(own()), setup=between, rounds=2, iterations=1)
    return own_results, peer_results[0]


def _entry(name: str, peer: str, result: dict[str, Any], peer_seconds: float, own_seconds: list[float]) -> Entry:
    """Return the fields that all comparisons with a peer have; the sums of both sides were checked."""
    return {
        "group": "peers",
        "name": name,
        "seconds": spread(tuple(own_seconds)),
        "peer": peer,
        "peer_version": result["version"],
        "length": LENGTH,
        "peer_seconds": peer_seconds,
        "secagg_seconds": max(own_seconds),
        "exact": True,
        "ratio": {
            "value": peer_seconds / max(own_seconds),
            "of": "the peer's time over secagg's",
            "goal": 1.0,
            "higher_is_better": True,
        },
    }
