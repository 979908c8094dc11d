"""The client machine: a linear shell around one private state."""

import os
from collections.abc import Callable
from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from secagg import _suspension, transcript
from secagg._client_rules import Setup
from secagg._client_states import (
    Aborted,
    ClientPhase,
    Created,
    InputAwaited,
    State,
    Suspended,
    Transition,
)
from secagg.errors import LocalProtocolError, RemoteProtocolError, Rule, SecAggError
from secagg.events import ClientEvent
from secagg.identity import Identity, KeyDirectory, check_directory, check_identity
from secagg.messages import Message, PeerKeys, ServerMessage
from secagg.params import MAX_CLIENT_ID, ClientId, Parameters
from secagg.primitives.entropy import EntropySource
from secagg.session import session_id
from secagg.transcript import TranscriptEntry


class Client:
    """One client's side of one session (paper, figure 4).

    Calls return what is to be done, as events; nothing is sent, logged or timed here::

        client = Client(params, client_id, context=model_hash)
        client.start()                # -> Send(SERVER, AdvertiseKeys)
        client.receive(peer_keys)     # -> Send(SERVER, ShareKeys)
        client.receive(peer_shares)   # -> InputRequested
        client.submit_input(vector)   # -> Send(SERVER, MaskedInput)
        client.receive(survivors)     # -> Send(SERVER, UnmaskingShares): finished

    Dropping the object at any moment is safe: it is what a client that vanishes does.

    Security: a client answers each round once, ever.  It cannot be copied or pickled; `suspend` moves it.  After any
    `RemoteProtocolError` it is ABORTED and holds no secret.

    Args:
        params: the session's public parameters, from the server or the application.
        client_id: this client's number, 0 <= id < 2^32; never two clients with one number in a session.
        context: bytes bound into the session, such as the hash of the model that this client received.
        nonce: the session's public nonce, from the server; see `secagg.session.session_id`.
        identity, directory: in malicious mode, this client's key pair and who knows the others'; for that mode only.
        entropy: the source of all randomness; only tests pass another than `os.urandom`.

    Raises:
        LocalProtocolError: an argument of a wrong type or range.
    """

    __slots__ = ("_entropy", "_state", "_transcript")

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
            raise LocalProtocolError("entropy must be a function that returns so many random bytes")
        check_identity(params, identity)
        check_directory(params, directory)
        chosen_id = session_id(params, nonce=nonce, context=context)
        self._state: State = Created(Setup(params, client_id, chosen_id, identity, directory))
        self._entropy: EntropySource | None = entropy
        self._transcript: list[TranscriptEntry] = []

    @property
    def transcript(self) -> tuple[TranscriptEntry, ...]:
        """What has happened so far: messages by their hashes, lists, and decisions. Holds no secret."""
        return tuple(self._transcript)

    @property
    def phase(self) -> ClientPhase:
        """What the client waits for."""
        return self._state.phase

    @property
    def client_id(self) -> ClientId:
        """This client's number."""
        return self._state.setup.client_id

    @property
    def params(self) -> Parameters:
        """The session's parameters."""
        return self._state.setup.params

    @property
    def session_id(self) -> bytes:
        """The session's id, 32 bytes; public."""
        return self._state.setup.session_id

    def start(self) -> tuple[ClientEvent, ...]:
        """Begin: returns the `Send` of this client's public keys. LocalProtocolError if called twice."""
        if not isinstance(self._state, Created):
            self._refuse("start()")
        entropy, self._entropy = self._entropy, None
        return self._advance(lambda state: cast(Created, state).start(entropy or os.urandom))

    def receive(self, message: ServerMessage) -> tuple[ClientEvent, ...]:
        """Take a message from the server.

        Raises:
            RemoteProtocolError: the message breaks a rule; the client is ABORTED and released nothing.
            LocalProtocolError: this client was aborted or suspended, or ``message`` is no message at all.
        """
        if self.phase in (ClientPhase.ABORTED, ClientPhase.SUSPENDED):
            self._refuse("receive()")
        if not isinstance(message, Message):
            raise LocalProtocolError(f"receive() takes a message, not {type(message).__name__}")
        self._transcript.append(transcript.of_received(message, self.params, self._listed_ids()))
        return self._advance(lambda state: _receive(state, message))

    def submit_input(self, input_vector: npt.NDArray[np.integer[Any]]) -> tuple[ClientEvent, ...]:
        """Give the input; returns the `Send` of it, masked.

        Args:
            input_vector: shape (vector_length,), any integer dtype, elements in [0, 2^value_bits). Not changed.

        Raises:
            LocalProtocolError: not requested now, or wrong shape, dtype or range; nothing is lost, call again.
        """
        if not isinstance(self._state, InputAwaited):
            self._refuse("submit_input()")
        vector = _checked_input(input_vector, self.params)
        return self._advance(lambda state: cast(InputAwaited, state).submit_input(vector))

    def abort(self) -> None:
        """Give up: forget every secret. For a host whose server broke the connection or sent no message at all."""
        if self.phase not in (ClientPhase.FINISHED, ClientPhase.SUSPENDED):
            self._take()

    def suspend(self) -> bytes:
        """Move the client into bytes; this object is finished (phase SUSPENDED).

        Security: the bytes are secret.  Resume them once: a host that resumes one blob twice and answers twice
        gives away what the protocol protects.
        """
        if self.phase not in _suspension.SUSPENDABLE:
            self._refuse("suspend()")
        state = self._take()
        blob = _suspension.dump(state, self.transcript)
        self._state = Suspended(state.setup.without_identity())
        return blob

    @classmethod
    def resume(
        cls,
        blob: bytes | bytearray | memoryview,
        *,
        identity: Identity | None = None,
        directory: KeyDirectory | None = None,
        entropy: EntropySource = os.urandom,
    ) -> "Client":
        """The client that `suspend` moved into ``blob``; LocalProtocolError if it is not such.

        Args:
            blob: the bytes that `suspend` returned.
            identity, directory: in malicious mode, as given to the client before: they are not in the blob.
            entropy: for a client that was suspended before `start`; later ones draw nothing more.
        """
        if not callable(entropy):
            raise LocalProtocolError("entropy must be a function that returns so many random bytes")
        client = cls.__new__(cls)
        client._state, client._transcript = _suspension.load(blob, identity, directory)
        client._entropy = entropy
        return client

    def _take(self) -> State:
        """Move the state out. Whatever fails from here on leaves a dead client behind."""
        state = self._state
        self._state = Aborted(state.setup.without_identity())
        return state

    def _advance(self, transition: Callable[[State], Transition]) -> tuple[ClientEvent, ...]:
        """Move the state through a transition, and install what comes out of it."""
        state = self._take()
        try:
            self._state, events = transition(state)
        except SecAggError as error:
            # The traceback's frames hold the state with its secrets, for as long as the error is kept.
            failure = error.with_traceback(None)
        else:
            self._transcript += transcript.of_client_events(events, self.params)
            return events
        del state
        if isinstance(failure, RemoteProtocolError) and self._transcript:
            self._transcript.append(transcript.of_refusal(self._transcript[-1].round, failure))
        failure.__context__ = failure.__cause__ = None
        raise failure

    def _listed_ids(self) -> tuple[ClientId, ...]:
        """The neighbourhood, if its list of keys has come."""
        keys = (entry.clients for entry in self._transcript if entry.subject == PeerKeys.__name__)
        return next(keys, ())

    def _refuse(self, call: str) -> NoReturn:
        raise LocalProtocolError(f"{call} is not possible now: client {self.client_id} is {self.phase.name}")

    def __repr__(self) -> str:
        return f"<Client {self.client_id} {self.phase.name}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Client cannot be copied or pickled, since a copy could answer twice; use suspend()")


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
