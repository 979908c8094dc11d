"""An in-process network: one server and its clients over encoded bytes, with faults, in virtual time.

It does all that a real deployment does, with keys, encryption and encoding; only the wires are missing.  Waiting costs
nothing: the clock jumps to the next event, so a session whose clients all time out takes no longer.
"""

import heapq
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import TypeAlias

import numpy as np

import secagg
from secagg import (
    Client,
    ClientId,
    DropReason,
    EntropySource,
    Identity,
    LocalProtocolError,
    Parameters,
    PinnedKeys,
    Round,
    SecAggError,
    Server,
    rounds_of,
)
from transport.clients import Clients, HostedClients, LocalClients, client_seconds
from transport.driver import Deadlines, InputVector, KeyedInput, ServerDriver
from transport.errors import FrameError, TransportError
from transport.faults import Direction, Fault, FaultSchedule
from transport.framing import Frame, FrameDecoder, encode_frame
from transport.inputs import DeferredInput
from transport.recovery import MaskRecovery, RecoveryPool
from transport.session_report import ClientReport, SessionReport
from transport.workers import WorkerPool, Workers

Inputs: TypeAlias = (
    Mapping[ClientId, InputVector | KeyedInput] | Callable[[ClientId], InputVector | KeyedInput | DeferredInput]
)
"""Each client's input, or a function that makes it when it is due."""

Observer: TypeAlias = Callable[[Round, int, int], None]
"""A function for progress: the open round, the number of answers, and the number of awaited answers."""

Announcement: TypeAlias = Callable[[ClientId, float], None]
"""A function that is called once a client's input is scheduled: the client, and the time in virtual seconds."""

_NONCE_BYTES = 16

# Fractions of the round's deadline. A message takes at most the first in each direction; a reordered message comes
# after all of these, and still in time if both directions are reordered.
_LATENCY = 0.2
_REORDERED = 0.45
_DELAYED = 1.5


def run_session(
    params: Parameters,
    inputs: Inputs,
    *,
    client_ids: Iterable[ClientId] | None = None,
    context: bytes = b"",
    received_context: Callable[[ClientId], bytes] | None = None,
    faults: FaultSchedule | None = None,
    deadlines: Deadlines | None = None,
    seed: int = 0,
    workers: int = 1,
    identities: Mapping[ClientId, Identity] | None = None,
    entropy: EntropySource = os.urandom,
    observer: Observer | None = None,
    announce: Announcement | None = None,
    may_be_early: Callable[[ClientId], bool] | None = None,
    recovery: MaskRecovery | None = None,
    pool: Workers | None = None,
) -> SessionReport:
    """Run one session from the first key to its outcome.

    Args:
        params: the session's parameters.
        inputs: each client's vector, shape (vector_length,), integers in [0, 2^value_bits). A function may raise
            `InputWithheldError` instead: that client leaves, and the session goes on. With workers a function is
            called ahead; `PortableInputs` are called, and a `DeferredInput` is computed, in the workers.
        client_ids: the ids of the clients; by default 0 .. num_clients - 1.
        context: bytes that the server binds into the session, such as the hash of the model that it sends.
        received_context: bytes that each client binds instead, such as the hash of the model that it received; by
            default the server's.
        faults: the faults to inject; by default none.
        deadlines: the virtual seconds for which rounds stay open.
        seed: seed of the network's latencies and of the bits that a CORRUPT fault flips; never of keys or masks.
        workers: cores for the clients and for the recovery of the masks. With more than one, large sessions start
            child processes (`WorkerPool`); the result is the same.
        identities: in malicious mode, the identity of each client; by default new ones. All parties know all public
            keys.
        entropy: the source of keys and masks; only tests replace `os.urandom`.
        observer: called after each message that the server accepted.
        announce: called in advance with the inputs that are needed, in their order, so that other processes can begin
            to make them. A few of the announced inputs may not be needed in the end.
        may_be_early: whether a client's input may be made before it is due, where workers can mask it ahead; by
            default all may.
        recovery: recovers the masks instead of the workers; it is not closed.
        pool: takes the place of ``workers``; it is not closed, so that further sessions start no processes.

    Raises:
        LocalProtocolError: an input has a wrong shape, dtype or range, or inputs and clients do not match.
        WorkerLostError: a worker process ended.
        ValueError: ``seed`` is negative, or ``workers`` is below 1.
    """
    if workers < 1 or seed < 0:
        raise ValueError(f"workers must be at least 1 and seed at least 0, not {workers} and {seed}")
    ids = tuple(range(params.num_clients)) if client_ids is None else tuple(client_ids)
    nonce = entropy(_NONCE_BYTES)
    directory = None
    if params.has_identities:
        identities = {i: Identity.generate(entropy) for i in ids} if identities is None else identities
        directory = PinnedKeys({i: identity.public_key for i, identity in identities.items()})
    server = Server(params, ids, context=context, nonce=nonce, directory=directory, entropy=entropy)
    context_of = (lambda client_id: context) if received_context is None else received_context
    clients = {
        i: Client(
            params,
            i,
            context=context_of(i),
            nonce=nonce,
            identity=identities.get(i) if identities else None,
            directory=directory,
            entropy=entropy,
        )
        for i in ids
    }
    if not callable(inputs):
        _check_ids(inputs, ids, client_ids is None)
    make_input = inputs if callable(inputs) else inputs.__getitem__
    with ExitStack() as stack:
        if pool is None and workers > 1:
            pool = stack.enter_context(WorkerPool(workers))
        answering: Clients = LocalClients(clients, make_input)
        if pool is not None and pool.is_worth(len(ids) * client_seconds(params)):
            answering = HostedClients(
                pool,
                clients,
                make_input,
                entropy=entropy,
                identities=identities,
                directory=directory,
                may_be_early=may_be_early,
            )
        stack.enter_context(closing(answering))
        network = _Network(
            server, ids, answering, faults or FaultSchedule(), deadlines or Deadlines(), seed, observer, announce
        )
        return network.run(recovery or pool or stack.enter_context(RecoveryPool(1)))


