"""The client machine: a shell that moves one private state from round to round, and never copies it."""

import os
import sys
import threading
from collections.abc import Callable, Collection
from traceback import clear_frames
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from secagg import transcript
from secagg._client import suspension
from secagg._client.phases import LIVE, ClientPhase
from secagg._client.rules import ClientSetup
from secagg._client.states import (
    AbortedState,
    Created,
    InputAwaited,
    InUse,
    State,
    Suspended,
    Transition,
)
from secagg.errors import LocalProtocolError, RemoteProtocolError, Rule
from secagg.events import ClientEvent
from secagg.identity import Identity, KeyDirectory, check_directory, check_identity
from secagg.messages import Message, ServerMessage
from secagg.params import MAX_CLIENT_ID, ClientId, Parameters
from secagg.primitives.entropy import EntropySource
from secagg.session import session_id
from secagg.transcript import TranscriptEntry

_Result = TypeVar("_Result")
_Step: TypeAlias = Callable[[State], tuple[State, _Result, tuple[TranscriptEntry, ...]]]


class Client:
    """Run one client's side of one session (paper, figure 4).

    Calls return events that say what to do; nothing is sent, logged or timed here::

        client = Client(params, client_id, context=model_hash)
        client.start()                # -> Send(SERVER, AdvertiseKeys)
        client.receive(peer_keys)     # -> Send(SERVER, ShareKeys)
        client.receive(peer_shares)   # -> InputRequested
        client.submit_input(vector)   # -> Send(SERVER, MaskedInput)
        client.receive(survivors)     # -> Send(SERVER, UnmaskingShares): finished

    It is safe to drop the object at any moment: a client that vanishes does the same.

    Security: a client answers each round at most once.  It cannot be copied or pickled; `suspend` moves it.  After a
    `RemoteProtocolError`, and after any exception that is not of this library, it is ABORTED and holds no secret.

    Threads: one call at a time.  A second call during the first raises `LocalProtocolError`, except `abort`, which
    always wins: the call in progress then returns nothing.

    Args:
        params: the session's public parameters, from the server or the application.
        client_id: number of this client, 0 <= id < 2^32, unique in the session.
        context: bytes bound into the session, such as the hash of the model that this client received.
        nonce: the session's public nonce, from the server; see `secagg.session.session_id`.
        identity, directory: in malicious mode only, this client's key pair and a directory of the others' keys.
        entropy: source of all randomness; only tests replace `os.urandom`.

    Raises:
        LocalProtocolError: an argument has a wrong type or range.
    """

    __slots__ = ("_entropy", "_lock", "_state", "_transcript")

    def __init__(
        self,
        params: Parameters,
        client_id: ClientId,
        *,
        context: bytes = b"",
        nonce: bytes = b"",
        identity: Identity | None = None,
        directory: KeyDirectory | None = None,
        entropy: EntropySource = os.urandom,
    ) -> None:
        if not isinstance(params, Parameters):
            raise LocalProtocolError(f"params must be secagg.Parameters, not {type(params).__name__}")
        if type(client_id) is not int or not 0 <= client_id <= MAX_CLIENT_ID:
            raise LocalProtocolError(f"client_id must be an int between 0 and {MAX_CLIENT_ID}, not {client_id!r}")
        if not callable(entropy):
            raise LocalProtocolError("entropy must be a function: entropy(n) returns n random bytes")
        check_identity(params, identity)
        check_directory(params, directory)
        chosen_id = session_id(params, nonce=nonce, context=context)
        self._state: State = Created(ClientSetup(params, client_id, chosen_id, identity, directory))
        self._entropy: EntropySource | None = entropy
        self._transcript: list[TranscriptEntry] = []
        self._lock = threading.RLock()

    @property
    def transcript(self) -> tuple[TranscriptEntry, ...]:
        """Return the events so far: hashes of messages, lists, and decisions. It holds no secret."""
        return tuple(self._transcript)

    @property
    def phase(self) -> ClientPhase:
        """Return what the client waits for."""
        return self._state.phase

    @property
    def client_id(self) -> ClientId:
        """Return the number of this client."""
        return self._state.setup.client_id

    @property
    def params(self) -> Parameters:
        """Return the parameters of the session."""
        return self._state.setup.params

    @property
    def session_id(self) -> bytes:
        """Return the id of the session, 32 bytes, public."""
        return self._state.setup.session_id

    def start(self) -> tuple[ClientEvent, ...]:
        """Begin the session: return the `Send` of this client's public keys.

        Raises:
            LocalProtocolError: the client was started before.
        """

        def begin(state: State) -> Transition:
            entropy, self._entropy = self._entropy, None
            return cast(Created, state).start(entropy or os.urandom)

        return self._advance("start()", (ClientPhase.CREATED,), begin)

    def receive(self, message: ServerMessage) -> tuple[ClientEvent, ...]:
        """Take a message from the server.

        Raises:
            RemoteProtocolError: the message breaks a rule; the client is ABORTED and released nothing.
            LocalProtocolError: this client was aborted or suspended, or ``message`` is not a message.
        """
        self._expect("receive()", LIVE)
        if not isinstance(message, Message):
            raise LocalProtocolError(f"receive() takes a message, not {type(message).__name__}")
        received = transcript.of_received(message, self.params, self._state.client_ids)
        return self._advance("receive()", LIVE, lambda state: _receive(state, message), received)

    def submit_input(self, input_vector: npt.NDArray[np.integer[Any]]) -> tuple[ClientEvent, ...]:
        """Mask the input and return the `Send` of it.

        Args:
            input_vector: shape (vector_length,), any integer dtype, elements in [0, 2^value_bits). It is
                not changed.

        Raises:
            LocalProtocolError: the input was not requested, or has a wrong shape, dtype or range. Nothing is lost;
                call again.
        """
        call, phases = "submit_input()", (ClientPhase.INPUT_REQUESTED,)
        self._expect(call, phases)
        vector = _checked_input(input_vector, self.params)
        return self._advance(call, phases, lambda state: cast(InputAwaited, state).submit_input(vector))

    def noise_keys(self) -> tuple[bytes, ...]:
        """Return the secret key of each component of this client's noise, 16 bytes each, for the input that is due.

        The host draws the components from them and adds a base from entropy of its own (`secagg.noise`).

        Raises:
            LocalProtocolError: the input was not requested.
        """
        call, phases = "noise_keys()", (ClientPhase.INPUT_REQUESTED,)

        def keys(state: State) -> tuple[State, tuple[bytes, ...], tuple[()]]:
            return state, cast(InputAwaited, state).noise_keys(), ()

        return self._move(call, phases, keys)

    def abort(self) -> None:
        """Abort the session and forget all secrets, for instance because the server is gone or sent garbage.

        Any thread may call it at any time.  A call in progress then returns nothing.
        """
        aborted = AbortedState(self._state.setup.without_identity())
        while (state := self._state).phase not in (ClientPhase.FINISHED, ClientPhase.SUSPENDED):
            if self._swap(state, aborted):
                return

    def suspend(self) -> bytes:
        """Move the client into bytes; this object then is finished (phase SUSPENDED).

        Security: the bytes are secret.  Resume them once: a host that resumes them twice and answers twice gives away
        what the protocol protects.
        """

        def dump(state: State) -> tuple[State, bytes, tuple[()]]:
            return Suspended(state.setup.without_identity()), suspension.dump(state, self.transcript), ()

        return self._move("suspend()", LIVE, dump)

    @classmethod
    def resume(
        cls,
        blob: bytes | bytearray | memoryview,
        *,
        identity: Identity | None = None,
        directory: KeyDirectory | None = None,
        entropy: EntropySource = os.urandom,
    ) -> "Client":
        """Return the client that `suspend` moved into ``blob``.

        Args:
            blob: the bytes that `suspend` returned.
            identity, directory: in malicious mode, as given to the client before: they are not in the blob.
            entropy: for a client that was suspended before `start`; later it needs no more randomness.

        Raises:
            LocalProtocolError: ``blob`` is not a suspended client of this version.
        """
        if not callable(entropy):
            raise LocalProtocolError("entropy must be a function: entropy(n) returns n random bytes")
        client = cls.__new__(cls)
        client._state, client._transcript = suspension.load(blob, identity, directory)
        client._entropy = entropy
        client._lock = threading.RLock()
        return client

    def _advance(
        self,
        call: str,
        phases: Collection[ClientPhase],
        transition: Callable[[State], Transition],
        *received: TranscriptEntry,
    ) -> tuple[ClientEvent, ...]:
        """Move the state through one transition of the protocol, and record it."""

        def noted(state: State) -> tuple[State, tuple[ClientEvent, ...], tuple[TranscriptEntry, ...]]:
            following, events = transition(state)
            return following, events, tuple(transcript.of_client_events(events, self.params))

        return self._move(call, phases, noted, *received)

    def _move(
        self, call: str, phases: Collection[ClientPhase], step: _Step[_Result], *received: TranscriptEntry
    ) -> _Result:
        """Take the state out and install the result of ``step``; if ``step`` fails, leave a dead client behind."""
        in_use = InUse(self._state.setup.without_identity(), self._expect(call, phases))
        outside = sys.exception()
        try:
            return self._moved(call, in_use, step, *received)
        except BaseException as error:
            refused = error if isinstance(error, RemoteProtocolError) else None
            refusals = [transcript.of_refusal(entry.round, refused) for entry in received if refused]
            self._swap(in_use, AbortedState(in_use.setup), *refusals)
            # The error's frames would keep the secret state alive for as long as the caller keeps the error.
            _clear_frames(error, outside)
            raise

    def _moved(self, call: str, in_use: InUse, step: _Step[_Result], *received: TranscriptEntry) -> _Result:
        state = self._state
        if isinstance(state, InUse) or state.phase is not in_use.found or not self._swap(state, in_use, *received):
            raise LocalProtocolError(
                f"{call} is not possible now: client {self.client_id} is in use by another thread, "
                "or by a call that this one was made in; make one call at a time"
            )
        state, result, entries = step(state)
        if not self._swap(in_use, state, *entries):
            raise LocalProtocolError(f"{call} gave nothing: client {self.client_id} was aborted meanwhile")
        return result

    def _swap(self, old: State, new: State, *entries: TranscriptEntry) -> bool:
        """Install a state if the old one is still there, in one step: of two threads that try, one succeeds."""
        # An RLock, because a signal handler may interrupt these lines and call abort().
        with self._lock:
            if self._state is not old:
                return False
            self._transcript += entries
            self._state = new
            return True

    def _expect(self, call: str, phases: Collection[ClientPhase]) -> ClientPhase:
        """Return the phase; LocalProtocolError unless it is one of ``phases``."""
        phase = self.phase
        if phase not in phases:
            raise LocalProtocolError(f"{call} is not possible now: client {self.client_id} is {phase.name}")
        return phase

    def __repr__(self) -> str:
        return f"<Client {self.client_id} {self.phase.name}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Client cannot be copied or pickled, since a copy could answer twice; use suspend()")


