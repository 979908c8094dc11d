"""Messages that the server refuses, reasons to drop a client, and the exact sum of the honest rest."""

from dataclasses import replace

import numpy as np
import pytest

from secagg import ClientDropped, Completed, DropReason, Round, ServerPhase
from secagg.messages import AdvertiseKeys, ConsistencyCheck, MaskedInput, PeerKeys, ShareKeys, UnmaskingShares
from tests.secagg.machines import (
    ALICE,
    ALL_MESSAGES,
    CLIENT_MESSAGES,
    MALICIOUS,
    MODES,
    VANISHED,
    halts,
    kinds_of,
    script,
)
from tests.secagg.misdeeds import CULPRIT, IDS, INPUTS, MASK, MISDEEDS, PARAMS, PARAMS_OF, copies, is_signed_by
from tests.support.sessions import (
    BEFORE_INPUT,
    BEFORE_KEYS,
    BEFORE_SHARES,
    Cohort,
    exact_sum,
    make_params,
    random_inputs,
)

AWAITED = {
    ServerPhase.ADVERTISE_KEYS: AdvertiseKeys,
    ServerPhase.SHARE_KEYS: ShareKeys,
    ServerPhase.MASKED_INPUT_COLLECTION: MaskedInput,
    ServerPhase.CONSISTENCY_CHECK: ConsistencyCheck,
    ServerPhase.UNMASKING: UnmaskingShares,
}
"""The only message type that each phase accepts."""

ROUND_OF = {
    AdvertiseKeys: Round.ADVERTISE_KEYS,
    ShareKeys: Round.SHARE_KEYS,
    MaskedInput: Round.MASKED_INPUT_COLLECTION,
    ConsistencyCheck: Round.CONSISTENCY_CHECK,
    UnmaskingShares: Round.UNMASKING,
}

OVER = (ServerPhase.COMPLETED, ServerPhase.ABORTED)


# --- Every phase with every message ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("halt", halts(ServerPhase), ids=str)
def test_every_message_in_every_phase_is_taken_or_drops_its_sender(halt, kind):
    server, phase, message = halt.server(), halt.phase, halt.script.message(kind, ALICE)
    events = server.receive(ALICE, message)
    assert server.phase is phase, "a message never ends a round"
    if phase in OVER or AWAITED.get(phase) is kind:
        assert events == ()
        assert server.status.received == (phase not in OVER)
    else:
        (event,) = events
        assert isinstance(event, ClientDropped)
        assert (event.client_id, event.reason) == (ALICE, DropReason.UNEXPECTED_MESSAGE)
        assert event.detail == kind.__name__
        assert server.receive(ALICE, message) == (), "dropped clients are ignored"


@pytest.mark.parametrize("kind", CLIENT_MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("halt", halts([*AWAITED, ServerPhase.RECOVERY]), ids=str)
def test_a_message_of_another_session_drops_its_sender(halt, kind):
    server = halt.server()
    (event,) = server.receive(ALICE, replace(halt.script.message(kind, ALICE), session_id=bytes(32)))
    assert event.reason is DropReason.WRONG_SESSION


@pytest.mark.parametrize("halt", halts(AWAITED), ids=str)
def test_a_client_that_vanished_before_a_round_is_ignored_in_it(halt):
    server = halt.server()
    server.drop(ALICE, DropReason.DISCONNECTED)
    assert server.receive(ALICE, halt.script.message(AWAITED[halt.phase], ALICE)) == ()
    assert server.status.received == 0


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_a_client_dropped_in_an_earlier_round_is_ignored_in_a_later_one(adversary):
    server = script(adversary).server_in(ServerPhase.UNMASKING)
    assert VANISHED not in server.pending
    assert server.receive(VANISHED, script(adversary).message(UnmaskingShares, ALICE)) == ()


# --- Reasons to drop a client in a session that continues -------------------------------------------------------------


def check_the_rest_completes(misdeed, missing_from, expected):
    outcome = misdeed.run(missing_from)
    dropped = outcome.dropped[CULPRIT]
    assert (dropped.reason, dropped.round) == (misdeed.reason, ROUND_OF[misdeed.kind])
    assert not outcome.refused
    assert set(outcome.dropped) - {CULPRIT} == set(missing_from)
    assert isinstance(outcome.end, Completed)
    assert outcome.end.included == tuple(sorted(expected))
    assert outcome.end.sum.tolist() == exact_sum(PARAMS, [INPUTS[i] for i in expected])


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=str)
def test_a_misdeed_costs_its_sender_alone(misdeed):
    expected = [i for i in IDS if misdeed.stays_in_sum or i != CULPRIT]
    check_the_rest_completes(misdeed, {}, expected)


