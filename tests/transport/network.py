"""Shared by the tests of the network: a deployment's certificates, sessions in one process, short limits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secagg import Aborted, Completed, Parameters
from tests.support.sessions import any_session, exact_sum
from transport import Deadlines
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials
from transport.tcp import Limits, NetworkReport, Retry, join_session, serve_session
from transport.tcp.stream import Stream, connect_stream
from transport.tcp.tls import client_context

QUICK = Limits(
    handshake_seconds=2,
    frame_seconds=1,
    idle_seconds=1,
    answer_seconds=0.5,
    stall_seconds=1,
    farewell_seconds=0.5,
)
EAGER = Retry(first=0.02, longest=0.3, give_up=5)


def deadlines(seconds: float) -> Deadlines:
    """Return the same deadline for each phase."""
    return Deadlines(
        advertise_keys=seconds,
        share_keys=seconds,
        masked_input_collection=seconds,
        consistency_check=seconds,
        unmasking=seconds,
    )


def deployment(directory: Path, num_clients: int) -> Path:
    """Make certificates for a server on loopback and its clients."""
    Authority.create(directory).issue(server_names=["localhost", "127.0.0.1"], client_ids=range(num_clients))
    return directory


@dataclass
class Serving:
    """A session that is served in this process."""

    port: int
    task: "asyncio.Task[NetworkReport]"
    phases: list[Any] = field(default_factory=list)


@contextlib.asynccontextmanager
async def served(params: Parameters, certs: Path | Any, **options: Any) -> AsyncIterator[Serving]:
    """Serve a session on a port of the system's choice; cancel everything that still runs at the end."""
    tls = Credentials.of_server(certs) if isinstance(certs, Path) else certs
    listening = asyncio.get_running_loop().create_future()
    options = {"deadlines": deadlines(5), "limits": QUICK, "workers": 1, "address": ("127.0.0.1", 0)} | options
    task = asyncio.create_task(serve_session(params, tls=tls, listening=listening.set_result, **options))
    try:
        await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield Serving(listening.result()[0][1], task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def join(port: int, vector: Any, certs: Path | Any, client_id: int, **options: Any) -> Any:
    """Join as a client of the deployment."""
    tls = Credentials.of_client(certs, client_id) if isinstance(certs, Path) else certs
    options = {"address": ("127.0.0.1", port), "retry": EAGER, "limits": QUICK, "accept": any_session} | options
    return await join_session(vector, tls=tls, client_id=client_id, **options)


async def raw_stream(port: int, certs: Path, client_id: int) -> Stream:
    """Open a client's connection on which nothing has been sent."""
    context = client_context(Credentials.of_client(certs, client_id))
    return await connect_stream("127.0.0.1", port, context, handshake_seconds=3, stall_seconds=3)


def check_exact(params: Parameters, inputs: Mapping[int, np.ndarray], outcome: Any) -> bool:
    """Assert that a sum is exact; return whether there is one."""
    if isinstance(outcome, Completed):
        assert outcome.sum.tolist() == exact_sum(params, [inputs[i] for i in outcome.included])
        return True
    assert isinstance(outcome, Aborted)
    return False
