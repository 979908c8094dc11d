"""One host at a time: what each frame is answered with, what is refused and why, and that nothing leaves too early."""

import numpy as np
import pytest

import secagg
from secagg import Aborted, AbortReason, Completed, DropReason, LocalProtocolError, ServerPhase
from tests.cohort import exact_sum, make_params
from tests.transport.link_world import CONTEXT, DEADLINES, MODES, World, journal_directory
from transport import link
from transport.client_host import ClientHost
from transport.errors import JournalError, LinkError, SessionRefusedError
from transport.host import Close, Deliver, SessionHost
from transport.link import RefusalCode

PARAMS = make_params(4, 2, vector_length=3)
SESSION_ID = secagg.Server(PARAMS, context=CONTEXT, nonce=b"n").session_id


def payload_of(frame) -> bytes:
    return b"".join(link.encode(frame))


def new_host(**arguments) -> SessionHost:
    return SessionHost(PARAMS, deadlines=DEADLINES, now=0.0, **{"context": CONTEXT, "nonce": b"n", **arguments})


def new_client(client_id: int = 0, **arguments) -> ClientHost:
    vector = np.arange(3)
    return ClientHost(client_id, lambda offer: vector, **{"context": CONTEXT, **arguments})


def frames(host: SessionHost, now: float = 1.0) -> list:
    return [link.decode_server_frame(b"".join(out.parts)) for out in host.commit(now)]


def greet(host: SessionHost, client_id: int = 0, hello: link.Hello | None = None, now: float = 1.0) -> list:
    host.connected(client_id, now)
    host.frame_received(client_id, payload_of(hello or link.Hello()), now)
    return frames(host, now)


def first_message(host: SessionHost, client_id: int = 0) -> tuple[ClientHost, bytes]:
    """A client that has taken the offer, and its first frame."""
    client = new_client(client_id)
    client.connected()
    (offer,) = greet(host, client_id)
    (message,) = client.frame_received(payload_of(offer))
    return client, b"".join(message)


def run_to_the_end(host: SessionHost, clients: dict[int, ClientHost], missing: tuple[int, ...] = ()) -> None:
    """Everything is delivered at once; the missing ones are waited for until the deadlines."""
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
            now = host.deadline
            host.tick(now)


def test_a_session_without_a_journal_runs_to_its_sum() -> None:
    host = new_host()
    clients = {i: new_client(i) for i in range(4)}
    run_to_the_end(host, clients)
    assert isinstance(host.outcome, Completed)
    assert host.outcome.sum.tolist() == exact_sum(PARAMS, [np.arange(3)] * 4)
    assert all(client.outcome == link.End(link.EndCode.COMPLETED, 4) for client in clients.values())
    assert not host.dropped
    assert host.status.phase is ServerPhase.COMPLETED


def test_those_that_never_come_are_dropped_by_the_deadline_and_told_so() -> None:
    host = new_host()
    clients = {i: new_client(i) for i in range(4)}
    run_to_the_end(host, clients, missing=(3,))
    assert host.outcome.included == (0, 1, 2)
    assert host.dropped[3].reason is DropReason.DEADLINE
    assert clients[3].error.code is RefusalCode.TOO_LATE


def test_nothing_leaves_before_the_commit() -> None:
    with journal_directory() as directory:
        world = World(PARAMS, directory, 1)
        world.connect(0)
        world.deliver_up(0)
        assert world.server.commit(world.now)
        written = world.journal.operations
        world.connect(1)
        world.deliver_up(1)
        # Nothing went into the machine: an offer waits for no disk, but for the first commit of all.
        assert [type(out) for out in world.server.commit(world.now)] == [Deliver]
        assert world.journal.operations == written
        world.close()


def test_outcome_and_job_are_given_by_the_commit_alone() -> None:
    host = new_host()
    host.tick(host.deadline)
    assert host.status.phase is ServerPhase.ABORTED
    assert host.outcome is None
    host.commit(1.0)
    assert isinstance(host.outcome, Aborted)


def test_a_repeated_message_is_acknowledged_again_and_not_taken_twice() -> None:
    host = new_host()
    _, message = first_message(host)
    host.frame_received(0, message, 1.0)
    assert frames(host) == [link.Ack(0)]
    host.frame_received(0, message, 1.0)
    assert frames(host) == [link.Ack(0)]
    assert host.counters.repeated == 1
    assert host.status.received == 1
    assert not host.dropped


def test_another_message_under_the_same_number_drops_the_client() -> None:
    host = new_host()
    _, message = first_message(host)
    host.frame_received(0, message, 1.0)
    host.frame_received(0, message[:-1] + bytes([message[-1] ^ 1]), 1.0)
    assert host.dropped[0].reason is DropReason.DUPLICATE
    (refused,) = frames(host)
    assert refused.code is RefusalCode.DROPPED
    assert "second message" in refused.text


