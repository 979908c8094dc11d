"""Run three servers in lockstep with one cohort, each with other dropouts, and time all parties.

All clients are real: they have their own keys and bytes, and each message is decoded by its receiver. A client's
messages before Unmasking do not depend on later dropouts, so one cohort serves all servers. A client that has sent its
masked input is suspended, and a client resumed from there answers each server's survivor list.
"""

from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt

from secagg import (
    Client,
    ClientId,
    Completed,
    InputRequested,
    Parameters,
    Round,
    Send,
    Server,
    UnmaskReady,
    decode_client_message,
    decode_server_message,
    encode,
    plan,
)

LENGTH: Final = 100_000
RING_BITS: Final = 24
ROUNDS: Final = (Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION, Round.UNMASKING)
DROPOUTS: Final = (0.0, 0.1, 0.3)


@dataclass(frozen=True, slots=True)
class CohortTimes:
    """Seconds by round: of a client (the median over all, without dropouts), and of each server, by dropout.

    A round of the server includes receiving and decoding its messages, closing the round, and encoding its answers;
    Unmasking includes the recovery, on one core.
    """

    client: dict[Round, float]
    servers: dict[float, dict[Round, float]]


def parameters(num_clients: int) -> Parameters:
    """Return the paper's setting: complete graph, no corrupt clients, a ring of 24 bits."""
    value_bits = RING_BITS - (num_clients - 1).bit_length()
    params = plan(num_clients=num_clients, vector_length=LENGTH, value_bits=value_bits, dropout=DROPOUTS[-1]).parameters
    assert params.ring_bits == RING_BITS
    return params


def run_cohort(num_clients: int) -> CohortTimes:
    """Run one session of each server with the same clients; their sums are checked."""
    params = parameters(num_clients)
    servers = {dropout: _TimedServer(params, dropout) for dropout in DROPOUTS}
    cohort = _Cohort(params)
    client: dict[Round, float] = {}
    messages = dict.fromkeys(range(num_clients), b"")
    for round_ in ROUNDS[:-1]:
        seconds: list[float] = []
        for client_id, data in messages.items():
            answer = cohort.answer(round_, client_id, data, seconds)
            for server in servers.values():
                server.receive(round_, client_id, answer)
        client[round_] = median(seconds)
        sent = [server.close(round_) for server in servers.values()]
        messages = sent[0]
    for server, survivor_lists in zip(servers.values(), sent, strict=True):
        seconds = []
        for client_id, data in survivor_lists.items():
            server.receive(Round.UNMASKING, client_id, cohort.answer(Round.UNMASKING, client_id, data, seconds))
        if server.dropout == 0:
            client[Round.UNMASKING] = median(seconds)
        server.finish()
    return CohortTimes(client, {dropout: server.seconds for dropout, server in servers.items()})


def made_up_input(params: Parameters, client_id: ClientId) -> npt.NDArray[np.uint64]:
    """Return a client's input, uniform below 2^value_bits, the same each time: shape (vector_length,), uint64."""
    rng = np.random.default_rng(client_id)
    return rng.integers(1 << params.value_bits, size=params.vector_length, dtype=np.uint64)


class _Cohort:
    """The clients, which take and return bytes."""

    def __init__(self, params: Parameters) -> None:
        self._params = params
        self._clients: dict[ClientId, Client] = {}
        self._suspended: dict[ClientId, bytes] = {}

    def answer(self, round_: Round, client_id: ClientId, data: bytes, seconds: list[float]) -> bytes:
        """Decode a message, answer it and encode the answer, as deployments do; the time excludes making the input."""
        vector = made_up_input(self._params, client_id)
        if round_ is Round.UNMASKING:
            self._clients[client_id] = Client.resume(self._suspended[client_id])
        started = perf_counter()
        if round_ is Round.ADVERTISE_KEYS:
            self._clients[client_id] = Client(self._params, client_id)
            (event,) = self._clients[client_id].start()
        else:
            (event,) = self._clients[client_id].receive(decode_server_message(data, self._params))
        if isinstance(event, InputRequested):
            assert not event.rejected_shares
            (event,) = self._clients[client_id].submit_input(vector)
        assert isinstance(event, Send)
        answer = encode(event.message, self._params)
        seconds.append(perf_counter() - started)
        if round_ is Round.MASKED_INPUT_COLLECTION:
            self._suspended[client_id] = self._clients.pop(client_id).suspend()
        return answer


@dataclass
class _TimedServer:
    """A server that loses the last clients before their masked input."""

    params: Parameters
    dropout: float
    seconds: dict[Round, float] = field(default_factory=lambda: dict.fromkeys(ROUNDS, 0.0))

    def __post_init__(self) -> None:
        self._server = Server(self.params)
        self._num_left = self.params.num_clients - round(self.dropout * self.params.num_clients)

    def receive(self, round_: Round, client_id: ClientId, data: bytes) -> None:
        if round_ is Round.MASKED_INPUT_COLLECTION and client_id >= self._num_left:
            return
        started = perf_counter()
        events = self._server.receive(client_id, decode_client_message(data, self.params))
        self.seconds[round_] += perf_counter() - started
        assert not events

    def close(self, round_: Round) -> dict[ClientId, bytes]:
        """Close a round; return the bytes for each client.

        A message that is the same object for all clients is encoded once, as in the in-process transport.
        """
        started = perf_counter()
        messages: dict[ClientId, bytes] = {}
        previous, data = None, b""
        for event in self._server.close_round():
            if isinstance(event, Send) and isinstance(event.to, int):
                if event.message is not previous:
                    previous, data = event.message, encode(event.message, self.params)
                messages[event.to] = data
        self.seconds[round_] += perf_counter() - started
        return messages

    def finish(self) -> None:
        """Close the last round and recover the masks on one core; check the sum."""
        started = perf_counter()
        (ready,) = self._server.close_round()
        assert isinstance(ready, UnmaskReady)
        (completed,) = self._server.finish(ready.job.run(workers=1))
        self.seconds[Round.UNMASKING] += perf_counter() - started
        assert isinstance(completed, Completed)
        assert completed.included == tuple(range(self._num_left))
        expected = np.zeros(LENGTH, dtype=np.uint64)
        for client_id in completed.included:
            expected += made_up_input(self.params, client_id)
        assert np.array_equal(completed.sum, expected)
