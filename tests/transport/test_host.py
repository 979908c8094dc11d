"""One host at a time: the answer to each frame, refusals and their reasons, and that nothing leaves too early."""

import numpy as np
import pytest

from secagg import (
    Aborted,
    AbortReason,
    Adversary,
    Completed,
    DropReason,
    LocalProtocolError,
    ServerPhase,
    TrustOnFirstUse,
    TrustOnFirstUseWarning,
)
from tests.support.sessions import directory_of, exact_sum, identity_of, make_params
from tests.transport.crashing_journals import journal_directory
from tests.transport.hosts import (
    PARAMS,
    SESSION_ID,
    first_message,
    frames,
    greet,
    new_client,
    new_host,
    offered,
    payload_of,
    run_to_the_end,
)
from tests.transport.link_world import CONTEXT, DEADLINES, MODES, World
from transport.durable import frames as link
from transport.durable.frames import RefusalCode
from transport.durable.pieces import Large, Want
from transport.durable.server_host import Close, Deliver, SessionHost


def test_a_session_without_a_journal_runs_to_its_sum() -> None:
    host = new_host()
    clients = {i: new_client(i) for i in range(4)}
    run_to_the_end(host, clients)
    assert isinstance(host.outcome, Completed)
    assert host.outcome.sum.tolist() == exact_sum(PARAMS, [np.arange(3)] * 4)
    assert all(client.outcome == link.End(link.EndCode.COMPLETED, 4) for client in clients.values())
    assert not host.dropped
    assert host.status.phase is ServerPhase.COMPLETED


def test_absent_clients_are_dropped_by_the_deadline_and_told_so() -> None:
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
        # Nothing went into the machine: an offer waits only for the very first commit.
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


def test_invalid_bytes_drop_the_client() -> None:
    host = new_host()
    greet(host)
    host.frame_received(0, payload_of(link.Message(0, b"garbage")), 1.0)
    assert host.dropped[0].reason is DropReason.MALFORMED
    assert [frame.code for frame in frames(host)] == [RefusalCode.DROPPED]
    # It stays dropped when it comes back.
    assert [frame.code for frame in greet(host)] == [RefusalCode.DROPPED]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "cut short"),
        (b"\xff", "kind 255"),
        (payload_of(link.Ack(0)), "not one that a client sends"),
        (payload_of(link.Identify(3)), "kind 9"),
        (payload_of(link.Message(1, b"x")), "message 1 where message 0 is due"),
        (payload_of(link.Hello(SESSION_ID)), "a second HELLO differs"),
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
    # Later frames over that connection are ignored.
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
    assert [frame.code for frame in greet(host, 0, link.Hello(version=0, oldest=0))] == [RefusalCode.BAD_VERSION]
    assert [frame.code for frame in greet(host, 0, link.Hello(version=9, oldest=9))] == [RefusalCode.OLDER_SERVER]
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
    host.left(0, 1.0, first)
    assert host.connected_clients == {0}
    host.frame_received(0, payload_of(link.Hello()), 1.0, second)
    assert [out.connection for out in host.commit(1.0)] == [second]
    assert host.counters.reconnects == 1


def test_a_lost_connection_drops_nobody() -> None:
    host = new_host()
    client, message = first_message(host)
    host.left(0, 1.0)
    client.left()
    (hello,) = client.connected()
    host.connected(0, 2.0)
    host.frame_received(0, b"".join(hello), 2.0)
    (offer,) = frames(host)
    # A message that was not acknowledged is sent again, unchanged.
    assert [b"".join(parts) for parts in client.frame_received(payload_of(offer))] == [message]
    assert not host.dropped


def test_a_client_that_lost_its_state_is_dropped() -> None:
    host = new_host()
    _, message = first_message(host)
    host.frame_received(0, message, 1.0)
    host.left(0, 1.0)
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
        # It was closed once, and nothing was read after that.
        assert sent < 40
    assert not host.dropped
    # Later it is welcome again.
    assert type(greet(host, 0, link.Hello(host.session_id), now=100.0)[-1]) is link.Offer


def test_frames_waiting_for_a_commit_are_bounded() -> None:
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
    # A client that comes later is told too, or is too late.
    assert [frame.code for frame in greet(host, 1)] == [RefusalCode.TOO_LATE]
    host.left(0, 1.0)
    (end,) = greet(host, 0, link.Hello(host.session_id))
    assert end.code is link.EndCode.CANCELLED


def test_untold_names_those_that_wait_for_the_end() -> None:
    host = new_host()
    _, message = first_message(host)
    host.frame_received(0, message, 1.0)
    assert host.untold == frozenset()
    host.abort(1.0)
    host.left(0, 1.0)
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


