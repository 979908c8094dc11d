"""Real clients in worker processes, their rounds timed one by one; bytes go in and out.

A worker owns its clients from their start to their end.  So that one cohort serves several servers that lose
different clients, a client that has sent its masked input is suspended, and each server's survivor list is answered by
a client resumed from there: the messages up to the masked input are the same, whoever vanishes later.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from types import TracebackType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secagg import Client, ClientId, InputRequested, Parameters, Round, Send, decode_server_message, encode

# How many clients act between two messages of a worker: bounds the bytes that are under way.
_BATCH = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client sent, and the seconds from the bytes that it got to the bytes that it gave."""

    client_id: ClientId
    data: bytes
    seconds: float


_Task: TypeAlias = tuple[Round, list[ClientId], list[bytes]]


class Cohort:
    """Clients 0 .. n-1 in two processes; use it as a context manager.

    Args:
        params: the session's parameters.
        num_alone: the first so many clients of each round act while everything else waits: their times are those
            of a core that shares the machine's caches and memory with nobody, as far as it is up to us.
    """

    def __init__(self, params: Parameters, num_alone: int) -> None:
        self._params = params
        self._num_alone = num_alone
        self._stack = ExitStack()
        self._workers: list[Connection] = []

    def __enter__(self) -> "Cohort":
        # Spawned: a fork would take the parent's threads' locks along.
        context = multiprocessing.get_context("spawn")
        for _ in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, self._params), daemon=True)
            process.start()
            theirs.close()
            self._stack.callback(process.join)
            self._stack.callback(ours.close)
            self._workers.append(ours)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def act(self, round_: Round, messages: dict[ClientId, bytes]) -> Iterator[list[Answer]]:
        """Each client's answer to its message (of AdvertiseKeys, to none), a batch at a time.

        Between batches nobody works but the caller, who may time itself.
        """
        ids = sorted(messages)
        alone, together = ids[: self._num_alone], ids[self._num_alone :]
        for batch in _batches(alone, _BATCH):
            for client_id in batch:
                self._send(round_, [client_id], messages)
                yield self._receive(client_id % 2)
        for batch in _batches(together, 2 * _BATCH):
            halves = [[i for i in batch if i % 2 == worker] for worker in range(2)]
            for half in filter(None, halves):
                self._send(round_, half, messages)
            yield [answer for worker in range(2) if halves[worker] for answer in self._receive(worker)]

    def _send(self, round_: Round, ids: list[ClientId], messages: dict[ClientId, bytes]) -> None:
        task: _Task = (round_, ids, [messages[i] for i in ids])
        self._workers[ids[0] % 2].send(task)

    def _receive(self, worker: int) -> list[Answer]:
        answers: list[Answer] = self._workers[worker].recv()
        return answers


def made_up_input(params: Parameters, client_id: ClientId) -> npt.NDArray[np.uint64]:
    """A client's input, uniform below 2^value_bits, the same each time: shape (vector_length,), uint64."""
    rng = np.random.default_rng(client_id)
    return rng.integers(1 << params.value_bits, size=params.vector_length, dtype=np.uint64)


def _batches(ids: list[ClientId], size: int) -> Iterator[list[ClientId]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _work(tasks: Connection, params: Parameters) -> None:
    """A worker: rounds in, answers out, until the parent hangs up."""
    clients: dict[ClientId, Client] = {}
    suspended: dict[ClientId, bytes] = {}
    while True:
        try:
            round_, ids, messages = tasks.recv()
        except EOFError:
            return
        answers = []
        for client_id, data in zip(ids, messages, strict=True):
            match round_:
                case Round.ADVERTISE_KEYS:
                    answers.append(_start(clients, params, client_id))
                case Round.SHARE_KEYS:
                    answers.append(_answer(clients[client_id], data))
                case Round.MASKED_INPUT_COLLECTION:
                    answers.append(_answer(clients[client_id], data))
                    suspended[client_id] = clients.pop(client_id).suspend()
                case Round.UNMASKING:
                    answers.append(_answer(Client.resume(suspended[client_id]), data))
        tasks.send(answers)


def _start(clients: dict[ClientId, Client], params: Parameters, client_id: ClientId) -> Answer:
    started = perf_counter()
    client = Client(params, client_id)
    (send,) = client.start()
    assert isinstance(send, Send)
    data = encode(send.message, params)
    seconds = perf_counter() - started
    clients[client_id] = client
    return Answer(client_id, data, seconds)


def _answer(client: Client, data: bytes) -> Answer:
    """Decode, act, encode: what a deployment pays; the making of the input is not counted."""
    vector = made_up_input(client.params, client.client_id)
    started = perf_counter()
    message = decode_server_message(data, client.params)
    (event,) = client.receive(message)
    if isinstance(event, InputRequested):
        assert not event.rejected_shares
        (event,) = client.submit_input(vector)
    assert isinstance(event, Send)
    answer = encode(event.message, client.params)
    return Answer(client.client_id, answer, perf_counter() - started)
