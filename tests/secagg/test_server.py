"""The server's records: the clients awaited, the effect of a drop in each round, and the memory used."""

import tracemalloc
import weakref

import numpy as np
import pytest

from secagg import (
    Aborted,
    Client,
    ClientDropped,
    Completed,
    DropReason,
    LocalProtocolError,
    Round,
    Send,
    Server,
    ServerPhase,
    ServerStatus,
    UnmaskReady,
)
from secagg.messages import AdvertiseKeys, ConsistencyCheck, MaskedInput, PeerKeys, ShareKeys, UnmaskingShares
from tests.secagg.machines import (
    ALICE,
    CLIENT_MESSAGES,
    IDS,
    MALICIOUS,
    MODES,
    VANISHED,
    halts,
    kinds_of,
    script,
)
from tests.secagg.test_server_rules import AWAITED, OVER
from tests.support.sessions import Cohort, exact_sum, make_params, random_inputs

each_mode = pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)


def deliver(server, kind, client_ids) -> None:
    for client_id in client_ids:
        assert server.receive(client_id, script(server.params.adversary).message(kind, client_id)) == ()


# --- Status ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halt", halts(AWAITED), ids=str)
def test_status_counts_a_round_down(halt):
    phase, kind = halt.phase, AWAITED[halt.phase]
    senders = sorted(halt.script.client_messages[kind])
    server = halt.server()
    awaited = set(server.pending)
    for number in range(len(senders) + 1):
        assert server.status == ServerStatus(phase, number, len(awaited), needed=3, ready=number >= 3)
        assert server.pending == awaited
        if number < len(senders):
            deliver(server, kind, [senders[number]])
            awaited.remove(senders[number])
    assert awaited == ({VANISHED} if phase is ServerPhase.MASKED_INPUT_COLLECTION else set())


@pytest.mark.parametrize("halt", halts([ServerPhase.RECOVERY, *OVER]), ids=str)
def test_nobody_is_awaited_when_no_round_is_open(halt):
    server = halt.server()
    assert server.status == ServerStatus(halt.phase, 0, 0, needed=3, ready=False)
    assert server.pending == frozenset()


@pytest.mark.parametrize("halt", halts(AWAITED), ids=str)
def test_a_drop_is_no_longer_pending(halt):
    server = halt.server()
    before = server.status.pending
    server.drop(ALICE, DropReason.DISCONNECTED)
    assert server.status.pending == before - 1
    assert ALICE not in server.pending


@pytest.mark.parametrize("halt", halts(AWAITED), ids=str)
@pytest.mark.parametrize("num_answers", [2, 3])
@pytest.mark.parametrize("dropped_after_answering", [0, 1])
def test_ready_says_whether_closing_now_would_abort(halt, num_answers, dropped_after_answering):
    kind = AWAITED[halt.phase]
    senders = sorted(halt.script.client_messages[kind])[:num_answers]
    server = halt.server()
    deliver(server, kind, senders)
    for client_id in senders[:dropped_after_answering]:
        server.drop(client_id, DropReason.DISCONNECTED)
    ready = server.status.ready
    *_, last = server.close_round()
    assert isinstance(last, Aborted) != ready


COUNTED_WHILE_THERE = [ServerPhase.ADVERTISE_KEYS, ServerPhase.SHARE_KEYS, ServerPhase.CONSISTENCY_CHECK]


@pytest.mark.parametrize("halt", halts(COUNTED_WHILE_THERE), ids=str)
def test_a_dropped_clients_message_is_not_counted(halt):
    """A host compares `received` and `needed`: three answers of which one was dropped count as two."""
    kind = AWAITED[halt.phase]
    server = halt.server()
    deliver(server, kind, [client_id for client_id in IDS if client_id != VANISHED][:3])
    server.drop(IDS[0], DropReason.DISCONNECTED)
    assert not server.status.ready
    assert server.status.received < server.status.needed