def test_bytes_that_are_no_message_drop_the_client() -> None:
    host = new_host()
    greet(host)
    host.frame_received(0, payload_of(link.Message(0, b"garbage")), 1.0)
    assert host.dropped[0].reason is DropReason.MALFORMED
    assert [frame.code for frame in frames(host)] == [RefusalCode.DROPPED]
    # And it stays so when it comes back.
    assert [frame.code for frame in greet(host)] == [RefusalCode.DROPPED]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "cut short"),
        (b"\xff", "kind 255"),
        (payload_of(link.Ack(0)), "not one that a client sends"),
        (payload_of(link.Identify(3)), "kind 9"),
        (payload_of(link.Message(1, b"x")), "message 1 where message 0 is due"),
        (payload_of(link.Hello(SESSION_ID)), "a second, other HELLO"),
    ],
)
def test_frames_out_of_turn_close_the_connection_and_drop_nobody(payload: bytes, why: str) -> None:
    host = new_host()
    greet(host)
    host.frame_received(0, payload, 1.0)
    (close,) = host.commit(1.0)
    assert isinstance(close, Close)
    assert close.code is RefusalCode.PROTOCOL_ERROR
    assert why in close.text
    assert host.counters.refused == {RefusalCode.PROTOCOL_ERROR: 1}
    assert not host.dropped
    # What still comes over that connection is not heard.
    host.frame_received(0, payload_of(link.Ping()), 1.0)
    assert host.commit(1.0) == []
    assert [type(frame) for frame in greet(host)] == [link.Offer]


def test_a_message_before_hello_is_refused() -> None:
    host = new_host()
    host.connected(0, 1.0)
    host.frame_received(0, payload_of(link.Message(0, b"x")), 1.0)
    assert [frame.code for frame in frames(host)] == [RefusalCode.PROTOCOL_ERROR]


def test_strangers_other_versions_and_other_sessions_are_refused() -> None:
    host = new_host()
    host.connected(77, 1.0)
    host.frame_received(77, payload_of(link.Hello()), 1.0)
    assert [frame.code for frame in frames(host)] == [RefusalCode.UNKNOWN_CLIENT]
    assert [frame.code for frame in greet(host, 0, link.Hello(version=2))] == [RefusalCode.BAD_VERSION]
    assert [frame.code for frame in greet(host, 0, link.Hello(b"s" * 32, 1))] == [RefusalCode.NO_SESSION]
    assert [frame.code for frame in greet(host, 0, link.Hello(host.session_id, 3))] == [RefusalCode.PROTOCOL_ERROR]
    assert not host.dropped


def test_a_newer_connection_replaces_the_older() -> None:
    host = new_host()
    first = host.connected(0, 1.0)
    host.frame_received(0, payload_of(link.Hello()), 1.0, first)
    second = host.connected(0, 1.0)
    assert [(out.connection, getattr(out, "code", None)) for out in host.commit(1.0)] == [(first, RefusalCode.REPLACED)]
    # The older one's last frames and its end change nothing.
    host.frame_received(0, payload_of(link.Hello()), 1.0, first)
    host.disconnected(0, 1.0, first)
    assert host.connected_clients == {0}
    host.frame_received(0, payload_of(link.Hello()), 1.0, second)
    assert [out.connection for out in host.commit(1.0)] == [second]
    assert host.counters.reconnects == 1


def test_a_lost_connection_drops_nobody() -> None:
    host = new_host()
    client, message = first_message(host)
    host.disconnected(0, 1.0)
    client.disconnected()
    (hello,) = client.connected()
    host.connected(0, 2.0)
    host.frame_received(0, b"".join(hello), 2.0)
    (offer,) = frames(host)
    # What was not acknowledged is sent again, as it was.
    assert [b"".join(parts) for parts in client.frame_received(payload_of(offer))] == [message]
    assert not host.dropped


def test_a_client_that_lost_its_state_is_dropped_since_it_cannot_go_on() -> None:
    host = new_host()
    _, message = first_message(host)
    host.frame_received(0, message, 1.0)
    host.disconnected(0, 1.0)
    assert [frame.code for frame in greet(host)] == [RefusalCode.DROPPED]
    assert host.dropped[0].reason is DropReason.DISCONNECTED


