"""Compare Flower in the clear, with its own SecAgg+, and with secagg: the same model, data and rounds.

    make bench-flower CLIENTS="10 50"

Each mode runs in a separate process (`flower_case`). Flower in the clear runs first and last, which shows the change of
the machine's speed meanwhile. `make generated` puts the table into docs/integrations/flower.md.
"""

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.blocks import REPOSITORY, read_results, write_results

_NAMES = {"plain": "Flower, in the clear", "secagg+": "Flower's SecAgg+ (legacy API)", "secagg": "Flower with secagg"}
_ORDER = ("plain", "secagg", "secagg+", "secagg", "plain")


def main() -> None:
    """Run all modes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds; one more round starts the engine")
    parser.add_argument("--workers", type=int, default=2, help="workers of the simulation engine")
    chosen = parser.parse_args()
    _measure(chosen)


def _measure(chosen: argparse.Namespace) -> None:
    runs = [run for run in read_results("flower")["runs"] if run["clients"] not in chosen.clients]
    for clients in chosen.clients:
        for mode in _ORDER:
            result = _case(mode, clients, chosen.rounds, chosen.workers)
            print(f"{clients} clients, {mode}: {median(result['seconds']):.2f} s a round", file=sys.stderr, flush=True)
            runs.append(result)
    write_results("flower", {"machine": machine.describe(), "commit": machine.commit(REPOSITORY), "runs": runs})


def _case(mode: str, clients: int, rounds: int, workers: int) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "benchmarks.flower_case", f"--mode={mode}", f"--clients={clients}",
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


def table(results: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    machine, runs = results["machine"], results["runs"]
    first = runs[0]
    lines = [
        f"{first['parameters']:,} parameters (the 2NN of McMahan et al. on MNIST, 300 images a client, one epoch), "
        f"{first['rounds']} rounds a run, Flower's simulation engine on {machine['cores']} cores ({machine['cpu']}), "
        f"flwr {first['flwr']}, ray {first['ray']}, commit {results['commit']}; training included. `make bench-flower` "
        "runs all modes one after the other, those with two runs before and after the others.",
        "",
        "| clients | | seconds a round | kB down a client and round | kB up | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for clients in sorted({run["clients"] for run in runs}):
        for mode, name in _NAMES.items():
            same = [run for run in runs if run["clients"] == clients and run["mode"] == mode]
            if not same:
                continue
            seconds = ", ".join(f"{median(run['seconds']):.2f}" for run in same)
            accuracy = ", ".join(sorted({f"{run['accuracy'][-1]:.4f}" for run in same}))
            lines.append(
                f"| {clients} | {name} | {seconds} | {same[0]['bytes_down_per_client'] / 1e3:.0f} | "
                f"{same[0]['bytes_up_per_client'] / 1e3:.0f} | {accuracy} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
