"""Kill `secagg serve` again and again while it samples, and compare every sum with the inputs of its clients.

    python -m tests.fl.network.kill_sampled [KILLS]

Ten clients are enrolled and eight are there; six are asked and four are enough.  The server is killed (signal 9) at
random moments and resumed; the clients keep running.
"""

import hashlib
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fl.network import client as joining
from fl.network.client import Participant
from fl.network.local_data import load_shard
from fl.network.offers import JoinOptions
from fl.network.policy import Policy
from tests.fl.network import harness, program
from tests.fl.network.harness import Client
from transport import Offer
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials
from transport.tcp import Retry

ENROLLED, PRESENT, SAMPLE, OVER_SELECT = 10, 8, 4, 1.5


def run(output: Connection, arguments: list[str]) -> None:
    """Run `secagg` with these arguments, in a separate process; it records each session's outcome in a file."""
    from fl.network.session_thread import SessionRequest, SessionThread
    from secagg import Completed
    from transport import SessionHost

    original = SessionThread.run

    def noted(thread: SessionThread, session: SessionRequest, observer: Any = None) -> SessionHost:
        host = original(thread, session, observer)
        if session.number:
            outcome = host.outcome
            line: dict[str, Any] = {"number": host.offer.number, "nonce": host.offer.nonce.hex(), "sum": None}
            line["asked"], line["dropped"] = len(host.client_ids), len(host.dropped)
            if isinstance(outcome, Completed):
                line["sum"] = hashlib.sha256(outcome.sum.astype("<u8").tobytes()).hexdigest()
                line["included"] = outcome.included
            with open(arguments[arguments.index("--data-dir") + 1] + "/sums", "a", encoding="ascii") as file:
                file.write(json.dumps(line) + "\n")
        return host

    SessionThread.run = noted  # type: ignore[method-assign, assignment]
    program.run(output, arguments)


class Inputs:
    """The clients' inputs, by session."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.offered = threading.Event()
        self.vectors: dict[str, dict[int, tuple[Any, int]]] = {}

    @property
    def client(self) -> type[Participant]:
        inputs = self

        class Noting(Participant):
            def _accept(self, offer: Offer) -> None:
                super()._accept(offer)
                inputs.offered.set()

            def _input(self, offer: Offer) -> Any:
                vector = super()._input(offer)
                with inputs.lock:
                    session = inputs.vectors.setdefault(offer.nonce.hex(), {})
                    # Slow ones are not waited for.
                    is_late = len(session) >= SAMPLE
                    session[self._options.client_id] = vector, offer.params.modulus
                if is_late:
                    time.sleep(random.uniform(0, 0.5))
                return vector

        return Noting

    def is_sum(self, line: dict[str, Any]) -> bool:
        """Return whether the recorded sum is that of the inputs of its listed clients."""
        session = self.vectors[line["nonce"]]
        modulus = next(iter(session.values()))[1]
        total = sum(session[i][0].astype(np.uint64) for i in line["included"]) & np.uint64(modulus - 1)
        return line["sum"] == hashlib.sha256(total.astype("<u8").tobytes()).hexdigest()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    return port


def kill_again_and_again(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill the server again and again; return the results in numbers."""
    # Clients come back at once: the kill must hit a round, and not a server that waits for them.
    joining._PATIENCE = Retry(first=0.1, longest=0.3)
    setattr(joining, "Retry", lambda **asked: Retry(first=0.05, longest=0.3, give_up=asked["give_up"]))  # noqa: B010 - the name that the module looks up
    harness.run = run  # type: ignore[attr-defined]
    rng, inputs, port = random.Random(seed), Inputs(), free_port()
    certs, out = folder / "certs", folder / "run"
    Authority.create(certs).issue(server_names=["localhost", "127.0.0.1"], client_ids=range(ENROLLED))
    common: tuple[object, ...] = (
        "--listen",
        f"127.0.0.1:{port}",
        "--certs",
        certs,
        "--data-dir",
        folder,
        "--retries",
        9,
    )
    common = (*common, "--join-seconds", 5, "--reply-seconds", 5, "--training-seconds", 20)
    first: tuple[object, ...] = (
        "serve",
        *common,
        "--dataset",
        "digits",
        "--model",
        "logistic",
        "--clients",
        ENROLLED,
        "--sample",
        SAMPLE,
    )
    first = (*first, "--over-select", OVER_SELECT, "--rounds", 100_000, "--epochs", 1, "--out", out)
    clients = []
    for client_id in range(PRESENT):
        credentials = Credentials.of_client(certs, client_id)
        options = JoinOptions(
            client_id=client_id, address=("127.0.0.1", port), tls=credentials, identity_key=credentials.key,
            directory=certs, state=folder / f"state-{client_id}", policy=Policy(), max_model_bytes=1 << 20,
            give_up=120.0, max_rounds=1_000_000,
        )  # fmt: skip
        said: list[str] = []
        data = load_shard("digits", None, (client_id, ENROLLED), scheme="iid", seed=0, alpha=1.0, per_client=2)
        clients.append(Client(inputs.client(options, data, said.append), said))
    ended: Counter[str] = Counter()
    server = harness.Program(*first)
    try:
        for client in clients:
            client.start()
        for _ in range(kills):
            server.wait_for("listening", 120)
            # Mostly within a round.
            inputs.offered.clear()
            inputs.offered.wait(30)
            time.sleep(rng.uniform(0, 1.0))
            server.kill()
            ended["resumed within a round"] += any("goes on where it was" in line for line in server.lines)
            server.close()
            server = harness.Program("serve", *common, "--resume", out)
        server.wait_for("listening", 120)
        time.sleep(5)
        server.kill()
        server.close()
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        server = harness.Program("serve", *common, "--resume", out, "--rounds", len(metrics) + 3)
        assert server.wait(120) == 0, server.lines[-5:]
    finally:
        server.close()
    for client in clients:
        client.finish(60)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (folder / "sums").read_text().splitlines()]
    sums = {line["nonce"]: line for line in lines if line["sum"] is not None}
    return {
        "kills": kills,
        **ended,
        "rounds": len(metrics),
        "rounds without a result": sum(record["aborted"] is not None for record in metrics),
        "sessions aborted": len({line["nonce"] for line in lines} - sums.keys()),
        "sums": len(sums),
        "exact": sum(inputs.is_sum(line) for line in sums.values()),
        "wrong": sum(not inputs.is_sum(line) for line in sums.values())
        + sum(sums[line["nonce"]]["sum"] != line["sum"] for line in lines if line["nonce"] in sums),
        "of a sample that was closed at its goal": sum(line["dropped"] > 0 for line in sums.values()),
        "asked": sorted({line["asked"] for line in lines}),
    }


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        result = kill_again_and_again(Path(name), kills, seed=1)
    for what, number in result.items():
        sys.stdout.write(f"{number!s:>8}  {what}\n")
    sys.exit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()
