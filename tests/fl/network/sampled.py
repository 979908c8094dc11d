"""Populations of which each round asks some: the inputs of every session, and whether its sum was exact."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from fl.network.client import Participant
from fl.network.server import FinishedServing
from fl.network.session_thread import SessionRequest, SessionThread
from secagg import Completed
from tests.fl.network.harness import Client, Deployment
from transport import Deadlines, Offer, SessionHost


class Population:
    """A training, its present clients, and all of its sessions."""

    def __init__(self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.deployment = deployment
        self.config = deployment.config(**changes)
        self.clients: dict[int, Client] = {}
        self.hosts: list[SessionHost] = []
        self.offered: dict[bytes, set[int]] = {}
        self.inputs: dict[bytes, dict[int, Any]] = {}
        # The number of a session's inputs before its end; later ones are too late.
        self.in_time = len(range(deployment.num_clients))
        self._ended: dict[bytes, threading.Event] = {}
        self._lock = threading.Lock()
        run = SessionThread.run

        def noted(thread: SessionThread, session: SessionRequest, observer: Any = None) -> SessionHost:
            def observe(host: SessionHost) -> None:
                if observer is not None:
                    observer(host)
                if host.outcome is not None:
                    self._end_of(host.offer.nonce).set()

            host = run(thread, session, observe)
            if session.number:
                self.hosts.append(host)
            return host

        monkeypatch.setattr(SessionThread, "run", noted)

    def _end_of(self, nonce: bytes) -> threading.Event:
        with self._lock:
            return self._ended.setdefault(nonce, threading.Event())

    @property
    def client(self) -> type[Participant]:
        """Return a client that records its offers and its inputs."""
        population = self

        class Noting(Participant):
            def _accept(self, offer: Offer) -> None:
                super()._accept(offer)
                population.offered.setdefault(offer.nonce, set()).add(self._options.client_id)

            def _input(self, offer: Offer) -> Any:
                vector = super()._input(offer)
                with population._lock:
                    inputs = population.inputs.setdefault(offer.nonce, {})
                    inputs[self._options.client_id] = vector
                    is_late = len(inputs) > population.in_time
                if is_late:
                    assert population._end_of(offer.nonce).wait(40)
                return vector

        return Noting

    def start(self, client_ids: Iterable[int], **changes: Any) -> None:
        for client_id in client_ids:
            options = {"give_up": 40.0, "make": self.client} | changes
            self.clients[client_id] = self.deployment.client(client_id, self.config, **options)
            self.clients[client_id].start()

    def serve(self, beside: Callable[[], None], **serving: Any) -> FinishedServing:
        """Serve to the end; all deadlines are long enough for clients that are on time."""
        deadlines = Deadlines(advertise_keys=20, share_keys=30, masked_input_collection=30, unmasking=30)
        options = {"give_up": 40.0, "deadlines": deadlines} | serving.pop("options", {})
        finished = self.deployment.run_beside(
            self.config,
            beside,
            options=self.deployment.options(**options),
            **{"over_select": 1.0, "max_examples": 240} | serving,
        )
        for client in self.clients.values():
            client.finish()
        return finished

    def assert_exact(self, host: SessionHost, included: int | None = None) -> None:
        """Assert that each sum is that of the inputs of its clients."""
        outcome = host.outcome
        assert isinstance(outcome, Completed), outcome
        inputs = self.inputs[host.offer.nonce]
        total = sum(inputs[i].astype(np.uint64) for i in outcome.included) & np.uint64(host.offer.params.modulus - 1)
        assert outcome.sum.tolist() == total.tolist()
        assert included in (None, len(outcome.included))
