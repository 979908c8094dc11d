"""What the server refuses, why a client is dropped or a session aborted, and that the honest rest completes exactly."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from secagg import Aborted, AbortReason, ClientDropped, Completed, DropReason, Round, ServerPhase
from secagg.algebra.field import PRIME
from secagg.messages import AdvertiseKeys, MaskedInput, PeerKeys, ShareKeys, UnmaskingShares
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests.cohort import (
    BEFORE_INPUT,
    BEFORE_KEYS,
    BEFORE_SHARES,
    BEFORE_UNMASKING,
    Cohort,
    exact_sum,
    make_params,
    random_inputs,
)
from tests.secagg.machines import ALICE, ALL_MESSAGES, BAD_POINTS, CLIENT_MESSAGES, VANISHED, script

AWAITED = {
    ServerPhase.ADVERTISE_KEYS: AdvertiseKeys,
    ServerPhase.SHARE_KEYS: ShareKeys,
    ServerPhase.MASKED_INPUT_COLLECTION: MaskedInput,
    ServerPhase.UNMASKING: UnmaskingShares,
}
"""The one message that each phase takes."""

ROUND_OF = {
    AdvertiseKeys: Round.ADVERTISE_KEYS,
    ShareKeys: Round.SHARE_KEYS,
    MaskedInput: Round.MASKED_INPUT_COLLECTION,
    UnmaskingShares: Round.UNMASKING,
}

OVER = (ServerPhase.COMPLETED, ServerPhase.ABORTED)


# --- Every phase with every message ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", ServerPhase, ids=lambda phase: phase.name)
def test_every_message_in_every_phase_is_taken_or_drops_its_sender(phase, kind):
    server = script().server(phase)
    events = server.receive(ALICE, script().message(kind, ALICE))
    assert server.phase is phase, "a message never ends a round"
    if phase in OVER or AWAITED.get(phase) is kind:
        assert events == ()
        assert server.status.received == (phase not in OVER)
    else:
        (event,) = events
        assert isinstance(event, ClientDropped)
        assert (event.client_id, event.reason) == (ALICE, DropReason.UNEXPECTED_MESSAGE)
        assert event.detail == kind.__name__
        assert server.receive(ALICE, script().message(kind, ALICE)) == (), "the dropped are not heard"


@pytest.mark.parametrize("kind", CLIENT_MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", [*AWAITED, ServerPhase.RECOVERY], ids=lambda phase: phase.name)
def test_a_message_of_another_session_drops_its_sender(phase, kind):
    server = script().server(phase)
    (event,) = server.receive(ALICE, replace(script().message(kind, ALICE), session_id=bytes(32)))
    assert event.reason is DropReason.WRONG_SESSION


@pytest.mark.parametrize("phase", AWAITED, ids=lambda phase: phase.name)
def test_who_vanished_before_a_round_is_not_heard_in_it(phase):
    server = script().server(phase)
    server.drop(ALICE, DropReason.DISCONNECTED)
    assert server.receive(ALICE, script().message(AWAITED[phase], ALICE)) == ()
    assert server.status.received == 0


def test_who_was_dropped_in_an_earlier_round_is_not_heard_in_a_later_one():
    server = script().server(ServerPhase.UNMASKING)
    assert VANISHED not in server.pending
    assert server.receive(VANISHED, script().message(UnmaskingShares, ALICE)) == ()


# --- Every reason to drop a client, in a session that goes on --------------------------------------------------------

IDS = (5, 8, 13, 21, 34, 55)
CULPRIT = 13
PARAMS = make_params(len(IDS), 4, vector_length=30, value_bits=12)
INPUTS = dict(zip(IDS, random_inputs(PARAMS, seed=21).values(), strict=True))


@dataclass(frozen=True)
class Misdeed:
    """What CULPRIT does when its message of one type is due: ``act(cohort, message)`` gives what is sent instead."""

    name: str
    reason: DropReason
    kind: type
    act: Callable

    @property
    def stays_in_sum(self) -> bool:
        """Whether the culprit's masked input was in before it did wrong: then it cannot be taken out again."""
        input_came_first = self.act in (leaves_after_sending, sends_twice, sends_two_inputs)
        return self.kind is UnmaskingShares or (self.kind is MaskedInput and input_came_first)

    def run(self, missing_from):
        def uplink(client_id, message):
            due = client_id == CULPRIT and isinstance(message, self.kind)
            return self.act(cohort, message) if due else message

        cohort = Cohort(PARAMS, INPUTS, missing_from, uplink=uplink, entropy_seed="misdeeds")
        return cohort.run()