def _check_ids(inputs: Iterable[ClientId], ids: tuple[ClientId, ...], by_default: bool) -> None:
    """Raise LocalProtocolError unless inputs and clients match one to one."""
    given, taking_part = set(inputs), set(ids)
    problems = [
        f"there is {what} for clients {', '.join(sorted(map(str, some))[:10])}"
        for what, some in (
            ("no input", taking_part - given),
            ("an input, but no place in the session,", given - taking_part),
        )
        if some
    ]
    if problems:
        hint = f"; by default they are 0 to {len(ids) - 1}: pass others as client_ids=" if by_default else ""
        raise LocalProtocolError("; ".join(problems) + hint)


class _Connection:
    """One client's link to the server; each end decodes frames from its own stream."""

    def __init__(self, client_id: ClientId, params: Parameters) -> None:
        self.client_id = client_id
        self.report = ClientReport()
        limit = secagg.max_message_bytes(params)
        self.decoders = {direction: FrameDecoder(limit) for direction in Direction}
        self._rounds = rounds_of(params)
        self.sent = {Direction.UP: 0, Direction.DOWN: 1}
        self.open = True

    def next_round(self, direction: Direction) -> Round:
        """Return the round of the next message in this direction; the server sends none in the first."""
        index = min(self.sent[direction], len(self._rounds) - 1)
        self.sent[direction] += 1
        return self._rounds[index]


