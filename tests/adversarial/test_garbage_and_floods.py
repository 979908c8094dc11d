"""Bytes that are not messages, false lengths, and more messages than necessary."""

import struct
import tracemalloc

import msgpack
import pytest

from secagg import CodecError, DropReason, decode_client_message, decode_server_message, encode, max_message_bytes
from secagg._client import rules
from secagg.messages import AdvertiseKeys, ConsistencyProof, PeerKeys, SurvivorList
from tests.adversarial.adversary import CURIOUS, GRAPHS, MALICIOUS, LyingServer, params_of
from tests.adversarial.knowledge import assert_hidden

ALICE = 1


def honest_bytes(server: LyingServer) -> list[bytes]:
    """Return every message that Alice sends and gets in a session."""
    server.conclude()
    messages = [said[ALICE] for said in (*server.sent.values(), *server.told.values())]
    return [encode(message, server.params) for message in messages]


@pytest.fixture(scope="module", params=[(CURIOUS, "complete"), (MALICIOUS, "sparse")], ids=["curious", "malicious"])
def recorded(request):
    server = LyingServer(params_of(*request.param))
    return server, honest_bytes(server)


def decodes(data: bytes, params) -> bool:
    """Return whether it is a message in either direction; otherwise only a CodecError may be raised."""
    for decode in (decode_client_message, decode_server_message):
        try:
            message = decode(data, params)
        except CodecError:
            continue
        assert encode(message, params) == data, "every message has one encoding"
        return True
    return False


def _retyped(packed: bytes):
    """Return the same message with each field of another msgpack type."""
    items = msgpack.unpackb(packed)
    for at in range(len(items)):
        for other in (
            None,
            True,
            -1,
            2**64 - 1,
            1.5,
            "text",
            b"",
            [],
            {},
            [items[at]],
            msgpack.Timestamp(0),
            msgpack.ExtType(1, b"x"),
        ):
            if other != items[at]:
                yield msgpack.packb([*items[:at], other, *items[at + 1 :]])
        yield msgpack.packb([*items[:at], *items[at + 1 :]])
        yield msgpack.packb([*items[:at], items[at], *items[at:]])


def test_messages_with_a_field_of_another_type_are_refused(recorded):
    server, messages = recorded
    for packed in messages:
        for forged in _retyped(packed):
            if forged != packed:
                # An empty byte string for one is a valid number of items; the rules check that.
                decodes(forged, server.params)
        assert decodes(packed, server.params)


def test_a_message_cut_anywhere_or_followed_by_anything_is_refused(recorded):
    server, messages = recorded
    for packed in messages:
        assert not any(decodes(packed[:size], server.params) for size in range(0, len(packed), 7))
        assert not decodes(packed + b"\x00", server.params)
        assert not decodes(packed + packed, server.params)


@pytest.mark.parametrize("length", [2**16, 2**24, 2**31, 2**32 - 1])
@pytest.mark.parametrize("head", [0xC6, 0xDD, 0xDF, 0xDB, 0xC9], ids=["bin", "array", "map", "str", "ext"])
def test_a_huge_claimed_length_costs_no_memory(recorded, head, length):
    server, messages = recorded
    tracemalloc.start()
    try:
        for packed in messages:
            for at in (0, 3, 5, 37):
                assert not decodes(packed[:at] + bytes([head]) + struct.pack(">I", length) + packed[at:], server.params)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_messages_above_the_limit_are_refused_unread(recorded):
    server, messages = recorded
    limit = max_message_bytes(server.params)
    for packed in messages:
        assert not decodes(packed.ljust(limit + 1, b"\x00"), server.params)


def test_deep_nesting_is_refused_at_its_first_level(recorded):
    server, _ = recorded
    assert not decodes(b"\x91" * 500, server.params)
    assert not decodes(b"\x98" + b"\x91" * 500, server.params)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("garbage", [b"", b"\x00", b"\xc1", b"\x96\x01", bytes(500), b"\xff" * 500], ids=repr)
