"""Benchmarks of all pieces that cost time; ``extra_info`` has the ratio to the raw primitive that a piece uses.

Piece and primitive are timed in turn (`interleave`), so that changes in the machine's speed affect both.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import cases, cases_liars, private_cases, published
from benchmarks.case import Case
from benchmarks.interleave import MIN_ROUNDS, Comparison, Work, by_turns, compare, spread
from benchmarks.results import Entry
from secagg import Adversary, Completed, GraphKind, Round, masking, plan
from transport import FaultSchedule, RecoveryPool, WorkerPool, run_session
from transport.faults import Direction, Fault

Record = Callable[[Entry], None]

parametrize = pytest.mark.parametrize

# Packing to whole words is a view of the vector, which costs nothing.
_WIDTHS = (10, 20, 24, 26, 34, 63)


def _measure(benchmark: Any, case: Case) -> Comparison:
    """Time the piece alone, then in turn with its reference."""
    candidate, reference = case.build()
    benchmark(candidate)
    comparison = compare(candidate, reference, rounds=case.rounds)
    benchmark.extra_info.update(case.entry(comparison))
    return comparison


@pytest.mark.benchmark(group="mask")
def bench_keystream(benchmark: Any) -> None:
    _measure(benchmark, cases.prg_expansion())


@pytest.mark.benchmark(group="mask")
@parametrize("word_bits", [16, 32, 64])
@parametrize("masks", [1, 64])
def bench_mask(benchmark: Any, masks: int, word_bits: int) -> None:
    _measure(benchmark, cases.masked_add(masks, word_bits))


@pytest.mark.benchmark(group="unmask")
def bench_unmask(benchmark: Any) -> None:
    """Recover the masks of one dropped client, compared with their parts and the paper's milliseconds per pair."""
    case = cases.recovered_pair()
    comparison = _measure(benchmark, case)
    benchmark.extra_info.update(
        milliseconds_per_pair=1000 * median(comparison.candidate) / case.params["pairs"],
        goal_milliseconds_per_pair=0.15,
        published_milliseconds_per_pair=published.EXPANSION_MILLISECONDS,
    )


@pytest.mark.benchmark(group="share")
def bench_share(benchmark: Any) -> None:
    _measure(benchmark, cases.shamir_share())


@pytest.mark.benchmark(group="share")
def bench_reconstruct(benchmark: Any) -> None:
    _measure(benchmark, cases.shamir_reconstruct())


@pytest.mark.benchmark(group="share")
@parametrize("case", [cases.key_agreement(), cases.seal_shares(), cases.open_shares()], ids=lambda case: case.name)
def bench_channel(benchmark: Any, case: Case) -> None:
    _measure(benchmark, case)


@pytest.mark.benchmark(group="pack")
@parametrize("ring_bits", _WIDTHS)
def bench_pack(benchmark: Any, ring_bits: int) -> None:
    _measure(benchmark, cases.packed("there", ring_bits))


@pytest.mark.benchmark(group="pack")
@parametrize("ring_bits", [*_WIDTHS, 32])
def bench_unpack(benchmark: Any, ring_bits: int) -> None:
    _measure(benchmark, cases.packed("back", ring_bits))


@pytest.mark.benchmark(group="message")
@parametrize("way", ["there", "back"])
@parametrize("make", [cases.masked_input, cases.peer_keys], ids=["masked_input", "peer_keys"])
def bench_message(benchmark: Any, make: Callable[[str], Case], way: str) -> None:
    """Encode and decode a message."""
    _measure(benchmark, make(way))


@pytest.mark.benchmark(group="private")
@parametrize("elements", [100_000, 1_000_000])
def bench_private_encoding(benchmark: Any, elements: int) -> None:
    _measure(benchmark, private_cases.private_encoding(elements))


@pytest.mark.benchmark(group="private")
def bench_noise(benchmark: Any) -> None:
    case = private_cases.noise(cases.LENGTH)
    comparison = _measure(benchmark, case)
    benchmark.extra_info["values_per_second"] = cases.LENGTH / median(comparison.candidate)


@pytest.mark.benchmark(group="liars")
@parametrize("clients", [200, 1000])
@parametrize(
    "make", [cases_liars.recovery_with_liars, cases_liars.explanation], ids=["recovery_with_liars", "explanation"]
)
def bench_liars(benchmark: Any, make: Callable[[int], Case], clients: int) -> None:
    _measure(benchmark, make(clients))


@pytest.mark.benchmark(group="liars")
@parametrize("peers", [200, 600])
def bench_refused_views(benchmark: Any, peers: int) -> None:
    _measure(benchmark, cases_liars.refused_views(peers))


