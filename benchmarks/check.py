"""The regression check: ``python -m benchmarks.check`` exits with 1 if a piece of the library has become slower.

The limits are not seconds: each piece is timed in turn with the raw primitive that it uses, and tables/floors.json has
a limit for the ratio of the two.  It also has the bytes of a client's messages, which must match exactly.  A ratio that
breaks its limit is measured twice more: a busy machine rarely causes this three times, but a change of the code does.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cases, cases_liars, private_cases
from benchmarks.bench_communication import parameters
from benchmarks.case import Case
from benchmarks.neighborhood import Peers, traffic

FLOORS = Path(__file__).parent / "tables" / "floors.json"
ATTEMPTS = 3

CASES = (
    cases.prg_expansion(),
    cases.masked_add(1, 32),
    cases.masked_add(64, 32),
    cases.masked_add(64, 64),
    cases.recovered_pair(),
    cases.shamir_share(),
    cases.shamir_reconstruct(),
    cases.key_agreement(),
    cases.seal_shares(),
    cases.open_shares(),
    cases_liars.recovery_with_liars(200),
    cases.packed("there", 26),
    cases.packed("back", 26),
    cases.masked_input("there"),
    cases.masked_input("back"),
    cases.peer_keys("there"),
    cases.peer_keys("back"),
    private_cases.private_encoding(cases.LENGTH),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A line of the table: the measured value and the limit."""

    what: str
    found: str
    limit: str
    passed: bool


def check_ratio(case: Case, limit: float) -> Verdict:
    """Measure until the ratio is within its limit, at most ATTEMPTS times; the best ratio counts."""
    values: list[float] = []
    for _ in range(ATTEMPTS):
        values.append(case.value(case.measure()))
        if _within(case, values[-1], limit):
            break
    best = min(values) if case.costs else max(values)
    sign = "<=" if case.costs else ">="
    tries = "" if len(values) == 1 else f" (attempt {len(values)})"
    return Verdict(case.id, f"{best:.3f}{tries}", f"{sign} {limit:.3f}", _within(case, best, limit))


def check_bytes(row: dict[str, Any], peers: Peers) -> Verdict:
    """Check a client's traffic in one session, to the byte."""
    found = traffic(parameters(row["clients"], row["elements"], row["graph"]), peers).total
    what = f"bytes-clients={row['clients']}-elements={row['elements']}-graph={row['graph']}"
    return Verdict(what, str(found), f"== {row['bytes']}", found == row["bytes"])


def run(floors: dict[str, Any], chosen: Iterable[Case] = CASES) -> list[Verdict]:
    """Run all checks; raise KeyError if a case has no limit."""
    verdicts = [check_ratio(case, floors["ratios"][case.id]["limit"]) for case in chosen]
    # A complete graph needs many peers; a sparse graph needs few.
    peers = Peers(max((row["peers"] for row in floors["bytes"]), default=0))
    return verdicts + [check_bytes(row, peers) for row in floors["bytes"]]


def report(verdicts: list[Verdict]) -> str:
    """Return the table, and a line for each regression."""
    widths = [max(len(getattr(verdict, name)) for verdict in verdicts) for name in ("what", "found", "limit")]
    lines = [
        f"{v.what.ljust(widths[0])}  {v.found.ljust(widths[1])}  {v.limit.ljust(widths[2])}  "
        f"{'ok' if v.passed else 'REGRESSION'}"
        for v in verdicts
    ]
    broken = [verdict for verdict in verdicts if not verdict.passed]
    lines += ["", *(f"REGRESSION: {v.what} is {v.found}, but the limit is {v.limit}" for v in broken)]
    if not broken:
        lines.append(f"no regression: {len(verdicts)} checks")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 if anything regressed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--measure", type=int, metavar="RUNS", help="print values of RUNS runs, to set limits by")
    options = parser.parse_args(arguments)
    if options.measure:
        _measure(options.measure)
        return 0
    verdicts = run(json.loads(FLOORS.read_text(encoding="utf-8")))
    print(report(verdicts))
    if os.environ.get("CI") and any(not verdict.passed for verdict in verdicts):
        print("If the change is intended, set new limits: see benchmarks/README.md.")
    return int(any(not verdict.passed for verdict in verdicts))


def _within(case: Case, value: float, limit: float) -> bool:
    return value <= limit if case.costs else value >= limit


def _measure(runs: int) -> None:
    for case in CASES:
        values = sorted(case.value(case.measure()) for _ in range(runs))
        print(json.dumps({"case": case.id, "least": values[0], "median": values[runs // 2], "most": values[-1]}))
    for row in json.loads(FLOORS.read_text(encoding="utf-8"))["bytes"]:
        found = traffic(parameters(row["clients"], row["elements"], row["graph"]), Peers(row["peers"]))
        print(json.dumps({**row, "bytes": found.total}))


if __name__ == "__main__":
    sys.exit(main())
