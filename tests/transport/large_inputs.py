"""A session in memory whose inputs are so long that they go in pieces; it stops where each client announces its own."""

import numpy as np

from tests.support.sessions import any_session, make_params
from tests.transport.link_world import CONTEXT, DEADLINES
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.durable.client_host import ClientHost
from transport.durable.server_host import SessionHost

PARAMS = make_params(4, 2, vector_length=400_000)


class LargeInputs:
    """Four clients that have sent LARGE; nothing of their inputs has reached the server.

    Attributes:
        large: the LARGE frame of each client.
        now: the time of all events.
    """

    def __init__(self) -> None:
        self.now = 1.0
        self.host = SessionHost(PARAMS, deadlines=DEADLINES, now=0.0, context=CONTEXT, nonce=b"n")
        vector = np.arange(PARAMS.vector_length) % 2
        self.clients = {i: ClientHost(i, lambda offer: vector, accept=any_session, context=CONTEXT) for i in range(4)}
        self.large: dict[int, _pieces.Large] = {}
        for client_id in self.clients:
            self.connect(client_id)
        while len(self.large) < len(self.clients):
            self._exchange(hold=True)

    def connect(self, client_id: int) -> None:
        """Open a new connection of this client, up to its HELLO."""
        self.clients[client_id].left()
        self.host.left(client_id, self.now)
        self.host.connected(client_id, self.now)
        self.up(client_id, *self.clients[client_id].connected())

    def up(self, client_id: int, *frames: link.ClientFrame | tuple) -> None:
        """Deliver frames of this client to the server."""
        for frame in frames:
            payload = b"".join(frame if isinstance(frame, tuple) else link.encode(frame))
            self.host.frame_received(client_id, payload, self.now)

    def pieces(self, client_id: int) -> list[_pieces.Piece]:
        """Return the whole input of this client in pieces, as it would send them."""
        client, large = self.clients[client_id], self.large[client_id]
        body = b"".join(client._answer)
        starts = range(0, large.size, _pieces.PIECE_BYTES)
        return [_pieces.Piece(start, body[start : start + _pieces.PIECE_BYTES]) for start in starts]

    def send_input(self, client_id: int) -> None:
        """Deliver this client's input, but not the server's answer."""
        self.up(client_id, self.large[client_id], *self.pieces(client_id))
        self.host.commit(self.now)

    def from_server(self, client_id: int) -> list[link.ServerFrame]:
        """Return the server's frames to this client, including those after the client's answers."""
        received = []
        while outgoing := self.host.commit(self.now):
            for out in outgoing:
                if out.client_id == client_id:
                    received.append(link.decode_server_frame(b"".join(out.parts)))
                    self.up(client_id, *self.clients[client_id].frame_received(b"".join(out.parts)))
        return [frame for frame in received if not isinstance(frame, link.Offer)]

    def run(self, *missing: int) -> None:
        """Run to the end: all clients but the missing ones send all that is due, first what was held up."""
        for client_id in self.clients.keys() - set(missing):
            self.connect(client_id)
        while self.host.outcome is None or self.host.untold - set(missing):
            if not self._exchange(missing=missing):
                assert self.host.deadline is not None
                self.host.tick(self.host.deadline)

    def _exchange(self, *, hold: bool = False, missing: tuple[int, ...] = ()) -> bool:
        if self.host.job is not None:
            self.host.finish(self.host.job.run(), self.now)
        outgoing = self.host.commit(self.now)
        for out in outgoing:
            if out.client_id in missing:
                continue
            for parts in self.clients[out.client_id].frame_received(b"".join(out.parts)):
                frame = link.decode_client_frame(b"".join(parts))
                if hold and isinstance(frame, _pieces.Large):
                    self.large[out.client_id] = frame
                else:
                    self.up(out.client_id, parts)
        return bool(outgoing) or self.host.job is not None