@pytest.mark.benchmark(group="round")
@parametrize("adversary", list(Adversary), ids=lambda adversary: adversary.value)
@parametrize(("clients", "graph"), [(20, "complete"), (100, "complete"), (100, "sparse")])
def bench_round(benchmark: Any, clients: int, graph: str, adversary: Adversary) -> None:
    """Run a whole session in memory on one core: 100,000 values of 16 bits; a tenth of the clients drop out."""
    params = plan(
        num_clients=clients,
        vector_length=100_000,
        value_bits=16,
        dropout=0.1,
        corrupt=0.05 if graph == "sparse" else 0.0,
        graph=GraphKind(graph),
        adversary=adversary,
    ).parameters
    inputs = {i: np.full(params.vector_length, i, dtype=np.uint16) for i in range(clients)}
    place = Round.MASKED_INPUT_COLLECTION, Direction.UP
    faults = FaultSchedule({(i, *place): Fault.VANISH for i in range(clients // 10)})
    report = benchmark.pedantic(
        run_session, args=(params, inputs), kwargs={"faults": faults}, rounds=5, warmup_rounds=1
    )
    assert isinstance(report.outcome, Completed)
    assert (report.outcome.sum == sum(range(clients // 10, clients))).all()
    name, shown = "round", {"clients": clients, "graph": graph, "adversary": adversary.value}
    benchmark.extra_info.update(group="micro", name=name, params=shown, bytes_up=report.bytes_up)


@pytest.mark.benchmark(group="two cores")
def bench_two_threads(benchmark: Any, record: Record) -> None:
    """Add 64 masks by one thread, and by two threads of 32 masks with separate vectors, as a split job does."""
    length = cases.LENGTH
    masks = cases.random_masks(64)
    vectors = [np.zeros(length, dtype="<u4") for _ in range(2)]
    raw = [cases.raw_keystreams(32, 4 * length) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:

        def two() -> None:
            list(pool.map(masking.accumulate, vectors, (masks[:32], masks[32:])))

        works: list[Work] = [
            partial(masking.accumulate, vectors[0], masks),
            two,
            lambda: [work() for work in raw],
            lambda: list(pool.map(lambda work: work(), raw)),
        ]
        benchmark(two)
        one, both, raw_one, raw_both = by_turns(works, rounds=9)
    params = {"elements": length, "word_bits": 32, "masks": 64, "threads": 2}
    machine = Comparison(raw_both, raw_one)
    entry = _scaled("masked_add_threads", params, Comparison(both, one), "speed of two threads over one", 1.6)
    benchmark.extra_info.update(entry | _idle_core(entry["name"], machine))
    record(_scaled("raw_keystream_threads", params, machine, "speed of two threads over one", None))


@pytest.mark.benchmark(group="two cores")
def bench_recovery_on_two_cores(benchmark: Any, quick: bool, record: Record) -> None:
    """Recover the masks of 30% of the clients by two threads, and by two processes, compared with one core."""
    num_clients = 100 if quick else 200
    num_dropped = 3 * num_clients // 10
    job = cases.recovery_job(num_survivors=num_clients - num_dropped, num_dropped=num_dropped, ring_bits=32)
    params = {"clients": num_clients, "dropout": 0.3, "elements": job.vector_length, "ring_bits": 32}
    raw = [cases.raw_keystreams(64, 4 * job.vector_length) for _ in range(2)]
    first_job = cases.recovery_job(num_survivors=100, num_dropped=10, ring_bits=32, vector_length=1)
    with RecoveryPool(2) as pool, ThreadPoolExecutor(2) as pair:
        started = perf_counter()
        pool.start()
        pool.run(first_job)  # a child answers once it has loaded the library
        pool_start = perf_counter() - started
        works: list[Work] = [
            job.run,
            partial(job.run, workers=2),
            partial(pool.run, job),
            lambda: [work() for work in raw],
            lambda: list(pair.map(lambda work: work(), raw)),
        ]
        one, threads, processes, raw_one, raw_both = by_turns(works, rounds=MIN_ROUNDS)
        benchmark.pedantic(pool.run, args=(job,), rounds=3)
    of = "speed of two processes over one core"
    entry = _scaled("recovery_two_processes", params, Comparison(processes, one), of, 1.7)
    entry |= {"masks": job.num_masks, "pool_start_seconds": pool_start}
    benchmark.extra_info.update(entry | _idle_core(entry["name"], Comparison(raw_both, raw_one)))
    record(_scaled("recovery_two_threads", params, Comparison(threads, one), "speed of two threads over one", None))


@pytest.mark.benchmark(group="two cores")
@parametrize(("clients", "graph"), [(100, "complete"), (400, "sparse")])
def bench_session_on_two_cores(benchmark: Any, quick: bool, clients: int, graph: str) -> None:
    """Run a whole session of 100,000 values with its clients in two worker processes, compared with one core."""
    clients = clients // 4 if quick else clients
    corrupt = 0.05 if graph == "sparse" else 0.0
    params = plan(
        num_clients=clients, vector_length=100_000, value_bits=16, corrupt=corrupt, graph=GraphKind(graph)
    ).parameters
    inputs = cases.SameInputs(params.vector_length)
    raw = [cases.raw_keystreams(64, 4 * params.vector_length) for _ in range(2)]
    with WorkerPool(2) as pool, ThreadPoolExecutor(2) as pair:
        pool.start()
        works: list[Work] = [
            partial(run_session, params, inputs),
            partial(run_session, params, inputs, pool=pool),
            lambda: [work() for work in raw],
            lambda: list(pair.map(lambda work: work(), raw)),
        ]
        one, both, raw_one, raw_both = by_turns(works, rounds=MIN_ROUNDS)
        report = benchmark.pedantic(run_session, args=(params, inputs), kwargs={"pool": pool}, rounds=1)
    assert report.workers == 2
    assert report.outcome.included == tuple(range(clients))
    shown = {"clients": clients, "graph": graph, "elements": params.vector_length}
    entry = _scaled("session_two_processes", shown, Comparison(both, one), "speed of two processes over one core", 1.8)
    benchmark.extra_info.update(entry | _idle_core(entry["name"], Comparison(raw_both, raw_one)))


@pytest.mark.benchmark(group="chunk size")
@parametrize("elements", [100_000, 1_000_000])
@parametrize("threads", [1, 2])
def bench_chunk_size(benchmark: Any, record: Record, elements: int, threads: int) -> None:
    """Draw and add masks in chunks of 32 KiB to 2 MiB, in two passes: the library's size is one of the protocol."""
    num_masks = 16
    sizes = [1 << exponent for exponent in range(15, 22)]
    with ThreadPoolExecutor(threads) as pool:
        adds = [[_chunked_add(4 * elements, size, num_masks) for _ in range(threads)] for size in sizes]
        works = [partial(_run_all, pool, one) for one in adds]
        seconds = dict(zip(sizes, by_turns(works, rounds=MIN_ROUNDS), strict=True))
        best = min(sizes, key=lambda size: median(seconds[size]))
        for size in sizes:
            comparison = Comparison(seconds[size], seconds[best])
            params = {"chunk_kib": size >> 10, "elements": elements, "threads": threads}
            entry = _scaled("chunk_size", params, comparison, f"speed over that of the best, {best >> 10} KiB", None)
            entry["gigabytes_per_second"] = threads * num_masks * 4 * elements / entry["seconds"]["median"] / 1e9
            if size == sizes[0]:
                benchmark.extra_info.update(entry)
                benchmark(works[0])
            else:
                record(entry)


def _run_all(pool: ThreadPoolExecutor, works: list[Callable[[], None]]) -> None:
    for done in [pool.submit(work) for work in works]:
        done.result()


def _chunked_add(size: int, chunk_bytes: int, num_masks: int) -> Callable[[], None]:
    """Return a function that adds ``num_masks`` masks of ``size`` bytes to one u32 vector, chunk by chunk."""
    ciphers = [AESGCM(os.urandom(16)) for _ in range(num_masks)]
    vector = np.zeros(size // 4, dtype="<u4")
    zeros, buffer = memoryview(bytes(chunk_bytes)), memoryview(bytearray(chunk_bytes + 16))
    words = np.frombuffer(buffer, dtype="<u4", count=chunk_bytes // 4)

    def add() -> None:
        for chunk, start in enumerate(range(0, len(vector), len(words))):
            part = vector[start : start + len(words)]
            drawn, nonce = words[: len(part)], chunk.to_bytes(12, "big")
            for cipher in ciphers:
                cipher.encrypt_into(nonce, zeros[: part.nbytes], None, buffer[: part.nbytes + 16])
                np.add(part, drawn, out=part)

    return add


def _scaled(name: str, params: dict[str, Any], comparison: Comparison, of: str, goal: float | None) -> Entry:
    return {
        "group": "micro",
        "name": name,
        "params": params,
        "seconds": spread(comparison.candidate),
        "reference_seconds": spread(comparison.reference),
        "ratio": {"value": comparison.speed, "of": of, "goal": goal, "higher_is_better": True},
    }


def _idle_core(name: str, machine: Comparison) -> dict[str, Any]:
    """Return the speed-up of two threads of the raw keystream meanwhile, with a note if a core was busy."""
    found: dict[str, Any] = {"raw_keystream_threads": machine.speed}
    if machine.speed < 1.6:
        found["note"] = (
            f"While {name} ran, two threads of the raw keystream were only {machine.speed:.2f} times as fast as one: "
            "something else had a core, so this run does not tell what two cores give."
        )
    return found
