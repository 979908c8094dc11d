"""Drivers of the machines over encoded bytes, the only place with deadlines.

Time is an argument (seconds on any clock that does not go back): a real transport passes its event loop's time, the
in-process network a virtual time.  Both drivers take bytes and return the bytes to send; they use no sockets.
"""

from collections.abc import Callable, Collection, Container
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import secagg
from secagg import (
    Aborted,
    Client,
    ClientDropped,
    ClientId,
    CodecError,
    Completed,
    Dispute,
    DropReason,
    InputRequested,
    MaskSum,
    RemoteProtocolError,
    Round,
    SecAggError,
    Send,
    Server,
    ServerPhase,
    SharesDisputed,
    UnmaskJob,
    UnmaskReady,
)
from secagg.algebra.ring import RingVector
from transport.errors import InputWithheldError

InputVector: TypeAlias = npt.NDArray[np.integer[Any]]
KeyedInput: TypeAlias = Callable[[tuple[bytes, ...]], InputVector]
"""An input that is made from the keys of the session's noise components, where the client is (`Client.noise_keys`).

If clients are in workers, it must be possible to pickle it."""

InputProvider: TypeAlias = Callable[[], InputVector | KeyedInput]
"""A function that returns a client's input when it is due: shape (vector_length,), integers in [0, 2^value_bits)."""

Delivery: TypeAlias = tuple[ClientId, bytes]
"""An encoded message and the client to send it to."""

Parts: TypeAlias = tuple[bytes | memoryview, ...]
"""An encoded message in pieces, to be sent in order; an argument for `encode_frame`."""

