"""Seconds for a round of `secagg serve` that samples a population on this machine; clients' training is made up.

    python -m tests.fl.network.load_sampled [--enrolled 1000] [--present 667] [--sample 300] [--over-select 1.1]

Everything else is real: TLS, the protocol's machines, the encoding of updates, the journal.  The clients share the
machine with the server, in a few processes; the server's own CPU seconds show its part.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fl.aggregation.encoding import ClientUpdate, UpdateEncoding
from fl.network import client as joining
from fl.network.announcement import RoundAnnouncement, decode_announcement
from fl.network.client import Participant
from fl.network.local_data import LocalData
from fl.network.offers import JoinOptions, OverError
from fl.network.own_inputs import announced_in
from fl.network.policy import Policy
from secagg import Adversary, GraphKind
from tests.fl.network import harness
from tests.fl.network.kill_sampled import free_port
from tests.transport.children import cpu_seconds
from transport import Offer, SessionRefusedError
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials
from transport.durable.participation import IN_MEMORY

_POLICY = Policy(adversary=Adversary.HONEST_BUT_CURIOUS, graph=GraphKind.SPARSE)


def clients_of(folder: Path, port: int, client_ids: list[int], sizes: tuple[int, ...]) -> None:
    """Run these clients to the training's end, in one event loop."""
    # In a real deployment each client's record is on its own machine's disk.
    setattr(joining, "open_participation", lambda _: IN_MEMORY)  # noqa: B010 - the name that the module looks up
    update = ClientUpdate(np.full(sum(sizes), 0.001, dtype=np.float32), 10, 5.0, ((5, 10),))
    data = LocalData(torch.zeros(10, 1, 8, 8), torch.arange(10))

    class Loaded(Participant):
        async def run(self) -> None:
            while True:
                self._announced = None
                try:
                    end = await self._session()
                except OverError:
                    return
                except SessionRefusedError:
                    await asyncio.sleep(0.3)
                    continue
                if self._is_last(end, self._has_answered()):
                    return

        def _accept(self, offer: Offer) -> None:
            self._options.policy.check(offer.params)
            decoded = decode_announcement(offer.extra)
            if not isinstance(decoded, RoundAnnouncement):
                raise OverError("the training is over")
            self._announced = decoded

        def _input(self, offer: Offer) -> Any:
            announced = announced_in(offer)
            encoding = UpdateEncoding(
                sizes=sizes, num_clients=offer.params.num_clients, value_bits=announced.value_bits,
                scales=announced.scales,
            )  # fmt: skip
            return encoding.encode(update, np.random.default_rng(0))

    async def all_of_them() -> None:
        def client(client_id: int) -> Participant:
            credentials = Credentials.of_client(folder / "certs", client_id)
            options = JoinOptions(
                client_id=client_id, address=("127.0.0.1", port), tls=credentials, policy=_POLICY,
                max_model_bytes=1 << 26, give_up=300.0,
            )  # fmt: skip
            return Loaded(options, data, lambda _: None)

        await asyncio.gather(*(client(client_id).run() for client_id in client_ids))

    asyncio.run(all_of_them())


def peak_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    # A process that has just ended has none any more.
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run the population; return figures."""
    from fl.learning.models import model_outline
    from fl.learning.parameter_layout import ParameterLayout

    sizes = ParameterLayout.of(model_outline(asked.model, (1, 8, 8), 10)).sizes
    Authority.create(folder / "certs").issue(server_names=["localhost", "127.0.0.1"], client_ids=range(asked.enrolled))
    port = free_port()
    server = harness.Program(
        "serve", "--listen", f"127.0.0.1:{port}", "--certs", folder / "certs", "--dataset", "digits",
        "--model", asked.model, "--adversary", "honest-but-curious", "--graph", "sparse", "--clients", asked.enrolled,
        "--sample", asked.sample, "--over-select", asked.over_select, "--rounds", asked.rounds, "--out", folder / "run",
    )  # fmt: skip
    processes = []
    try:
        server.wait_for("listening", 120)
        pid = server._process.pid
        assert pid is not None
        started, usage = time.monotonic(), [(cpu_seconds(pid), 0.0)]
        present = list(range(asked.present))
        context = multiprocessing.get_context("spawn")
        for part in range(asked.processes):
            ids = present[part :: asked.processes]
            processes.append(context.Process(target=clients_of, args=(folder, port, ids, sizes), daemon=True))
            processes[-1].start()
        while server._process.is_alive():
            usage.append((cpu_seconds(pid), peak_megabytes(pid)))
            server._process.join(0.2)
        seconds = time.monotonic() - started
        assert server.wait() == 0, server.lines[-5:]
    finally:
        server.close()
        for process in processes:
            process.join(10)
            process.kill()
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    plan = next(line for line in server.lines if line.startswith("secure aggregation"))
    return {
        "plan": plan,
        "parameters": sum(sizes),
        "rounds": len(metrics),
        "asked": [record["sampled"] for record in metrics],
        "included": [len(record["included"]) for record in metrics],
        "seconds a round": [round(record["seconds"], 1) for record in metrics],
        "server CPU s": round(usage[-2][0] - usage[0][0], 1),
        "server CPU s a round": round((usage[-2][0] - usage[0][0]) / len(metrics), 2),
        "server peak MB": round(max(megabytes for _, megabytes in usage)),
        "seconds in all": round(seconds, 1),
        "load": os.getloadavg(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--enrolled", type=int, default=1000)
    parser.add_argument("--present", type=int, default=667)
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--over-select", type=float, default=1.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--processes", type=int, default=3)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), asked)
    for what, figure in result.items():
        sys.stdout.write(f"{what}: {figure}\n")


if __name__ == "__main__":
    main()