class _Network:
    """The event queue between the drivers."""

    def __init__(
        self,
        server: Server,
        ids: tuple[ClientId, ...],
        clients: Clients,
        faults: FaultSchedule,
        deadlines: Deadlines,
        seed: int,
        observer: Observer | None,
        announce: Announcement | None,
    ) -> None:
        self._server = server
        self._driver = ServerDriver(server, deadlines)
        self._clients = clients
        self._connections = {client_id: _Connection(client_id, server.params) for client_id in ids}
        self._faults = faults
        self._deadlines = deadlines
        self._rng = np.random.default_rng(seed)
        self._observer = observer
        self._announce = announce
        self._now = 0.0
        self._order = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._server_seconds: defaultdict[Round, float] = defaultdict(float)
        self._input_seconds = 0.0

    def run(self, recovery: MaskRecovery) -> SessionReport:
        self._driver.start(self._now)
        for connection in self._connections.values():
            self._schedule_answer(connection, None)
        while self._driver.outcome is None:
            if self._driver.job is not None:
                self._server_step(lambda: self._finish(recovery))
            elif self._queue and (self._driver.deadline is None or self._queue[0][0] <= self._driver.deadline):
                self._now, _, deliver = heapq.heappop(self._queue)
                deliver()
            else:
                assert self._driver.deadline is not None  # noqa: S101 - a session waits for a message or a deadline
                self._now = self._driver.deadline
                self._server_step(lambda: self._driver.tick(self._now))
        return SessionReport(
            outcome=self._driver.outcome,
            dropped=self._driver.dropped,
            clients={i: connection.report for i, connection in self._connections.items()},
            server_seconds=dict(self._server_seconds),
            virtual_seconds=self._now,
            workers=self._clients.workers,
            input_seconds=self._input_seconds,
        )

    def _finish(self, recovery: MaskRecovery) -> list[tuple[ClientId, bytes]]:
        assert self._driver.job is not None  # noqa: S101 - the caller saw it
        self._driver.finish(recovery.run(self._driver.job), self._now)
        return []

    def _server_step(self, step: Callable[[], list[tuple[ClientId, bytes]]]) -> None:
        """Let the server act, and send the result."""
        round_ = self._driver.round
        started = time.perf_counter()
        deliveries = step()
        self._server_seconds[round_] += time.perf_counter() - started
        if self._observer is not None:
            received = self._server.num_received
            self._observer(self._driver.round, received, received + self._server.num_pending)
        for client_id, message in deliveries:
            self._send_down(self._connections[client_id], message)

    def _schedule_answer(self, connection: _Connection, message: memoryview | None) -> None:
        """Schedule a client's answer to a message, or its start; fault and latency determine when it arrives.

        The answer is asked for when it arrives, so that the queue holds functions and not thousands of masked inputs.
        """
        client_id = connection.client_id
        round_ = connection.next_round(Direction.UP)
        fault = self._faults.of(client_id, round_, Direction.UP)
        if fault is Fault.VANISH:
            connection.open = False
            return
        delay = self._delay(round_, fault)
        due = self._now + delay
        if self._announce is not None and round_ is Round.MASKED_INPUT_COLLECTION:
            self._announce(client_id, due)
        tell = partial(self._clients.tell, client_id, message, due)
        # An answer that comes too late may never be asked for: it is not computed ahead.
        is_late = self._driver.deadline is not None and due > self._driver.deadline
        if not is_late:
            tell()
        self._schedule(delay, partial(self._answer, connection, round_, tell if is_late else None))

    def _answer(self, connection: _Connection, round_: Round, tell: Callable[[], None] | None) -> None:
        """Take a client's answer, and deliver it."""
        if not connection.open:
            return
        if tell is not None:
            tell()
        answer = self._clients.answer(connection.client_id)
        connection.report.seconds[round_] += answer.seconds
        self._input_seconds += answer.making_seconds
        if answer.error is not None:
            self._give_up(connection, answer.error)
        for frame in answer.frames:
            connection.report.bytes_up[round_] += len(frame)
            self._arrive(connection, Direction.UP, round_, frame)

    def _send_down(self, connection: _Connection, message: bytes) -> None:
        """Schedule a message of the server."""
        if not connection.open:
            return
        round_ = connection.next_round(Direction.DOWN)
        fault = self._faults.of(connection.client_id, round_, Direction.DOWN)
        arrive = partial(self._arrive, connection, Direction.DOWN, round_, encode_frame(message))
        self._schedule(self._delay(round_, fault), arrive)

    def _delay(self, round_: Round, fault: Fault | None) -> float:
        """Return the latency of a message, in virtual seconds."""
        deadline = self._deadlines.of(round_)
        latency = float(self._rng.uniform(0, _LATENCY))
        slow = {Fault.DELAY: _DELAYED, Fault.REORDER: _REORDERED}
        return deadline * (latency if fault is None else slow.get(fault, latency))

    def _arrive(self, connection: _Connection, direction: Direction, round_: Round, frame: Frame) -> None:
        """Deliver a frame to the other end, or the part that its fault left."""
        fault = self._faults.of(connection.client_id, round_, direction)
        if fault is Fault.DISCONNECT:
            self._deliver(connection, direction, round_, frame[: len(frame) // 2])
            self._drop(connection)
            return
        if fault is Fault.CORRUPT:
            frame = self._corrupt(frame)
        for _ in range(2 if fault is Fault.DUPLICATE else 1):
            self._deliver(connection, direction, round_, frame)

    def _corrupt(self, frame: Frame) -> bytes:
        damaged = bytearray(frame)
        for position in self._rng.integers(len(frame), size=1 + len(frame) // 1000):
            damaged[position] ^= 1 << int(self._rng.integers(8))
        return bytes(damaged)

    def _schedule(self, delay: float, deliver: Callable[[], None]) -> None:
        # The counter keeps the order of sending, and keeps functions from being compared.
        self._order += 1
        heapq.heappush(self._queue, (self._now + delay, self._order, deliver))

    def _deliver(self, connection: _Connection, direction: Direction, round_: Round, data: Frame) -> None:
        """Deliver bytes to the other end."""
        if not connection.open:
            return
        if direction is Direction.DOWN:
            connection.report.bytes_down[round_] += len(data)
        try:
            messages = connection.decoders[direction].feed(data)
        except FrameError as error:
            if direction is Direction.DOWN:
                self._give_up(connection, error)
            else:
                self._drop(connection, DropReason.MALFORMED, str(error))
            return
        for message in messages:
            if direction is Direction.UP:
                self._server_step(partial(self._driver.data_received, connection.client_id, message, self._now))
            else:
                self._schedule_answer(connection, message)

    def _give_up(self, connection: _Connection, error: SecAggError | TransportError) -> None:
        """End the client's part and its connection."""
        connection.report.error = error
        self._drop(connection)

    def _drop(self, connection: _Connection, reason: DropReason = DropReason.DISCONNECTED, detail: str = "") -> None:
        if not connection.open:
            return
        connection.open = False
        self._server_step(lambda: self._driver.drop(connection.client_id, self._now, reason, detail))
