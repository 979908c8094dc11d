"""Run one session over TLS between processes on loopback, and in memory; measure time and the server's memory.

A child gets its task as JSON, reports that it is ready, waits for the start and reports its result, one line each::

    python -m benchmarks.networked server '{"clients": 200, ...}'

Clients that drop out share their keys, disconnect when their input is due, and come back without their state.  The
server's rule is then to continue without them at once, so no deadline is waited for or counted.
"""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import secagg
from transport import Deadlines, FaultSchedule, run_session
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials
from transport.durable import frames as link
from transport.errors import SessionRefusedError
from transport.faults import Direction, Fault
from transport.tcp import Limits, join_session, serve_session

VALUE_BITS = 16
_CLIENT_PROCESSES = 2
_ROOT = Path(__file__).parent.parent
# Each of two hundred clients waits for its turn on one core, and must not reconnect because of that.
_LIMITS = Limits(first_byte_seconds=60, handshake_seconds=60, idle_seconds=300)
_TRUSTING = secagg.SessionPolicy(adversary=secagg.Adversary.HONEST_BUT_CURIOUS)


class _VanishedError(Exception):
    """Raised in place of the input of a client that drops out."""


def over_tls(clients: int, length: int, dropout: float, *, core: int | None, journal: bool = False) -> dict[str, Any]:
    """Run a session between a server and two processes of clients; ``core``: the only core that they may use.

    Seconds run from the start signal until all parties know of the end.
    """
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as children:
        certs = Path(directory) / "certs"
        Authority.create(certs).issue(server_names=["127.0.0.1"], client_ids=range(clients))
        options = {
            "certs": str(certs),
            "clients": clients,
            "length": length,
            "dropout": dropout,
            "core": core,
            "journal": str(Path(directory) / "journal") if journal else None,
        }
        server = children.enter_context(_Child("server", options))
        options["port"] = server.line()["port"]
        parts = (list(range(part, clients, _CLIENT_PROCESSES)) for part in range(_CLIENT_PROCESSES))
        others = [children.enter_context(_Child("clients", options | {"own": own})) for own in parts]
        for child in others:
            child.line()
        return _timed([server, *others])


def in_memory(clients: int, length: int, dropout: float, *, core: int | None) -> dict[str, Any]:
    """Run the same session by `transport.run_session` in a separate process."""
    with _Child("memory", {"clients": clients, "length": length, "dropout": dropout, "core": core}) as child:
        child.line()
        return _timed([child])


def _timed(children: "list[_Child]") -> dict[str, Any]:
    begun = time.monotonic()
    for child in children:
        child.go()
    result, *others = found = [child.line() for child in children]
    seconds = max(one["ended"] for one in found) - begun
    return {**result, "seconds": seconds, "client_cpu_seconds": sum(other["cpu_seconds"] for other in others)}


class _Child:
    """A process that gets its task, reports that it is ready, waits for the start, and reports its result."""

    def __init__(self, role: str, options: dict[str, Any]) -> None:
        # Without this, numpy's threads would use more cores than allowed.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
            [sys.executable, "-m", "benchmarks.networked", role, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=environment,
        )

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *error: object) -> None:
        # A child that has printed its last line ends by itself.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        self._process.kill()
        self._process.communicate()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the session ended with code {self._process.wait()} without a result")
        found: dict[str, Any] = json.loads(line)
        return found


def _parameters(options: dict[str, Any]) -> secagg.Parameters:
    plan = secagg.plan(
        num_clients=options["clients"],
        vector_length=options["length"],
        value_bits=VALUE_BITS,
        dropout=options["dropout"],
    )
    return plan.parameters