def changed(**fields):
    """Sends the message with some fields replaced; a function gets the old value."""

    def act(cohort, message):
        new = {name: value(getattr(message, name)) if callable(value) else value for name, value in fields.items()}
        return replace(message, **new)

    return act


def past_the_codec(act):
    """Hands to the server what ``act`` gives: the codec would not even let it through."""

    def pass_it(cohort, message):
        cohort._note(cohort.server.receive(CULPRIT, act(cohort, message)))

    return pass_it


def sends_twice(cohort, message):
    return [message, message]


def sends_two_inputs(cohort, message):
    return [message, replace(message, masked_input=message.masked_input[::-1].copy())]


def loses_it(cohort, message):
    return None


def leaves_after_sending(cohort, message):
    assert cohort.server.receive(CULPRIT, message) == ()
    cohort._note(cohort.server.drop(CULPRIT, DropReason.DISCONNECTED))


def leaves_instead(cohort, message):
    cohort._note(cohort.server.drop(CULPRIT, DropReason.DISCONNECTED))


def sends_an_earlier_one(kind):
    return lambda cohort, message: cohort.sent[kind][CULPRIT]


def sends_a_later_one(cohort, message):
    return replace(script().message(UnmaskingShares, ALICE), session_id=message.session_id)


def copies(name, from_name):
    """Advertises a key that the first client has advertised already, as a key of this or of the other kind."""

    def act(cohort, message):
        return replace(message, **{name: getattr(cohort.sent[AdvertiseKeys][IDS[0]], from_name)})

    return act


def has_one_key_for_both(cohort, message):
    return replace(message, mask_public_key=message.channel_public_key)


CHANNEL, MASK = "channel_public_key", "mask_public_key"

SHORTER = {"encrypted_shares": lambda data: data[:-ENCRYPTED_SHARES_BYTES]}

WRONG_SIZES = [
    ("shares for too few", ShareKeys, changed(**SHORTER)),
    ("no shares", ShareKeys, changed(encrypted_shares=b"")),
    ("a vector too short", MaskedInput, past_the_codec(changed(masked_input=lambda vector: vector[:-1]))),
    ("a scalar", MaskedInput, past_the_codec(changed(masked_input=lambda vector: vector[0]))),
    ("a vector of floats", MaskedInput, past_the_codec(changed(masked_input=lambda vector: vector.astype(float)))),
    ("a wider vector", MaskedInput, past_the_codec(changed(masked_input=lambda vector: vector.astype("<u4")))),
    ("a flag too few", UnmaskingShares, changed(held=lambda held: held[:-1], shares=lambda shares: shares[:-1])),
    ("no flags", UnmaskingShares, changed(held=(), shares=lambda shares: shares[:0])),
    ("more shares than flags", UnmaskingShares, past_the_codec(changed(held=lambda held: (False, *held[1:])))),
    ("fewer shares than flags", UnmaskingShares, past_the_codec(changed(shares=lambda shares: shares[1:]))),
    ("a share outside the field", UnmaskingShares, past_the_codec(changed(shares=lambda shares: shares | PRIME))),
    ("shares of fewer limbs", UnmaskingShares, past_the_codec(changed(shares=lambda shares: shares[:, :-1]))),
]

