"""`python -m benchmarks.training`: measure, and write benchmarks/results/training.json. Ten minutes on two idle cores.

With --quick, half a minute, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine
from benchmarks.results import FOLDER
from benchmarks.training.measure import FULL, QUICK, describe_torch, measure
from benchmarks.training.table import table

RESULTS = FOLDER / "training.json"


def main() -> None:
    """Measure the rows, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and clients; nothing is written")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed")
    options = parser.parse_args()
    results = []
    for row in QUICK if options.quick else FULL:
        results.append(measure(row, rounds=options.rounds))
        print(json.dumps(results[-1]), flush=True)
    document = {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(Path(__file__).parents[2]),
        "machine": {**machine.describe(), **describe_torch()},
        "results": results,
    }
    if not options.quick:
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(document))


if __name__ == "__main__":
    main()