_CLOSED = frozenset((ServerPhase.RECOVERY, ServerPhase.COMPLETED, ServerPhase.ABORTED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds for which each round stays open while answers are missing.

    Attributes:
        download: maximum of additional seconds for which AdvertiseKeys stays open while clients download the
            announcement: its own seconds start again whenever a client has received another part.
    """

    advertise_keys: float = 30.0
    share_keys: float = 60.0
    masked_input_collection: float = 600.0
    consistency_check: float = 60.0
    unmasking: float = 60.0
    download: float = 600.0

    def __post_init__(self) -> None:
        for name, seconds in (("a download", self.download), *((round_.value, self.of(round_)) for round_ in Round)):
            if not isinstance(seconds, int | float) or not seconds > 0:
                raise ValueError(f"the deadline of {name} must be above 0 seconds, not {seconds!r}")

    def of(self, round_: Round) -> float:
        """Return the seconds of one round."""
        seconds: float = getattr(self, round_.name.lower())
        return seconds


class ServerDriver:
    """Feeds a server with bytes and time until it has an outcome.

    Call `start`, then `data_received`, `drop` and `tick` as things happen; send what each call returns.
    `tick` is due at `deadline`.  When `job` is set, run it anywhere and hand the result to `finish`.

    Args:
        server: the machine.
        deadlines: the seconds for which each round stays open.
        deferred: for these rounds, set `closing_due` when they can be closed, so that the caller calls `close_round`,
            for instance in a thread: many clients or wrong shares make this take seconds. The driver closes others at
            once.
    """

    def __init__(self, server: Server, deadlines: Deadlines, *, deferred: Container[Round] = ()) -> None:
        self._server = server
        self._deadlines = deadlines
        self._deferred = deferred
        self.closing_due = False
        self._encoded: tuple[object, bytes] | None = None
        self.deadline: float | None = None
        self._opened = 0.0
        self._waits_for_downloads = True
        self.job: UnmaskJob | None = None
        self.outcome: Completed | Aborted | None = None
        self.dropped: dict[ClientId, ClientDropped] = {}
        self.disputes: tuple[Dispute, ...] = ()
        self.unknown_messages = 0

    @property
    def round(self) -> Round:
        """Return the open round, or the last one."""
        return self._server.round

    def start(self, now: float) -> None:
        """Open the first round."""
        self._opened = now
        self.deadline = now + self._deadlines.of(self.round)

    def downloading(self, now: float) -> None:
        """Note that a client received a part of the announcement; it cannot answer before it has the whole."""
        if self._waits_for_downloads and self.round is Round.ADVERTISE_KEYS and self.deadline is not None:
            seconds = self._deadlines.of(self.round)
            self.deadline = max(self.deadline, min(now, self._opened + self._deadlines.download) + seconds)

    def stop_waiting_for_downloads(self) -> None:
        """Keep AdvertiseKeys open for its own seconds only, since enough clients have answered."""
        self._waits_for_downloads = False
        if self.round is Round.ADVERTISE_KEYS and self.deadline is not None:
            self.deadline = self._opened + self._deadlines.of(self.round)

    def data_received(self, client_id: ClientId, data: bytes | memoryview, now: float) -> list[Delivery]:
        """Take a whole message of a client; the connection determines the id. Return the deliveries."""
        try:
            message = secagg.decode_client_message(data, self._server.params)
        except CodecError as error:
            return self.drop(client_id, now, DropReason.MALFORMED, str(error))
        return self._handle(self._server.receive(client_id, message), now)

    def partial_received(self, client_ids: Collection[ClientId], vector: RingVector, now: float) -> list[Delivery]:
        """Take the sum of several clients' masked inputs. Return the deliveries; errors as `Server.receive_partial`."""
        self._server.receive_partial(client_ids, vector)
        return self._handle((), now)

    def drop(
        self, client_id: ClientId, now: float, reason: DropReason = DropReason.DISCONNECTED, detail: str = ""
    ) -> list[Delivery]:
        """Drop a client for good, for instance because its bytes were not a message. Return the deliveries."""
        return self._handle(self._server.drop(client_id, reason, detail), now)

    def tick(self, now: float) -> list[Delivery]:
        """Close the open round if its deadline has passed."""
        if self.deadline is None or now < self.deadline:
            return []
        return self.close_soon(now)

    def close_round(self, now: float) -> list[Delivery]:
        """Close the open round."""
        events = self._server.close_round()
        self.closing_due = False
        self.deadline = None if self._server.phase in _CLOSED else now + self._deadlines.of(self.round)
        return self._handle(events, now)

    def close_soon(self, now: float) -> list[Delivery]:
        """Close the open round, or set `closing_due`."""
        if self.round in self._deferred:
            self.closing_due, self.deadline = True, None
            return []
        return self.close_round(now)

    def finish(self, masks: MaskSum, now: float) -> None:
        """Take the result of `job`, and set `outcome`."""
        self._handle(self._server.finish(masks), now)
        self.job = None

    def _handle(self, events: tuple[secagg.events.ServerEvent, ...], now: float) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for event in events:
            match event:
                case Send(to=client_id, message=message):
                    assert isinstance(client_id, int)  # noqa: S101 - a server sends to clients only
                    deliveries.append((client_id, self._encode(message)))
                case ClientDropped(reason=DropReason.UNKNOWN_CLIENT):
                    # Counted, not stored: strangers must not fill the memory.
                    self.unknown_messages += 1
                case ClientDropped():
                    self.dropped[event.client_id] = event
                case SharesDisputed():
                    self.disputes = event.disputes
                case UnmaskReady():
                    self.job = event.job
                case Completed() | Aborted():
                    self.outcome = event
        # Waiting for the deadline gains nothing once no answer is pending.
        if not deliveries and self.outcome is None and self.deadline is not None and not self._server.num_pending:
            return self.close_soon(now)
        return deliveries

    def _encode(self, message: secagg.messages.Message) -> bytes:
        """Return the message's bytes; encode once a message object that goes to many clients."""
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = (message, secagg.encode(message, self._server.params))
        return self._encoded[1]


class ClientDriver:
    """Feeds a client with bytes, and with its input when it is due.

    `error` is set once the server broke a rule, the bytes were not a message, or the client's own input was withheld.
    The client has ended then, and the caller must close its connection.

    Args:
        client: the machine.
        provide_input: a function that returns the input, called when it is due. None: the caller calls
            `submit_input` once `input_requested` is set.
    """

    def __init__(self, client: Client, provide_input: InputProvider | None) -> None:
        self._client = client
        self._provide_input = provide_input
        self.error: SecAggError | InputWithheldError | None = None

    @property
    def finished(self) -> bool:
        """Return whether this client has nothing left to do."""
        return self.error is not None or self._client.phase is secagg.ClientPhase.FINISHED

    @property
    def input_requested(self) -> bool:
        """Return whether the client waits for `submit_input`."""
        return self._client.phase is secagg.ClientPhase.INPUT_REQUESTED

    def start(self) -> list[Parts]:
        """Return the first messages to send."""
        return self._handle(self._client.start())

    def submit_input(self, vector: InputVector | KeyedInput) -> list[Parts]:
        """Take the client's input, and return the messages to send."""
        if callable(vector):
            vector = vector(self._client.noise_keys())
        return self._handle(self._client.submit_input(vector))

    def withhold(self, error: InputWithheldError) -> None:
        """End the client, since it has no input that may be sent."""
        self._client.abort()
        self.error = error

    def data_received(self, data: bytes | memoryview) -> list[Parts]:
        """Take a whole message of the server, and return the messages to send."""
        if self.error is not None:
            return []
        try:
            message = secagg.decode_server_message(data, self._client.params)
            return self._handle(self._client.receive(message))
        except (CodecError, RemoteProtocolError, InputWithheldError) as error:
            self._client.abort()
            self.error = error
            return []

    def _handle(self, events: tuple[secagg.events.ClientEvent, ...]) -> list[Parts]:
        out: list[Parts] = []
        for event in events:
            match event:
                case Send(message=message):
                    out.append(secagg.encode_parts(message, self._client.params))
                case InputRequested():
                    if self._provide_input is not None:
                        out += self.submit_input(self._provide_input())
        return out