MISDEEDS = [
    *(Misdeed("late", DropReason.DEADLINE, kind, loses_it) for kind in CLIENT_MESSAGES),
    *(Misdeed("gone", DropReason.DISCONNECTED, kind, leaves_instead) for kind in CLIENT_MESSAGES),
    *(Misdeed("gone after it", DropReason.DISCONNECTED, kind, leaves_after_sending) for kind in CLIENT_MESSAGES),
    *(Misdeed("foreign", DropReason.WRONG_SESSION, kind, changed(session_id=bytes(32))) for kind in CLIENT_MESSAGES),
    *(Misdeed("twice", DropReason.DUPLICATE, kind, sends_twice) for kind in CLIENT_MESSAGES),
    Misdeed("two different inputs", DropReason.DUPLICATE, MaskedInput, sends_two_inputs),
    *(
        Misdeed("of a later round", DropReason.UNEXPECTED_MESSAGE, kind, sends_a_later_one)
        for kind in (AdvertiseKeys, ShareKeys, MaskedInput)
    ),
    *(
        Misdeed("of the round before", DropReason.UNEXPECTED_MESSAGE, kind, sends_an_earlier_one(earlier))
        for earlier, kind in pairwise(CLIENT_MESSAGES)
    ),
    Misdeed("cut short", DropReason.MALFORMED, ShareKeys, changed(encrypted_shares=lambda data: data[:-1])),
    Misdeed("keys cut short", DropReason.MALFORMED, AdvertiseKeys, changed(mask_public_key=bytes(31))),
    *(
        Misdeed(f"{field} of {name}", DropReason.INVALID_PUBLIC_KEY, AdvertiseKeys, changed(**{field: point}))
        for field in (CHANNEL, MASK)
        for name, point in BAD_POINTS.items()
    ),
    Misdeed("one key for both", DropReason.KEY_NOT_DISTINCT, AdvertiseKeys, has_one_key_for_both),
    *(
        Misdeed(f"{own} is another's {other}", DropReason.KEY_NOT_DISTINCT, AdvertiseKeys, copies(own, other))
        for own in (CHANNEL, MASK)
        for other in (CHANNEL, MASK)
    ),
    *(Misdeed(name, DropReason.WRONG_SIZE, kind, act) for name, kind, act in WRONG_SIZES),
]


def check_the_rest_completes(misdeed, missing_from, expected):
    outcome = misdeed.run(missing_from)
    dropped = outcome.dropped[CULPRIT]
    assert (dropped.reason, dropped.round) == (misdeed.reason, ROUND_OF[misdeed.kind])
    assert not outcome.refused
    assert set(outcome.dropped) - {CULPRIT} == set(missing_from)
    assert isinstance(outcome.end, Completed)
    assert outcome.end.included == tuple(sorted(expected))
    assert outcome.end.sum.tolist() == exact_sum(PARAMS, [INPUTS[i] for i in expected])


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda misdeed: f"{misdeed.kind.__name__}: {misdeed.name}")
def test_a_misdeed_costs_its_sender_alone(misdeed):
    expected = [i for i in IDS if misdeed.stays_in_sum or i != CULPRIT]
    check_the_rest_completes(misdeed, {}, expected)


@pytest.mark.parametrize("misdeed", MISDEEDS[::3], ids=lambda misdeed: f"{misdeed.kind.__name__}: {misdeed.name}")
@pytest.mark.parametrize("stage", [BEFORE_KEYS, BEFORE_SHARES, BEFORE_INPUT])
def test_a_misdeed_beside_an_ordinary_dropout(misdeed, stage):
    expected = [i for i in IDS if i != 55 and (misdeed.stays_in_sum or i != CULPRIT)]
    check_the_rest_completes(misdeed, {55: stage}, expected)


def test_an_unknown_client_changes_nothing():
    """An outsider is told apart from the clients, whatever it sends and whenever."""
    stranger = 14
    events = []

    def uplink(client_id, message):
        events.extend(cohort.server.receive(stranger, message))
        return message

    cohort = Cohort(PARAMS, INPUTS, uplink=uplink)
    outcome = cohort.run()
    assert {(event.client_id, event.reason) for event in events} == {(stranger, DropReason.UNKNOWN_CLIENT)}
    assert [event.round for event in events] == [ROUND_OF[kind] for kind in CLIENT_MESSAGES for _ in IDS]
    assert outcome.end.included == IDS
    assert outcome.end.sum.tolist() == exact_sum(PARAMS, INPUTS.values())
    assert cohort.server.receive(stranger, script().message(MaskedInput, ALICE)) == ()


