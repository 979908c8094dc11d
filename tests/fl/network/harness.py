"""A training's server and clients: as separate processes, or clients in threads beside a server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fl.config.run_config import RunConfig
from fl.config.served import ServeOptions
from fl.data.partition import partition
from fl.network.client import Participant
from fl.network.local_data import LocalData
from fl.network.offers import JoinOptions
from fl.network.policy import Policy
from fl.network.server import FinishedServing, start_serving
from tests.fl.network.program import run
from tests.fl.runs import tiny_config, tiny_dataset
from transport import Deadlines
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials

CLIENTS = 4


# Each program would need seconds to import torch: they are forked from a process that did it once.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["fl.commands.app", "fl.network.server", "fl.network.client", "sklearn.datasets"])


class Program:
    """`secagg` in a separate process, and the lines that it prints."""

    def __init__(self, *arguments: object) -> None:
        output, theirs = _FORKED.Pipe(duplex=False)
        with pytest.MonkeyPatch.context() as patch:
            # Read when the first program is forked: on a busy machine two threads wait for each other.
            patch.setenv("OMP_NUM_THREADS", "1")
            self._process = _FORKED.Process(target=run, args=(theirs, list(map(str, arguments))), daemon=True)
            self._process.start()
        theirs.close()
        self._output = open(os.dup(output.fileno()), encoding="utf-8", errors="replace")  # noqa: SIM115 - see close()
        output.close()
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._output:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, words: str, seconds: float = 45) -> str:
        """Return the first line with these words, also an earlier one."""

        def found() -> bool:
            return self._ended or any(words in line for line in self.lines)

        with self._changed:
            self._changed.wait_for(found, seconds)
            for line in self.lines:
                if words in line:
                    return line
        raise AssertionError(f"it never printed {words!r}, but {self.lines[-5:]}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process only."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill the process with signal 9, and wait for its end."""
        self._process.kill()
        self._process.join(10)

    def wait(self, seconds: float = 45) -> int | None:
        """Return its exit code."""
        self._process.join(seconds)
        self._reader.join(5)
        return self._process.exitcode

    def close(self) -> None:
        """End the process if it still runs."""
        self.kill()
        self._reader.join(5)
        self._output.close()
        self._process.close()


@dataclass
class Client:
    """A client in a thread."""

    participant: Participant
    said: list[str] = field(default_factory=list)
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        def work() -> None:
            try:
                asyncio.run(self.participant.run())
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.error = error

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def finish(self, seconds: float = 30) -> None:
        """Wait for its end; raise its error."""
        assert self.thread is not None
        self.thread.join(seconds)
        assert not self.thread.is_alive(), self.said
        if self.error is not None:
            raise self.error


class Deployment:
    """Certificates for a server and its clients, with `tiny_dataset` dealt out to them."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, num_clients: int = CLIENTS) -> None:
        self.directory = directory
        self.num_clients = num_clients
        self.certs = directory / "certs"
        authority = Authority.create(self.certs)
        authority.issue(server_names=["localhost", "127.0.0.1"], client_ids=range(num_clients))
        monkeypatch.setattr("fl.network.aggregator.GOODBYE_SECONDS", 0.2)
        self.dataset = tiny_dataset()
        monkeypatch.setattr("fl.network.server.make_dataset", lambda name, data_dir=None: self.dataset)
        monkeypatch.setattr("fl.network.server.save_plot", lambda path, *_: path.write_bytes(b""))
        self.port = 0
        self.listening = threading.Event()
        self.output: list[str] = []
        self._clients: list[Client] = []

    def options(self, **changes: Any) -> ServeOptions:
        defaults: dict[str, Any] = {
            "address": ("127.0.0.1", self.port),
            "tls": Credentials.of_server(self.certs),
            "directory": self.certs,
            "give_up": 10.0,
            "retries": 1,
            "deadlines": Deadlines(advertise_keys=3, share_keys=5, masked_input_collection=3, unmasking=5),
        }
        return ServeOptions(**{**defaults, **changes})

    def console(self) -> Console:
        """Return a console that records the port, for which clients wait."""
        deployment = self

        class Notes(Console):
            def print(self, *objects: Any, **options: Any) -> None:
                text = " ".join(map(str, objects))
                deployment.output.append(text)
                if text.startswith("listening on "):
                    deployment.port = int(text.rpartition(":")[2])
                    deployment.listening.set()

        return Notes(quiet=True)

    def config(self, **changes: Any) -> RunConfig:
        return tiny_config(clients=self.num_clients, **changes)

    def data(self, client_id: int, config: RunConfig) -> LocalData:
        chosen = partition(self.dataset, "iid", self.num_clients, seed=config.seed)[client_id]
        return LocalData(self.dataset.train_images[chosen], self.dataset.train_labels[chosen])

    def client(
        self, client_id: int, config: RunConfig, *, make: Callable[..., Participant] = Participant, **changes: Any
    ) -> Client:
        """Return a client, to be started once the server listens."""
        credentials = Credentials.of_client(self.certs, client_id)
        options: dict[str, Any] = {
            "client_id": client_id,
            "address": ("127.0.0.1", self.port),
            "tls": credentials,
            "identity_key": credentials.key,
            "directory": self.certs,
            "policy": Policy(),
            "max_model_bytes": 1 << 20,
            "give_up": 10.0,
        }
        said: list[str] = []
        participant = make(JoinOptions(**{**options, **changes}), self.data(client_id, config), said.append)
        self._clients.append(Client(participant, said))
        return self._clients[-1]

    def run_beside(self, config: RunConfig, clients: Callable[[], None], **serving: Any) -> FinishedServing:
        """Serve in this thread; ``clients`` runs in another one, once the server listens.

        Options in ``serving`` that are settings of the protocol become the config's.
        """
        protocol = {name: serving.pop(name) for name in ("adversary", "graph", "threshold") if name in serving}
        config = replace(config, protocol=replace(config.protocol, **protocol))
        options = serving.pop("options", None) or self.options()
        return self.beside(
            clients,
            lambda: start_serving(config, self.directory / "run", None, options, self.console(), **serving),
        )

    def beside(self, clients: Callable[[], None], serve: Callable[[], FinishedServing]) -> FinishedServing:
        """Do the same for another way to serve."""
        errors: list[BaseException] = []

        def work() -> None:
            try:
                assert self.listening.wait(60)
                clients()
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            return serve()
        finally:
            thread.join(10)
            if errors:
                raise errors[0]


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextlib.contextmanager
def programs() -> Iterator[Callable[..., Program]]:
    """Start programs; those that still run at the end are ended, each by its own id."""
    started: list[Program] = []

    def start(*arguments: object) -> Program:
        started.append(Program(*arguments))
        return started[-1]

    try:
        yield start
    finally:
        for program in started:
            program.close()