@pytest.mark.parametrize("ask", [link.Ping(), "hello", "repeat"])
def test_floods_are_cut_off_and_bounded(ask) -> None:
    host = new_host()
    client, message = first_message(host)
    if ask == "repeat":
        host.frame_received(0, message, 1.0)
    sent = 0
    for _ in range(1000):
        if ask == "hello":
            host.connected(0, 1.0)
            host.frame_received(0, payload_of(link.Hello(client._client.session_id)), 1.0)
        else:
            host.frame_received(0, message if ask == "repeat" else payload_of(ask), 1.0)
        sent += len(host.commit(1.0))
    assert host.counters.refused[RefusalCode.BUSY] >= 1
    if ask != "hello":
        # It was closed once, and nothing was heard after that.
        assert sent < 40
    assert not host.dropped
    # Later it is welcome again.
    assert type(greet(host, 0, link.Hello(host.session_id), now=100.0)[-1]) is link.Offer


def test_what_waits_for_a_commit_is_bounded() -> None:
    host = new_host()
    host.connected(0, 1.0)
    host.frame_received(0, payload_of(link.Hello()), 1.0)
    for _ in range(10_000):
        host.frame_received(0, payload_of(link.Ping()), 1.0)
    assert len(host.commit(1.0)) < 40


def test_pings_are_answered_and_pongs_are_not() -> None:
    host = new_host()
    greet(host)
    host.frame_received(0, payload_of(link.Ping()), 1.0)
    host.frame_received(0, payload_of(link.Pong()), 1.0)
    assert frames(host) == [link.Pong()]


def test_an_aborted_session_says_so_and_unmasks_nobody() -> None:
    host = new_host()
    first_message(host)
    host.abort(1.0)
    assert frames(host) == [link.End(link.EndCode.CANCELLED, 0, str(host.outcome))]
    assert host.outcome.reason is AbortReason.CANCELLED
    assert host.job is None
    assert host.deadline is None
    host.abort(1.0)
    assert host.commit(1.0) == []
    # Who comes later is told too, or is too late.
    assert [frame.code for frame in greet(host, 1)] == [RefusalCode.TOO_LATE]
    host.disconnected(0, 1.0)
    (end,) = greet(host, 0, link.Hello(host.session_id))
    assert end.code is link.EndCode.CANCELLED


def test_untold_names_those_that_wait_for_the_end() -> None:
    host = new_host()
    _, message = first_message(host)
    host.frame_received(0, message, 1.0)
    assert host.untold == frozenset()
    host.abort(1.0)
    host.disconnected(0, 1.0)
    assert host.commit(1.0) == []
    assert host.untold == {0}
    greet(host, 0, link.Hello(host.session_id))
    assert host.untold == frozenset()


def test_the_host_refuses_to_be_misused() -> None:
    for arguments in ({"extra": "text"}, {"number": -1}, {"nonce": b"x" * 256}, {"context": "text"}):
        with pytest.raises(LocalProtocolError):
            new_host(**arguments)
    with pytest.raises(LocalProtocolError):
        SessionHost(MODES["malicious"], deadlines=DEADLINES, now=0.0)
    with pytest.raises(LocalProtocolError):
        new_host().finish(None, 1.0)


def test_nonces_are_fresh_by_default() -> None:
    assert new_host(nonce=None).session_id != new_host(nonce=None).session_id


# The client.


def offered(client: ClientHost, **changes) -> list:
    client.connected()
    return client.frame_received(payload_of(link.Offer(PARAMS, **{"nonce": b"n", **changes})))


def test_a_client_declines_what_its_application_does_not_accept() -> None:
    def accept(offer: link.Offer) -> None:
        if offer.params.threshold < 3:
            raise SessionRefusedError("the threshold is too low")

    client = new_client(accept=accept)
    assert offered(client) == []
    assert client.finished
    assert str(client.error) == "the threshold is too low"


def test_a_client_without_an_identity_declines_a_malicious_session() -> None:
    client = new_client()
    client.connected()
    assert client.frame_received(payload_of(link.Offer(MODES["malicious"], b"n"))) == []
    assert isinstance(client.error, SessionRefusedError)
    assert "identity" in str(client.error)


def test_the_context_is_the_clients_own() -> None:
    client = new_client(context=lambda offer: b"hash of " + offer.extra)
    offered(client, extra=b"model")
    assert client._client.session_id == secagg.Server(PARAMS, context=b"hash of model", nonce=b"n").session_id


@pytest.mark.parametrize("changes", [{"nonce": b"other"}, {"extra": b"other"}, {"number": 2}])
def test_another_offer_on_reconnecting_is_refused(changes: dict) -> None:
    client = new_client()
    offered(client)
    client.disconnected()
    assert offered(client, **changes) == []
    assert isinstance(client.error, SessionRefusedError)
    assert "another session" in str(client.error)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (link.Offer(PARAMS, b"m"), "another session"),
        (link.Message(1, b"x"), "message 1 where message 0 is due"),
        (link.Ack(1), "message 1, which was not sent"),
    ],
)
def test_a_server_out_of_turn_ends_the_client(frame, why: str) -> None:
    client = new_client()
    offered(client)
    assert client.frame_received(payload_of(frame)) == []
    assert isinstance(client.error, LinkError | SessionRefusedError)
    assert why in str(client.error)
    assert client._client.phase is secagg.ClientPhase.ABORTED


