"""Handle one message for one client in a process without memory of earlier ones; see README.md.

python worker.py FOLDER NUMBER < message > answer

Between messages the client is a row of FOLDER/client.db. A row is read, resumed and replaced in one transaction, and
the answer is printed only after it. So two answers to a message never differ, even if a process is killed or a message
comes twice.
"""

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import secagg
from secagg import Client, InputRequested, Send

SCHEMA = """CREATE TABLE IF NOT EXISTS client (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0), number INTEGER, state BLOB, answer BLOB)"""

# The sender of the invitation is trusted to follow the protocol. Without `adversary`, the policy demands safety against
# a server that lies.
POLICY = secagg.SessionPolicy(adversary=secagg.Adversary.HONEST_BUT_CURIOUS)


def main() -> None:
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    with transaction(folder / "client.db") as database:
        answer = handled(database, folder, number, sys.stdin.buffer.read())
    if answer is None:
        sys.exit("this client gave up: the server broke a rule, and no state is left to answer it with")
    sys.stdout.buffer.write(answer)


def handled(database: sqlite3.Connection, folder: Path, number: int, message: bytes) -> bytes | None:
    """Return the answer to a message, the old answer if it came before; None if this client has given up."""
    row = database.execute("SELECT number, state, answer FROM client").fetchone()
    nothing: tuple[int, Any, Any] = (-1, None, None)
    last, state, answer = row or nothing
    if number == last or (row and state is None):
        return answer
    if number != last + 1:
        sys.exit(f"message {number} came, but {last + 1} is next")
    try:
        client, answer = invited(message) if row is None else answered(Client.resume(state), folder, message)
        state = client.suspend()
    except (secagg.CodecError, secagg.RemoteProtocolError):
        # A client that refused is dead: its old state must go, or a server could try another list on it.
        state = answer = None
    database.execute("REPLACE INTO client VALUES (0, ?, ?, ?)", (number, state, answer))
    return answer


def invited(invitation: bytes) -> tuple[Client, bytes]:
    """Return a new client with its first message. Message 0 is the invitation, from a trusted sender."""
    terms = json.loads(invitation)
    values = terms["parameters"]
    params = secagg.Parameters(**{**values, "adversary": secagg.Adversary(values["adversary"])})
    try:
        POLICY.check(params)
    except secagg.PolicyError as error:
        sys.exit(f"this client takes no part: {error}")
    client = Client(params, terms["client_id"], nonce=bytes.fromhex(terms["nonce"]))
    return client, encoded(client, client.start())


def answered(client: Client, folder: Path, message: bytes) -> tuple[Client, bytes]:
    """Return the client after one more message, with its answer."""
    events = client.receive(secagg.decode_server_message(message, client.params))
    if isinstance(events[0], InputRequested):
        events = client.submit_input(np.load(folder / "vector.npy"))
    return client, encoded(client, events)


def encoded(client: Client, events: tuple[Send | InputRequested, ...]) -> bytes:
    """Return the one message of the events, encoded."""
    (message,) = (event.message for event in events if isinstance(event, Send))
    return secagg.encode(message, client.params)


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Run a transaction: all or nothing, one process at a time, and on the disk at its end."""
    path.touch(mode=0o600)  # the suspended client is as secret as a private key
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        # Old states are overwritten, not just unlinked.
        database.executescript(f"PRAGMA secure_delete = ON; PRAGMA synchronous = FULL; {SCHEMA};")
        database.execute("BEGIN IMMEDIATE")
        with database:
            yield database
    finally:
        database.close()


if __name__ == "__main__":
    main()
