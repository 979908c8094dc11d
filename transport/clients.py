"""The clients of a simulated session: in this process, or in workers.

`LocalClients` computes an answer when it arrives at the server, on the network's clock. `HostedClients` computes it as
soon as the client has the message: a client's answer depends on nothing else, so the session is the same.
"""

from __future__ import annotations

import heapq
import itertools
import os
import pickle
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

import secagg
from secagg import Client, ClientId, EntropySource, Identity, KeyDirectory, Parameters, SecAggError
from transport.driver import ClientDriver, Parts
from transport.errors import InputWithheldError, TransportError
from transport.framing import Frame, encode_frame
from transport.inputs import MakeInput, PortableInputs, computed, is_importable, sendable
from transport.workers import Workers, estimated_seconds, portable

# Limit of inputs that are masked ahead of their delivery, in bytes of messages; at least two for each worker.
_KEPT_BYTES = 256 << 20
# Inputs for each worker that are masked ahead even if an answer could be delivered.
_ENOUGH = 4
# Work that is sent to a worker at once, in seconds: enough to hide the sending, little enough to keep all busy.
_BATCH_SECONDS = 0.02
# A client's other work in each round, in seconds.
_SECONDS_PER_STEP = 3e-4


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's answer to one message.

    Attributes:
        frames: the messages to send, with framing.
        seconds: computing time on one core, without the making of its input.
        error: the reason if the client gave up.
        input_requested: whether the answer needs the client's input first.
        failure: an error of the program, to be raised where the answer is due.
        making_seconds: time for the making of its input.
    """

    client_id: ClientId
    frames: tuple[Frame, ...] = ()
    seconds: float = 0.0
    error: SecAggError | TransportError | None = None
    input_requested: bool = False
    failure: Exception | None = None
    making_seconds: float = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        # Large frames are sent between processes without being copied.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["frames"]
        return _received, (values, [pickle.PickleBuffer(frame) for frame in self.frames])

    def after(self, first: Answer) -> Answer:
        """Return this answer with the times of the part before the input."""
        return replace(self, seconds=first.seconds + self.seconds)


def _received(values: dict[str, Any], frames: list[Any]) -> Answer:
    """Return an answer from another process: `Answer.__reduce__` says how it was sent."""
    return Answer(frames=tuple(map(memoryview, frames)), **values)


class Clients(Protocol):
    """Interface of a session's clients; ``workers`` is the number of processes that compute for them."""

    workers: int

    def tell(self, client_id: ClientId, message: bytes | memoryview | None, due: float) -> None:
        """Give a client a message of the server, or None to start it. Its answer is needed at the time ``due``."""
        ...

    def answer(self, client_id: ClientId) -> Answer:
        """Return the answer to the first message that was not answered yet."""
        ...

    def close(self) -> None:
        """Drop the clients."""
        ...


def client_seconds(params: Parameters) -> float:
    """Return the estimated seconds on one core of a client's whole part."""
    rounds = len(secagg.rounds_of(params)) * _SECONDS_PER_STEP
    return rounds + _seconds_to_share(params) + _seconds_to_mask(params)


def _seconds_to_share(params: Parameters) -> float:
    return estimated_seconds(agreements=params.degree, elements=0)


def _seconds_to_mask(params: Parameters) -> float:
    return estimated_seconds(agreements=params.degree, elements=params.degree * params.vector_length)


class LocalClients:
    """Clients in this process, which compute when their answer is due; see `Clients`."""

    workers = 1

    def __init__(self, clients: Mapping[ClientId, Client], make_input: MakeInput) -> None:
        self._drivers = {client_id: ClientDriver(client, None) for client_id, client in clients.items()}
        self._make_input = make_input
        self._told: defaultdict[ClientId, deque[bytes | memoryview | None]] = defaultdict(deque)

    def tell(self, client_id: ClientId, message: bytes | memoryview | None, due: float) -> None:
        """See `Clients`."""
        self._told[client_id].append(message)

    def answer(self, client_id: ClientId) -> Answer:
        """See `Clients`. Errors of ``make_input``, and of an input that it made, are raised."""
        driver = self._drivers[client_id]
        first = answer_to(driver, client_id, self._told[client_id].popleft())
        return answer_with_input(driver, client_id, self._make_input).after(first) if first.input_requested else first

    def close(self) -> None:
        """See `Clients`."""


def answer_to(driver: ClientDriver, client_id: ClientId, message: bytes | memoryview | None) -> Answer:
    """Let a client compute its answer to a message, or its start."""
    return _timed(driver, client_id, driver.start if message is None else partial(driver.data_received, message))


