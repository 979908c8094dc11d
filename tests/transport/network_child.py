"""A server or clients of the process tests, in a separate process: events are printed on stdout, one line each.

python -m tests.transport.network_child serve '{"port": ..., ...}'
python -m tests.transport.network_child join '{"port": ..., ...}'
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from secagg import Aborted, Completed, Round
from tests.support.sessions import any_session, make_params, random_inputs
from tests.transport.network import deadlines
from transport.certificates.reading import Credentials
from transport.durable import frames as link
from transport.durable.client_journal import ClientJournal
from transport.tcp import Limits, Retry, join_session, serve_session
from transport.tcp.connection import Connection

_ORDER = [round_.name for round_ in Round]


def say(**values):
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


async def serve(options):
    params = make_params(options["clients"], options["threshold"], vector_length=options["length"])
    kill_at = options.get("kill_at")
    last = None

    def watch(host):
        nonlocal last
        state = (host.round.name, host.status.received)
        if state != last:
            last = state
            say(round=state[0], received=state[1])
        if kill_at and (host.outcome or (_ORDER.index(state[0]), state[1]) >= (_ORDER.index(kill_at[0]), kill_at[1])):
            os.kill(os.getpid(), signal.SIGKILL)

    report = await serve_session(
        params,
        address=("127.0.0.1", options["port"]),
        tls=Credentials.of_server(options["certs"]),
        deadlines=deadlines(options["deadline"]),
        journal=options.get("journal"),
        workers=1,
        limits=Limits(commit_seconds=0.0001),
        observer=watch,
        listening=lambda addresses: say(port=addresses[0][1]),
    )
    match report.outcome:
        case Completed():
            say(sum=report.outcome.sum.tolist(), included=report.outcome.included, dropped=sorted(report.dropped))
        case Aborted():
            say(aborted=report.outcome.reason.name)


def stop_before(options):
    """Let the process stop at its message of the given number, before or after sending it, and wait to be killed."""
    stop_at, after = options.get("stop_at"), options.get("after", False)
    send = Connection.send

    def watched(self, parts, *, last=False):
        if parts[0][:1] == b"\x03" and parts[0][1] == stop_at:
            if after:
                send(self, parts, last=last)
                asyncio.get_running_loop().call_later(0.1, stop)
            else:
                stop()
            return
        send(self, parts, last=last)

    def stop():
        say(stopped=stop_at)
        time.sleep(60)

    if stop_at is not None:
        Connection.send = watched


async def join(options):
    client_id = options["id"]
    stop_before(options)
    if options.get("wait"):
        say(ready=client_id)
        sys.stdin.readline()
    params = make_params(options["clients"], options["threshold"], vector_length=options["length"])
    journal = (
        ClientJournal(Path(options["journal"]), Path(options["journal"] + ".key")) if "journal" in options else None
    )
    end = await join_session(
        random_inputs(params, seed=options["seed"])[client_id],
        address=("127.0.0.1", options["port"]),
        tls=Credentials.of_client(options["certs"], client_id),
        accept=any_session,
        journal=journal,
        retry=Retry(first=0.05, longest=0.5, give_up=15),
    )
    say(end=link.EndCode(end.code).name)


if __name__ == "__main__":
    asyncio.run({"serve": serve, "join": join}[sys.argv[1]](json.loads(sys.argv[2])))