def test_garbage_from_the_server_ends_only_its_receiver(graph, garbage):
    for kind in (PeerKeys, SurvivorList):
        server = LyingServer(params_of(graph=graph))
        letters = server.until(kind)
        letters[ALICE] = garbage
        server.deliver(letters)
        assert isinstance(server.refused[ALICE], CodecError)
        server.conclude()
        server.assert_exact(set(server.inputs) - ({ALICE} if kind is PeerKeys else set()))
        assert_hidden(server)


@pytest.mark.parametrize("graph", GRAPHS)
def test_garbage_from_a_client_drops_it_alone(graph):
    server = LyingServer(params_of(graph=graph), uplink=lambda i, message: (b"\xc1",) if i == ALICE else (message,))
    server.conclude()
    assert server.dropped[ALICE].reason is DropReason.MALFORMED
    server.assert_exact(set(server.inputs) - {ALICE})
    assert_hidden(server)


# --- Floods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", [ALICE, 10**6], ids=["a known client", "a stranger"])
def test_a_flood_of_one_message_costs_the_server_neither_memory_nor_its_session(sender):
    server = LyingServer(params_of())
    server.start()
    message = server.sent[AdvertiseKeys][ALICE]
    server.server.receive(sender, message)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            server.server.receive(sender, message)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000
    server.conclude()
    server.assert_exact(set(server.inputs) - ({ALICE} if sender == ALICE else set()))
    assert_hidden(server)


def test_a_flood_of_strangers_costs_the_server_no_memory():
    server = LyingServer(params_of())
    server.start()
    message = server.sent[AdvertiseKeys][ALICE]
    tracemalloc.start()
    try:
        for stranger in range(100, 20_100):
            (dropped,) = server.server.receive(stranger, message)
            assert dropped.reason is DropReason.UNKNOWN_CLIENT
        del dropped
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000
    server.conclude()
    server.assert_exact(server.inputs)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_message_sent_twice_costs_its_sender_the_session_and_nobody_else(graph):
    server = LyingServer(params_of(graph=graph), uplink=lambda i, message: (message,) * (1 + (i == ALICE)))
    server.conclude()
    assert server.dropped[ALICE].reason is DropReason.DUPLICATE
    server.assert_exact(set(server.inputs) - {ALICE})
    assert_hidden(server)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("mode", [CURIOUS, MALICIOUS], ids=lambda mode: mode.value)
def test_a_server_that_sends_everything_twice_gets_each_answer_once(mode, graph):
    server = LyingServer(params_of(mode, graph))
    for kind in (PeerKeys,):
        letters = server.until(kind)
        for client_id, letter in letters.items():
            server.tell(client_id, letter, letter)
    for client_id in server.inputs:
        assert client_id in server.refused
    server.conclude()
    assert_hidden(server)


def test_the_views_of_a_proof_cost_a_client_a_few_steps_for_each_of_their_digests(monkeypatch):
    """The server chooses how many digests the proof has, up to one for each pair of peers."""
    steps = 0

    class Counted(list):
        """A list that counts the items that are read one after the other or copied, also in its copies."""

        def __iter__(self):
            nonlocal steps
            steps += len(self)
            return super().__iter__()

        def __getitem__(self, at):
            nonlocal steps
            taken = super().__getitem__(at)
            steps += len(taken) if isinstance(at, slice) else 1
            return Counted(taken) if isinstance(at, slice) else taken

    server = LyingServer(params_of(MALICIOUS, "sparse", num_clients=40, degree=20, threshold=15))
    letters = server.until(ConsistencyProof)
    digests = letters[ALICE].others
    split = rules.split  # type: ignore[attr-defined]
    monkeypatch.setattr(
        rules,
        "split",
        lambda items, size: Counted(split(items, size)) if items == digests else split(items, size),
    )
    server.deliver({ALICE: letters.pop(ALICE)})
    assert len(digests) <= 32 * steps <= 3 * len(digests)
    server.deliver(letters)
    server.conclude()
    server.assert_exact(server.inputs)
