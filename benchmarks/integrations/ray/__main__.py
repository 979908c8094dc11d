"""`.venv-ray/bin/python -m benchmarks.integrations.ray`: writes benchmarks/results/ray.json. Two minutes on idle cores.

With --quick, half a minute with smaller jobs, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.integrations.ray.table import table
from benchmarks.interleave import by_turns
from benchmarks.results import FOLDER
from fl.engines.ray.cluster import RayCluster, connected
from fl.engines.ray.recovery import RayRecovery
from secagg import UnmaskJob
from secagg.primitives import agreement
from secagg.unmask_job import RecoveredMaskKey
from transport import RecoveryPool

RESULTS = FOLDER / "ray.json"

# Survivors, vanished, values: 500 clients of which 30% vanished, as in the paper's figure; 20 with a long vector.
_FULL = ((350, 150, 100_000), (19, 1, 10_000_000))
_QUICK = ((200, 40, 100_000), (19, 1, 10_000_000))


def _job(survivors: int, vanished: int, values: int) -> UnmaskJob:
    """The job of a session on the complete graph: real keys, made up for it."""
    keys = tuple(agreement.public_key(os.urandom(32)) for _ in range(survivors))
    ids = tuple(range(survivors))
    return UnmaskJob(
        session_id=os.urandom(32),
        ring_bits=26,
        vector_length=values,
        self_mask_seeds=tuple((i, os.urandom(16)) for i in ids),
        recovered=tuple(RecoveredMaskKey(survivors + i, os.urandom(16), ids, keys) for i in range(vanished)),
    )


def _measure(job: UnmaskJob, rounds: int) -> dict[str, Any]:
    """Seconds by turns, the medians; each way has to give the same masks."""
    # The same two Ray workers in both cases: with one of them the job is one part.
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller jobs; nothing is written")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    options = parser.parse_args()
    with connected(workers=2):
        results = [_measure(_job(*sizes), options.rounds) for sizes in (_QUICK if options.quick else _FULL)]
    document = {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(Path(__file__).parents[3]),
        "machine": {**machine.describe(), "ray": metadata.version("ray")},
        "results": results,
    }
    if not options.quick:
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(document))


if __name__ == "__main__":
    main()