def _vanishing(options: dict[str, Any]) -> frozenset[int]:
    clients = options["clients"]
    count = int(options["dropout"] * clients)
    return frozenset(clients * k // count for k in range(count)) if count else frozenset()


def _vector(client_id: int, options: dict[str, Any]) -> npt.NDArray[np.uint16]:
    length: int = options["length"]
    return np.random.default_rng(client_id).integers(2**VALUE_BITS, size=length, dtype=np.uint16)


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _wait_for_word() -> float:
    """Wait for the start signal; return the processor time of this process at that moment."""
    sys.stdin.readline()
    return time.process_time()


def _exact(outcome: object, options: dict[str, Any]) -> bool:
    """Return whether the sum is that of exactly the clients that stay."""
    staying = sorted(set(range(options["clients"])) - _vanishing(options))
    if not isinstance(outcome, secagg.Completed) or list(outcome.included) != staying:
        return False
    expected = np.zeros(options["length"], np.uint64)
    for client_id in staying:
        expected += _vector(client_id, options)
    return bool((outcome.sum == expected).all())


def _peak_bytes() -> int:
    """Return the peak memory of this process, without its parent's, which the kernel may count in `ru_maxrss`."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _workers(options: dict[str, Any]) -> int:
    return 1 if options["core"] is not None else os.cpu_count() or 1


def _memory(options: dict[str, Any]) -> None:
    params = _parameters(options)
    inputs = {i: _vector(i, options) for i in range(params.num_clients)}
    place = secagg.Round.MASKED_INPUT_COLLECTION, Direction.UP
    faults = FaultSchedule({(i, *place): Fault.VANISH for i in _vanishing(options)})
    _say(ready=True)
    cpu = _wait_for_word()
    report = run_session(params, inputs, faults=faults, workers=_workers(options))
    ended, cpu = time.monotonic(), time.process_time() - cpu
    _say(ended=ended, exact=_exact(report.outcome, options), cpu_seconds=cpu)


async def _server(options: dict[str, Any]) -> None:
    idle = 0
    cpu = 0.0
    params = _parameters(options)

    def listening(addresses: Any) -> None:
        nonlocal idle, cpu
        idle, cpu = _peak_bytes(), time.process_time()
        _say(port=addresses[0][1])

    report = await serve_session(
        params,
        address=("127.0.0.1", 0),
        tls=Credentials.of_server(options["certs"]),
        deadlines=Deadlines(share_keys=600, unmasking=600),
        journal=options["journal"],
        workers=_workers(options),
        limits=_LIMITS,
        listening=listening,
    )
    ended, cpu, peak = time.monotonic(), time.process_time() - cpu, _peak_bytes()
    counters = report.counters
    _say(
        ended=ended,
        exact=_exact(report.outcome, options),
        cpu_seconds=cpu,
        idle_bytes=idle,
        peak_bytes=peak,
        frames=counters.frames_up + counters.frames_down,
        bytes=counters.bytes_up + counters.bytes_down,
        connections=counters.connections,
        commits=counters.commits,
    )


async def _clients(options: dict[str, Any]) -> None:
    vanishing = _vanishing(options)
    vectors = {i: _vector(i, options) for i in options["own"]}
    credentials = {i: Credentials.of_client(options["certs"], i) for i in options["own"]}

    async def join(client_id: int) -> None:
        def vanish(offer: link.Offer) -> npt.NDArray[np.uint16]:
            raise _VanishedError

        address, tls = ("127.0.0.1", options["port"]), credentials[client_id]
        if client_id not in vanishing:
            end = await join_session(vectors[client_id], address=address, tls=tls, accept=_TRUSTING, limits=_LIMITS)
            assert end.code is link.EndCode.COMPLETED
            return
        with contextlib.suppress(_VanishedError):
            await join_session(vanish, address=address, tls=tls, accept=_TRUSTING, limits=_LIMITS)
        with contextlib.suppress(SessionRefusedError):
            await join_session(vanish, address=address, tls=tls, accept=_TRUSTING, limits=_LIMITS)

    # Clients on separate machines would not share a core, so only one client of a process works at a time.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    _say(ready=True)
    cpu = _wait_for_word()
    await asyncio.gather(*map(join, options["own"]))
    _say(ended=time.monotonic(), cpu_seconds=time.process_time() - cpu)


def _main(role: str, options: dict[str, Any]) -> None:
    if options["core"] is not None:
        os.sched_setaffinity(0, {options["core"]})
    match role:
        case "memory":
            _memory(options)
        case "server":
            asyncio.run(_server(options))
        case "clients":
            asyncio.run(_clients(options))


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
