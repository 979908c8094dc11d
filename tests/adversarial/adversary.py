"""A server that lies: honest client machines at the other end of its lines, and everything that they ever said."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from secagg import (
    Aborted,
    Adversary,
    Client,
    ClientDropped,
    ClientPhase,
    CodecError,
    Completed,
    DropReason,
    Identity,
    InputRequested,
    Parameters,
    RemoteProtocolError,
    Rule,
    Send,
    Server,
    SharesDisputed,
    UnmaskReady,
    decode_client_message,
    decode_server_message,
    encode,
)
from tests.support.sessions import directory_of, exact_sum, identity_of, make_params, random_inputs, seeded_entropy

CURIOUS, SEMI_MALICIOUS, MALICIOUS = Adversary
LYING = (SEMI_MALICIOUS, MALICIOUS)

# Of each secret more than half of the shares are needed, and some clients may vanish.
GRAPHS: dict[str, dict[str, int]] = {
    "complete": {"num_clients": 7, "threshold": 5},
    "sparse": {"num_clients": 12, "degree": 6, "threshold": 4},
}

Told = Any
"""A message, its bytes, or None for nothing."""


def params_of(adversary: Adversary = MALICIOUS, graph: str = "complete", **changes: int) -> Parameters:
    """A small session of this kind."""
    return make_params(**{**GRAPHS[graph], "vector_length": 6, **changes}, adversary=adversary)


class LyingServer:
    """Plays one session with honest clients; a `secagg.Server` does that part of the work in which it does not lie.

    Args:
        params: the session's.
        corrupt: clients whose secrets the server knows; their machines play along like the others.
        uplink: what the server makes of a client's message before its honest half takes it: messages or bytes.
        contexts: what each client got as context, where it is not ``context``.
        seed: of everyone's randomness.
    """

    def __init__(
        self,
        params: Parameters,
        *,
        corrupt: Collection[int] = (),
        uplink: Callable[[int, Any], Iterable[Told]] = lambda client_id, message: (message,),
        context: bytes = b"test",
        nonce: bytes = b"nonce",
        contexts: Mapping[int, bytes] | None = None,
        seed: str = "0",
    ) -> None:
        self.params = params
        self.inputs = random_inputs(params, seed=sum(seed.encode()))
        self.corrupt = frozenset(corrupt)
        self.honest = tuple(client_id for client_id in self.inputs if client_id not in self.corrupt)
        self.uplink = uplink
        directory = {"directory": directory_of(self.inputs)} if params.has_identities else {}
        self.machine = Server(params, context=context, nonce=nonce, **directory, entropy=seeded_entropy(f"{seed}/S"))
        self.entropy = {client_id: seeded_entropy(f"{seed}/{client_id}") for client_id in self.inputs}
        self.clients = {
            client_id: Client(
                params,
                client_id,
                context=(contexts or {}).get(client_id, context),
                nonce=nonce,
                **directory,
                **({"identity": identity_of(client_id)} if params.has_identities else {}),
                entropy=entropy,
            )
            for client_id, entropy in self.entropy.items()
        }
        self.session_id = self.machine.session_id
        # What each client said, and what it was told and took for true; by type, then by client.
        self.heard: dict[type, dict[int, Any]] = {}
        self.told: dict[type, dict[int, Any]] = {}
        self.refusals: dict[int, RemoteProtocolError | CodecError] = {}
        self.dropped: dict[int, DropReason] = {}
        self.disputed: SharesDisputed | None = None
        self.end: Completed | Aborted | None = None

    # --- The honest half ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everyone advertises its keys."""
        for client_id, client in self.clients.items():
            self._hear(client_id, client.start())

    def open(self) -> dict[int, Any]:
        """Close the open round: what an honest server would send now, which is not sent yet."""
        letters: dict[int, Any] = {}
        for event in self.machine.close_round():
            match event:
                case Send():
                    letters[event.to] = event.message
                case ClientDropped():
                    self.dropped.setdefault(event.client_id, event.reason)
                case SharesDisputed():
                    self.disputed = event
                case UnmaskReady():
                    (self.end,) = self.machine.finish(event.job.run())
                case Aborted():
                    self.end = event
        return letters

    def until(self, kind: type) -> dict[int, Any]:
        """Play honestly up to the round that messages of this type open; returns them, not sent yet."""
        if not self.heard:
            self.start()
        while self.end is None:
            letters = self.open()
            if any(isinstance(message, kind) for message in letters.values()):
                return letters
            self.deliver(letters)
        raise AssertionError(f"the session ended before {kind.__name__}: {self.end}")

    def deliver(self, letters: Mapping[int, Told]) -> None:
        """Tell each client its message."""
        for client_id, message in letters.items():
            self.tell(client_id, message)

    def conclude(self, downlink: Callable[[int, Any], Told] = lambda client_id, message: message):
        """Play on to the end, changing messages to clients on the way; returns how the session ended."""
        if not self.heard:
            self.start()
        while self.end is None:
            self.deliver({client_id: downlink(client_id, message) for client_id, message in self.open().items()})
        return self.end

    def signer(self, client_id: int) -> Identity:
        """What a corrupt client signs with: its identity, or the key that it drew for the session."""
        return identity_of(client_id) if self.params.has_identities else Identity(self.entropy[client_id].draws[4])

    # --- The lines ----------------------------------------------------------------------------------------------------

    def tell(self, client_id: int, *messages: Told) -> list[Any]:
        """Send anything to a client; returns what it releases. A client that was aborted has hung up."""
        client, released = self.clients[client_id], []
        for message in messages:
            if message is None or client.phase is ClientPhase.ABORTED:
                continue
            try:
                data = message if isinstance(message, bytes) else encode(message, self.params)
                arrived = decode_server_message(data, self.params)
                events = client.receive(arrived)
            except CodecError as error:
                self.refusals[client_id] = error
                client.abort()
            except RemoteProtocolError as error:
                self.refusals[client_id] = error
                assert client.phase is ClientPhase.ABORTED
            else:
                self.told.setdefault(type(arrived), {})[client_id] = arrived
                released += self._hear(client_id, events)
        return released

    def _hear(self, client_id: int, events) -> list[Any]:
        said = []
        for event in events:
            if isinstance(event, InputRequested):
                said += self._hear(client_id, self.clients[client_id].submit_input(self.inputs[client_id]))
            else:
                of_type = self.heard.setdefault(type(event.message), {})
                assert client_id not in of_type, "a client answers each round once, ever"
                of_type[client_id] = event.message
                said.append(event.message)
                self.forward(client_id, *self.uplink(client_id, event.message))
        return said

    def forward(self, client_id: int, *messages: Told) -> None:
        """Give messages to the honest half, as if they came from this client."""
        for message in messages:
            try:
                data = message if isinstance(message, bytes) else encode(message, self.params)
                events = self.machine.receive(client_id, decode_client_message(data, self.params))
            except CodecError:
                events = self.machine.drop(client_id, DropReason.MALFORMED)
            for event in events:
                self.dropped.setdefault(event.client_id, event.reason)

    # --- What must hold -----------------------------------------------------------------------------------------------

    def assert_refused(self, client_id: int, *rules: Rule) -> None:
        """The client broke off because of one of these rules, and is dead."""
        error = self.refusals[client_id]
        assert isinstance(error, RemoteProtocolError), error
        assert error.rule in rules
        assert self.clients[client_id].phase is ClientPhase.ABORTED

    def assert_exact(self, included: Iterable[int] | None = None) -> None:
        """The session ended with the exact sum of those included: these."""
        assert isinstance(self.end, Completed), self.end
        if included is not None:
            assert self.end.included == tuple(sorted(included))
        assert self.end.sum.tolist() == self.true_sum(self.end.included)

    def true_sum(self, client_ids: Iterable[int]) -> list[int]:
        return exact_sum(self.params, [self.inputs[client_id] for client_id in client_ids])


def as_ring(params: Parameters, vector: Iterable[int]) -> np.ndarray:
    """Reduced to the ring, as Python's integers."""
    return np.array([int(element) % params.modulus for element in vector], dtype=object)