@pytest.mark.parametrize("halt", halts(AWAITED), ids=str)
def test_the_short_queries_say_what_the_status_says(halt):
    phase, server = halt.phase, halt.server()
    deliver(server, AWAITED[phase], IDS[:2])
    assert server.round is Round[phase.name]
    assert server.num_received == server.status.received == 2
    assert server.num_pending == server.status.pending == len(server.pending)
    server.abort()
    assert server.round is Round[phase.name], "where it ended"


# --- Drops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halt", halts([*AWAITED, ServerPhase.RECOVERY]), ids=str)
@pytest.mark.parametrize("reason", DropReason, ids=lambda reason: reason.name)
def test_a_drop_is_reported_once_with_its_reason(halt, reason):
    phase, server = halt.phase, halt.server()
    open_round = Round.UNMASKING if phase is ServerPhase.RECOVERY else Round[phase.name]
    assert server.drop(ALICE, reason, "why") == (ClientDropped(ALICE, reason, open_round, "why"),)
    assert server.drop(ALICE, reason, "why") == ()
    assert server.receive(ALICE, halt.script.message(UnmaskingShares, ALICE)) == ()


@pytest.mark.parametrize("halt", halts(OVER), ids=str)
def test_a_drop_after_the_end_is_ignored(halt):
    assert halt.server().drop(ALICE, DropReason.DISCONNECTED) == ()


def test_a_stranger_that_leaves_changes_nothing():
    server = script().server_in(ServerPhase.SHARE_KEYS)
    (event,) = server.drop(4711, DropReason.DISCONNECTED)
    assert (event.client_id, event.reason) == (4711, DropReason.UNKNOWN_CLIENT)
    assert server.pending == frozenset(IDS)


