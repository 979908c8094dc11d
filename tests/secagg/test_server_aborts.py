"""Reasons to end a session without a sum, and the report of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from secagg import Aborted, AbortReason, Round, ServerPhase
from secagg.algebra.field import PRIME
from secagg.messages import ShareKeys, UnmaskingShares
from tests.secagg.machines import MALICIOUS, MODES, halts
from tests.secagg.misdeeds import IDS, INPUTS, PARAMS_OF
from tests.secagg.test_server_rules import OVER
from tests.support.sessions import (
    BEFORE_CONSISTENCY,
    BEFORE_INPUT,
    BEFORE_KEYS,
    BEFORE_SHARES,
    BEFORE_UNMASKING,
    Cohort,
)


@dataclass(frozen=True)
class Failure:
    """A session that cannot end with a sum, and the report that it must end with."""

    name: str
    expected: Aborted
    missing_from: dict[int, int]
    uplink: Callable = lambda client_id, message: message


def without_shares_of(owner):
    """Let four of six clients say that they hold no share from the owner, which shared its keys with them."""
    place = IDS.index(owner)

    def uplink(client_id, message):
        if isinstance(message, UnmaskingShares) and client_id in (8, 13, 34, 55):
            held = tuple(flag and number != place for number, flag in enumerate(message.held))
            return replace(message, held=held, shares=np.delete(message.shares, place, axis=0))
        return message

    return uplink


def damages_shares_of(owner, limbs=slice(None), senders=(IDS[0],)):
    """Make these clients' shares of the owner's secret wrong."""
    place = IDS.index(owner)

    def uplink(client_id, message):
        if isinstance(message, UnmaskingShares) and client_id in senders:
            shares = message.shares.copy()
            shares[place, limbs] = (shares[place, limbs].astype(int) + 4321) % PRIME
            return replace(message, shares=shares)
        return message

    return uplink


def commits_to_another_seed(owner):
    def uplink(client_id, message):
        if isinstance(message, ShareKeys) and client_id == owner:
            return replace(message, seed_commitment=bytes(32))
        return message

    return uplink


def both(first, second):
    return lambda client_id, message: second(client_id, first(client_id, message))


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
        Aborted(AbortReason.TOO_FEW_SHARES, Round.UNMASKING, 4, 2, owners=(21,), culprits=(21,)),
        {},
        without_shares_of(21),
    ),
    Failure(
        "the vanished client's shares are lacking",
        Aborted(AbortReason.TOO_FEW_SHARES, Round.UNMASKING, 4, 1, owners=(21,), culprits=(21,)),
        {21: BEFORE_INPUT},
        without_shares_of(21),
    ),
    Failure(
        "two of six shares of a self-mask seed are wrong",
        Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, owners=(34,)),
        {},
        damages_shares_of(34, senders=(5, 55)),
    ),
    Failure(
        "two of six shares of a mask key are wrong",
        Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, owners=(34,)),
        {34: BEFORE_INPUT},
        damages_shares_of(34, senders=(13, 21)),
    ),
    Failure(
        "a share of a self-mask seed is wrong where one more came in than is needed",
        Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, missing=(55,), owners=(34,)),
        {55: BEFORE_UNMASKING},
        damages_shares_of(34),
    ),
    *(
        Failure(
            f"two shares of a mask key are wrong in limb {limb} alone",
            Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, owners=(34,)),
            {34: BEFORE_INPUT},
            damages_shares_of(34, limb, (5, 8)),
        )
        for limb in range(9)
    ),
    Failure(
        "a client committed itself to another seed than it shared",
        Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, owners=(34,), culprits=(34,)),
        {},
        commits_to_another_seed(34),
    ),
    Failure(
        "two clients lie, and one of them is found out by other secrets",
        Aborted(AbortReason.INVALID_SHARES, Round.UNMASKING, 6, 5, owners=(34,), culprits=(5,)),
        {},
        both(damages_shares_of(34, senders=(5, 13)), damages_shares_of(21)),
    ),
]


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: f"{failure.expected.reason.name}: {failure.name}")
def test_a_session_that_cannot_give_a_sum_says_why(failure, adversary):
    outcome = Cohort(
        PARAMS_OF[adversary], INPUTS, failure.missing_from, uplink=failure.uplink, entropy_seed="failures"
    ).run()
    assert outcome.end == failure.expected
    assert outcome.server.phase is ServerPhase.ABORTED
    assert str(failure.expected.needed) in str(outcome.end)
    assert outcome.end.round.value in str(outcome.end)


@pytest.mark.parametrize("halt", halts([phase for phase in ServerPhase if phase not in OVER]), ids=str)
def test_the_host_may_cancel_at_any_time(halt):
    server = halt.server()
    (event,) = server.abort()
    assert (event.reason, event.needed, event.had) == (AbortReason.CANCELLED, 3, 0)
    expected_round = Round.UNMASKING if halt.phase is ServerPhase.RECOVERY else Round[halt.phase.name]
    assert event.round is expected_round
    assert server.phase is ServerPhase.ABORTED
    assert server.abort() == ()


def test_too_few_signatures_of_the_survivors_end_a_session():
    missing_from = dict.fromkeys((5, 21, 34), BEFORE_CONSISTENCY)
    end = Cohort(PARAMS_OF[MALICIOUS], INPUTS, missing_from).run().end
    assert end == Aborted(AbortReason.TOO_FEW_CLIENTS, Round.CONSISTENCY_CHECK, 4, 3, missing=(5, 21, 34))


def test_every_abort_reason_has_a_test():
    assert {failure.expected.reason for failure in FAILURES} | {AbortReason.CANCELLED} == set(AbortReason)