def test_a_session_may_have_any_clients() -> None:
    host = SessionHost(PARAMS, [5, 2**32 - 1, 7], deadlines=DEADLINES, now=0.0, context=CONTEXT)
    run_to_the_end(host, {i: new_client(i) for i in (5, 2**32 - 1, 7)})
    assert host.outcome.included == (5, 7, 2**32 - 1)


def test_a_directory_that_learns_keys_learns_them_from_the_hosts_machine() -> None:
    params = make_params(4, 3, vector_length=3, adversary=Adversary.MALICIOUS)
    directory = TrustOnFirstUse()
    host = SessionHost(params, deadlines=DEADLINES, now=0.0, context=CONTEXT, directory=directory)
    clients = {i: new_client(i, identity=identity_of(i), directory=directory_of(range(4))) for i in range(4)}
    with pytest.warns(TrustOnFirstUseWarning):
        run_to_the_end(host, clients)
    assert isinstance(host.outcome, Completed)
    assert directory.keys == {i: identity_of(i).public_key for i in range(4)}


def test_reprs_hold_no_secret() -> None:
    client = new_client()
    offered(client)
    assert repr(client) == "<ClientHost 0, ADVERTISED>"
    assert repr(new_host()) == "<SessionHost ADVERTISE_KEYS, 0 clients connected>"


def test_a_client_that_declines_is_named_with_its_reason_and_may_return_with_another_policy() -> None:
    host = new_host()
    for client_id in (0, 1):
        greet(host, client_id)
    for client_id, text in ((0, "400 epochs"), (1, "")):
        host.frame_received(client_id, payload_of(link.Decline(text)), 1.0)
    refused = frames(host)
    assert [(frame.code, frame.text) for frame in refused] == [
        (RefusalCode.DROPPED, "it declined the offer: 400 epochs"),
        (RefusalCode.DROPPED, "it declined the offer: without a reason"),
    ]
    assert host.declined == {0: "400 epochs", 1: ""}
    assert host.dropped == {}
    clients = {client_id: new_client(client_id) for client_id in range(4)}
    run_to_the_end(host, clients)
    assert host.outcome.included == (0, 1, 2, 3)
    assert host.declined == {}


def test_a_client_that_declines_makes_room_for_the_messages_of_others() -> None:
    host = new_host()
    host.memory = 1
    for client_id in (0, 1):
        greet(host, client_id)
    for client_id in (0, 1):
        host.frame_received(client_id, payload_of(Large(payload_of(link.Message(0, b"")), 100, bytes(32))), 1.0)
    assert wanted(host) == [0]
    host.frame_received(0, payload_of(link.Decline("no")), 1.0)
    host.tick(1.0)
    assert wanted(host) == [1]


def wanted(host: SessionHost) -> list[int]:
    """Return the clients that the server now asks for pieces."""
    sent = [(out.client_id, link.decode_server_frame(b"".join(out.parts))) for out in host.commit(1.0)]
    return [client_id for client_id, frame in sent if isinstance(frame, Want)]


def test_a_client_that_answered_or_has_no_offer_cannot_decline() -> None:
    host = new_host()
    host.connected(1, 1.0)
    host.frame_received(1, payload_of(link.Decline("too soon")), 1.0)
    assert [frame.code for frame in frames(host)] == [RefusalCode.PROTOCOL_ERROR]
    _, message = first_message(host)
    host.frame_received(0, message, 1.0)
    host.frame_received(0, payload_of(link.Decline("too late")), 1.0)
    assert [frame.code for frame in frames(host) if isinstance(frame, link.Refused)] == [RefusalCode.PROTOCOL_ERROR]
    assert host.declined == {}
    assert host.dropped == {}


def test_a_late_client_learns_how_long_the_open_phase_may_take() -> None:
    host = new_host()
    for client_id in range(3):
        _, message = first_message(host, client_id)
        host.frame_received(client_id, message, 1.0)
        frames(host)
    late = host.deadline
    host.tick(late)
    frames(host, late)
    assert not host.expects(3)
    assert host.expects(0)
    (refused,) = greet(host, 3, now=host.deadline - 1.5)
    assert (refused.code, refused.retry_after) == (RefusalCode.TOO_LATE, 2)


def test_the_later_accepted_connection_stays_in_any_order_of_reports() -> None:
    host = new_host()
    assert host.connected(0, 1.0, 7) == 7
    assert host.connected(0, 1.0, 5) == 5
    (closed,) = host.commit(1.0)
    assert (closed.connection, closed.code) == (5, RefusalCode.REPLACED)
    assert host.connected(0, 1.0, 9) == 9
    (closed,) = host.commit(1.0)
    assert (closed.connection, closed.code) == (7, RefusalCode.REPLACED)
    # Without numbers the order of the reports counts.
    assert host.connected(0, 1.0) == 10
