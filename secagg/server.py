"""The server machine: a shell around the open round."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, unique
from typing import NoReturn

from secagg import transcript
from secagg._server.advertise_keys import AdvertiseKeysRound
from secagg._server.consistency import ConsistencyRound
from secagg._server.masked_input import MaskedInputRound
from secagg._server.share_keys import ShareKeysRound
from secagg._server.stage import Ended, ServerSetup, Stage
from secagg._server.unmasking import Recovery, UnmaskingRound
from secagg.algebra.ring import RingVector
from secagg.errors import LocalProtocolError
from secagg.events import Aborted, AbortReason, ClientDropped, Completed, DropReason, Round, ServerEvent
from secagg.graph import build_graph
from secagg.identity import KeyDirectory, check_directory
from secagg.messages import ClientMessage, Message
from secagg.params import MAX_CLIENT_ID, ClientId, Parameters
from secagg.primitives.entropy import EntropySource
from secagg.session import session_id
from secagg.transcript import TranscriptEntry
from secagg.unmask_job import MaskSum


@unique
class ServerPhase(Enum):
    """Phases of the server: the messages that it waits for, or how its session ended."""

    ADVERTISE_KEYS = "collects public keys"
    SHARE_KEYS = "collects encrypted shares"
    MASKED_INPUT_COLLECTION = "collects masked inputs"
    CONSISTENCY_CHECK = "collects signatures of the survivors"
    UNMASKING = "collects shares of the masks' seeds"
    RECOVERY = "waits for finish() with the result of the job"
    COMPLETED = "gave the sum"
    ABORTED = "ended without a sum"


_PHASES: dict[type[Stage], ServerPhase] = {
    AdvertiseKeysRound: ServerPhase.ADVERTISE_KEYS,
    ShareKeysRound: ServerPhase.SHARE_KEYS,
    MaskedInputRound: ServerPhase.MASKED_INPUT_COLLECTION,
    ConsistencyRound: ServerPhase.CONSISTENCY_CHECK,
    UnmaskingRound: ServerPhase.UNMASKING,
    Recovery: ServerPhase.RECOVERY,
}


@dataclass(frozen=True, slots=True)
class ServerProgress:
    """The progress of a session.

    Attributes:
        phase: what the server does now.
        received: number of clients whose message of this round has arrived.
        pending: number of clients whose message is still awaited; at 0 it is pointless to wait longer.
        needed: number of messages that the session needs to continue.
    """

    phase: ServerPhase
    received: int
    pending: int
    needed: int


@dataclass(frozen=True, slots=True)
class ServerStatus(ServerProgress):
    """The progress of a session, and whether it would continue.

    Attributes:
        ready: whether the session would continue if the round were closed now.
    """

    ready: bool


class Server:
    """Run the server's side of one session (paper, figure 4).

    The server sees masked inputs and shares, and learns the sum over the survivors.  A bad message from a client never
    raises: it yields `ClientDropped`, and the session continues while ``threshold`` clients remain::

        server = Server(params, context=model_hash)
        server.receive(client_id, message)     # for each message as it arrives; the id comes from the channel
        server.close_round()                   # all arrived, or deadline passed -> Sends | UnmaskReady | Aborted
        server.finish(job.run(workers=2))      # -> Completed(sum, included)

    The host keeps the time: it calls `close_round` when a deadline has passed, or when `status` shows that no client
    is pending.

    Threads: one call at a time.  The server does not check this.  A `Client` does, since two answers at once would
    give away secrets; a server that is called by two threads can only spoil its own sum.

    Args:
        params: the session's public parameters.
        client_ids: the clients that may take part, at most ``params.num_clients``; by default 0 .. num_clients - 1.
        context, nonce: as given to the clients; see `secagg.session.session_id`.
        directory: in malicious mode only, a directory of the clients' identity keys.
        entropy: source of randomness; only tests replace `os.urandom`.

    Raises:
        LocalProtocolError: an argument has a wrong type or range.
    """

    __slots__ = (
        "_aborted",
        "_client_ids",
        "_completed",
        "_dropped",
        "_entropy",
        "_params",
        "_session_id",
        "_stage",
        "_transcript",
    )

    def __init__(
        self,
        params: Parameters,
        client_ids: Iterable[ClientId] | None = None,
        *,
        context: bytes = b"",
        nonce: bytes = b"",
        directory: KeyDirectory | None = None,
        entropy: EntropySource = os.urandom,
    ) -> None:
        if not isinstance(params, Parameters):
            raise LocalProtocolError(f"params must be secagg.Parameters, not {type(params).__name__}")
        if not callable(entropy):
            raise LocalProtocolError("entropy must be a function: entropy(n) returns n random bytes")
        self._client_ids = _checked_ids(range(params.num_clients) if client_ids is None else client_ids, params)
        self._params = params
        self._session_id = session_id(params, nonce=nonce, context=context)
        self._dropped: set[ClientId] = set()
        self._completed = False
        self._transcript: list[TranscriptEntry] = []
        check_directory(params, directory)
        setup = ServerSetup(
            params, self._session_id, lambda num_nodes: build_graph(params, num_nodes, entropy), entropy, directory
        )
        self._stage: Stage = AdvertiseKeysRound(setup, self._client_ids)

    @property
    def params(self) -> Parameters:
        """Return the parameters of the session."""
        return self._params

    @property
    def session_id(self) -> bytes:
        """Return the id of the session, 32 bytes, public."""
        return self._session_id

    @property
    def transcript(self) -> tuple[TranscriptEntry, ...]:
        """Return the events so far: lists, hashes and decisions. It holds no secret."""
        return tuple(self._transcript)

    @property
    def round(self) -> Round:
        """Return the open round; after the session, the last round that was open."""
        return self._stage.round

    @property
    def phase(self) -> ServerPhase:
        """Return what the server does now."""
        if isinstance(self._stage, Ended):
            return ServerPhase.COMPLETED if self._completed else ServerPhase.ABORTED
        return _PHASES[type(self._stage)]

    @property
    def progress(self) -> ServerProgress:
        """Return the progress of the session. Use it after each message: `status` walks through the whole graph."""
        return ServerProgress(self.phase, self.num_received, self.num_pending, self._params.quorum)

    @property
    def status(self) -> ServerStatus:
        """Return the progress of the session, and whether it would continue if the round were closed now."""
        progress = self.progress
        return ServerStatus(
            progress.phase, progress.received, progress.pending, progress.needed, ready=self._stage.ready
        )

    @property
    def pending(self) -> frozenset[ClientId]:
        """Return the clients whose message of this round is still awaited."""
        return frozenset(self._stage.pending)

    @property
    def num_pending(self) -> int:
        """Return the number of `pending` clients. It is cheaper than `status`, after each message."""
        return len(self._stage.pending)

    @property
    def num_received(self) -> int:
        """Return the number of clients whose message of this round has arrived."""
        return len(self._stage.received)

    def receive(self, client_id: ClientId, message: ClientMessage) -> tuple[ServerEvent, ...]:
        """Take a client's message; ``client_id`` comes from the channel, never from the payload.

        Returns:
            Nothing, or the `ClientDropped` of a sender whose message is bad. Messages of dropped clients, and those
            that arrive after the session has ended, are ignored.

        Raises:
            LocalProtocolError: ``message`` is not a message, which is a mistake of the host.
        """
        if not isinstance(message, Message):
            raise LocalProtocolError(f"receive() takes a message, not {type(message).__name__}")
        if (unknown := self._known(client_id)) is not None:
            return unknown
        reason = self._accept(client_id, message)
        return () if reason is None else self.drop(client_id, reason, type(message).__name__)

    def receive_partial(self, client_ids: Iterable[ClientId], vector: RingVector) -> None:
        """Take the sum of several clients' masked inputs, which another process of the server has received and added.

        That process checks each message as `receive` does. The inputs count as received here, once each. Until they
        are handed over, they are lost with that process, as if their clients had vanished after ShareKeys.

        Args:
            client_ids: the clients whose inputs are in the sum.
            vector: the sum of ``MaskedInput.masked_input``, shape (vector_length,), dtype of the ring; it may have
                wrapped around.

        Raises:
            LocalProtocolError: the round is another one; no id is given, or one twice; a client is unknown, was dropped
                or is in the sum already; or the vector has a wrong shape or dtype. Nothing is added.
        """
        stage, ids = self._stage, tuple(client_ids)
        if not isinstance(stage, MaskedInputRound):
            raise LocalProtocolError(
                f"receive_partial() needs the phase MASKED_INPUT_COLLECTION, but the server is in {self.phase.name}"
            )
        known = [type(client_id) is int and client_id in stage.pending for client_id in ids]
        if not ids or (all(known) and len(set(ids)) < len(ids)):
            raise LocalProtocolError("receive_partial() needs the ids of the sum's clients, each once")
        if refused := [client_id for client_id, is_known in zip(ids, known, strict=True) if not is_known]:
            raise LocalProtocolError(
                f"{len(refused)} of the partial sum's {len(ids)} clients are unknown, were dropped, or are in the sum "
                f"already: {', '.join(map(repr, refused[:10]))}; nothing was added"
            )
        stage.accept_partial(ids, vector)
        stage.received.update(ids)
        stage.pending.difference_update(ids)

    def drop(self, client_id: ClientId, reason: DropReason, detail: str = "") -> tuple[ServerEvent, ...]:
        """Continue without a client, for instance because its connection ended.

        If the sum includes the client's masked input already, it stays in the sum.
        """
        if not isinstance(reason, DropReason):
            raise LocalProtocolError(f"reason must be a DropReason, not {type(reason).__name__}")
        if (unknown := self._known(client_id)) is not None:
            return unknown
        self._dropped.add(client_id)
        self._stage.drop(client_id)
        return self._noted((ClientDropped(client_id, reason, self._stage.round, detail),))

    def close_round(self) -> tuple[ServerEvent, ...]:
        """Close the open round: drop the clients that have not answered, and open the next round.

        Returns:
            The drops, then one of: the `Send` events that open the next round; `UnmaskReady`; `Aborted`.

        Raises:
            LocalProtocolError: no round is open.
        """
        if isinstance(self._stage, Ended | Recovery):
            raise LocalProtocolError(f"close_round() needs an open round, but the server is in phase {self.phase.name}")
        drops: list[ServerEvent] = []
        for client_id in sorted(self.pending):
            drops.extend(self.drop(client_id, DropReason.DEADLINE))
        round_, answered = self._stage.round, self._stage.received
        self._transcript.append(transcript.of_answers(round_, answered))
        self._stage, events = self._stage.close()
        self._noted(events, round_)
        self._dropped.update(event.client_id for event in events if isinstance(event, ClientDropped))
        return (*drops, *events)

    def finish(self, masks: MaskSum) -> tuple[Completed]:
        """Remove the masks from the sum, end the session and return `Completed`.

        Args:
            masks: the result of `UnmaskJob.run`, or of `UnmaskJob.combine` over the results of its parts.

        Raises:
            LocalProtocolError: no job is open, or ``masks`` is not its whole result. Nothing is lost; call again.
        """
        if not isinstance(self._stage, Recovery):
            raise LocalProtocolError(f"finish() needs an unmasking job, but the server is in phase {self.phase.name}")
        completed = self._stage.finish(masks)
        self._completed = True
        self._stage = Ended(self._stage.round)
        self._noted((completed,))
        return (completed,)

    def abort(self) -> tuple[ServerEvent, ...]:
        """End the session without a sum. Return `Aborted`, or nothing if the session has ended already."""
        if isinstance(self._stage, Ended):
            return ()
        status, round_ = self.progress, self._stage.round
        self._stage = Ended(round_)
        return self._noted((Aborted(AbortReason.CANCELLED, round_, status.needed, status.received),))

    def _noted(self, events: tuple[ServerEvent, ...], round_: Round | None = None) -> tuple[ServerEvent, ...]:
        """Add the events to the transcript and return them."""
        self._transcript += transcript.of_server_events(events, round_ or self._stage.round, self._params)
        return events

    def _known(self, client_id: ClientId) -> tuple[ServerEvent, ...] | None:
        """Return the events for a client that does not take part (any more); None for a client that does."""
        if type(client_id) is not int:
            raise LocalProtocolError(f"a client id must be an int, not {type(client_id).__name__}")
        if isinstance(self._stage, Ended) or client_id in self._dropped:
            return ()
        if client_id not in self._client_ids:
            return (ClientDropped(client_id, DropReason.UNKNOWN_CLIENT, self._stage.round),)
        return None

    def _accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        stage = self._stage
        if message.session_id != self._session_id:
            return DropReason.WRONG_SESSION
        if client_id in stage.received:
            return DropReason.DUPLICATE
        if client_id not in stage.awaited:
            return DropReason.UNEXPECTED_MESSAGE
        reason = stage.accept(client_id, message)
        if reason is None:
            stage.received.add(client_id)
            stage.pending.discard(client_id)
        return reason

    def __repr__(self) -> str:
        return f"<Server {self.phase.name}, {len(self._dropped)} of {len(self._client_ids)} clients dropped>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Server cannot be copied or pickled: it would run one session twice")


def _checked_ids(client_ids: Iterable[ClientId], params: Parameters) -> frozenset[ClientId]:
    if not isinstance(client_ids, Iterable):
        raise LocalProtocolError(f"client_ids must be a collection of ints, not {type(client_ids).__name__}")
    listed = list(client_ids)
    for client_id in listed:
        if type(client_id) is not int or not 0 <= client_id <= MAX_CLIENT_ID:
            raise LocalProtocolError(f"a client id is an int between 0 and {MAX_CLIENT_ID}, not {client_id!r}")
    if len(set(listed)) != len(listed):
        raise LocalProtocolError("client_ids holds an id twice")
    if not params.threshold <= len(listed) <= params.num_clients:
        raise LocalProtocolError(
            f"{len(listed)} clients, but the parameters are for {params.threshold} to {params.num_clients}"
        )
    return frozenset(listed)