@pytest.mark.parametrize("client_id", [None, "17", 17.0, True, [17]], ids=repr)
def test_an_invalid_client_id_is_the_callers_mistake(client_id):
    server = script().server_in(ServerPhase.ADVERTISE_KEYS)
    for call in (
        lambda: server.drop(client_id, DropReason.DISCONNECTED),
        lambda: server.receive(client_id, script().message(AdvertiseKeys, ALICE)),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    assert server.pending == frozenset(IDS)


@pytest.mark.parametrize("reason", [None, "gone", "DISCONNECTED"], ids=repr)
def test_an_invalid_reason_is_the_callers_mistake(reason):
    server = script().server_in(ServerPhase.ADVERTISE_KEYS)
    with pytest.raises(LocalProtocolError):
        server.drop(ALICE, reason)
    assert ALICE in server.pending


def test_closing_a_round_drops_silent_clients_in_order_of_their_ids():
    server = script().server_in(ServerPhase.ADVERTISE_KEYS)
    deliver(server, AdvertiseKeys, [IDS[4], IDS[1], IDS[2]])
    first, second, *sends = server.close_round()
    assert [first, second] == [
        ClientDropped(client_id, DropReason.DEADLINE, Round.ADVERTISE_KEYS) for client_id in (IDS[0], IDS[3])
    ]
    assert [event.to for event in sends] == [IDS[1], IDS[2], IDS[4]]
    assert all(isinstance(event, Send) and isinstance(event.message, PeerKeys) for event in sends)
    assert sends[0].message.client_ids == (IDS[1], IDS[2], IDS[4])


def test_a_client_that_leaves_after_its_keys_is_not_in_the_directory():
    server = script().server_in(ServerPhase.ADVERTISE_KEYS)
    deliver(server, AdvertiseKeys, IDS)
    server.drop(VANISHED, DropReason.DISCONNECTED)
    sends = server.close_round()
    assert len(sends) == 4
    assert all(VANISHED not in event.message.client_ids and event.to != VANISHED for event in sends)


def test_a_client_that_leaves_after_its_shares_is_announced_as_not_having_shared():
    server = script().server_in(ServerPhase.SHARE_KEYS)
    deliver(server, ShareKeys, IDS)
    server.drop(VANISHED, DropReason.DISCONNECTED)
    sends = server.close_round()
    assert [event.to for event in sends] == [client_id for client_id in IDS if client_id != VANISHED]
    assert all(event.message.shared == (True, True, False, True, True) for event in sends)


def test_a_client_that_leaves_after_its_masked_input_stays_in_the_sum_and_is_asked_nothing():
    server = script().server_in(ServerPhase.MASKED_INPUT_COLLECTION)
    survivors = [client_id for client_id in IDS if client_id != VANISHED]
    deliver(server, MaskedInput, survivors)
    server.drop(ALICE, DropReason.DISCONNECTED)
    drop, *sends = server.close_round()
    assert (drop.client_id, drop.reason) == (VANISHED, DropReason.DEADLINE)
    answering = [client_id for client_id in survivors if client_id != ALICE]
    assert [event.to for event in sends] == answering
    assert all(event.message.survivors == (True, True, False, True, True) for event in sends)
    deliver(server, UnmaskingShares, answering)
    (ready,) = server.close_round()
    (end,) = server.finish(ready.job.run())
    assert end.included == tuple(survivors)
    assert end.sum.tolist() == exact_sum(script().params, [script().inputs[i] for i in survivors])


def test_a_client_that_leaves_after_signing_is_not_among_the_signers_and_is_asked_nothing():
    """Its neighbours must not wait for shares of a client that is known to be gone; its input stays in the sum."""
    server = script(MALICIOUS).server_in(ServerPhase.CONSISTENCY_CHECK)
    survivors = [client_id for client_id in IDS if client_id != VANISHED]
    deliver(server, ConsistencyCheck, survivors)
    server.drop(survivors[-1], DropReason.DISCONNECTED)
    sends = server.close_round()
    assert [event.to for event in sends] == survivors[:3]
    assert all(event.message.consistent == (True, True, False, True, False) for event in sends)
    assert all(len(event.message.signatures) == 2 * 64 for event in sends)
    deliver(server, UnmaskingShares, survivors[:3])
    (ready,) = server.close_round()
    (end,) = server.finish(ready.job.run())
    assert end.included == tuple(survivors)


@each_mode
def test_a_client_that_leaves_after_its_unmasking_shares_has_done_its_part(adversary):
    server = script(adversary).server_in(ServerPhase.UNMASKING)
    survivors = [client_id for client_id in IDS if client_id != VANISHED]
    deliver(server, UnmaskingShares, survivors[:3])
    for client_id in survivors[:3]:
        server.drop(client_id, DropReason.DISCONNECTED)
    *_, ready = server.close_round()
    assert isinstance(ready, UnmaskReady)


@each_mode
def test_drops_while_the_job_runs_change_nothing(adversary):
    server = script(adversary).server_in(ServerPhase.RECOVERY)
    server.drop(ALICE, DropReason.DISCONNECTED)
    (end,) = server.finish(script(adversary).job.run())
    assert isinstance(end, Completed)
    assert ALICE in end.included
    assert np.array_equal(end.sum, script(adversary).end.sum)


# --- The machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halt", halts([ServerPhase.RECOVERY, *OVER]), ids=str)
def test_no_round_can_be_closed_when_none_is_open(halt):
    server = halt.server()
    with pytest.raises(LocalProtocolError, match=halt.phase.name):
        server.close_round()
    assert server.phase is halt.phase


@pytest.mark.parametrize("halt", halts([phase for phase in ServerPhase if phase is not ServerPhase.RECOVERY]), ids=str)
def test_nothing_can_be_finished_without_a_job(halt):
    server = halt.server()
    with pytest.raises(LocalProtocolError, match=halt.phase.name):
        server.finish(np.zeros(40, dtype=np.uint32))
    assert server.phase is halt.phase


@pytest.mark.parametrize(
    ("client_ids", "match"),
    [
        ([1, 2, 2], "twice"),
        ([1, 2], "3 to 5"),
        ([], "3 to 5"),
        (range(6), "3 to 5"),
        ([1, 2, -1], "-1"),
        ([1, 2, 2**32], "4294967296"),
        ([1, 2, 3.0], "3.0"),
        ([1, 2, True], "True"),
        ([1, 2, "3"], "'3'"),
        ([1, 2, np.int64(3)], "3"),
    ],
)
def test_a_wrong_list_of_clients_is_refused(client_ids, match):
    with pytest.raises(LocalProtocolError, match=match):
        Server(make_params(5, 3), client_ids)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (({"num_clients": 5},), {}),
        ((None,), {}),
        ((make_params(),), {"context": "text"}),
        ((make_params(),), {"context": bytearray(3)}),
        ((make_params(),), {"nonce": None}),
        ((make_params(),), {"nonce": bytes(256)}),
    ],
)
def test_wrong_arguments_are_refused(arguments, options):
    with pytest.raises(LocalProtocolError):
        Server(*arguments, **options)


