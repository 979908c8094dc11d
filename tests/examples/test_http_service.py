"""The web service and its clients, in their own processes, over HTTP on loopback."""

import json
import os
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

import secagg
from tests.examples.programs import Running

pytestmark = pytest.mark.live

SERVER, CLIENT = "http_service/server.py", "http_service/client.py"


@pytest.fixture
def programs():
    """Start programs that end with the test."""
    running = []

    def start(*command, folder):
        running.append(Running(*command, folder=folder))
        return running[-1]

    yield start
    for program in running:
        program.close()


def serve(programs, folder, seconds):
    """Run a service; return it and its address."""
    server = programs(SERVER, "--port", 0, "--seconds", seconds, folder=folder)
    return server, "http://" + server.wait_for("running on").split("http://")[1].split()[0]


def household(programs, folder, url, client_id, readings):
    path = folder / f"readings-{client_id}.txt"
    np.savetxt(path, readings, fmt="%d")
    return programs(CLIENT, url, folder / "tokens" / str(client_id), path, folder=folder)


def request(url, token=None, method="GET", body=None):
    """Return the answer's status and text."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        call = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - on loopback
        with urllib.request.urlopen(call, timeout=60) as response:  # noqa: S310
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_everyone_learns_the_sum(programs, tmp_path) -> None:
    _, url = serve(programs, tmp_path, seconds=60)
    readings = np.random.default_rng(1).integers(0, 2**16, (5, 24))
    clients = [household(programs, tmp_path, url, i, readings[i]) for i in range(5)]
    expected = " ".join(map(str, readings.sum(axis=0)))
    for client in clients:
        assert client.wait() == ([f"5 households used {expected} watt-hours, by hour"], 0)


def test_two_households_are_killed_after_they_shared_keys(programs, tmp_path) -> None:
    _, url = serve(programs, tmp_path, seconds=15)
    readings = np.random.default_rng(2).integers(0, 2**16, (5, 24))
    clients = [household(programs, tmp_path, url, i, readings[i]) for i in range(3)]
    # A client asks for its readings once its keys are shared: an unfilled pipe holds it there.
    pipes = [tmp_path / "pipe-3", tmp_path / "pipe-4"]
    for pipe in pipes:
        os.mkfifo(pipe)
    doomed = [programs(CLIENT, url, tmp_path / "tokens" / pipe.name[-1], pipe, folder=tmp_path) for pipe in pipes]
    for pipe, client in zip(pipes, doomed, strict=True):
        wait_for_reader(pipe)
        client.close()
    expected = " ".join(map(str, readings[:3].sum(axis=0)))
    for client in clients:
        assert client.wait() == ([f"3 households used {expected} watt-hours, by hour"], 0)
    # A dropped client is told why.
    token = (tmp_path / "tokens/4").read_text()
    status, text = request(f"{url}/messages/2", token)
    assert (status, b"did not arrive in time" in text) == (410, True)
    assert json.loads(request(f"{url}/sum", token)[1])["included"] == [0, 1, 2]


def wait_for_reader(pipe):
    """Wait until a process has opened the pipe to read."""
    for _ in range(600):
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # no process has yet
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"nobody reads from {pipe}")


def test_too_few_households_end_without_a_sum(programs, tmp_path) -> None:
    _, url = serve(programs, tmp_path, seconds=3)
    tokens = [(tmp_path / f"tokens/{i}").read_text() for i in range(2)]
    for client_id, token in enumerate(tokens):
        offer = json.loads(request(f"{url}/session", token)[1])
        values = offer["parameters"]
        params = secagg.Parameters(**{**values, "adversary": secagg.Adversary(values["adversary"])})
        context = b"watt-hours by hour of the day"
        client = secagg.Client(params, client_id, context=context, nonce=bytes.fromhex(offer["nonce"]))
        (send,) = client.start()
        assert request(f"{url}/messages/0", token, "PUT", secagg.encode(send.message, params)) == (204, b"")
    status, text = request(f"{url}/sum", tokens[0])
    assert status == 410
    assert b"aborted in AdvertiseKeys: fewer clients than the threshold are left (needed 3, had 2)" in text
    assert request(f"{url}/messages/0", tokens[0]) == (410, b'{"detail":"the session has ended"}')


def test_a_repeated_request_counts_once_and_others_are_refused(programs, tmp_path) -> None:
    _, url = serve(programs, tmp_path, seconds=60)
    token = (tmp_path / "tokens/0").read_text()
    assert request(f"{url}/session")[0] == 422
    assert request(f"{url}/session", "guess")[0] == 401
    assert request(f"{url}/messages/-1", token)[0] == 422
    assert request(f"{url}/messages/1", token, "PUT", b"early")[0] == 409
    assert request(f"{url}/messages/0", token, "PUT", bytes(10**6))[0] == 413
    assert (tmp_path / "tokens/0").stat().st_mode & 0o077 == 0
    # The client's first message is on its way, and comes again: the session continues with all five.
    readings = np.full(24, 7)
    clients = [household(programs, tmp_path, url, i, readings) for i in range(1, 5)]
    for number in range(2):
        assert request(f"{url}/messages/0", token, "PUT", b"no message at all")[0] == 204, number
    assert b"not a message" in request(f"{url}/messages/0", token)[1]
    for client in clients:
        lines, code = client.wait()
        assert (lines[0].split()[:4], code) == (["4", "households", "used", "28"], 0)


def test_households_with_unusable_readings_leave(programs, tmp_path) -> None:
    _, url = serve(programs, tmp_path, seconds=60)
    (tmp_path / "short.txt").write_text("1 2 3")
    (tmp_path / "words.txt").write_text("much")
    clients = [household(programs, tmp_path, url, i, np.full(24, -1)) for i in range(3)]
    short = programs(CLIENT, url, "tokens/3", "short.txt", folder=tmp_path)
    words = programs(CLIENT, url, "tokens/4", "words.txt", folder=tmp_path)
    cannot = "these readings cannot be summed: the input"
    for client in clients:
        assert client.wait() == ([f"{cannot} has elements outside [0, 2^16)"], 1)
    assert short.wait() == ([f"{cannot} must have shape (24,), not (3,)"], 1)
    (line,), code = words.wait()
    assert (line.startswith("gave up: no readings:"), code) == (True, 1)
