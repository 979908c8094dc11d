"""Real processes over TLS on loopback: some are killed with signal 9, and the sum is still exact."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secagg import Completed
from tests.support.sessions import any_session, exact_sum, make_params, random_inputs
from tests.transport import children
from tests.transport.network import deadlines, deployment, served
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials
from transport.durable import frames as link
from transport.tcp import Limits, Retry, join_session

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]
SEED = 5


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 20)


class Child(children.Child):
    """A child process and the lines that it prints."""

    def __init__(self, what, **options):
        super().__init__("tests.transport.network_child", what, **options)

    def wait_for(self, condition, seconds=30):  # type: ignore[override]
        """Return the first line that meets the condition, also an earlier one."""
        seen = 0
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if condition(line):
                        return line
                seen = len(self.lines)
                if self._ended or not self._changed.wait(end - time.monotonic()):
                    raise AssertionError(f"it never printed that, but {[str(line)[:80] for line in self.lines[-3:]]}")

    def wait(self):
        """Wait until the process has ended."""
        return self._process.wait(30)

    def kill(self):
        """Kill the process with signal 9, and wait for its end."""
        self._process.send_signal(signal.SIGKILL)
        self.close()


@pytest.fixture
def start():
    """Start children; those that still run at the end are ended, by their own id."""
    begun = []

    def started(what, **options):
        begun.append(Child(what, **options))
        return begun[-1]

    yield started
    for child in begun:
        child.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return reserved.getsockname()[1]


def test_twenty_client_processes_some_killed_in_each_phase(certs, start):
    params = make_params(20, 11, vector_length=2000)
    inputs = random_inputs(params, seed=SEED)
    port = free_port()
    # The message at which each client stops: before it is sent, or after.
    stops = {3: (0, False), 7: (1, False), 8: (1, True), 11: (2, False), 12: (2, True), 15: (3, False), 16: (3, True)}

    async def scenario():
        options = {"port": port, "certs": str(certs), "clients": 20, "threshold": 11, "length": 2000, "wait": True}
        children = {}
        for i in inputs:
            at = {} if i not in stops else {"stop_at": stops[i][0], "after": stops[i][1]}
            children[i] = await asyncio.to_thread(start, "join", id=i, seed=SEED, **options, **at)
        for child in children.values():
            await asyncio.to_thread(child.wait_for, lambda line: "ready" in line, 60)
        # Where a process dies, its phase's deadline is waited for: this is the test's duration.
        limits = Limits(farewell_seconds=0.5)
        async with served(params, certs, deadlines=deadlines(2), limits=limits, address=("127.0.0.1", port)) as serving:
            for child in children.values():
                child.go()

            async def kill(child):
                await asyncio.to_thread(child.wait_for, lambda line: "stopped" in line)
                await asyncio.to_thread(child.kill)

            killing = [asyncio.create_task(kill(children[i])) for i in stops]
            report = await serving.task
            for one in killing:
                one.cancel()
            await asyncio.gather(*killing, return_exceptions=True)
            ends = [
                await asyncio.to_thread(child.wait_for, lambda line: "end" in line)
                for i, child in children.items()
                if i not in stops
            ]
            return report, ends

    report, ends = asyncio.run(scenario())
    assert isinstance(report.outcome, Completed)
    assert report.outcome.sum.tolist() == exact_sum(params, [inputs[i] for i in report.outcome.included])
    # Client 12 died after its masked input was out: the sum is exact with or without this input.
    assert {3, 7, 8, 11} <= set(report.dropped) <= set(stops)
    assert set(inputs) - {3, 7, 8, 11, 12} <= set(report.outcome.included) <= set(inputs) - {3, 7, 8, 11}
    assert {tuple(end.items()) for end in ends} == {(("end", "COMPLETED"),)}


@pytest.mark.parametrize(
    ("round_", "received"),
    [
        ("ADVERTISE_KEYS", 2),
        ("SHARE_KEYS", 0),
        ("SHARE_KEYS", 3),
        ("MASKED_INPUT_COLLECTION", 0),
        ("MASKED_INPUT_COLLECTION", 2),
        ("UNMASKING", 0),
        ("UNMASKING", 3),
    ],
)
def test_a_server_that_is_killed_continues_from_its_journal(certs, start, tmp_path, round_, received):
    num_clients = 5
    params = make_params(num_clients, num_clients, vector_length=2000)
    inputs = random_inputs(params, seed=SEED)
    port = free_port()
    options = {
        "port": port,
        "certs": str(certs),
        "clients": num_clients,
        "threshold": num_clients,
        "length": 2000,
        "journal": str(tmp_path / "journal"),
        "deadline": 20,
    }

    async def scenario():
        server = await asyncio.to_thread(start, "serve", **options, kill_at=(round_, received))

        async def client(i):
            # Apart, so that the server sees them one by one.
            await asyncio.sleep(0.03 * i)
            return await join_session(
                inputs[i],
                address=("127.0.0.1", port),
                tls=Credentials.of_client(certs, i),
                accept=any_session,
                retry=Retry(first=0.05, longest=0.3, give_up=20),
            )

        await asyncio.to_thread(server.wait_for, lambda line: "port" in line)
        clients = [asyncio.create_task(client(i)) for i in inputs]
        assert await asyncio.to_thread(server.wait) == -signal.SIGKILL
        second = await asyncio.to_thread(start, "serve", **options)
        ends = await asyncio.gather(*clients)
        result = await asyncio.to_thread(second.wait_for, lambda line: "sum" in line or "aborted" in line)
        return ends, result

    ends, result = asyncio.run(scenario())
    assert result.get("included") == list(inputs)
    assert result["sum"] == exact_sum(params, list(inputs.values()))
    assert result["dropped"] == []
    assert {end.code for end in ends} == {link.EndCode.COMPLETED}


@pytest.mark.parametrize(("stop_at", "after"), [(1, False), (2, False), (2, True), (3, False)])
def test_a_client_that_is_killed_continues_from_its_journal(certs, start, tmp_path, stop_at, after):
    params = make_params(3, 3, vector_length=500)
    inputs = random_inputs(params, seed=SEED)

    async def scenario():
        async with served(params, certs, deadlines=deadlines(20), limits=None) as serving:
            options = {"port": serving.port, "certs": str(certs), "clients": 3, "threshold": 3, "length": 500}
            options |= {"id": 0, "seed": SEED, "journal": str(tmp_path / "client")}
            first = await asyncio.to_thread(start, "join", **options, stop_at=stop_at, after=after)

            def late(offer):
                # The session is not over before the client is killed.
                time.sleep(1.0)
                return inputs[1]

            others = [
                asyncio.create_task(
                    join_session(
                        vector,
                        address=("127.0.0.1", serving.port),
                        tls=Credentials.of_client(certs, i),
                        accept=any_session,
                    )
                )
                for i, vector in ((1, late), (2, inputs[2]))
            ]
            await asyncio.to_thread(first.wait_for, lambda line: "stopped" in line)
            await asyncio.to_thread(first.kill)
            second = await asyncio.to_thread(start, "join", **options)
            report = await serving.task
            await asyncio.gather(*others)
            end = await asyncio.to_thread(second.wait_for, lambda line: "end" in line)
            return report, end

    report, end = asyncio.run(scenario())
    assert end == {"end": "COMPLETED"}
    assert report.dropped == {}
    assert report.outcome.included == (0, 1, 2)
    assert report.outcome.sum.tolist() == exact_sum(params, list(inputs.values()))
    assert not (tmp_path / "client").exists()


def test_the_example_runs_as_its_files_say(tmp_path):
    """server.py and five client.py run unchanged but for the port."""
    port = str(free_port())
    for path in (ROOT / "examples" / "network_sum").glob("*.py"):
        shutil.copy(path, tmp_path)
        copy = tmp_path / path.name
        copy.write_text(re.sub(r"\b7000\b", port, copy.read_text()))
    Authority.create(tmp_path / "certs").issue(server_names=["localhost"], client_ids=range(5))
    processes = []
    try:
        for args in (["server.py"], *(["client.py", str(i)] for i in range(5))):
            processes.append(
                subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
                    [sys.executable, *args],
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                )
            )
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
    assert [process.returncode for process in processes] == [0] * 6, outputs
    assert "[   5   10  100 1000]" in outputs[0][0]
    assert "client 3: COMPLETED, 5 inputs" in outputs[4][0]
    assert not (tmp_path / "sum.journal").exists()