@pytest.mark.parametrize("payload", [b"", b"\xff", payload_of(link.Hello()), payload_of(link.Message(0, b""))])
def test_garbage_before_the_offer_ends_the_client(payload: bytes) -> None:
    client = new_client()
    client.connected()
    assert client.frame_received(payload) == []
    assert isinstance(client.error, LinkError)
    assert client.connected() == []


def test_an_announcement_above_the_bound_ends_the_client() -> None:
    client = new_client(max_extra=10)
    assert offered(client, extra=b"x" * 11) == []
    assert isinstance(client.error, LinkError)


def test_a_server_message_that_breaks_a_rule_ends_the_client() -> None:
    client = new_client()
    offered(client)
    body = secagg.encode(secagg.messages.SurvivorList(bytes(32), (True,) * 4), PARAMS)
    assert client.frame_received(payload_of(link.Message(0, body))) == []
    assert client.error.rule is secagg.Rule.WRONG_SESSION


@pytest.mark.parametrize("code", list(RefusalCode))
def test_refusals_end_the_client_or_let_it_come_back(code: RefusalCode) -> None:
    for in_session in (False, True):
        client = new_client()
        client.connected()
        if in_session:
            offered(client)
        client.frame_received(payload_of(link.Refused(code, "because")))
        stays = code in (RefusalCode.BUSY, RefusalCode.STOPPING, RefusalCode.PROTOCOL_ERROR) or (
            code is RefusalCode.NO_SESSION and not in_session
        )
        assert client.finished is not stays
        assert client.refused.code is code
        if not stays:
            assert client.error.code is code
            assert "because" in str(client.error)


def test_a_client_that_is_not_understood_tries_again_but_not_for_ever() -> None:
    client = new_client()
    for attempt in range(3):
        assert not client.finished
        assert len(offered(client)) == 1
        client.frame_received(payload_of(link.Refused(RefusalCode.PROTOCOL_ERROR, str(attempt))))
    assert client.error.code is RefusalCode.PROTOCOL_ERROR


def test_frames_that_come_twice_are_taken_once() -> None:
    host = new_host()
    client, message = first_message(host)
    host.frame_received(0, payload_of(link.Hello()), 1.0)
    assert host.commit(1.0) == []
    assert client.frame_received(payload_of(host.offer)) == []
    host.frame_received(0, message, 1.0)
    (ack,) = frames(host)
    assert client.frame_received(payload_of(ack)) == client.frame_received(payload_of(ack)) == []
    assert not client.finished
    assert not host.counters.refused


def test_a_repeated_server_message_is_passed_over_and_a_changed_one_is_not() -> None:
    host = new_host()
    pairs = {i: first_message(host, i) for i in range(4)}
    for client_id, (_, message) in pairs.items():
        host.frame_received(client_id, message, 1.0)
    keys = next(out for out in host.commit(1.0) if out.client_id == 0 and out.parts[0][0] == 3)
    client = pairs[0][0]
    payload = b"".join(keys.parts)
    assert len(client.frame_received(payload)) == 1
    assert client.frame_received(payload) == []
    assert not client.finished
    assert client.frame_received(payload[:-1] + bytes([payload[-1] ^ 1])) == []
    assert "another message 0 than before" in str(client.error)


def test_an_input_that_cannot_be_had_stops_the_client() -> None:
    host = new_host()
    clients = {i: new_client(i) for i in range(4)}
    clients[0]._provide_input = lambda offer: np.arange(5)
    with pytest.raises(LocalProtocolError, match="shape"):
        run_to_the_end(host, clients)
    with pytest.raises(JournalError, match="start again to resume"):
        clients[0].frame_received(payload_of(link.Ping()))


def test_a_session_may_have_any_clients() -> None:
    host = SessionHost(PARAMS, [5, 2**32 - 1, 7], deadlines=DEADLINES, now=0.0, context=CONTEXT)
    run_to_the_end(host, {i: new_client(i) for i in (5, 2**32 - 1, 7)})
    assert host.outcome.included == (5, 7, 2**32 - 1)


def test_reprs_hold_no_secret() -> None:
    client = new_client()
    offered(client)
    assert repr(client) == "<ClientHost 0, ADVERTISED>"
    assert repr(new_host()) == "<SessionHost ADVERTISE_KEYS, 0 clients connected>"
