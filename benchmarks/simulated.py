"""Run one session by `secagg simulate` in a separate process, so that its peak memory is that of the session."""

import json
import subprocess
import sys
from typing import Any

from benchmarks.results import Entry
from secagg import Adversary

VALUE_BITS = 16


def simulate(
    clients: int,
    length: int,
    *,
    dropout: float = 0.0,
    corrupt: float = 0.0,
    sparse: bool = False,
    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS,
    workers: int = 0,
) -> dict[str, Any]:
    """Return the command's JSON output; clients drop out before their masked input."""
    command = [sys.executable, "-m", "fl", "simulate", "--json", "--value-bits", str(VALUE_BITS)]
    command += ["--clients", str(clients), "--length", str(length), "--corrupt", str(corrupt)]
    command += ["--graph", "sparse" if sparse else "complete"]
    command += ["--adversary", adversary.value, "--workers", str(workers)]
    if dropout:
        command += ["--dropout", f"masked-input-collection={dropout}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if not done.stdout:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"secagg simulate ended with code {done.returncode}: {lines[-1]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def to_entry(result: dict[str, Any]) -> Entry:
    """Return a session's figures for the results: times in seconds, sizes in bytes; a client's figures are medians."""
    rounds = result["rounds"].values()
    plan = result["plan"]
    clear = plan["vector_length"] * VALUE_BITS / 8
    moved = sum(cost["client_bytes_up"] + cost["client_bytes_down"] for cost in rounds)
    total = result["seconds"]
    return {
        "params": {"clients": plan["num_clients"], "length": plan["vector_length"]},
        "seconds": {"median": total, "min": total, "max": total, "rounds": 1},
        "degree": plan["degree"],
        "threshold": plan["threshold"],
        "ring_bits": plan["ring_bits"],
        "included": result["included"],
        "exact": result["exact"],
        "client_seconds": sum(cost["client_seconds"] for cost in rounds),
        "server_seconds": sum(cost["server_seconds"] for cost in rounds),
        "client_bytes_up": sum(cost["client_bytes_up"] for cost in rounds),
        "client_bytes_down": sum(cost["client_bytes_down"] for cost in rounds),
        "peak_rss_bytes": result["peak_rss_bytes"],
        "ratio": {
            "value": moved / clear,
            "of": f"bytes that a client moves, over its {VALUE_BITS}-bit values in the clear",
            "goal": None,
            "higher_is_better": False,
        },
    }