def answer_with_input(driver: ClientDriver, client_id: ClientId, make_input: MakeInput) -> Answer:
    """Make a client's input, and let it compute its answer."""
    started = time.perf_counter()
    try:
        vector = computed(make_input(client_id))
    except InputWithheldError as error:
        driver.withhold(error)
        return Answer(client_id, error=error)
    making = time.perf_counter() - started
    return replace(_timed(driver, client_id, partial(driver.submit_input, vector)), making_seconds=making)


def _timed(driver: ClientDriver, client_id: ClientId, step: Callable[[], list[Parts]]) -> Answer:
    # The thread's own time: other processes, which wait for the same core, do not count.
    started = time.thread_time()
    messages = step()
    seconds = time.thread_time() - started
    frames = tuple(map(encode_frame, messages))
    return Answer(client_id, frames, seconds, driver.error, driver.input_requested)


@dataclass(frozen=True, slots=True)
class _Hosting:
    """What a worker needs of a session."""

    directory: KeyDirectory | None
    make_input: PortableInputs | None


@dataclass(frozen=True, slots=True, repr=False)
class _Step:
    """Work of one client in a worker: to take the message or, without one, to start; or to submit its input.

    Attributes:
        moved: the suspended client, with the secret key of its identity, if the worker does not have it yet.
        vector: the input, perhaps deferred; None if the worker makes it.
    """

    client_id: ClientId
    message: bytes | None = None
    submits: bool = False
    vector: Any = None
    moved: tuple[bytes, bytes | None] | None = None