def test_by_default_the_clients_are_numbered_from_zero():
    assert Server(make_params(5, 3)).pending == frozenset(range(5))


def test_client_ids_at_the_ends_of_their_range_take_part():
    """The last of these arbitrary numbers finds the usual mistakes with signs."""
    params = make_params(4, 2, vector_length=11)
    ids = (2**32 - 1, 0, 2**31 - 1, 2**31)
    inputs = dict(zip(ids, random_inputs(params, seed=6).values(), strict=True))
    outcome = Cohort(params, inputs).run()
    assert outcome.end.included == tuple(sorted(ids))
    assert outcome.end.sum.tolist() == exact_sum(params, inputs.values())


@each_mode
def test_messages_may_come_in_any_order(adversary):
    recorded = script(adversary)
    server = recorded.server_in(ServerPhase.ADVERTISE_KEYS)
    rng = np.random.default_rng(8)
    for kind in kinds_of(adversary, CLIENT_MESSAGES):
        senders = sorted(recorded.client_messages[kind])
        deliver(server, kind, rng.permutation(senders).tolist())
        *_, event = server.close_round()
    (end,) = server.finish(event.job.run())
    assert np.array_equal(end.sum, recorded.end.sum)


@each_mode
def test_late_messages_after_the_end_are_ignored(adversary):
    server = script(adversary).server_in(ServerPhase.COMPLETED)
    for kind in AWAITED.values():
        for client_id in (*IDS, 4711):
            assert server.receive(client_id, script(adversary).message(kind, ALICE)) == ()
    assert server.phase is ServerPhase.COMPLETED


# --- Memory ----------------------------------------------------------------------------------------------------------


class Uplink:
    """A server in MaskedInputCollection with many clients, and vectors to feed it with."""

    def __init__(self, num_clients: int, vector_length: int) -> None:
        self.params = make_params(num_clients, 2, vector_length, value_bits=8, ring_bits=32)
        self.server = Server(self.params)
        clients = [Client(self.params, client_id) for client_id in range(num_clients)]
        for client in clients:
            self._send(client, client.start())
        for event in self.server.close_round():
            self._send(clients[event.to], clients[event.to].receive(event.message))
        self.server.close_round()

    def _send(self, client, events) -> None:
        assert self.server.receive(client.client_id, events[0].message) == ()

    def feed(self, client_id: int) -> weakref.ref:
        vector = np.full(self.params.vector_length, client_id + 1, dtype=np.uint32)
        assert self.server.receive(client_id, MaskedInput(self.server.session_id, vector)) == ()
        return weakref.ref(vector)


@pytest.mark.parametrize("num_clients", [3, 30])
def test_masked_inputs_are_summed_as_they_come(num_clients):
    """Memory is O(m): while all inputs come in, at most one more vector is held, for any number of clients."""
    vector_length = 250_000
    uplink = Uplink(num_clients, vector_length)
    tracemalloc.start()
    try:
        for client_id in range(num_clients):
            uplink.feed(client_id)
        size, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    vector_bytes = 4 * vector_length
    assert size < 0.1 * vector_bytes
    assert peak < 2.2 * vector_bytes, "the vector in the message, and room for one more"


def test_a_masked_input_is_not_kept():
    uplink = Uplink(3, 1000)
    assert all(uplink.feed(client_id)() is None for client_id in range(3))
