"""Every piece that costs time, beside the raw primitive under it: the ratio is measured by turns, and is the result."""

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

from benchmarks import cases_encoding, cases_liars, cases_masking, cases_sharing, cases_views
from benchmarks.case import Case
from benchmarks.interleave import MIN_ROUNDS, Comparison, Work, by_turns, compare, spread
from benchmarks.results import Entry
from benchmarks.tables import published
from secagg import masking
from transport import RecoveryPool

Record = Callable[[Entry], None]

_MASKED_ADDS = [cases_masking.masked_add(masks, bits) for bits in (16, 32, 64) for masks in (1, 64)]
_SHARING = [
    cases_sharing.shamir_share(),
    cases_sharing.shamir_reconstruct(),
    cases_sharing.key_agreement(),
    cases_sharing.seal_shares(),
    cases_sharing.open_shares(),
]
# Packing to whole words is a view of the vector: there is nothing to measure.
_WIDTHS = (10, 20, 24, 26, 34, 63)
_PACKING = [
    *(cases_encoding.packed("there", bits) for bits in _WIDTHS),
    *(cases_encoding.packed("back", bits) for bits in (*_WIDTHS, 32)),
]
_CODEC = [make(way) for make in (cases_encoding.masked_input, cases_encoding.peer_keys) for way in ("there", "back")]
_VIEWS = [cases_views.refused_views(peers) for peers in (200, 600)]
_LIARS = [make(clients) for make in (cases_liars.recovery, cases_liars.explanation) for clients in (200, 1000)]
_CASES = [cases_masking.prg_expansion(), *_MASKED_ADDS, *_SHARING, *_PACKING, *_CODEC, *_VIEWS, *_LIARS]


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.id)
def bench_piece(benchmark: Any, case: Case) -> None:
    candidate, reference = case.build()
    comparison = compare(candidate, reference, rounds=case.rounds, sample_seconds=case.sample_seconds)
    _report(benchmark, candidate, case.entry(comparison))


def bench_recovered_pair(benchmark: Any) -> None:
    """The server's work for one pair, beside its parts and beside the paper's milliseconds."""
    case = cases_masking.recovered_pair()
    candidate, reference = case.build()
    comparison = compare(candidate, reference, rounds=case.rounds)
    milliseconds = 1000 * median(comparison.candidate) / case.params["pairs"]
    entry = case.entry(comparison)
    entry |= {
        "milliseconds_per_pair": milliseconds,
        "goal_milliseconds_per_pair": 0.15,
        "published_milliseconds_per_pair": published.EXPANSION_MILLISECONDS,
    }
    _report(benchmark, candidate, entry)