class HostedClients:
    """Clients in workers; see `Clients`. A client is moved to its worker once, and stays there until the end.

    Inputs are made ahead, in about the order in which they are due: no more than the window has room for, since masked
    inputs are large. With another source of randomness than the system's, clients start in this process, so that the
    source is asked in the same order as without workers.
    """

    def __init__(
        self,
        workers: Workers,
        clients: Mapping[ClientId, Client],
        make_input: MakeInput,
        *,
        entropy: EntropySource,
        identities: Mapping[ClientId, Identity] | None,
        directory: KeyDirectory | None,
        may_be_early: Callable[[ClientId], bool] | None,
    ) -> None:
        params = next(iter(clients.values())).params
        self.workers = workers.count
        self._workers = workers
        self._here = dict(clients)
        self._make_input = make_input
        self._may_be_early = may_be_early or (lambda client_id: True)
        self._identities = identities or {}
        self._starts_here = entropy is not os.urandom
        self._place = {client_id: index % workers.count for index, client_id in enumerate(clients)}
        self._value_bits = params.value_bits
        self._window = max(2 * workers.count, _KEPT_BYTES // secagg.max_message_bytes(params))
        self._seconds_to_share, self._seconds_to_mask = _seconds_to_share(params), _seconds_to_mask(params)
        # Messages of each client that were not answered yet: the first is in work.
        self._told: defaultdict[ClientId, deque[bytes | None]] = defaultdict(deque)
        self._due: list[tuple[float, int, ClientId]] = []
        self._order = itertools.count()
        # Steps that were not sent yet, by place, and their work.
        self._steps: defaultdict[int, list[_Step]] = defaultdict(list)
        self._step_seconds: defaultdict[int, float] = defaultdict(float)
        self._done: SimpleQueue[Future[list[Answer]]] = SimpleQueue()
        self._answers: dict[ClientId, Answer] = {}
        # Clients whose input was made and whose answer was not taken yet, with the part before the input.
        self._inputs: dict[ClientId, Answer] = {}
        self._failed = False
        portable_inputs = make_input if isinstance(make_input, PortableInputs) and is_importable(make_input) else None
        self._made_here = portable_inputs is None
        workers.start()
        for place in range(workers.count):
            self._call(place, "begin", _Hosting(directory, portable_inputs))

    def tell(self, client_id: ClientId, message: bytes | memoryview | None, due: float) -> None:
        """See `Clients`."""
        heapq.heappush(self._due, (due, next(self._order), client_id))
        told = self._told[client_id]
        told.append(message if message is None else bytes(message))
        if len(told) == 1:
            self._work_on(client_id)

    def answer(self, client_id: ClientId) -> Answer:
        """See `Clients`. WorkerLostError if a worker has ended."""
        if client_id in self._here and self._told[client_id][0] is None:
            self._answers[client_id] = answer_to(ClientDriver(self._here[client_id], None), client_id, None)
        self._look_ahead(client_id)
        while (answer := self._answers.get(client_id)) is None or answer.input_requested:
            if answer is not None:
                self._submit(client_id)
                continue
            for place in tuple(self._steps):
                self._send(place)
            self._collect()
            self._look_ahead(client_id)
        del self._answers[client_id]
        self._inputs.pop(client_id, None)
        told = self._told[client_id]
        told.popleft()
        if told:
            self._work_on(client_id)
        if answer.failure is not None:
            raise answer.failure
        return answer

    def close(self) -> None:
        """See `Clients`."""
        for place in range(self._workers.count):
            self._call(place, "begin", _Hosting(None, None))

    def _call(self, place: int, method: str, argument: object) -> None:
        future = self._workers.call(place, f"transport.clients:Share.{method}", argument)
        future.add_done_callback(self._done.put)

    def _work_on(self, client_id: ClientId) -> None:
        """Queue the client's first message for its worker."""
        message = self._told[client_id][0]
        if message is None and self._starts_here:
            # Started when the answer is due, in the order of the network's clock.
            return
        moved = None
        if (client := self._here.pop(client_id, None)) is not None:
            identity = self._identities.get(client_id)
            moved = (client.suspend(), None if identity is None else identity.to_bytes())
        self._queue(_Step(client_id, message, moved=moved), self._seconds_to_share)

    def _queue(self, step: _Step, seconds: float) -> None:
        place = self._place[step.client_id]
        self._steps[place].append(step)
        self._step_seconds[place] += seconds + _SECONDS_PER_STEP
        if self._step_seconds[place] >= _BATCH_SECONDS:
            self._send(place)

    def _send(self, place: int) -> None:
        """Send a worker what is queued for it."""
        steps = self._steps.pop(place, None)
        self._step_seconds.pop(place, None)
        if steps:
            self._call(place, "compute", steps)

    def _collect(self) -> None:
        """Wait for one batch of answers."""
        for answer in self._done.get().result():
            first = self._inputs.get(answer.client_id)
            self._answers[answer.client_id] = answer if first is None else answer.after(first)

    def _look_ahead(self, awaited: ClientId) -> None:
        """Submit the inputs that are due next, while the window has room and the awaited answer is not there."""
        while self._due and len(self._inputs) < self._window and not self._failed:
            while not self._done.empty():
                self._collect()
            ready = self._answers.get(awaited)
            if ready is not None and not ready.input_requested and len(self._inputs) >= _ENOUGH * self.workers:
                return
            client_id = self._due[0][2]
            if self._told[client_id]:
                answer = self._answers.get(client_id)
                if answer is None and client_id not in self._inputs:
                    # It computes still: those after it wait, so that inputs are made in their order.
                    return
                if answer is not None and answer.input_requested:
                    if not self._may_be_early(client_id):
                        return
                    self._submit(client_id)
            heapq.heappop(self._due)

    def _submit(self, client_id: ClientId) -> None:
        """Make a client's input here, unless workers can, and send it to the client."""
        vector = None
        self._inputs[client_id] = self._answers.pop(client_id)
        if self._made_here:
            try:
                vector = sendable(self._make_input(client_id), self._value_bits)
            except InputWithheldError as error:
                self._answers[client_id] = Answer(client_id, error=error).after(self._inputs[client_id])
                return
            except Exception as error:  # noqa: BLE001 - raised when the answer is due
                self._answers[client_id] = Answer(client_id, failure=error)
                self._failed = True
                return
        self._queue(_Step(client_id, submits=True, vector=vector), self._seconds_to_mask)


class Share:
    """A worker's share of a session's clients, for `HostedClients`."""

    def __init__(self) -> None:
        self._drivers: dict[ClientId, ClientDriver] = {}
        self._hosting = _Hosting(None, None)

    def begin(self, hosting: _Hosting) -> list[Answer]:
        """Drop all clients, and take what the next session needs. Return no answers."""
        self._drivers.clear()
        self._hosting = hosting
        return []

    def compute(self, steps: list[_Step]) -> list[Answer]:
        """Return the clients' answers."""
        return [self._answer(step) for step in steps]

    def _answer(self, step: _Step) -> Answer:
        try:
            if step.moved is not None:
                blob, key = step.moved
                identity = None if key is None else Identity(key)
                client = Client.resume(blob, identity=identity, directory=self._hosting.directory)
                self._drivers[step.client_id] = ClientDriver(client, None)
            driver = self._drivers[step.client_id]
            if not step.submits:
                return answer_to(driver, step.client_id, step.message)
            return answer_with_input(driver, step.client_id, self._hosting.make_input or (lambda _: step.vector))
        except Exception as error:  # noqa: BLE001 - raised where the answer is due
            return Answer(step.client_id, failure=portable(error))
