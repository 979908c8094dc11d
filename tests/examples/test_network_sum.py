"""The sum between machines, run as its text says: certificates, a server, five clients. Only the port differs."""

import socket
import subprocess
import sys

import pytest

from tests.examples.programs import ENVIRONMENT, EXAMPLES, Running

pytestmark = pytest.mark.live


def test_five_clients_over_tls_give_their_sum(tmp_path) -> None:
    subprocess.run(
        [sys.executable, "-m", "fl", "certs", "certs", "--clients", "5", "--server", "localhost"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    for name in ("server.py", "client.py"):
        source = (EXAMPLES / "network_sum" / name).read_text()
        assert source.count("7000") == 1
        (tmp_path / name).write_text(source.replace("7000", str(port)))
    programs = [Running(tmp_path / "server.py", folder=tmp_path)]
    try:
        programs += [Running(tmp_path / "client.py", i, folder=tmp_path) for i in range(5)]
        for i, client in enumerate(programs[1:]):
            assert client.wait() == ([f"client {i}: COMPLETED, 5 inputs are in the sum"], 0)
        lines, code = programs[0].wait()
    finally:
        for program in programs:
            program.close()
    assert code == 0
    (line,) = lines
    assert " ".join(line.split()) == "Completed(included=(0, 1, 2, 3, 4), culprits=()) [ 5 10 100 1000]"