def _clear_frames(error: BaseException, outside: BaseException | None) -> None:
    """Clear the local variables in the frames of an error and of the errors that caused it; line numbers stay."""
    chain = [error]
    for link in chain:
        clear_frames(link.__traceback__)
        behind = (link.__cause__, link.__context__)
        chain += [found for found in behind if found is not None and found not in (outside, *chain)]


def _receive(state: State, message: ServerMessage) -> Transition:
    if message.session_id != state.setup.session_id:
        raise RemoteProtocolError(Rule.WRONG_SESSION)
    return state.receive(message)


def _checked_input(vector: npt.NDArray[np.integer[Any]], params: Parameters) -> npt.NDArray[np.integer[Any]]:
    if not isinstance(vector, np.ndarray):
        raise LocalProtocolError(f"the input must be a numpy array, not {type(vector).__name__}")
    if isinstance(vector, np.ma.MaskedArray):
        raise LocalProtocolError("the input must not be a masked array: fill its missing elements first")
    vector = np.asarray(vector)
    if vector.dtype.kind not in "iu":
        raise LocalProtocolError(f"the input must be of an integer dtype, not {vector.dtype}: quantize it first")
    if vector.shape != (params.vector_length,):
        raise LocalProtocolError(f"the input must have shape ({params.vector_length},), not {vector.shape}")
    # Which element is out of range, and by how much, stays with the caller: inputs are secret.
    if int(vector.min()) < 0 or int(vector.max()) >> params.value_bits:
        raise LocalProtocolError(f"the input has elements outside [0, 2^{params.value_bits})")
    return vector