@pytest.mark.parametrize("misdeed", MISDEEDS[::3], ids=str)
@pytest.mark.parametrize("stage", [BEFORE_KEYS, BEFORE_SHARES, BEFORE_INPUT])
def test_a_misdeed_beside_an_ordinary_dropout(misdeed, stage):
    expected = [i for i in IDS if i != 55 and (misdeed.stays_in_sum or i != CULPRIT)]
    check_the_rest_completes(misdeed, {55: stage}, expected)


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_an_unknown_client_changes_nothing(adversary):
    """The server ignores an outsider, for every message and at every time."""
    stranger = 14
    events = []

    def uplink(client_id, message):
        events.extend(cohort.server.receive(stranger, message))
        return message

    cohort = Cohort(PARAMS_OF[adversary], INPUTS, uplink=uplink)
    outcome = cohort.run()
    assert {(event.client_id, event.reason) for event in events} == {(stranger, DropReason.UNKNOWN_CLIENT)}
    assert [event.round for event in events] == [
        ROUND_OF[kind] for kind in kinds_of(adversary, CLIENT_MESSAGES) for _ in IDS
    ]
    assert outcome.end.included == IDS
    assert outcome.end.sum.tolist() == exact_sum(PARAMS, INPUTS.values())
    assert cohort.server.receive(stranger, script().message(MaskedInput, ALICE)) == ()


def test_a_key_stays_taken_when_its_owner_has_gone():
    """A client that repeats it has copied it."""

    def uplink(client_id, message):
        if client_id == IDS[0] and isinstance(message, AdvertiseKeys):
            cohort.server.receive(client_id, message)
            cohort.note(cohort.server.drop(client_id, DropReason.DISCONNECTED))
            return None
        if client_id == CULPRIT and isinstance(message, AdvertiseKeys):
            return copies(MASK, MASK)(cohort, message)
        return message

    cohort = Cohort(PARAMS, INPUTS, uplink=uplink)
    outcome = cohort.run()
    assert outcome.dropped[CULPRIT].reason is DropReason.KEY_NOT_DISTINCT
    assert outcome.end.included == (8, 21, 34, 55)


def test_an_identity_that_was_refused_is_free_for_its_owner():
    """Otherwise a client could shut another out by advertising its identity key first."""

    def uplink(client_id, message):
        if client_id == IDS[0] and isinstance(message, AdvertiseKeys):
            return is_signed_by(CULPRIT, signed_id=client_id)(cohort, message)
        return message

    cohort = Cohort(PARAMS_OF[MALICIOUS], INPUTS, uplink=uplink)
    outcome = cohort.run()
    assert {i: drop.reason for i, drop in outcome.dropped.items()} == {IDS[0]: DropReason.IDENTITY_NOT_TRUSTED}
    assert outcome.end.included == IDS[1:]


def test_a_share_of_one_that_had_not_shared_its_keys_is_refused():
    """A client claims to hold a share that, as the server knows, does not exist."""

    def uplink(client_id, message):
        if client_id == CULPRIT and isinstance(message, UnmaskingShares):
            assert message.held == (False, True, True, True, True, True)
            return replace(message, held=(True,) * 6, shares=np.vstack([message.shares[:1], message.shares]))
        return message

    outcome = Cohort(PARAMS, INPUTS, {IDS[0]: BEFORE_SHARES}, uplink=uplink).run()
    assert outcome.dropped[CULPRIT].reason is DropReason.WRONG_SIZE
    assert outcome.end.included == (8, 13, 21, 34, 55)


def test_a_client_whose_neighbours_are_gone_is_dropped():
    """On a sparse graph, the secrets of a client with fewer neighbours than the threshold could not be recovered."""
    params = make_params(16, 3, vector_length=10, degree=6)
    inputs = random_inputs(params, seed=23)
    lost: set[int] = set()

    def downlink(client_id, message):
        if client_id == 0 and isinstance(message, PeerKeys):
            # It gets its list first, so that its neighbours are known when they send their shares.
            neighbors = message.client_ids[1:]
            assert len(neighbors) == 6
            lost.update(neighbors[:4])
        return message

    def uplink(client_id, message):
        return None if client_id in lost and isinstance(message, ShareKeys) else message

    outcome = Cohort(params, inputs, uplink=uplink, downlink=downlink, entropy_seed="neighbours").run()
    assert (outcome.dropped[0].reason, outcome.dropped[0].round) == (DropReason.TOO_FEW_NEIGHBORS, Round.SHARE_KEYS)
    assert lost < set(outcome.dropped)
    assert outcome.end.included == tuple(i for i in range(16) if i not in outcome.dropped)
    assert outcome.end.sum.tolist() == exact_sum(params, [inputs[i] for i in outcome.end.included])


def test_every_drop_reason_has_a_test():
    elsewhere = {DropReason.UNKNOWN_CLIENT, DropReason.TOO_FEW_NEIGHBORS}
    assert {misdeed.reason for misdeed in MISDEEDS} | elsewhere == set(DropReason)
