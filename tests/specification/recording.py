"""One session, from which machines in any phase are rebuilt, and messages of each type taken."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from secagg import (
    Adversary,
    Client,
    ClientPhase,
    Completed,
    InputRequested,
    MaskSum,
    Parameters,
    PinnedKeys,
    Send,
    Server,
    ServerPhase,
    UnmaskJob,
    UnmaskReady,
)
from secagg.events import ClientEvent
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import required_ring_bits

from .seeds import ALICE, CONTEXT, NONCE, VECTORS, identity_of, seeded


class Recording:
    """A session in which nobody vanishes; complete graph, if no ``degree`` is given."""

    def __init__(self, adversary: Adversary, num_clients: int, degree: int | None = None) -> None:
        self.ids = tuple(VECTORS)[:num_clients]
        self.params = Parameters(
            num_clients=num_clients,
            threshold=2,
            degree=num_clients - 1 if degree is None else degree,
            vector_length=3,
            value_bits=4,
            ring_bits=required_ring_bits(num_clients, 4),
            adversary=adversary,
        )
        self.signed = self.params.is_signed
        self._messages: dict[tuple[type, int], Any] = {}
        self._job: UnmaskJob | None = None
        self.end = self._run()
        self.session_id: bytes = self.message(AdvertiseKeys).session_id

    def message(self, kind: type, client_id: int = ALICE) -> Any:
        """The message of this type that the client sent or got."""
        return self._messages[kind, client_id]

    def new_client(self, client_id: int) -> Client:
        own: dict[str, Any] = {"identity": identity_of(client_id)} if self.params.has_identities else {}
        entropy = seeded(f"client {client_id}")
        return Client(self.params, client_id, context=CONTEXT, nonce=NONCE, entropy=entropy, **self._trust(), **own)

    def new_server(self) -> Server:
        return Server(self.params, self.ids, context=CONTEXT, nonce=NONCE, entropy=seeded("server"), **self._trust())

    def client(self, phase: ClientPhase) -> Client:
        """The client under test, in this phase."""
        client = self.new_client(ALICE)
        if phase is ClientPhase.ABORTED:
            client.abort()
        elif phase is ClientPhase.SUSPENDED:
            client.suspend()
        for step in self._client_steps(client):
            if client.phase is phase:
                return client
            step()
        raise ValueError(f"a client of this session is never {phase.name}")

    def server(self, phase: ServerPhase) -> Server:
        """A server in this phase, which has got no message of its round."""
        server = self.new_server()
        if phase is ServerPhase.ABORTED:
            server.abort()
        while server.phase is not phase:
            self._step(server)
        return server

    def done(self) -> MaskSum:
        """The result of the recorded session's job."""
        if self._job is None:
            raise RuntimeError("the recorded session gave no job")
        return self._job.run()

    def _trust(self) -> dict[str, Any]:
        if not self.params.has_identities:
            return {}
        return {"directory": PinnedKeys({client_id: identity_of(client_id).public_key for client_id in self.ids})}

    def _step(self, server: Server) -> None:
        """Give the server everything that it waits for, and close its round."""
        if server.phase is ServerPhase.RECOVERY:
            server.finish(self.done())
            return
        for client_id in self.ids:
            server.receive(client_id, self.message(answers(self.signed)[server.phase], client_id))
        server.close_round()

    def _client_steps(self, client: Client) -> Iterator[Callable[[], object]]:
        yield client.start
        yield lambda: client.receive(self.message(PeerKeys))
        yield lambda: client.receive(self.message(PeerShares))
        yield lambda: client.submit_input(np.array(VECTORS[ALICE]))
        yield lambda: client.receive(self.message(SurvivorList))
        if self.signed:
            yield lambda: client.receive(self.message(ConsistencyProof))
        yield lambda: None

    def _run(self) -> Completed:
        server = self.new_server()
        clients = {client_id: self.new_client(client_id) for client_id in self.ids}
        for client in clients.values():
            self._upward(server, client, client.start())
        while True:
            for event in server.close_round():
                match event:
                    case Send(to=int() as client_id, message=message):
                        self._messages[type(message), client_id] = message
                        self._upward(server, clients[client_id], clients[client_id].receive(message))  # type: ignore[arg-type]
                    case UnmaskReady(job):
                        self._job = job
                        (completed,) = server.finish(job.run())
                        if isinstance(completed, Completed):
                            return completed

    def _upward(self, server: Server, client: Client, events: Iterable[ClientEvent]) -> None:
        for event in events:
            if isinstance(event, InputRequested):
                self._upward(server, client, client.submit_input(np.array(VECTORS[client.client_id])))
            else:
                self._messages[type(event.message), client.client_id] = event.message
                server.receive(client.client_id, event.message)  # type: ignore[arg-type]


def answers(signed: bool) -> dict[ServerPhase, type]:
    """The message that each phase of the server awaits."""
    rounds: dict[ServerPhase, type] = {
        ServerPhase.ADVERTISE_KEYS: AdvertiseKeys,
        ServerPhase.SHARE_KEYS: ShareKeys,
        ServerPhase.MASKED_INPUT_COLLECTION: MaskedInput,
        ServerPhase.CONSISTENCY_CHECK: ConsistencyCheck,
        ServerPhase.UNMASKING: UnmaskingShares,
    }
    if not signed:
        del rounds[ServerPhase.CONSISTENCY_CHECK]
    return rounds


def of_another_session(message: Any) -> Any:
    """The same message under another session's id."""
    values = {name: getattr(message, name) for name in message.__slots__}
    return type(message)(**{**values, "session_id": bytes(32)})
