"""Processes of the load and partition tests: a server of many sessions, many clients, or one that waits for a word.

Events are printed on stdout, one line of JSON each; the word is a line on stdin.
"""

import asyncio
import functools
import hashlib
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np

from secagg._client import states
from secagg.primitives.agreement import SecretKey
from tests.support.sessions import any_session, make_params
from tests.transport.network import deadlines
from transport import RecoveryPool
from transport.certificates.reading import Credentials
from transport.durable.server_host import SessionHost
from transport.tcp import Limits, Retry, SessionServer, join_session


def say(**values):
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def vector_of(client_id, params):
    return np.random.default_rng(client_id).integers(0, 1 << params.value_bits, params.vector_length)


def usage():
    """Return memory now and at its peak, in bytes, the number of open files, and the CPU seconds so far."""
    with open("/proc/self/status") as file:
        found = dict(line.split(":", 1) for line in file)
    memory, most = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    files = len(os.listdir("/proc/self/fd"))
    return {"memory": memory, "most": most, "files": files, "cpu": time.process_time()}


def params_of(options):
    return make_params(
        options["clients"],
        options["threshold"],
        vector_length=options["length"],
        value_bits=options.get("bits", 8),
        degree=options.get("degree"),
    )


async def serve(options):
    """Serve sessions one after the other; with ``gather`` each starts when enough clients wait for it."""
    params = params_of(options)
    seconds = options.get("seconds", 60)
    phases = replace(deadlines(seconds), advertise_keys=options.get("admit", seconds))
    gather = options.get("gather")
    enrolled = None if gather is None else range(options["clients"])
    now = asyncio.get_running_loop().time
    most = 0

    def watch(host):
        nonlocal most
        most = max(most, len(host.connected_clients))

    with RecoveryPool(1) as pool:
        limits = Limits(farewell_seconds=2, first_byte_seconds=30, handshake_seconds=30)
        tls = Credentials.of_server(options["certs"])
        async with SessionServer(("127.0.0.1", 0), tls, limits, enrolled) as server:
            say(port=server.addresses[0][1], **usage())
            for number in range(options["sessions"]):
                if gather is not None:
                    await server.gather(gather[number])
                    say(began=number)
                host = SessionHost(params, deadlines=phases, now=now(), number=number)
                await server.run(host, pool, watch)
                assert host.outcome is not None
                # Connections of the next session may be there already; after the last one there are none.
                async with asyncio.timeout(30):
                    while number == options["sessions"] - 1 and server.num_connections:
                        await asyncio.sleep(0.005)
                # A socket is closed a moment after its connection's end.
                await asyncio.sleep(0.005)
                # Before the check, which itself takes memory.
                used = usage()
                included = list(getattr(host.outcome, "included", ()))
                expected = sum(vector_of(i, params) for i in included)
                say(
                    session=number,
                    exact=bool(included) and host.outcome.sum.tolist() == expected.tolist(),
                    included=len(included),
                    most_connected=most,
                    reconnects=host.counters.reconnects,
                    bytes=server.bytes_received + server.bytes_sent,
                    **used,
                )


def without_masks():
    """Make clients omit the masks and agree on keys by a hash: the server's work is the same, the sum is garbage."""
    mock.patch.object(SecretKey, "exchange", _hashed).start()
    mock.patch.object(states, "accumulate", _left_out).start()


_public_key = functools.cache(SecretKey.public_key)


def _hashed(key, peer_public_key):
    return hashlib.sha256(b"".join(sorted((_public_key(key), bytes(peer_public_key))))).digest()


def _left_out(vector, masks):
    pass


async def join(options):
    """Join as a range of clients, in sessions from ``first`` on; with ``hold`` inputs wait for a word, too."""
    params = params_of(options)
    retry = Retry(first=0.1, longest=1, give_up=90)
    tls = {i: Credentials.of_client(options["certs"], i) for i in options["own"]}
    limits = Limits(handshake_seconds=60)
    first = options.get("first", 0)
    released = threading.Event()
    if options.get("unmasked"):
        without_masks()

    async def client(i):
        def provide(offer):
            released.wait()
            return vector_of(i, params)

        for number in range(first, first + options["sessions"]):

            def check(offer, number=number):
                assert offer.number == number

            address = ("127.0.0.1", options["port"])
            await join_session(provide, address=address, tls=tls[i], accept=check, retry=retry, limits=limits)

    say(ready=True)
    sys.stdin.readline()
    if options.get("hold"):
        # Each held input has a thread.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(tls) + 2))
        threading.Thread(target=lambda: (sys.stdin.readline(), released.set()), daemon=True).start()
    else:
        released.set()
    await asyncio.gather(*map(client, options["own"]))
    say(done=len(options["own"]))


async def one(options):
    """Join as one client; it makes its input when it gets the word."""
    params = params_of(options)

    def provide(offer):
        say(asked=True)
        sys.stdin.readline()
        return vector_of(options["id"], params)

    end = await join_session(
        provide,
        address=tuple(options["address"]),
        tls=Credentials.of_client(options["certs"], options["id"]),
        accept=any_session,
        retry=Retry(first=0.1, longest=0.3, give_up=30),
        limits=Limits(handshake_seconds=1, idle_seconds=0.4, answer_seconds=0.4, stall_seconds=1),
    )
    say(end=end.code.name)


if __name__ == "__main__":
    asyncio.run({"serve": serve, "join": join, "one": one}[sys.argv[1]](json.loads(sys.argv[2])))
