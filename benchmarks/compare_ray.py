"""Compare the recovery of masks by Ray workers with one core and with `transport.RecoveryPool`: `make bench-ray`.

It takes two minutes on idle cores. The table goes into docs/scaling.md (`scaling_plan --write`).

With --quick it takes half a minute with smaller jobs, and writes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import metadata
from statistics import median
from typing import Any

import numpy as np

from benchmarks.blocks import new_document, write_results
from benchmarks.cases import recovery_job
from benchmarks.interleave import by_turns
from secagg import UnmaskJob
from transport import RecoveryPool

# Survivors, dropped clients, values: 500 clients of which 30% dropped out, as in the paper's figure; 20 with a long
# vector.
_FULL = ((350, 150, 100_000), (19, 1, 10_000_000))
_QUICK = ((200, 40, 100_000), (19, 1, 10_000_000))


def _job(survivors: int, vanished: int, values: int) -> UnmaskJob:
    return recovery_job(num_survivors=survivors, num_dropped=vanished, ring_bits=26, vector_length=values)


def _measure(job: UnmaskJob, rounds: int) -> dict[str, Any]:
    """Return median seconds, timed in turn; all ways must give the same masks."""
    from fl.engines.ray.cluster import RayCluster
    from fl.engines.ray.recovery import RayRecovery

    # Both cases use the same two Ray workers; for one worker the job is one part.
    one, two = RayCluster(None), RayCluster(None)
    one.cores = 1
    with RecoveryPool(2) as pool:
        works: dict[str, Callable[[], Any]] = {
            "one core": lambda: job.run(1),
            "ray 1": lambda: RayRecovery(one).run(job),
            "ray 2": lambda: RayRecovery(two).run(job),
            "two processes": lambda: pool.run(job),
        }
        vectors = [work().vector for work in works.values()]
        assert all(np.array_equal(vectors[0], vector) for vector in vectors[1:])
        taken = dict(zip(works, by_turns(list(works.values()), rounds=rounds, sample_seconds=0), strict=True))
    return {
        "params": {"masks": job.num_masks, "agreements": job.num_agreements, "values": job.vector_length},
        "split_by": "ranges" if job.split(2)[-1].first else "masks",
        "rounds": rounds,
        "seconds": {name: round(median(seconds), 4) for name, seconds in taken.items()},
        "speed_of_two": round(median(a / b for a, b in zip(taken["ray 1"], taken["ray 2"], strict=True)), 3),
    }


def main() -> None:
    """Measure the jobs, one after the other."""
    from fl.engines.ray.cluster import connected

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller jobs; nothing is written")
    parser.add_argument("--rounds", type=int, default=5, help="number of timings of each")
    options = parser.parse_args()
    with connected(workers=2):
        results = [_measure(_job(*sizes), options.rounds) for sizes in (_QUICK if options.quick else _FULL)]
    document = new_document(results, ray=metadata.version("ray"))
    if not options.quick:
        write_results("ray", document)
    print(table(document))


def table(document: dict[str, Any]) -> str:
    """Return a Markdown table with a line for each job."""
    lines = [
        "| masks | of them agreed | values | split by | one core | Ray, 1 worker | Ray, 2 workers "
        "| 2 workers over 1 | two processes |",
        "| ---: | ---: | ---: | :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in document["results"]:
        params, seconds = row["params"], row["seconds"]
        lines.append(
            f"| {params['masks']:,} | {params['agreements']:,} | {params['values']:,} | {row['split_by']} | "
            + " | ".join(f"{seconds[name]:.2f} s" for name in ("one core", "ray 1", "ray 2"))
            + f" | {row['speed_of_two']:.2f} | {seconds['two processes']:.2f} s |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