def test_a_key_stays_taken_when_its_owner_has_gone():
    """Whoever repeats it has copied it."""

    def uplink(client_id, message):
        if client_id == IDS[0] and isinstance(message, AdvertiseKeys):
            cohort.server.receive(client_id, message)
            cohort._note(cohort.server.drop(client_id, DropReason.DISCONNECTED))
            return None
        if client_id == CULPRIT and isinstance(message, AdvertiseKeys):
            return copies(MASK, MASK)(cohort, message)
        return message

    cohort = Cohort(PARAMS, INPUTS, uplink=uplink)
    outcome = cohort.run()
    assert outcome.dropped[CULPRIT].reason is DropReason.KEY_NOT_DISTINCT
    assert outcome.end.included == (8, 21, 34, 55)


def test_a_share_of_one_that_had_not_shared_its_keys_is_refused():
    """A client that claims to hold a share of which the server knows that it does not exist."""

    def uplink(client_id, message):
        if client_id == CULPRIT and isinstance(message, UnmaskingShares):
            assert message.held == (False, True, True, True, True, True)
            return replace(message, held=(True,) * 6, shares=np.vstack([message.shares[:1], message.shares]))
        return message

    outcome = Cohort(PARAMS, INPUTS, {IDS[0]: BEFORE_SHARES}, uplink=uplink).run()
    assert outcome.dropped[CULPRIT].reason is DropReason.WRONG_SIZE
    assert outcome.end.included == (8, 13, 21, 34, 55)


def test_a_client_whose_neighbours_are_gone_is_dropped():
    """On a sparse graph: with fewer neighbours than the threshold left, its secrets could not be recovered."""
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


# --- Every reason to abort -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A session that cannot end with a sum, and the report that it must end with."""

    name: str
    expected: Aborted
    missing_from: dict[int, int]
    uplink: Callable = lambda client_id, message: message


def without_shares_of(owner):
    """Four of six clients say that they hold no share of the owner's, who shared its keys with them."""
    place = IDS.index(owner)

    def uplink(client_id, message):
        if isinstance(message, UnmaskingShares) and client_id in (8, 13, 34, 55):
            held = tuple(flag and number != place for number, flag in enumerate(message.held))
            return replace(message, held=held, shares=np.delete(message.shares, place, axis=0))
        return message

    return uplink


def damages_shares_of(owner, limbs=slice(None), sender=IDS[0]):
    """One client's share of the owner's secret is wrong."""
    place = IDS.index(owner)

    def uplink(client_id, message):
        if isinstance(message, UnmaskingShares) and client_id == sender:
            shares = message.shares.copy()
            shares[place, limbs] = (shares[place, limbs].astype(int) + 4321) % PRIME
            return replace(message, shares=shares)
        return message

    return uplink


