"""Compare the intake of one server process with that of one and two fronts on Ray: `make bench-fronts`.

Clients' work is recorded before, so that the cores serve the server; all over TLS on loopback, with a journal on the
disk. On a machine with few cores, clients' TLS still takes its part of them: therefore the table has, beside seconds,
the CPU seconds of the server's busiest process while inputs come in, which bound it on a machine with more cores.

With --quick it takes half a minute with small sizes, and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import secagg
from benchmarks.blocks import new_document, write_results
from benchmarks.recorded_clients import NONCE, record, repeatable, replay
from secagg import GraphKind, Parameters, Round
from secagg.messages import MaskedInput
from tests.transport.children import Child, cpu_seconds, may_open
from tests.transport.network import deadlines, deployment
from transport import Journal, RecoveryPool, SessionHost
from transport.certificates.reading import Credentials
from transport.fronts.coordinator import Coordinator
from transport.fronts.front import FrontSettings
from transport.fronts.server import FrontedServer
from transport.tcp import Limits, SessionServer

MODULE = "benchmarks.compare_fronts"
FRONTS = (0, 1, 2)
# Clients, values.
_FULL = ((2000, 100_000), (200, 1_000_000))
_QUICK = ((60, 100_000),)
_MASKED = Round.MASKED_INPUT_COLLECTION


def _params(clients: int, values: int) -> Parameters:
    return secagg.plan(
        num_clients=clients, vector_length=values, value_bits=16, graph=GraphKind.SPARSE, dropout=0.05
    ).parameters


async def _serve(options: dict[str, Any]) -> None:
    """Serve one session, here or over fronts, and print its figures."""
    params, certs = _params(options["clients"], options["values"]), Path(options["certs"])
    # All clients come at once, from one address, and share the server's cores.
    limits = Limits(
        farewell_seconds=30,
        first_byte_seconds=120,
        handshake_seconds=120,
        idle_seconds=300,
        handshakes=8192,
        handshakes_per_address=8192,
        connections_per_address=4096,
    )
    tls, now = Credentials.of_server(certs), asyncio.get_running_loop().time
    arguments: dict[str, Any] = {"deadlines": deadlines(600), "nonce": NONCE, "entropy": repeatable("server")}
    journal = Journal(options["journal"])
    if options["fronts"]:
        from fl.engines.ray.cluster import connected
        from fl.fronts.channels import ray_fronts

        settings = FrontSettings(("127.0.0.1", 0), tls, limits)
        with connected(workers=max(2, options["fronts"])) as cluster:
            fronts = ray_fronts(cluster, settings, options["fronts"], f"bench-{os.getpid()}")
            async with FrontedServer(fronts, limits) as server:
                processes = [int(one.incarnation.partition("-")[0]) for one in server._channels.values()]
                await _run(server, Coordinator(params, now=now(), journal=journal, **arguments), processes)
    else:
        async with SessionServer(("127.0.0.1", 0), tls, limits) as single:
            await _run(single, SessionHost(params, now=now(), journal=journal, **arguments), [])
    journal.delete()


async def _run(server: Any, host: Any, fronts: list[int]) -> None:
    processes = [os.getpid(), *fronts]
    marks: dict[str, tuple[float, list[float]]] = {}

    def mark(name: str) -> None:
        marks.setdefault(name, (time.monotonic(), [cpu_seconds(process) for process in processes]))

    def observe(host: Any) -> None:
        if host.status.received:
            mark("first")
        if host.round is _MASKED:
            mark("opened")
        elif "opened" in marks:
            mark("closed")

    print(json.dumps({"addresses": server.addresses}), flush=True)
    with RecoveryPool(1) as pool:
        await server.run(host, pool, observe)
    mark("end")
    passed = {
        name: (marks[until][0] - marks[since][0], np.subtract(marks[until][1], marks[since][1]).tolist())
        for name, since, until in (("inputs", "opened", "closed"), ("session", "first", "end"))
    }
    print(
        json.dumps({"passed": passed, "sum": int(host.outcome.sum.sum()), "included": len(host.outcome.included)}),
        flush=True,
    )


def _measure(clients: int, values: int, rounds: int, loaders: int) -> dict[str, Any]:
    params = _params(clients, values)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certs = deployment(folder / "certs", clients)
        total = int(record(params, folder).sum())
        runs: dict[int, list[dict[str, Any]]] = {count: [] for count in FRONTS}
        for turn in range(rounds):
            for count in FRONTS[:: 1 if turn % 2 else -1]:
                runs[count].append(_session(folder, certs, clients, values, count, loaders))
                assert runs[count][-1]["included"] == clients
                assert runs[count][-1]["sum"] == total
    size = secagg.max_message_bytes(params, MaskedInput)
    found: dict[str, Any] = {}
    for count, sessions in runs.items():
        inputs = median(one["passed"]["inputs"][0] for one in sessions)
        # The first is the process with the machine; without fronts it is the only one.
        busiest = median(max(one["passed"]["inputs"][1]) for one in sessions)
        found[str(count)] = {
            "seconds_of_inputs": round(inputs, 3),
            "seconds": round(median(one["passed"]["session"][0] for one in sessions), 3),
            "cpu_of_busiest": round(busiest, 3),
            "cpu_of_coordinator": round(median(one["passed"]["session"][1][0] for one in sessions), 3),
            "cpu": round(median(sum(one["passed"]["session"][1]) for one in sessions), 3),
            "mb_a_second": round(clients * size / inputs / 1e6, 1),
            "mb_a_cpu_second": round(clients * size / busiest / 1e6, 1),
        }
    return {
        "params": {"clients": clients, "values": values, "degree": params.degree, "input_bytes": size},
        "rounds": rounds,
        "fronts": found,
    }


def _session(folder: Path, certs: Path, clients: int, values: int, fronts: int, loaders: int) -> dict[str, Any]:
    options = {
        "certs": str(certs), "clients": clients, "values": values, "fronts": fronts,
        "journal": str(folder / f"journal-{time.monotonic_ns()}"),
    }  # fmt: skip
    started = [Child(MODULE, "serve", **options)]
    try:
        addresses = started[0].wait_for("addresses", 300)["addresses"]
        for part in range(loaders):
            own = list(range(part, clients, loaders))
            started.append(Child(MODULE, "load", folder=str(folder), own=own, addresses=addresses, certs=str(certs)))
        for child in started[1:]:
            child.wait_for("ready", 300)
        for child in started[1:]:
            child.go()
        passed = dict(started[0].wait_for("passed", 600))
        for child in started[1:]:
            child.wait_for("done", 60)
        return passed
    finally:
        for child in started:
            child.close()


def table(document: dict[str, Any]) -> str:
    """Return a Markdown table with a line for each size and number of fronts."""
    lines = [
        "| clients | values | fronts | inputs, MB/s | session, clients/s | MB per CPU s of the busiest process "
        "| CPU s of the coordinator | CPU ms a client, all |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in document["results"]:
        clients = row["params"]["clients"]
        for count, found in row["fronts"].items():
            lines.append(
                f"| {clients:,} | {row['params']['values']:,} | {'none' if count == '0' else count} | "
                f"{found['mb_a_second']:,.0f} | {clients / found['seconds']:,.0f} | {found['mb_a_cpu_second']:,.0f} | "
                f"{found['cpu_of_coordinator']:.2f} | {1000 * found['cpu'] / clients:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure the sizes, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is written")
    parser.add_argument("--size", type=int, nargs=2, metavar=("CLIENTS", "VALUES"), help="one size; nothing is written")
    parser.add_argument("--rounds", type=int, default=3, help="number of sessions of each kind")
    parser.add_argument("--loaders", type=int, default=2, help="number of processes with clients")
    options = parser.parse_args()
    if not may_open(8192):
        sys.exit("the limit on open files is too low: ulimit -n 8192")
    sizes: tuple[tuple[int, int], ...] = _QUICK if options.quick else _FULL
    if options.size:
        sizes = ((options.size[0], options.size[1]),)
    results = [_measure(*size, 1 if options.quick else options.rounds, options.loaders) for size in sizes]
    document = new_document(results, ray=metadata.version("ray"))
    if not options.quick and not options.size:
        write_results("fronts", document)
    print(table(document))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", text]:
            asyncio.run(_serve(json.loads(text)))
        case ["load", text]:
            given = json.loads(text)
            where = [tuple(one) for one in given["addresses"]]
            asyncio.run(replay(Path(given["folder"]), given["own"], where, Path(given["certs"])))
        case _:
            main()
