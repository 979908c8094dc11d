"""A client's host: the offers that it declines, the events that end it, and the state with which it comes back."""

import numpy as np
import pytest

import secagg
from secagg import LocalProtocolError
from tests.transport.hosts import (
    PARAMS,
    first_message,
    frames,
    new_client,
    new_host,
    offered,
    payload_of,
    run_to_the_end,
)
from tests.transport.link_world import MODES
from transport.durable import frames as link
from transport.durable.frames import RefusalCode
from transport.errors import JournalError, LinkError, OlderServerError, SessionRefusedError


def test_a_client_declines_offers_that_its_application_refuses() -> None:
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
    client.left()
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
            assert isinstance(client.error, OlderServerError) is (code is RefusalCode.OLDER_SERVER)
            assert "because" in str(client.error)


def test_a_client_that_is_not_understood_retries_within_limits() -> None:
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


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (SessionRefusedError("a label 12"), []),
        (SessionRefusedError("a label 12", told=""), [link.Decline()]),
        (SessionRefusedError("a label 12", told="400 epochs\x1b[2J"), [link.Decline("400 epochs\\x1b[2J")]),
    ],
)
def test_a_client_that_declines_sends_its_hosts_reason(error, sent) -> None:
    def accept(offer):
        raise error

    client = new_client(accept=accept)
    assert [link.decode_client_frame(b"".join(parts)) for parts in offered(client)] == sent
    assert client.error is error
    assert not client.in_session


def test_by_default_the_policys_reasons_are_sent() -> None:
    client = new_client(accept=None)
    (decline,) = [link.decode_client_frame(b"".join(parts)) for parts in offered(client)]
    assert decline.text.startswith("threshold 2 is below the 3")
    assert str(client.error) == f"the offer was declined: {decline.text}"


def test_a_refusal_says_when_to_come_back() -> None:
    client = new_client()
    client.connected()
    client.frame_received(payload_of(link.Refused(RefusalCode.TOO_LATE, "because", 17)))
    assert client.error.retry_after == 17
    client = new_client()
    client.connected()
    client.frame_received(payload_of(link.TOO_MANY_FRAMES))
    assert client.error is None
    assert client.refused.retry_after > 0


def test_a_server_may_report_any_number_of_times_that_it_has_no_session_yet() -> None:
    client = new_client()
    client.connected()
    for number in range(1000):
        assert client.frame_received(payload_of(link.Waiting(number, 2**32))) == []
    assert not client.finished
    assert len(offered(client)) == 1
    assert client.frame_received(payload_of(link.Waiting(1))) == []
    assert client.in_session
