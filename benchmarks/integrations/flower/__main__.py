"""Run all modes one after the other, each in a process of its own, and write the figures.

    make bench-flower CLIENTS="10 50"

Flower plain runs first and last: what it took the second time says how much the machine's own speed moved meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine

REPOSITORY = Path(__file__).resolve().parents[3]
RESULTS = Path(__file__).with_name("results.json")
_ORDER = ("plain", "secagg", "secagg+", "secagg", "plain")


def main() -> None:
    """See the module's own words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more starts the engine")
    parser.add_argument("--workers", type=int, default=2, help="of the simulation engine")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    kept = json.loads(chosen.out.read_text(encoding="utf-8"))["runs"] if chosen.out.exists() else []
    runs = [run for run in kept if run["clients"] not in chosen.clients]
    for clients in chosen.clients:
        for mode in _ORDER:
            result = _case(mode, clients, chosen.rounds, chosen.workers)
            print(f"{clients} clients, {mode}: {median(result['seconds']):.2f} s a round", file=sys.stderr, flush=True)
            runs.append(result)
    result = {"machine": machine.describe(), "commit": machine.commit(REPOSITORY), "runs": runs}
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _case(mode: str, clients: int, rounds: int, workers: int) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "benchmarks.integrations.flower.case", f"--mode={mode}", f"--clients={clients}",
        f"--rounds={rounds}", f"--workers={workers}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(  # noqa: S603 - our own
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{mode} with {clients} clients failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


if __name__ == "__main__":
    main()
