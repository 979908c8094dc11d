"""Servers that are killed: a process that has imported everything forks one for each order, one line each.

An order is ``{"run": ..., "port": ..., "kill_at": ["commit", 3], ...}``; the lines on stdout have the same run: ``pid``
when it starts, ``listening``, and ``ended`` with the wait status.
"""

import asyncio
import json
import os
import select
import signal
import sys
from pathlib import Path

from tests.support.sessions import make_params
from tests.transport.network import deadlines
from transport import Journal, RecoveryPool
from transport.certificates.reading import Credentials
from transport.durable import frames as link
from transport.durable.server_host import SessionHost
from transport.tcp import Limits, serve_session
from transport.tcp.connection import Connection

MESSAGE, END = b"\x03", b"\x05"


def say(**values):
    os.write(1, (json.dumps(values) + "\n").encode())


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point, number):
    """Make this process die at a point: before or after it gets there for the n-th time."""
    left = number

    def watched(owner, name, *, after=False, counts=lambda *_: True):
        original = getattr(owner, name)

        def call(*args, **options):
            nonlocal left
            result = original(*args, **options) if after else None
            if counts(*args):
                left -= 1
                if left < 0:
                    die()
            return result if after else original(*args, **options)

        setattr(owner, name, call)

    def is_message(host, client_id, payload, *_):
        return bytes(payload[:1]) == MESSAGE

    match point:
        case "message":
            # The message went into the machine, and is not durable yet.
            watched(SessionHost, "frame_received", after=True, counts=is_message)
        case "before-commit":
            watched(SessionHost, "commit", counts=lambda host, now: host.commit_blocks)
        case "after-commit":
            durable = []
            commit = SessionHost.commit

            def committed(host, now):
                durable[:] = [host.commit_blocks]
                return commit(host, now)

            SessionHost.commit = committed
            watched(SessionHost, "commit", after=True, counts=lambda host, now: durable[0])
        case "recovery":
            watched(RecoveryPool, "run", after=bool(number))
            left = 0
        case "finish":
            watched(SessionHost, "finish", after=bool(number))
            left = 0
        case "end":
            # This number of clients has been told of the end.
            watched(Connection, "send", counts=lambda connection, parts: parts[0][:1] == END)
        case "none" | "save" | "time":
            pass
        case _:
            raise ValueError(point)


def save(path, kill_before, kill_after, report):
    """Save the sum, as an application does."""
    if kill_before:
        die()
    outcome = report.outcome
    values = {"sum": outcome.sum.tolist(), "included": outcome.included} if hasattr(outcome, "sum") else {}
    path.mkdir(exist_ok=True)
    half = path / f"half-{os.getpid()}"
    half.write_text(json.dumps({"outcome": type(outcome).__name__, **values}))
    half.rename(path / f"whole-{os.getpid()}")
    if kill_after:
        die()


async def serve(order):
    point, number = order.get("kill_at", ("none", 0))
    arm(point, number)
    params = make_params(order["clients"], order["threshold"], vector_length=order["length"])
    result = Path(order["result"])
    journal, store = order["journal"], None
    if "database" in order:
        from transport.durable.postgres import PostgresStore

        # As on another machine: nothing but the database is there from the process before.
        store = PostgresStore(order["database"], journal, wait=20)
        journal = Journal(store.open("session"))
    await serve_session(
        params,
        address=("127.0.0.1", order["port"]),
        tls=Credentials.of_server(order["certs"]),
        deadlines=deadlines(30),
        journal=journal,
        workers=1,
        limits=Limits(commit_seconds=0.0005, farewell_seconds=0.3 if store is None else 3),
        on_outcome=lambda report: save(
            result, point == "save" and number == 0, point == "save" and number == 1, report
        ),
        listening=lambda _: say(run=order["run"], listening=True),
    )
    if store is not None:
        say(run=order["run"], left=store.exists("session"))
        store.close()


def main():
    children = {}
    reading, orders = b"", True
    while orders or children:
        ready, _, _ = select.select([0] if orders else [], [], [], 0.01)
        if ready:
            data = os.read(0, 1 << 16)
            orders = bool(data)
            *lines, reading = (reading + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    os.close(0)
                    asyncio.run(serve(order))
                    sys.stdout.flush()
                    os._exit(0)
                children[pid] = order["run"]
                say(run=order["run"], pid=pid)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            say(run=children.pop(pid), ended=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    assert link.EndCode.COMPLETED == 0
    main()
