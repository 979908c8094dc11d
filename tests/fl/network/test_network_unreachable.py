"""A client whose server is absent: it says so once, at once, and keeps trying."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from fl.network.errors import NetworkError
from tests.fl.network.harness import CLIENTS, Client, Deployment
from transport.tcp import ServerUnreachableError
from transport.tcp import client as tcp_client

pytestmark = pytest.mark.live


@pytest.fixture
def deployment(tmp_path, monkeypatch):
    return Deployment(tmp_path, monkeypatch)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_an_absent_server_is_reported_once(deployment):
    client = deployment.client(0, deployment.config(), address=("127.0.0.1", free_port()), give_up=3.0)
    host, port = client.participant._options.address
    client.start()
    with pytest.raises(ServerUnreachableError, match=f"no word from {host}:{port} for . s: Connection refused"):
        client.finish()
    assert client.said[1:] == [f"no connection to {host}:{port} yet (Connection refused); trying again for 3 s"]


def unresolved(monkeypatch, number: int, text: str) -> list[None]:
    """Let each name fail to resolve; return the list of attempts."""
    attempts: list[None] = []

    def fails(*_: object, **__: Any) -> None:
        attempts.append(None)
        raise socket.gaierror(number, text)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", fails)
    return attempts


def test_a_name_that_does_not_exist_ends_the_client_at_once(deployment, monkeypatch):
    attempts = unresolved(monkeypatch, socket.EAI_NONAME, "Name or service not known")
    client = deployment.client(0, deployment.config(), address=("nohost.invalid", 7000), give_up=60.0)
    client.start()
    with pytest.raises(NetworkError, match=r"there is no host nohost\.invalid: Name or service not known"):
        client.finish()
    assert len(attempts) == 1
    assert client.said[1:] == []


def test_names_that_cannot_be_resolved_for_now_are_reported(deployment, monkeypatch):
    unresolved(monkeypatch, socket.EAI_AGAIN, "Temporary failure in name resolution")
    client = deployment.client(0, deployment.config(), address=("nohost.invalid", 7000), give_up=1.0)
    client.start()
    why = "the name cannot be resolved: Temporary failure in name resolution"
    with pytest.raises(ServerUnreachableError, match=f"no word from nohost.invalid:7000 for . s: {why}"):
        client.finish()
    assert client.said[1:] == [f"no connection to nohost.invalid:7000 yet ({why}); trying again for 1 s"]


def test_an_early_client_trains_when_the_server_comes(deployment):
    port, config = free_port(), deployment.config(rounds=1)
    clients: list[Client] = [
        deployment.client(i, config, address=("127.0.0.1", port), give_up=60.0) for i in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    finished = deployment.run_beside(
        config, lambda: None, options=deployment.options(address=("127.0.0.1", port), give_up=30.0)
    )
    for client in clients:
        client.finish()
        assert sum("no connection to" in line for line in client.said) <= 1
    assert finished.summary["included"] == [CLIENTS]


def test_the_errors_of_several_addresses_are_the_first_ones_words():
    error = OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 7), [Errno 113] Connect call failed")
    assert tcp_client._in_words(error) == "Connection refused"
    assert tcp_client._in_words("the server closed the connection") == "the server closed the connection"
