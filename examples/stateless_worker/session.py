"""A server, and four clients without a lasting process: each message gets its own. See README.md."""

import dataclasses
import json
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import secagg

WORKER = Path(__file__).with_name("worker.py")
NUM_CLIENTS = 4

params = secagg.plan(num_clients=NUM_CLIENTS, vector_length=1000, value_bits=16, dropout=0.25).parameters
nonce = secrets.token_bytes(16)


def invitation(client_id: int) -> bytes:
    """Return the invitation of client ``client_id``."""
    parameters = {**dataclasses.asdict(params), "adversary": params.adversary.value}
    return json.dumps({"client_id": client_id, "nonce": nonce.hex(), "parameters": parameters}).encode()


def handle(folder: Path, number: int, message: bytes) -> bytes:
    """Do what a queue does with a message: start a worker, and take its answer."""
    command = [sys.executable, str(WORKER), str(folder), str(number)]
    return subprocess.run(command, input=message, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603 - our worker


def run(folders: list[Path]) -> secagg.Completed | secagg.Aborted:
    """Run the session; return its outcome."""
    server = secagg.Server(params, nonce=nonce)
    number, messages = 0, {client_id: invitation(client_id) for client_id in range(NUM_CLIENTS)}
    while True:
        if number == 2:
            del messages[3]  # lost on its way: this client has shared its keys, but is silent from now on
        for client_id, message in messages.items():
            answer = handle(folders[client_id], number, message)
            if number == 2 and handle(folders[client_id], number, message) != answer:  # queues may deliver twice
                sys.exit("one message got two answers")
            server.receive(client_id, secagg.decode_client_message(answer, params))
        number, messages = number + 1, {}
        for event in server.close_round():
            match event:
                case secagg.Send(to=int() as receiver, message=request):
                    messages[receiver] = secagg.encode(request, params)
                case secagg.UnmaskReady(job=job):
                    (completed,) = server.finish(job.run())
                    return completed
                case secagg.Aborted():
                    return event


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, str(client_id)) for client_id in range(NUM_CLIENTS)]
        for client_id, folder in enumerate(folders):
            folder.mkdir()
            np.save(folder / "vector.npy", np.full(params.vector_length, 10**client_id))
        outcome = run(folders)
    print(outcome, outcome.sum[:3] if isinstance(outcome, secagg.Completed) else "")
