"""The stateless worker: one process for each message, and never two answers."""

import dataclasses
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import secagg
from secagg import Send, UnmaskReady
from tests.examples.programs import run

pytestmark = pytest.mark.live

WORKER = "stateless_worker/worker.py"
PARAMS = secagg.plan(num_clients=4, vector_length=4, value_bits=16).parameters
NONCE = b"a nonce"


@pytest.fixture
def folder(tmp_path):
    """Return the files on client 0's disk."""
    np.save(tmp_path / "vector.npy", np.array([1, 20, 300, 4000]))
    return tmp_path


def invitation():
    parameters = {**dataclasses.asdict(PARAMS), "adversary": PARAMS.adversary.value}
    return json.dumps({"client_id": 0, "nonce": NONCE.hex(), "parameters": parameters}).encode()


def handled(folder, number, message):
    """Run the worker on a message; return the finished process."""
    return run(WORKER, folder, number, folder=folder, stdin=message)


def answer(folder, number, message):
    """Return the output of a worker that had to answer."""
    finished = handled(folder, number, message)
    assert (finished.returncode, finished.stderr) == (0, b"")
    return finished.stdout


def state_of(folder):
    database = sqlite3.connect(folder / "client.db")
    try:
        return database.execute("SELECT number, state FROM client").fetchone()
    finally:
        database.close()


class Session:
    """A server with its clients 1 and 2 in memory, and client 0 in a worker."""

    def __init__(self):
        self.server = secagg.Server(PARAMS, nonce=NONCE)
        self.peers = {i: secagg.Client(PARAMS, i, nonce=NONCE) for i in (1, 2)}
        for peer in self.peers.values():
            self.carry_out(peer, peer.start())

    def carry_out(self, client, events):
        for event in events:
            if isinstance(event, Send):
                self.server.receive(client.client_id, event.message)
            else:
                self.carry_out(client, client.submit_input(np.zeros(4, dtype=np.int64)))

    def next_round(self, data):
        """Deliver client 0's answer; return the server's next message to it, or the sum."""
        self.server.receive(0, secagg.decode_client_message(data, PARAMS))
        message = None
        for event in self.server.close_round():
            match event:
                case Send(to=0):
                    message = secagg.encode(event.message, PARAMS)
                case Send():
                    self.carry_out(self.peers[event.to], self.peers[event.to].receive(event.message))
                case UnmaskReady():
                    return self.server.finish(event.job.run())[0]
        return message


def test_the_session_gives_the_sum_of_those_that_stay(tmp_path) -> None:
    finished = run("stateless_worker/session.py", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, b"")
    assert finished.stdout.decode() == "Completed(included=(0, 1, 2), culprits=()) [111 111 111]\n"


def test_a_message_that_comes_again_gets_the_same_bytes(folder) -> None:
    session, message = Session(), invitation()
    for number in range(4):
        # Two workers at once; later one more, with other bytes under the same number. The machine sees one message.
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda body, number=number: answer(folder, number, body), (message, message))
        assert first == second
        stored = state_of(folder)
        if number == 2:
            assert answer(folder, number, b"others") == first
        assert state_of(folder) == stored
        message = session.next_round(first)
    assert message.sum.tolist() == [1, 20, 300, 4000]
    assert (folder / "client.db").stat().st_mode & 0o077 == 0


def test_a_refusal_is_final(folder) -> None:
    session = Session()
    peer_keys = session.next_round(answer(folder, 0, invitation()))
    refused = handled(folder, 1, peer_keys[:-1])
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"this client gave up" in refused.stderr
    # There is no second try, not even with the right message.
    for number in (1, 2):
        assert handled(folder, number, peer_keys).returncode == 1
    assert state_of(folder) == (1, None)


def test_a_message_too_early_changes_nothing(folder) -> None:
    answer(folder, 0, invitation())
    stored = state_of(folder)
    finished = handled(folder, 2, b"")
    assert (finished.returncode, finished.stdout) == (1, b"")
    assert b"message 2 came, but 1 is next" in finished.stderr
    assert state_of(folder) == stored