FAILURES = [
    Failure(
        "before keys",
        Aborted(AbortReason.TOO_FEW_CLIENTS, Round.ADVERTISE_KEYS, 4, 3, missing=(8, 21, 55)),
        {8: BEFORE_KEYS, 21: BEFORE_KEYS, 55: BEFORE_KEYS},
    ),
    Failure(
        "before shares",
        Aborted(AbortReason.TOO_FEW_CLIENTS, Round.SHARE_KEYS, 4, 3, missing=(13, 55)),
        {8: BEFORE_KEYS, 13: BEFORE_SHARES, 55: BEFORE_SHARES},
    ),
    Failure(
        "before inputs",
        Aborted(AbortReason.TOO_FEW_CLIENTS, Round.MASKED_INPUT_COLLECTION, 4, 2, missing=(5, 13, 21)),
        {8: BEFORE_SHARES, 5: BEFORE_INPUT, 13: BEFORE_INPUT, 21: BEFORE_INPUT},
    ),
    Failure(
        "a survivor's shares are lacking",
        Aborted(AbortReason.TOO_FEW_SHARES, Round.UNMASKING, 4, 2, owners=(21,)),
        {},
        without_shares_of(21),
    ),
    Failure(
        "the vanished client's shares are lacking",
        Aborted(AbortReason.TOO_FEW_SHARES, Round.UNMASKING, 4, 1, owners=(21,)),
        {21: BEFORE_INPUT},
        without_shares_of(21),
    ),
    Failure(
        "a share of a self-mask seed is wrong",
        Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, owners=(34,)),
        {},
        damages_shares_of(34),
    ),
    Failure(
        "a share of a mask key is wrong",
        Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, owners=(34,)),
        {34: BEFORE_INPUT},
        damages_shares_of(34),
    ),
    Failure(
        "a share of a mask key is wrong, and none is left to compare with",
        Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, missing=(55,), owners=(34,)),
        {34: BEFORE_INPUT, 55: BEFORE_UNMASKING},
        # In a limb and by a number that leave a seed of the right form: only the advertised key tells.
        damages_shares_of(34, 0),
    ),
    *(
        Failure(
            f"a share of a mask key is wrong in limb {limb} alone",
            Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, owners=(34,)),
            {34: BEFORE_INPUT},
            damages_shares_of(34, limb),
        )
        for limb in range(9)
    ),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: f"{failure.expected.reason.name}: {failure.name}")
def test_a_session_that_cannot_give_a_sum_says_why(failure):
    outcome = Cohort(PARAMS, INPUTS, failure.missing_from, uplink=failure.uplink, entropy_seed="failures").run()
    assert outcome.end == failure.expected
    assert outcome.server.phase is ServerPhase.ABORTED
    assert str(failure.expected.needed) in str(outcome.end)
    assert outcome.end.round.value in str(outcome.end)


@pytest.mark.parametrize("phase", [phase for phase in ServerPhase if phase not in OVER], ids=lambda phase: phase.name)
def test_the_host_may_cancel_at_any_time(phase):
    server = script().server(phase)
    (event,) = server.abort()
    assert (event.reason, event.needed, event.had) == (AbortReason.CANCELLED, 3, 0)
    expected_round = Round.UNMASKING if phase is ServerPhase.RECOVERY else Round[phase.name]
    assert event.round is expected_round
    assert server.phase is ServerPhase.ABORTED
    assert server.abort() == ()


def test_every_abort_reason_has_a_test():
    assert {failure.expected.reason for failure in FAILURES} | {AbortReason.CANCELLED} == set(AbortReason)


@pytest.mark.parametrize("limb", range(9))
@pytest.mark.parametrize("sender", [5, 21, 55])
def test_a_share_of_a_self_mask_that_is_wrong_in_one_limb_gives_no_wrong_sum(limb, sender):
    """All six clients answered, and four shares give the seed: the other two can tell that one share is wrong."""
    outcome = Cohort(PARAMS, INPUTS, uplink=damages_shares_of(34, limb, sender), entropy_seed="failures").run()
    if isinstance(outcome.end, Completed):
        assert outcome.end.sum.tolist() == exact_sum(PARAMS, INPUTS.values())
    else:
        assert outcome.end.reason is AbortReason.INVALID_SHARES


def test_shares_that_a_client_could_not_open_are_made_up_for_by_others():
    """Two clients could not open one peer's shares; four others can, which is the threshold."""
    rejected = {}

    def downlink(client_id, message):
        if client_id in (8, 34) and hasattr(message, "encrypted_shares"):
            # What client 5 sent comes first in both.
            rejected[client_id] = message
            data = bytearray(message.encrypted_shares)
            data[0] ^= 1
            return replace(message, encrypted_shares=bytes(data))
        return message

    outcome = Cohort(PARAMS, INPUTS, downlink=downlink).run()
    assert set(rejected) == {8, 34}
    assert outcome.end.included == IDS
    assert outcome.end.sum.tolist() == exact_sum(PARAMS, INPUTS.values())
