"""Sessions with injected faults, counted: python -m tests.transport.count_faults [--sessions 48] [--first-seed 0]

Sessions through a proxy that spoils bytes, and the kill matrix. A wrong sum ends the run with exit code 1.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.transport.kill_matrix import matrix, run_matrix
from tests.transport.network import deployment
from tests.transport.test_tcp_faults import AT_ONCE, CLIENTS, check, session


async def through_the_proxy(certs, seeds):
    """Return counts of outcomes and the number of faults. AssertionError for a wrong sum."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(seed):
        async with turn:
            return await session(certs, seed)

    outcomes, faults = Counter(), 0
    for params, inputs, report, results, proxy in await asyncio.gather(*map(one, seeds)):
        outcomes["exact" if check(params, inputs, report, results) else "typed abort"] += 1
        faults += len(proxy.spoiled)
    return outcomes, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=48)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("transport").setLevel(logging.CRITICAL)
    seeds = range(options.first_seed, options.first_seed + options.sessions)
    try:
        with tempfile.TemporaryDirectory() as directory:
            certs = deployment(Path(directory) / "certs", CLIENTS)
            proxied, faults = asyncio.run(through_the_proxy(certs, seeds))
        runs = matrix()
        killed = asyncio.run(run_matrix(runs))
    except AssertionError as error:
        print(f"a session went wrong: {error}")  # noqa: T201
        return 1
    table = [
        (f"bytes spoiled ({faults} faults)", len(seeds), proxied["exact"], proxied["typed abort"]),
        ("server killed", len(runs) - killed["over before the kill"], killed["exact"], killed["Aborted"]),
    ]
    table.append(("all", *(sum(row[column] for row in table) for column in (1, 2, 3))))
    for name, number, exact, aborted in table:
        print(f"{name}: {number} sessions, {exact} exact, {aborted} typed aborts, {number - exact - aborted} wrong")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
