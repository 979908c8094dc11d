"""Three servers in lockstep with one cohort, each losing other clients, and the seconds that everyone took."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Final

import numpy as np

from benchmarks.cohort import Answer, Cohort, made_up_input
from secagg import (
    ClientId,
    Completed,
    Parameters,
    Round,
    Send,
    Server,
    UnmaskReady,
    decode_client_message,
    encode,
    plan,
)

LENGTH: Final = 100_000
RING_BITS: Final = 24
ROUNDS: Final = (Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION, Round.UNMASKING)
DROPOUTS: Final = (0.0, 0.1, 0.3)

# Clients whose times count: they act while the rest waits.
_NUM_ALONE = 20


@dataclass(frozen=True, slots=True)
class CohortTimes:
    """Seconds by round: of a client, the median over those timed alone, none vanishing; of each server, by dropout.

    A round of the server is the receipt of its messages, decoding included, and its closing, with the encoding of what
    it sends then; Unmasking includes the recovery, on one core.
    """

    client: dict[Round, float]
    servers: dict[float, dict[Round, float]]


def parameters(num_clients: int) -> Parameters:
    """The paper's setting: complete graph, the server alone to be safe against, a ring of 24 bits."""
    value_bits = RING_BITS - (num_clients - 1).bit_length()
    params = plan(num_clients=num_clients, vector_length=LENGTH, value_bits=value_bits, dropout=DROPOUTS[-1]).parameters
    assert params.ring_bits == RING_BITS
    return params


def run_cohort(num_clients: int) -> CohortTimes:
    """One session of each server with the same clients; their sums are checked."""
    params = parameters(num_clients)
    servers = {dropout: _TimedServer(params, dropout) for dropout in DROPOUTS}
    client: dict[Round, float] = {}
    messages = dict.fromkeys(range(num_clients), b"")
    with Cohort(params, _NUM_ALONE) as cohort:
        for round_ in ROUNDS[:-1]:
            seconds: list[float] = []
            for answers in cohort.act(round_, messages):
                seconds += [answer.seconds for answer in answers]
                for server in servers.values():
                    server.receive(round_, answers)
            client[round_] = median(seconds[:_NUM_ALONE])
            sent = [server.close(round_) for server in servers.values()]
            messages = sent[0]
        for server, survivor_lists in zip(servers.values(), sent, strict=True):
            seconds = []
            for answers in cohort.act(Round.UNMASKING, survivor_lists):
                seconds += [answer.seconds for answer in answers]
                server.receive(Round.UNMASKING, answers)
            if server.dropout == 0:
                client[Round.UNMASKING] = median(seconds[:_NUM_ALONE])
    # The workers are gone: the recovery has the machine to itself.
    for server in servers.values():
        server.finish()
    return CohortTimes(client, {dropout: server.seconds for dropout, server in servers.items()})


@dataclass
class _TimedServer:
    """A server that loses the last clients before their masked input."""

    params: Parameters
    dropout: float
    seconds: dict[Round, float] = field(default_factory=lambda: dict.fromkeys(ROUNDS, 0.0))

    def __post_init__(self) -> None:
        self._server = Server(self.params)
        self._num_left = self.params.num_clients - round(self.dropout * self.params.num_clients)

    def receive(self, round_: Round, answers: Iterable[Answer]) -> None:
        for answer in answers:
            if round_ is Round.MASKED_INPUT_COLLECTION and not self._takes(answer.client_id):
                continue
            started = perf_counter()
            events = self._server.receive(answer.client_id, decode_client_message(answer.data, self.params))
            self.seconds[round_] += perf_counter() - started
            assert not events

    def close(self, round_: Round) -> dict[ClientId, bytes]:
        """Close a round: the bytes for each client.

        What is one object for all clients is encoded once, as the in-process transport does.
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
        """The last round's end and the recovery, on one core; the sum is checked."""
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

    def _takes(self, client_id: ClientId) -> bool:
        return client_id < self._num_left
