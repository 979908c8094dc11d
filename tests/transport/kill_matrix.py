"""The kill matrix: sessions over TLS whose server process is killed at a point and restarted on its journal."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.sessions import any_session, exact_sum, make_params, random_inputs
from tests.transport.network import deployment
from transport.certificates.reading import Credentials
from transport.durable import frames as link
from transport.tcp import Retry, join_session

ROOT = Path(__file__).resolve().parents[2]
MOST_CLIENTS = 6
AT_ONCE = 4
RETRY = Retry(first=0.02, longest=0.15, give_up=40)


@dataclass(frozen=True)
class Run:
    """One session: the point where its server is killed, and its size, from a seed."""

    seed: int
    point: str
    number: float

    @property
    def clients(self):
        return 4 + self.seed % 3

    @property
    def length(self):
        return (10, 2000, 30_000)[self.seed % 3]


def matrix():
    """Return every kind of point, early, midway and late; a session of n clients has n messages in a round."""
    runs = []

    def add(point, number):
        runs.append(Run(len(runs), point, number))

    for round_ in range(4):
        # The first message of each round, one in its middle, and the last: the round's boundary.
        for place in range(3):
            clients = 4 + len(runs) % 3
            add("message", round_ * clients + (0, clients // 2, clients - 1)[place])
    # The session itself, then each round at least once.
    for number in range(5):
        add("before-commit", number)
        add("after-commit", number)
    for number in (0, 1):
        add("recovery", number)
        add("finish", number)
        add("save", number)
    for number in (0, 1, 3):
        add("end", number)
    for _ in range(6):
        # At any time: by a clock, from outside.
        add("time", random.Random(len(runs)).uniform(0.02, 0.2))
    return runs


class Servers:
    """The process that forks servers. An async context manager."""

    def __init__(self):
        self._told = {}
        self._changed = asyncio.Condition()

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.transport.kill_server",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_):
        for told in self._told.values():
            if "ended" not in told and "pid" in told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(told["pid"], signal.SIGKILL)
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def _read(self):
        async for line in self._process.stdout:
            told = json.loads(line)
            async with self._changed:
                self._told.setdefault(told["run"], {}).update(told)
                self._changed.notify_all()

    def start(self, run, **order):
        """Start a server; report it under the name ``run``."""
        self._process.stdin.write((json.dumps({"run": run, **order}) + "\n").encode())

    async def told(self, run, key):
        """Return the value that the run's server reports for ``key``, once it does."""
        async with asyncio.timeout(40), self._changed:
            await self._changed.wait_for(lambda: key in self._told.get(run, {}))
        return self._told[run][key]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return reserved.getsockname()[1]


async def kill_and_resume(run, servers, directory, certs, database=None):
    """Play one session; return "exact", "over before the kill", or an abort. A wrong sum raises."""
    params = make_params(run.clients, run.clients // 2 + 1, vector_length=run.length)
    inputs = random_inputs(params, run.seed)
    port = free_port()
    result = directory / f"{run.seed}.result"
    order = {
        "port": port,
        "certs": str(certs),
        "clients": run.clients,
        "threshold": params.threshold,
        "length": run.length,
        "journal": str(directory / f"{run.seed}.journal"),
        "result": str(result),
    }
    if database is not None:
        order["database"] = database
    first, second = f"{run.seed} first", f"{run.seed} second"
    servers.start(first, **order, kill_at=[run.point, run.number])
    await servers.told(first, "listening")

    async def client(i):
        # Apart, so that the server sees them one by one.
        await asyncio.sleep(0.004 * i)
        tls = Credentials.of_client(certs, i)
        return await join_session(inputs[i], address=("127.0.0.1", port), tls=tls, accept=any_session, retry=RETRY)

    clients = [asyncio.create_task(client(i)) for i in inputs]
    try:
        if run.point == "time":
            await asyncio.sleep(run.number)
            with contextlib.suppress(ProcessLookupError):
                os.kill(await servers.told(first, "pid"), signal.SIGKILL)
        ended = await servers.told(first, "ended")
        assert ended == -signal.SIGKILL or (run.point == "time" and ended == 0), (run, ended)
        # As in an application: once its sum is there, a session is not run again.
        again = ended and not (run.point == "time" and list(result.glob("whole-*")))
        if again:
            servers.start(second, **order)
            assert await servers.told(second, "ended") == 0, run
            assert database is None or not await servers.told(second, "left"), run
        async with asyncio.timeout(20):
            ends = await asyncio.gather(*clients)
    finally:
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    assert not Path(order["journal"]).exists() or (ended and not again), run
    saved = [json.loads(path.read_text()) for path in result.glob("whole-*")]
    # If it was killed after saving, the sum comes a second time, and is the same.
    assert len(saved) == (2 if (run.point, run.number) == ("save", 1) else 1), run
    for found in saved:
        if found["outcome"] != "Completed":
            return found["outcome"]
        assert found["sum"] == exact_sum(params, [inputs[i] for i in found["included"]]), run
        # No client was lost, and none waited in vain.
        assert found["included"] == list(inputs), run
    assert {end.code for end in ends} == {link.EndCode.COMPLETED}, run
    return "exact" if ended else "over before the kill"


async def run_matrix(runs, database=None):
    """Run the matrix, with the journals in files or in a database; return counts of the outcomes."""
    turn = asyncio.Semaphore(AT_ONCE)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        certs = deployment(directory / "certs", MOST_CLIENTS)
        async with Servers() as servers:

            async def one(run):
                async with turn:
                    return await kill_and_resume(run, servers, directory, certs, database)

            return Counter(await asyncio.gather(*map(one, runs)))
