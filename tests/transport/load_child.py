"""Processes of the load and partition tests: a server of many sessions, many clients, or one that waits for the word.

What happens is told on stdout, a line of JSON each; the word is a line on stdin.
"""

import asyncio
import json
import os
import sys

import numpy as np

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
    return np.random.default_rng(client_id).integers(0, 256, params.vector_length)


def usage():
    """Memory now and at most, in bytes, and how many files are open."""
    with open("/proc/self/status") as file:
        found = dict(line.split(":", 1) for line in file)
    memory, most = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return {"memory": memory, "most": most, "files": len(os.listdir("/proc/self/fd"))}


def params_of(options):
    return make_params(
        options["clients"], options["threshold"], vector_length=options["length"], degree=options.get("degree")
    )


async def serve(options):
    """So many sessions, one after the other."""
    params = params_of(options)
    now = asyncio.get_running_loop().time
    most = 0

    def watch(host):
        nonlocal most
        most = max(most, len(host.connected_clients))

    with RecoveryPool(1) as pool:
        limits = Limits(farewell_seconds=2, first_byte_seconds=30, handshake_seconds=30)
        async with SessionServer(("127.0.0.1", 0), Credentials.of_server(options["certs"]), limits) as server:
            say(port=server.addresses[0][1], **usage())
            for number in range(options["sessions"]):
                host = SessionHost(params, deadlines=deadlines(60), now=now(), number=number)
                await server.run(host, pool, watch)
                assert host.outcome is not None
                included = list(getattr(host.outcome, "included", ()))
                expected = sum(vector_of(i, params) for i in included)
                exact = bool(included) and host.outcome.sum.tolist() == expected.tolist()
                # Connections of the next session may be there already, and after the last one none.
                async with asyncio.timeout(30):
                    while number == options["sessions"] - 1 and server.num_connections:
                        await asyncio.sleep(0.005)
                # A socket is closed a moment after its connection's end.
                await asyncio.sleep(0.005)
                say(session=number, exact=exact, included=len(included), most_connected=most, **usage())


async def join(options):
    """Clients of a range, each in so many sessions."""
    params = params_of(options)
    retry = Retry(first=0.1, longest=1, give_up=90)
    tls = {i: Credentials.of_client(options["certs"], i) for i in options["own"]}
    limits = Limits(handshake_seconds=60)

    async def client(i):
        for number in range(options["sessions"]):

            def check(offer, number=number):
                assert offer.number == number

            address = ("127.0.0.1", options["port"])
            await join_session(
                vector_of(i, params), address=address, tls=tls[i], accept=check, retry=retry, limits=limits
            )

    say(ready=True)
    sys.stdin.readline()
    await asyncio.gather(*map(client, options["own"]))
    say(done=len(options["own"]))


async def one(options):
    """One client; it makes its input when it gets the word."""
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