def bench_two_threads(benchmark: Any, record: Record) -> None:
    """64 masks by one thread, and by two of 32 each, each with a vector of its own, as a split job has them."""
    length = 1_000_000
    masks = cases_masking.random_masks(64)
    vectors = [np.zeros(length, dtype="<u4") for _ in range(2)]
    raw = [cases_masking.raw_keystreams(32, 4 * length) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:

        def two() -> None:
            list(pool.map(masking.accumulate, vectors, (masks[:32], masks[32:])))

        works: list[Work] = [
            partial(masking.accumulate, vectors[0], masks),
            two,
            lambda: [work() for work in raw],
            lambda: list(pool.map(lambda work: work(), raw)),
        ]
        one, both, raw_one, raw_both = by_turns(works, rounds=9)
        params = {"elements": length, "word_bits": 32, "masks": 64, "threads": 2}
        machine = Comparison(raw_both, raw_one)
        entry = _scaled("masked_add_threads", params, Comparison(both, one), "speed of two threads over one", 1.6)
        _report(benchmark, two, entry | _idle_core(entry["name"], machine))
    record(_scaled("raw_keystream_threads", params, machine, "speed of two threads over one", None))


def bench_recovery_on_two_cores(benchmark: Any, quick: bool, record: Record) -> None:
    """A whole recovery, 30% vanished: by two threads, and by two processes that are there already, over one core."""
    num_clients = 100 if quick else 200
    num_dropped = 3 * num_clients // 10
    job = cases_masking.recovery_job(num_survivors=num_clients - num_dropped, num_dropped=num_dropped, ring_bits=32)
    params = {"clients": num_clients, "dropout": 0.3, "elements": job.vector_length, "ring_bits": 32}
    raw = [cases_masking.raw_keystreams(64, 4 * job.vector_length) for _ in range(2)]

    first_job = cases_masking.recovery_job(num_survivors=100, num_dropped=10, ring_bits=32, vector_length=1)
    with RecoveryPool(2) as pool, ThreadPoolExecutor(2) as pair:
        started = perf_counter()
        pool.start()
        pool.run(first_job)  # a child that is starting answers when it has loaded the library
        pool_start = perf_counter() - started
        works: list[Work] = [
            job.run,
            partial(job.run, workers=2),
            partial(pool.run, job),
            lambda: [work() for work in raw],
            lambda: list(pair.map(lambda work: work(), raw)),
        ]
        one, threads, processes, raw_one, raw_both = by_turns(works, rounds=MIN_ROUNDS)
        of = "speed of two processes over one core"
        entry = _scaled("recovery_two_processes", params, Comparison(processes, one), of, 1.7)
        entry |= {"masks": job.num_masks, "pool_start_seconds": pool_start}
        entry |= _idle_core(entry["name"], Comparison(raw_both, raw_one))
        _report(benchmark, partial(pool.run, job), entry, rounds=1)
    record(_scaled("recovery_two_threads", params, Comparison(threads, one), "speed of two threads over one", None))


def bench_chunk_size(benchmark: Any, quick: bool, record: Record) -> None:
    """Keystream and addition in chunks of 16 KiB to 4 MiB: the library's 1 MiB is a constant of the protocol."""
    size, num_masks = 4 << 20, 8 if quick else 16
    sizes = [1 << exponent for exponent in range(14, 23)]
    works = [_chunked_add(size, chunk_bytes, num_masks) for chunk_bytes in sizes]
    seconds = dict(zip(sizes, by_turns(works, rounds=MIN_ROUNDS), strict=True))
    best = min(sizes, key=lambda chunk_bytes: median(seconds[chunk_bytes]))
    for chunk_bytes in sizes:
        comparison = Comparison(seconds[chunk_bytes], seconds[best])
        params = {"chunk_kib": chunk_bytes >> 10}
        entry = _scaled("chunk_size", params, comparison, f"speed over that of the best, {best >> 10} KiB", None)
        entry["gigabytes_per_second"] = num_masks * size / entry["seconds"]["median"] / 1e9
        if chunk_bytes == sizes[0]:
            _report(benchmark, works[0], entry)
        else:
            record(entry)


def _chunked_add(size: int, chunk_bytes: int, num_masks: int) -> Callable[[], None]:
    """``num_masks`` masks of ``size`` bytes added to one u32 vector, all of them chunk by chunk."""
    ciphers = [AESGCM(os.urandom(16)) for _ in range(num_masks)]
    vector = np.zeros(size // 4, dtype="<u4")
    zeros, buffer = bytes(chunk_bytes), bytearray(chunk_bytes + 16)
    words = np.frombuffer(buffer, dtype="<u4", count=chunk_bytes // 4)

    def add() -> None:
        for chunk, start in enumerate(range(0, len(vector), len(words))):
            part = vector[start : start + len(words)]
            nonce = chunk.to_bytes(12, "big")
            for cipher in ciphers:
                cipher.encrypt_into(nonce, zeros, None, buffer)
                np.add(part, words, out=part)

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
    """What two threads of the raw keystream reached meanwhile, and a note if that says that a core was taken."""
    found: dict[str, Any] = {"raw_keystream_threads": machine.speed}
    if machine.speed < 1.6:
        found["note"] = (
            f"while {name} ran, two threads of the raw keystream were but {machine.speed:.2f} times as fast as one: "
            "something else had a core, and what two cores give cannot be told from this run"
        )
    return found


def _report(benchmark: Any, work: Callable[[], object], entry: Entry, rounds: int = 3) -> None:
    """What was measured by turns is the result; pytest-benchmark's own rounds are for its display."""
    benchmark.group = entry["group"]
    benchmark.extra_info.update(entry)
    benchmark.pedantic(work, rounds=rounds)
