"""A server's host and clients' hosts without a network between them."""

import numpy as np

import secagg
from tests.support.sessions import any_session, make_params
from tests.transport.link_world import CONTEXT, DEADLINES
from transport.durable import frames as link
from transport.durable.client_host import ClientHost
from transport.durable.server_host import SessionHost

PARAMS = make_params(4, 2, vector_length=3)
SESSION_ID = secagg.Server(PARAMS, context=CONTEXT, nonce=b"n").session_id


def payload_of(frame) -> bytes:
    return b"".join(link.encode(frame))


def new_host(**arguments) -> SessionHost:
    return SessionHost(PARAMS, now=0.0, **{"deadlines": DEADLINES, "context": CONTEXT, "nonce": b"n", **arguments})


def new_client(client_id: int = 0, **arguments) -> ClientHost:
    vector = np.arange(3)
    return ClientHost(client_id, lambda offer: vector, **{"accept": any_session, "context": CONTEXT, **arguments})


def frames(host: SessionHost, now: float = 1.0) -> list:
    return [link.decode_server_frame(b"".join(out.parts)) for out in host.commit(now)]


def greet(host: SessionHost, client_id: int = 0, hello: link.Hello | None = None, now: float = 1.0) -> list:
    host.connected(client_id, now)
    host.frame_received(client_id, payload_of(hello or link.Hello()), now)
    return frames(host, now)


def first_message(host: SessionHost, client_id: int = 0) -> tuple[ClientHost, bytes]:
    """Return a client that has accepted the offer, and its first frame."""
    client = new_client(client_id)
    client.connected()
    (offer,) = greet(host, client_id)
    (message,) = client.frame_received(payload_of(offer))
    return client, b"".join(message)


def run_to_the_end(host: SessionHost, clients: dict[int, ClientHost], missing: tuple[int, ...] = ()) -> None:
    """Deliver everything at once; wait for the missing clients until the deadlines."""
    now = 1.0
    for client_id, client in clients.items():
        host.connected(client_id, now)
        host.frame_received(client_id, b"".join(client.connected()[0]), now)
    while host.outcome is None or host.untold:
        outgoing = host.commit(now)
        for out in outgoing:
            for reply in clients[out.client_id].frame_received(b"".join(out.parts)):
                if out.client_id not in missing:
                    host.frame_received(out.client_id, b"".join(reply), now, out.connection)
        if host.job is not None:
            host.finish(host.job.run(), now)
        elif not outgoing:
            assert host.deadline is not None
            now = host.deadline
            host.tick(now)


def offered(client: ClientHost, **changes) -> list:
    client.connected()
    return client.frame_received(payload_of(link.Offer(PARAMS, **{"nonce": b"n", **changes})))
